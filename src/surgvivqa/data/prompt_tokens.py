"""Converts prompts and labels to token ids."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from surgvivqa.data.index import distinct_questions
from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompts import PROMPT_END, build_prompt, build_target
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

    Raises:
        InputError: a label has no token, or a label is a prefix of another and there is no end-of-text token.

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
    ) -> None:
        self.tokenizer = tokenizer
        self.labels = tuple(labels)
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
        """The token ids that training predicts after a question's prompt: those of its label."""
        return self.label_ids[question.label]

    def longest_prompt(self, *frames: Iterable[FrameQuestions]) -> tuple[int, str]:
        """The number of tokens of the longest prompt with the longest label, and the prompt's question."""
        questions = sorted({question for group in frames for question in distinct_questions(group)})
        longest_label = max(len(ids) for ids in self.label_ids)
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
