"""Prompts and labels to token ids."""

from collections.abc import Iterable, Sequence
from typing import Any

from surgvivqa.data.index import distinct_questions
from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompts import PROMPT_END, build_prompt, build_target
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.errors import InputError


class PromptTokenizer:
    """Turns questions and labels into token ids.

    A label's tokens are those that follow the prompt's last word in one text: GPT-2's are the same ones that the label
    has alone, while tokenizers that mark a text's beginning would add that mark. Where a label's tokens begin
    another's, as `` 1`` begins `` 10`` with tokenizers that split numbers, the shorter one gets the tokenizer's
    end-of-text token, in training and in scoring: then no label's text is contained in another's, and the sums of
    log-probabilities are of distinct outcomes.

    Args:
        tokenizer: a Hugging Face tokenizer; no special tokens are added but the end where it is needed.
        prompt_mode: ``simple`` or ``choices``.
        max_length: the longest prompt plus label allowed, in tokens.
        model_limit: the longest that the model can hold; None where it is not known.

    Raises:
        InputError: a label has no token, or has to be ended and the tokenizer has no end.
    """

    def __init__(self, tokenizer: Any, prompt_mode: str, max_length: int, model_limit: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.prompt_mode = prompt_mode
        self.max_length = max_length if model_limit is None else min(max_length, model_limit)
        self.model_limit = model_limit
        self.label_ids: list[list[int]] = [self._continuation(build_target(label)) for label in LABELS]
        if not all(self.label_ids):
            raise InputError("The tokenizer gives no token at all for a label, so nothing could be trained on it.")
        self.ended = _end_what_begins_another(self.label_ids, tokenizer.eos_token_id)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _continuation(self, text: str) -> list[int]:
        """Ids of a text that follows the end of a prompt."""
        before, both = self._ids(PROMPT_END), self._ids(PROMPT_END + text)
        return both[len(before) :] if both[: len(before)] == before else self._ids(text)

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the prompt of one question."""
        return self._ids(build_prompt(question, self.prompt_mode))

    def all_prompt_ids(self, questions: Sequence[str]) -> list[list[int]]:
        """``prompt_ids`` of several questions in one call of the tokenizer, which takes a fraction of the time."""
        if not questions:
            return []
        texts = [build_prompt(q, self.prompt_mode) for q in questions]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def longest(self, *frames: Iterable[FrameQuestions]) -> tuple[int, str]:
        """Tokens of the longest prompt with the longest label after it, and its question."""
        questions = sorted({question for group in frames for question in distinct_questions(group)})
        tail = max(len(ids) for ids in self.label_ids)
        best = (0, "")
        for start in range(0, len(questions), 4096):
            batch = questions[start : start + 4096]
            encoded = self.tokenizer([build_prompt(q, self.prompt_mode) for q in batch], add_special_tokens=False)
            best = max([best, *((len(ids) + tail, q) for ids, q in zip(encoded["input_ids"], batch, strict=True))])
        return best

    def check_fits(self, *frames: Iterable[FrameQuestions]) -> None:
        """Raises InputError, naming the question, where a prompt and a label do not fit in ``max_length``."""
        length, question = self.longest(*frames)
        if length > self.max_length:
            fits = self.model_limit is None or length <= self.model_limit
            advice = (
                f"use --max-length {length}" if fits else "use --prompt-mode simple, or a model with more positions"
            )
            what = "--max-length is" if fits else "the model holds"
            raise InputError(
                f"The {self.prompt_mode} prompt of {question!r} takes {length} tokens with its answer, but "
                f"{what} {self.max_length}, so its answer would be cut off; {advice}."
            )


def _end_what_begins_another(label_ids: list[list[int]], end: int | None) -> list[int]:
    """Appends ``end`` to the labels that begin another one, in place; returns which."""
    ended = [
        c
        for c, ids in enumerate(label_ids)
        if any(other[: len(ids)] == ids for o, other in enumerate(label_ids) if o != c)
    ]
    if ended and end is None:
        raise InputError(
            f"With this tokenizer the label {LABELS[ended[0]]!r} is the beginning of another one, and it has no "
            f"end-of-text token to tell them apart; take a decoder whose tokenizer has one."
        )
    for c in ended:
        assert end is not None
        label_ids[c].append(end)
    return ended
