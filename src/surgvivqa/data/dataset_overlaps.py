"""Which public data sets show the same operations, and which pretrained models have seen a video.

The facts are in ``dataset_overlaps.yaml``, each with its source and with what is not known. Copies of a video inside
one data set are found by ``overlaps.py`` instead.
"""

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

from surgvivqa.data.splits import base_video

SSG_QA = "ssg-qa"
Verdict = Literal["clean", "seen", "possible", "unknown"]
Evidence = Literal["verified", "reported", "unverified"]


def parse_numbers(text: str | int) -> frozenset[int]:
    """The numbers of a text such as ``1, 4-6``.

    Raises:
        ValueError: it is not such a text.
    """
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in str(text).split(","))):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


Numbers = Annotated[frozenset[int], BeforeValidator(parse_numbers)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Row):
    """Where facts were read; ``url`` is None for what is from memory."""

    title: str
    url: str | None


class DataSet(_Row):
    """A public data set.

    Attributes:
        name: its name.
        names: its names in flags, in lower case.
        ids: whether its videos are named by the common numbers of Cholec80 and CholecT50, or by its own.
        videos: number of videos.
        operations: numbers of the operations that it is known to show.
        possible: numbers of further operations that it may show.
        evidence: how well that is known.
        sources: keys of ``OverlapTable.sources``.
        note: what else there is to know.
    """

    name: str
    names: tuple[str, ...]
    ids: Literal["cholec", "own"]
    videos: int
    operations: Numbers = frozenset()
    possible: Numbers = frozenset()
    evidence: Evidence
    sources: tuple[str, ...]
    note: str = ""


class PretrainedModel(_Row):
    """A pretrained model, or a family of them.

    Attributes:
        title: its name.
        matches: patterns of hub names and file names, as of a shell; case does not count.
        trained_on: what it was trained on, as a phrase.
        seen: numbers of the operations that it was trained on.
        possible: numbers of further operations that it may have been trained on.
        sets: names of the data sets with other operations that it was trained on, as far as they are in the table.
        evidence: how well that is known.
        sources: keys of ``OverlapTable.sources``.
        note: what else there is to know.
    """

    title: str
    matches: tuple[str, ...]
    trained_on: str
    seen: Numbers = frozenset()
    possible: Numbers = frozenset()
    sets: tuple[str, ...] = ()
    evidence: Evidence
    sources: tuple[str, ...]
    note: str = ""


class OverlapTable(_Row):
    """The content of ``dataset_overlaps.yaml``; ``checked`` is the date on which the sources were read."""

    checked: str
    sources: dict[str, Source]
    sets: tuple[DataSet, ...]
    models: tuple[PretrainedModel, ...]

    def find_set(self, name: str) -> DataSet | None:
        """The data set of a name, such as ``ssg-qa``; None if it is not in the table."""
        return next((row for row in self.sets if name.casefold() in row.names), None)

    def find_model(self, name: str) -> PretrainedModel | None:
        """The model of a hub name, a file or a folder; None if it is not in the table.

        A local folder is recognised by its own name: ``/weights/videomae-base`` is ``MCG-NJU/videomae-base``. A model
        that has seen no surgery must have exactly the published name there, so that ``videomae-base-cholec80`` and
        ``somebody/videomae-base`` do not pass for it.
        """
        own = PurePath(name).name if _is_local(name) else None
        for row in self.models:
            is_clean = not (row.seen or row.possible or row.sets)
            for pattern in row.matches:
                last = PurePath(pattern).name
                if _matches(name, pattern) or (own and _matches(own, last) and not (is_clean and "*" in last)):
                    return row
        return None


@dataclass(frozen=True)
class Finding:
    """Whether one model, or one training run, has seen videos that are to be tested.

    Attributes:
        part: what it is in the run, such as ``--video-model``.
        name: its name, such as a hub name.
        verdict: ``seen`` if it was trained on one of the videos, ``possible`` if it may have been, ``clean`` if not,
            and ``unknown`` if the table does not have it.
        videos: the videos that it was trained on.
        possible: the videos that it may have been trained on.
        why: what it was trained on and how well that is known, as a phrase.
    """

    part: str
    name: str
    verdict: Verdict
    videos: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()
    why: str = ""

    def describe(self) -> str:
        """The finding as a sentence without a full stop."""
        who = f"{self.part} {self.name}".strip()
        if self.verdict == "unknown":
            return f"{who} is not in the table of pretrained models, so what it has seen is not known"
        if self.verdict == "clean":
            return f"{who} has seen none of the videos ({self.why})"
        parts = [f"has seen {', '.join(self.videos)}"] if self.videos else []
        parts += [f"may have seen {', '.join(self.possible)}"] if self.possible else []
        return f"{who} {' and '.join(parts)} ({self.why})"


@dataclass(frozen=True)
class TrainingRun:
    """The videos that a checkpoint was trained on.

    Attributes:
        part: see ``Finding``.
        name: see ``Finding``.
        videos: names of the videos; empty if they are not recorded.
        dataset: name of their data set, for ``OverlapTable.find_set``.
    """

    part: str
    name: str
    videos: tuple[str, ...]
    dataset: str = SSG_QA


@functools.cache
def load_overlaps() -> OverlapTable:
    """The table, as it comes with the package."""
    text = (resources.files("surgvivqa.data") / "dataset_overlaps.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    content["checked"] = str(content["checked"])
    return OverlapTable.model_validate(content)


def operation_number(video: str, dataset: str = SSG_QA) -> int | None:
    """The common number of a video's operation; None if the set names its videos otherwise or is not in the table."""
    row = load_overlaps().find_set(dataset)
    if row is None or row.ids != "cholec":
        return None
    found = re.fullmatch(r"(?:VID)?0*(\d+)", base_video(video), re.IGNORECASE)
    return int(found[1]) if found else None


def find_seen_videos(
    videos: Iterable[str],
    models: Mapping[str, str] | None = None,
    runs: Sequence[TrainingRun] = (),
    dataset: str = SSG_QA,
) -> list[Finding]:
    """Finds which pretrained models and training runs have seen videos that are to be tested.

    Args:
        videos: the videos to be tested.
        models: pretrained models by what they are in the run, such as ``--video-model`` to ``MCG-NJU/videomae-base``.
        runs: checkpoints whose training videos are recorded.
        dataset: the data set of ``videos``.

    Returns:
        A finding for each model and each run, in their order.
    """
    tested = {video: operation_number(video, dataset) for video in videos}
    row = load_overlaps().find_set(dataset)
    findings = [_judge_model(part, name, tested, row) for part, name in (models or {}).items()]
    return findings + [_judge_run(run, tested, dataset) for run in runs]


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Joins the findings about the same part, such as those of the folds of a cross-validation."""
    worst: tuple[Verdict, ...] = ("seen", "possible", "unknown", "clean")
    merged: dict[tuple[str, str], Finding] = {}
    for new in findings:
        old = merged.setdefault((new.part, new.name), new)
        seen = tuple(dict.fromkeys([*old.videos, *new.videos]))
        possible = tuple(video for video in dict.fromkeys([*old.possible, *new.possible]) if video not in seen)
        verdict = min(old.verdict, new.verdict, key=worst.index)
        why = old.why if old.verdict == verdict else new.why
        merged[new.part, new.name] = Finding(new.part, new.name, verdict, seen, possible, why)
    return list(merged.values())


def summarise_findings(findings: Sequence[Finding]) -> str:
    """All findings in one or a few sentences, those that matter first."""
    order: tuple[Verdict, ...] = ("seen", "possible", "unknown")
    sentences = [f"{f.describe()}." for verdict in order for f in findings if f.verdict == verdict]
    clean = [f.name or f.part for f in findings if f.verdict == "clean"]
    if clean:
        what = "has" if len(clean) == 1 else "have"
        sentences.append(f"{', '.join(dict.fromkeys(clean))} {what} seen none of the videos, by docs/overlaps.md.")
    return " ".join(sentences)


def _judge_model(part: str, name: str, tested: Mapping[str, int | None], dataset: DataSet | None) -> Finding:
    model = load_overlaps().find_model(name)
    if model is None:
        return Finding(part, name, "unknown")
    why = f"{model.title} was trained on {model.trained_on}; {model.evidence}"
    if dataset is not None and set(model.sets) & set(dataset.names):
        return Finding(part, name, "possible", possible=tuple(tested), why=f"{why}, among them {dataset.name}")
    if not model.seen | model.possible:
        return Finding(part, name, "clean", why=why)
    if dataset is None:
        return Finding(part, name, "possible", possible=tuple(tested), why=f"{why}; the tested set is not in the table")
    seen = [video for video, number in tested.items() if number in model.seen]
    possible = [video for video, number in tested.items() if number in model.possible and video not in seen]
    if dataset.ids == "own" and (dataset.operations | dataset.possible) & (model.seen | model.possible):
        possible = list(tested)
    return _finding(part, name, seen, possible, why)


def _judge_run(run: TrainingRun, tested: Mapping[str, int | None], dataset: str) -> Finding:
    if not run.videos:
        why = "the videos that it was trained on are not recorded"
        return Finding(run.part, run.name, "possible", possible=tuple(tested), why=why)
    why = f"trained on {len(run.videos)} videos of {run.dataset}"
    if run.dataset == dataset:
        if dataset == SSG_QA and not all(base_video(video).startswith("VID") for video in run.videos):
            # A run that continued another one records the videos of both, and one data set.
            why = "trained on videos of another data set too, which is not recorded"
            return _finding(run.part, run.name, [], list(tested), why)
        trained = {base_video(video) for video in run.videos}
        return _finding(run.part, run.name, [video for video in tested if base_video(video) in trained], [], why)
    numbers = {operation_number(video, run.dataset) for video in run.videos} - {None}
    seen = [video for video, number in tested.items() if number in numbers]
    rows = [load_overlaps().find_set(name) for name in (run.dataset, dataset)]
    possible: list[str] = []
    if None in rows:
        possible = list(tested)
        why += "; a set that is not in the table"
    elif any(row is not None and row.ids == "own" for row in rows):
        first, second = (row.operations | row.possible for row in rows if row is not None)
        possible = list(tested) if first & second else []
    return _finding(run.part, run.name, seen, [video for video in possible if video not in seen], why)


def _finding(part: str, name: str, seen: Sequence[str], possible: Sequence[str], why: str) -> Finding:
    verdict: Verdict = "seen" if seen else "possible" if possible else "clean"
    return Finding(part, name, verdict, tuple(seen), tuple(possible), why)


def _is_local(name: str) -> bool:
    """Whether a name is that of a file or folder; a hub name is ``owner/model``, or one word for a few old models."""
    return name.count("/") != 1 or name.startswith((".", "~", "/")) or Path(name).exists()


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.casefold(), pattern.casefold())
