"""The two prompts, word for word as published, and the target text that follows them."""

from collections.abc import Sequence
from typing import Literal, get_args

from surgvivqa.data.labels import LABELS

Target = Literal["short", "long"]
PromptMode = Literal["simple", "choices"]
PROMPT_MODES: tuple[str, ...] = get_args(PromptMode)
PROMPT_END = "Answer:"  # the end of both prompts


def build_prompt(question: str, mode: str = "simple", labels: Sequence[str] = LABELS) -> str:
    """Builds the prompt for one question.

    Args:
        question: the question's text.
        mode: ``simple`` asks the question; ``choices`` also lists the labels.
        labels: the labels; SSG-QA's by default.

    Raises:
        ValueError: ``mode`` is unknown.
    """
    if mode == "simple":
        return f"Question: {question}\n{PROMPT_END}"
    if mode == "choices":
        return f"Question: {question}\nCandidates: {', '.join(labels)}\n{PROMPT_END}"
    raise ValueError(f"prompt mode {mode!r} is not one of {', '.join(PROMPT_MODES)}")


def build_target(label: str) -> str:
    """Builds the text to predict after the prompt: the label with a leading space, as GPT-2's BPE expects."""
    return f" {label}"
