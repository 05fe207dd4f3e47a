"""Converts prompts and labels to token ids."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from surgvivqa.data.index import distinct_questions
from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompts import PROMPT_END, Target, build_prompt, build_target
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.utils.errors import InputError


class PromptTokenizer:
    """Tokenizes prompts and labels.

    A label's ids are those of the label after the end of a prompt, in one text. With GPT-2's tokenizer they equal the
    ids of the label alone; other tokenizers may mark the start of a text.

    If a label's ids are a prefix of another label's, as `` 1`` and `` 10`` with tokenizers that split numbers, the
    end-of-text token is appended to them, in training and in scoring. So no label is a prefix of another, and the
    summed log-probabilities belong to distinct outcomes.

    Args:
        tokenizer: the decoder's Hugging Face tokenizer; its end-of-text token is the only special token used.
        prompt_mode: ``simple`` or ``choices``.
        max_length: the maximum length of a prompt with its label, in tokens.
        model_limit: the maximum length that the model supports, in tokens; None if it is not known.
        labels: the C labels; SSG-QA's by default.
        target: what training predicts after a prompt: the label (``short``), or the long answer, which always ends with
            the end-of-text token (``long``).

    Raises:
        InputError: a label has no token, or there is no end-of-text token and a label is a prefix of another or targets
            are long.

    Attributes:
        labels: the labels.
        max_length: the smaller of the two limits, in tokens.
        label_ids: the token ids of each label.
        terminated: the indices of the labels that end with the end-of-text token.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_mode: str,
        max_length: int,
        model_limit: int | None = None,
        labels: Sequence[str] = LABELS,
        target: Target = "short",
    ) -> None:
        self.tokenizer = tokenizer
        self.labels, self.target = tuple(labels), target
        self.end: int | None = tokenizer.eos_token_id
        self._long_ids: dict[str, list[int]] = {}
        if target == "long" and self.end is None:
            raise InputError(
                "The tokenizer has no end-of-text token to end a long answer; use another --decoder-model."
            )
        self.prompt_mode = prompt_mode
        self.max_length = max_length if model_limit is None else min(max_length, model_limit)
        self.model_limit = model_limit
        self.label_ids: list[list[int]] = [self._continuation(build_target(label)) for label in self.labels]
        if not all(self.label_ids):
            raise InputError(
                "The tokenizer has no token for a label, so nothing could be trained on it; use another decoder."
            )
        self.terminated = _terminate_prefixes(self.label_ids, self.labels, tokenizer.eos_token_id)

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _continuation(self, text: str) -> list[int]:
        """The token ids of a text that follows the end of a prompt."""
        end, both = self._tokenize(PROMPT_END), self._tokenize(PROMPT_END + text)
        return both[len(end) :] if both[: len(end)] == end else self._tokenize(text)

    def prompt_ids(self, question: str) -> list[int]:
        """The token ids of a question's prompt."""
        return self._tokenize(self._prompt(question))

    def _prompt(self, question: str) -> str:
        return build_prompt(question, self.prompt_mode, self.labels)

    def batch_prompt_ids(self, questions: Sequence[str]) -> list[list[int]]:
        """The token ids of several questions' prompts; one call of the tokenizer is much faster than several."""
        if not questions:
            return []
        texts = [self._prompt(q) for q in questions]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def target_ids(self, question: Question) -> list[int]:
        """The token ids that training predicts after a question's prompt: those of its label, or of its long answer.

        Raises:
            InputError: targets are long, and the question has no long answer.
        """
        if self.target == "short":
            return self.label_ids[question.label]
        return self.long_answer_ids(question)

    def long_answer_ids(self, question: Question) -> list[int]:
        """The token ids of a question's long answer, with the end-of-text token.

        Raises:
            InputError: the question has none.
        """
        text = question.long_answer
        if not text:
            raise InputError(
                f"The question {question.question!r} about {question.video}, frame {question.frame}, has no long "
                f"answer; use --target short, or a data set that has them."
            )
        if text not in self._long_ids:
            end = [] if self.end is None else [self.end]
            self._long_ids[text] = [*self._continuation(build_target(text)), *end]
        return self._long_ids[text]

    @property
    def num_targets(self) -> int:
        """The number of labels, or of the distinct long answers that were met where targets are long."""
        return len(self.labels) if self.target == "short" else max(1, len(self._long_ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated token ids, without white space around it."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def _longest_target(self, *frames: Iterable[FrameQuestions]) -> int:
        """The number of tokens of the longest label, and of the longest long answer where targets are long."""
        lengths = [len(ids) for ids in self.label_ids]
        if self.target == "long":
            lengths += [len(self.long_answer_ids(q)) for group in frames for frame in group for q in frame.questions]
        return max(lengths)

    def longest_prompt(self, *frames: Iterable[FrameQuestions]) -> tuple[int, str]:
        """The number of tokens of the longest prompt with the longest target, and the prompt's question."""
        questions = sorted({question for group in frames for question in distinct_questions(group)})
        longest_label = self._longest_target(*frames)
        longest = (0, "")
        for start in range(0, len(questions), 4096):
            batch = questions[start : start + 4096]
            encoded = self.tokenizer([self._prompt(q) for q in batch], add_special_tokens=False)
            lengths = (len(ids) + longest_label for ids in encoded["input_ids"])
            longest = max([longest, *zip(lengths, batch, strict=True)])
        return longest

    def check_fits(self, *frames: Iterable[FrameQuestions]) -> None:
        """Checks that every prompt fits in ``max_length`` with every label.

        Raises:
            InputError: a prompt does not fit; the message names its question.
        """
        length, question = self.longest_prompt(*frames)
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


def _terminate_prefixes(label_ids: list[list[int]], labels: Sequence[str], end: int | None) -> list[int]:
    """Appends ``end`` to the ids of labels that are a prefix of another label's, in place.

    Returns:
        The indices of these labels.

    Raises:
        InputError: there are such labels, and ``end`` is None.
    """
    # How many labels begin with these tokens; every label begins with its own.
    begin_with = Counter(tuple(ids[:length]) for ids in label_ids for length in range(1, len(ids) + 1))
    prefixes = [c for c, ids in enumerate(label_ids) if begin_with[tuple(ids)] > 1]
    if prefixes and end is None:
        raise InputError(
            f"With this tokenizer the label {labels[prefixes[0]]!r} is a prefix of another one, and there is no "
            f"end-of-text token to tell them apart; use a decoder whose tokenizer has one."
        )
    for c in prefixes:
        assert end is not None
        label_ids[c].append(end)
    return prefixes
