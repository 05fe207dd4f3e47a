"""``surgvivqa data audit``: compares SSG-QA's answers with the action triplets that people labelled in CholecT50.

What it leaves:

    OUTPUT/
      audit.json               the shares by type, the reasons, and what was compared
      confirmed.jsonl          the questions that the labels agree with, for ``eval --only``
      contradicted.jsonl       those that they contradict, with the reason and the labels
      not_contradicted.jsonl   all but those, for ``eval --only``
"""

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from surgvivqa.config import flag, folder_from_environment
from surgvivqa.data.index import open_questions
from surgvivqa.data.splits import SPLIT_NAMES, Splits, base_video, load_splits
from surgvivqa.data.ssgqa import Question, find_videos, is_synthetic, warn_of_faults
from surgvivqa.data.triplets import Triplet, find_label_files, read_triplets
from surgvivqa.evaluation.label_audit import REASONS, Audit, AuditRow, Judgement, judge_frame
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class DataAuditConfig:
    """Compares SSG-QA's answers about tools, actions and targets with CholecT50's human labels.

    Each question is confirmed, contradicted or undecided. `eval --only` evaluates on the confirmed ones.
    """

    ssgvqa_root: Path | None = flag(
        "Folder of the questions, <root>/<VIDxx>/<frame>.txt. Default: the environment variable SSGVQA_ROOT.",
        default_factory=folder_from_environment("SSGVQA_ROOT"),
    )
    cholect50_labels: Path = flag(
        "Folder of the labels: CholecT50's labels/ with VIDxx.json, or CholecT45's folder with triplet/VIDxx.txt and "
        "dict/triplet.txt."
    )
    split: Literal["train", "val", "test", "all"] = flag(
        "Split whose questions are compared; all takes all three.", "test"
    )
    splits_dir: Path | None = flag(
        "Folder with train_videos.json, val_videos.json and test_videos.json. Default: SSG-VQA-Net's split.", None
    )
    output: Path = flag("Folder for audit.json, confirmed.jsonl, contradicted.jsonl and not_contradicted.jsonl.")


def audit_data(config: DataAuditConfig) -> Audit:
    """Judges the questions, writes the files, and prints the shares by type.

    Raises:
        InputError: questions or labels cannot be read, no video has both, or the output cannot be written.
    """
    if config.ssgvqa_root is None:
        raise InputError("--ssgvqa-root is missing; give it, or set SSGVQA_ROOT.")
    files = find_label_files(config.cholect50_labels)
    splits = load_splits(config.splits_dir)
    videos = find_videos(config.ssgvqa_root, _named_videos(splits, config.split), "skip")
    labelled = [video for video in videos if base_video(video) in files]
    if not labelled:
        raise InputError(
            f"--cholect50-labels {config.cholect50_labels} has labels of {', '.join(sorted(files)[:5])}, but of none "
            f"of the videos of the questions ({', '.join(videos[:5])}); give other labels, or another --split."
        )
    if missing := [video for video in videos if video not in labelled]:
        log.warning("%d videos have no labels and are left out: %s.", len(missing), ", ".join(missing))
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {config.output} cannot be written ({error.strerror}).") from None
    audit, lines = Audit(), _Lines()
    skipped = Counter[str]()
    for video in _show_progress(labelled):
        labels = read_triplets(files[base_video(video)])
        frames, report = open_questions(config.ssgvqa_root, [video])
        warn_of_faults(video, report)
        skipped.update(report.skipped)
        for frame in frames:
            for question, judgement, triplets in judge_frame(frame, labels, audit):
                lines.add(question, judgement, triplets)
    if not audit.verdicts:
        raise InputError(f"The videos {', '.join(labelled)} have no usable question under {config.ssgvqa_root}.")
    facts = {
        "split": config.split,
        "videos": labelled,
        "videos_without_labels": missing,
        "synthetic": is_synthetic(config.ssgvqa_root),
        "labels": files[base_video(labelled[0])].suffix.removeprefix("."),
        "skipped": dict(skipped),
    }
    lines.write(config.output)
    write_text(config.output / "audit.json", json.dumps(facts | _to_json(audit), indent=2) + "\n")
    print(format_audit(audit, labelled))
    print(f"written: {config.output / 'confirmed.jsonl'} ({len(lines.confirmed):,} questions, for eval --only),")
    print(f"         {config.output / 'contradicted.jsonl'} ({len(lines.contradicted):,}), and two more files")
    return audit


class _Lines:
    """The lines of the lists of questions."""

    def __init__(self) -> None:
        self.confirmed: list[str] = []
        self.contradicted: list[str] = []
        self.not_contradicted: list[str] = []

    def add(self, question: Question, judgement: Judgement, triplets: Sequence[Triplet]) -> None:
        """Adds a judged question."""
        line: dict[str, Any] = {
            "video": question.video,
            "frame": question.frame,
            "question": question.question,
            "answer": question.answer,
            "verdict": judgement.verdict,
            "reason": judgement.reason,
        }
        if judgement.verdict == "contradicts":
            labels = [str(triplet) for triplet in triplets]
            self.contradicted.append(
                json.dumps(line | {"type": question.type, "line": question.line, "labels": labels})
            )
            return
        text = json.dumps(line)
        self.not_contradicted.append(text)
        if judgement.verdict == "agrees":
            self.confirmed.append(text)

    def write(self, folder: Path) -> None:
        """Writes the files."""
        for name in ("confirmed", "contradicted", "not_contradicted"):
            write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in getattr(self, name)), durable=False)


def format_audit(audit: Audit, videos: Sequence[str]) -> str:
    """The shares by type and the reasons, as text."""
    lines = [f"{'questions':<18}{'agree':>10}{'contradict':>12}{'undecided':>11}{'agree, %':>10}   95%, over videos"]
    lines += [_format_row(row) for row in audit.rows()]
    lines += ["", "why"]
    for (verdict, reason), count in sorted(audit.reasons.items(), key=lambda item: (item[0][0], -item[1])):
        lines.append(f"{verdict:<12}{count:>10,}  {REASONS[reason]}")
    share = "agree, % = agreeing of those that the labels settle; intervals by Student's t"
    return "\n".join([*lines, "", f"{share} over {len(videos)} video{'s' if len(videos) != 1 else ''}"])


def _format_row(row: AuditRow) -> str:
    share = "" if row.share is None else f"{100 * row.share:.1f}"
    ends = "" if row.low is None or row.high is None else f"{100 * row.low:.1f} to {100 * row.high:.1f}"
    counts = f"{row.agrees:>10,}{row.contradicts:>12,}{row.undecided:>11,}"
    return f"{row.name:<18}{counts}{share:>10}   {ends}".rstrip()


def _to_json(audit: Audit) -> dict[str, Any]:
    reasons = [
        {"verdict": verdict, "reason": reason, "what": REASONS[reason], "n": count}
        for (verdict, reason), count in sorted(audit.reasons.items())
    ]
    return {"rows": [dataclasses.asdict(row) for row in audit.rows()], "reasons": reasons}


def _named_videos(splits: Splits, split: str) -> list[str]:
    names = SPLIT_NAMES if split == "all" else (split,)
    return [video for name in names for video in splits.videos(name)]


def _show_progress(videos: Iterable[str]) -> Iterator[str]:
    """The videos, with a progress bar if standard error is a terminal."""
    names = list(videos)
    yield from track(names, "audit", len(names), console=Console(stderr=True), disable=not os.isatty(2), transient=True)
