"""The results of an evaluation, as written to ``metrics.json`` and read back for model cards and tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from surgvivqa.data.dataset_overlaps import Finding
from surgvivqa.data.frames import BadFrame
from surgvivqa.data.labels import SSG_QA, LabelSet, check_labels
from surgvivqa.data.question_lists import Selection
from surgvivqa.evaluation.baseline_rows import Baseline
from surgvivqa.evaluation.calibration import Calibration
from surgvivqa.evaluation.contradictions import Contradictions
from surgvivqa.evaluation.crossval import CrossValidation
from surgvivqa.evaluation.dataset_facts import DatasetFacts
from surgvivqa.evaluation.environment import Environment
from surgvivqa.evaluation.evidence import Evidence
from surgvivqa.evaluation.generation import Generation
from surgvivqa.evaluation.intervals import Ends, Intervals
from surgvivqa.evaluation.metrics import METRICS, GroupedMetrics, LabelMetrics, Metrics
from surgvivqa.evaluation.picture_check import PictureCheck
from surgvivqa.evaluation.robustness import Robustness
from surgvivqa.evaluation.strata import Strata
from surgvivqa.evaluation.wordings import Wordings
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

_GROUPS = ("by_reasoning", "by_type", "by_video")
# The parts of ``metrics.json`` that not every evaluation has: frozen dataclasses of plain values, or lists of them.
SECTIONS: dict[str, Any] = {
    "environment": Environment,
    "crossval": CrossValidation,
    "only": Selection,
    "pretraining": list[Finding],
    "baselines": list[Baseline],
    "picture": PictureCheck,
    "robustness": Robustness,
    "strata": Strata,
    "calibration": Calibration,
    "contradictions": Contradictions,
    "evidence": Evidence,
    "generation": Generation,
    "wordings": Wordings,
    "dataset": DatasetFacts,
}


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The content of ``metrics.json``.

    Attributes:
        metrics: the metrics of all questions and of their groups.
        intervals: 95% intervals of the overall metrics by Student's t; None with fewer than two videos.
        bootstrap: the same by a percentile bootstrap over videos, which is too narrow with few videos.
        loss: mean negative log-likelihood of the true labels, in nats per question; None with ``--answer-only``.
        skipped: lines of the question files that were left out, counted by reason.
        skipped_frames: frames that could not be used.
        checkpoint: the checkpoint, as it was given.
        split: the split.
        max_samples: the limit on the number of questions, if there was one.
        synthetic: whether the questions are the synthetic set's; None if that is not recorded.
        mask: the attention mask that the labels were scored under.
        prompt_mode: the prompts' form.
        score_norm: how the scores of a label's tokens were combined.
        frames: what the model was shown: the questions' ``own`` frames, ``black`` ones, or ``shuffled`` ones of other
            videos.
        label_set: the labels that the model chose from.
        verdicts: what the figures say, in sentences, the most important one first.
        environment: where and how the predictions were computed.
        crossval: the folds of a cross-validation that this is about; None for other evaluations.
        only: the list of questions that the evaluation is limited to (``--only``); None for all.
        pretraining: whether the pretrained parts of the model, or the run that trained it, have seen videos of the
            split; None on the training split, on synthetic questions, and in older files.
        baselines: what is reached on the same questions without the frames, or by other models.
        picture: the same questions on black frames and on frames of other videos.
        robustness: the same questions on corrupted frames.
        strata: the accuracy inside and outside of frame flags.
        calibration: whether the probabilities can be trusted; None with ``--answer-only``.
        contradictions: how often the model's answers contradict each other.
        generation: how generated answers compare with the long ones; None without --generate.
        evidence: whether answers depend on the asked object, and which maps point at it.
        wordings: the same questions in several wordings; None where each has one.
        dataset: the data set of the questions; None for SSG-QA.
    """

    metrics: GroupedMetrics
    intervals: Intervals | None
    loss: float | None
    skipped: Mapping[str, int]
    skipped_frames: Sequence[BadFrame]
    checkpoint: str
    split: str
    max_samples: int | None
    synthetic: bool | None
    mask: str
    prompt_mode: str
    score_norm: str
    frames: str = "own"
    label_set: LabelSet = SSG_QA
    bootstrap: Intervals | None = None
    verdicts: Sequence[str] = ()
    environment: Environment | None = None
    crossval: CrossValidation | None = None
    only: Selection | None = None
    pretraining: Sequence[Finding] | None = None
    baselines: Sequence[Baseline] | None = None
    picture: PictureCheck | None = None
    robustness: Robustness | None = None
    strata: Strata | None = None
    calibration: Calibration | None = None
    contradictions: Contradictions | None = None
    evidence: Evidence | None = None
    generation: Generation | None = None
    wordings: Wordings | None = None
    dataset: DatasetFacts | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json`` as plain values."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del content["metrics"]
        for name in ("intervals", "bootstrap"):
            intervals = getattr(self, name)
            content[name] = None if intervals is None else intervals.to_json()
        content["label_set"] = {"name": self.label_set.name, "labels": list(self.label_set.labels)}
        content["verdicts"] = list(self.verdicts)
        content["skipped_frames"] = [frame._asdict() for frame in self.skipped_frames]
        for name, kind in SECTIONS.items():
            content[name] = TypeAdapter(kind | None).dump_python(getattr(self, name), mode="json")
        return self.metrics.to_json() | content

    @classmethod
    def from_json(cls, content: Any) -> "EvaluationReport":
        """The inverse of ``to_json``, for the content of an untrusted file.

        Raises:
            ValueError: a value is missing or has the wrong type.
        """
        if not isinstance(content, Mapping):
            raise ValueError("it is not a mapping")
        required = ("n", *METRICS, *_GROUPS, "split", "max_samples", "mask", "prompt_mode", "score_norm")
        if missing := [name for name in required if name not in content]:
            raise ValueError(f"it has no {missing[0]}")
        groups: dict[str, Any] = {name: _parse_group(content[name], name) for name in _GROUPS}
        groups["by_label"] = _parse_section(dict[str, LabelMetrics], content.get("by_label")) or {}
        frames = content.get("skipped_frames") or []
        settings: dict[str, Any] = {name: str(content[name]) for name in ("split", "mask", "prompt_mode", "score_norm")}
        sections = {name: _parse_section(section, content.get(name)) for name, section in SECTIONS.items()}
        return cls(
            metrics=GroupedMetrics(_parse_metrics(content), _number(content, "acc_se", 0.0), **groups),
            intervals=_parse_intervals(content.get("intervals")),
            bootstrap=_parse_intervals(content.get("bootstrap")),
            verdicts=[str(verdict) for verdict in content.get("verdicts") or ()],
            loss=None if content.get("loss") is None else _number(content, "loss"),
            skipped={str(reason): int(_number(content["skipped"], reason)) for reason in content.get("skipped") or {}},
            skipped_frames=[BadFrame(str(f["video"]), int(f["frame"]), str(f["why"])) for f in frames],
            checkpoint=str(content.get("checkpoint", "")),
            max_samples=None if content["max_samples"] is None else int(_number(content, "max_samples")),
            synthetic=content.get("synthetic") if isinstance(content.get("synthetic"), bool) else None,
            frames=str(content.get("frames") or "own"),
            label_set=_parse_label_set(content.get("label_set")),
            **settings,
            **sections,
        )


def read_report(path: Path) -> EvaluationReport:
    """Reads a ``metrics.json``.

    Raises:
        InputError: it cannot be read, or is not what ``eval`` writes.
    """
    try:
        return EvaluationReport.from_json(read_json(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a metrics.json of eval ({str(error)[:120]}).") from None


def _parse_label_set(content: Any) -> LabelSet:
    """The label set of a file; SSG-QA's where none is recorded."""
    if content is None:
        return SSG_QA
    if not isinstance(content, Mapping):
        raise ValueError("its label_set is not a mapping")
    return LabelSet.of_labels(check_labels(content.get("labels")), content.get("name"))


def _parse_group(group: Any, name: str) -> dict[str, Metrics]:
    if not isinstance(group, Mapping):
        raise ValueError(f"its {name} is not a mapping")
    return {str(key): _parse_metrics(row) for key, row in group.items()}


def _parse_metrics(row: Any) -> Metrics:
    intervals = row.get("intervals") if isinstance(row, Mapping) else None
    figures = {name: _number(row, name) for name in METRICS}
    return Metrics(int(_number(row, "n")), **figures, intervals=None if intervals is None else _parse_ends(intervals))


def _parse_section(kind: Any, content: Any) -> Any:
    return None if content is None else TypeAdapter(kind).validate_python(content)


def _parse_ends(content: Any) -> Ends:
    ends = {}
    for name in METRICS:
        low, high = content[name]
        ends[name] = (_number({name: low}, name), _number({name: high}, name))
    return ends


def _parse_intervals(content: Any) -> Intervals | None:
    if content is None:
        return None
    ends, videos = _parse_ends(content), int(_number(content, "videos"))
    drawn = [None if content.get(name) is None else int(_number(content, name)) for name in ("resamples", "seed")]
    return Intervals(ends, videos, str(content["method"]), *drawn)


def _number(row: Any, name: str, default: float | None = None) -> float:
    value = row.get(name, default) if isinstance(row, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"its {name} is not a number")
    return value
