"""Long answers as targets: their tokens, their end, and what is refused."""

import pytest

from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.utils.errors import InputError
from tests.helpers.label_sets import SEVEN
from tests.helpers.parts import llama_tokenizer

LONG = "There is no tool in the frame"


def question(long_answer: str | None = LONG) -> Question:
    return Question("v", 3, "Are there any tools?", "no", 1, None, None, 1, long_answer=long_answer)


def tokens(target: str) -> PromptTokenizer:
    return PromptTokenizer(llama_tokenizer(), "simple", 512, labels=SEVEN.labels, target=target)  # type: ignore[arg-type]


def test_a_long_target_is_the_sentence_and_end_of_text() -> None:
    long = tokens("long")
    ids = long.target_ids(question())
    assert ids[-1] == long.end == long.tokenizer.eos_token_id and long.end not in ids[:-1]
    assert long.decode(ids) == LONG
    assert long.num_targets == 1


def test_a_short_target_is_the_label_without_an_end_it_does_not_need() -> None:
    short = tokens("short")
    assert short.target_ids(question()) == short.label_ids[1]
    assert short.end not in short.label_ids[1] and short.num_targets == 7


def test_the_longest_prompt_counts_the_longest_target() -> None:
    frames = [FrameQuestions("v", 3, (question(),))]
    difference = tokens("long").longest_prompt(frames)[0] - len(tokens("long").prompt_ids("Are there any tools?"))
    assert difference == len(tokens("long").target_ids(question()))


def test_a_question_without_a_long_answer_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"'Are there any tools\?' about v, frame 3, has no long answer; use --target short"
    ):
        tokens("long").check_fits([FrameQuestions("v", 3, (question(None),))])


def test_a_tokenizer_without_end_of_text_cannot_learn_long_answers() -> None:
    tokenizer = llama_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token to end a long answer"):
        PromptTokenizer(tokenizer, "simple", 512, labels=SEVEN.labels[:2], target="long")
