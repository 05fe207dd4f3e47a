"""A model that answers by rule, in place of one that is asked about views of frames."""

from collections.abc import Callable, Sequence
from typing import Any

from surgvivqa.data.frames import FrameStore
from surgvivqa.data.labels import LABELS
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation.predictions import Prediction

LABEL = 40  # the true label of every question


def frame(video: str, number: int, *kinds: str) -> FrameQuestions:
    """A frame with a template question of each of the given types."""
    return FrameQuestions(
        video,
        number,
        tuple(
            Question(video, number, f"{kind} question {line}", LABELS[LABEL], LABEL, "zero_hop", kind, line)
            for line, kind in enumerate(kinds)
        ),
    )


class RuleModel:
    """Answers each question by a rule of the question and the view, and notes what it was asked.

    Args:
        rule: the label for a question on the pictures that a store shows.
    """

    def __init__(self, rule: Callable[[Question, FrameStore], int]) -> None:
        self.rule = rule
        self.asked: list[FrameStore] = []

    def __call__(self, frames: Sequence[FrameQuestions], store: FrameStore) -> list[Prediction]:
        self.asked.append(store)
        return [Prediction.of_question(q, self.rule(q, store)) for f in frames for q in f.questions]


def as_asked(model: RuleModel) -> Any:
    """The model in place of ``ask_again.AskAgain``."""
    return model
