"""Predictions: one record per question, and the lines of ``predictions.jsonl``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.ssgqa import Question

_OPTIONAL = ("pair_id", "wording", "image", "long_answer", "generated")  # of data sets other than SSG-QA


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to one question.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        question: the question.
        answer: index of the true label.
        prediction: index of the predicted label.
        probability: probability of the predicted label; None where not all labels were scored.
        loss: negative log-likelihood of the true label, in nats; None where not all labels were scored.
        top5: the five most probable labels with their probabilities, best first; None where not all were scored.
        reasoning: the template's reasoning (``zero_hop``, ...); None for lines without one.
        type: the template's question type (``count``, ...); None for lines without one.
        answer_probability: probability of the true label among all labels; None where not all labels were scored.
        brier: squared distance of the probabilities from the truth, summed over the labels, 0 to 2 (Brier, 1950);
            None where not all labels were scored.
        scores: summed log-probabilities of all labels in label order; None if they are not kept.
        label_set: the labels that the indices refer to.
        pair_id: what the question shares with the same question in another wording; None if there is no other wording.
        wording: the name of its wording; None if there is one only.
        long_answer: the true answer as a sentence; None where the data set has none, or nothing was generated.
        generated: the answer that the model generated; None where it generated none.
        image: the path of its frame below the root of the frames; None for CholecT45's layout.
    """

    video: str
    frame: int
    question: str
    answer: int
    prediction: int
    probability: float | None = None
    loss: float | None = None
    top5: list[tuple[str, float]] | None = None
    reasoning: str | None = None
    type: str | None = None
    answer_probability: float | None = None
    brier: float | None = None
    scores: Sequence[float] | None = None
    label_set: LabelSet = SSG_QA
    pair_id: str | None = None
    wording: str | None = None
    image: str | None = None
    long_answer: str | None = None
    generated: str | None = None

    @property
    def answer_label(self) -> str:
        """The true label."""
        return self.label_set.labels[self.answer]

    @property
    def prediction_label(self) -> str:
        """The predicted label."""
        return self.label_set.labels[self.prediction]

    @property
    def correct(self) -> bool:
        """Whether the predicted label is the true one."""
        return self.answer == self.prediction

    def to_json(self) -> dict[str, Any]:
        """A line of ``predictions.jsonl``; labels become text."""
        line: dict[str, Any] = {
            "video": self.video,
            "frame": self.frame,
            "question": self.question,
            "answer": self.answer_label,
            "prediction": self.prediction_label,
            "probability": self.probability,
            "answer_probability": self.answer_probability,
            "brier": self.brier,
            "loss": self.loss,
            "top5": self.top5,
            "reasoning": self.reasoning,
            "type": self.type,
        }
        line |= {name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None}
        return line if self.scores is None else line | {"scores": list(self.scores)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any], label_set: LabelSet = SSG_QA) -> "Prediction":
        """The prediction of a line of ``predictions.jsonl``, whose answers are labels of ``label_set``.

        Raises:
            KeyError: a field is missing, or an answer is not a label.
        """
        answer = label_set.index(line["answer"])
        prediction = label_set.index(line["prediction"])
        if answer is None or prediction is None:
            raise KeyError(line["answer" if answer is None else "prediction"])
        top5 = line.get("top5")
        return cls(
            video=line["video"],
            frame=line["frame"],
            question=line["question"],
            answer=answer,
            prediction=prediction,
            probability=line.get("probability"),
            loss=line.get("loss"),
            top5=None if top5 is None else [(label, probability) for label, probability in top5],
            reasoning=line["reasoning"],
            type=line["type"],
            answer_probability=line.get("answer_probability"),
            brier=line.get("brier"),
            scores=line.get("scores"),
            label_set=label_set,
            **{name: str(line[name]) for name in _OPTIONAL if line.get(name) is not None},
        )

    @classmethod
    def of_question(cls, question: Question, prediction: int, **scored: Any) -> "Prediction":
        """The prediction of a label for a question; ``scored`` holds the fields that need all labels' scores."""
        return cls(
            video=question.video,
            frame=question.frame,
            question=question.question,
            answer=question.label,
            prediction=prediction,
            reasoning=question.reasoning,
            type=question.type,
            pair_id=question.pair_id,
            wording=question.wording,
            image=question.image,
            **scored,
        )


def label_set_of(predictions: Sequence[Prediction]) -> LabelSet:
    """The label set of predictions, which all have the same; SSG-QA's without predictions."""
    return predictions[0].label_set if predictions else SSG_QA
