"""The statistics of questions as a document of tables."""

from collections.abc import Callable, Mapping, Sequence

from surgvivqa.data.ssgqa import CONTENT_FAULTS, FORMAT_FAULTS
from surgvivqa.evaluation.intervals import METHOD
from surgvivqa.evaluation.metrics import METRICS, TYPE_GROUPS, Metrics
from surgvivqa.evaluation.question_stats import Prior, QuestionStats, SplitStats
from surgvivqa.reporting.tables import MISSING, Document, Section, Table, between, percent

_LEFT_OUT = {"summary": "summary lines", "comma_answer": "lines with several answers", **FORMAT_FAULTS}


def build_stats_document(stats: QuestionStats) -> Document:
    """The counts by split, video, type, reasoning and label, and what the questions alone give away."""
    there = [split for split in stats.splits if split.questions]
    types = _counts_table("types", "Questions by type.", "type", there, lambda s: s.by_type)
    reasonings = _counts_table("reasonings", "Questions by reasoning.", "reasoning", there, lambda s: s.by_reasoning)
    labels = _counts_table("labels", "Questions by answer.", "label", there, lambda s: s.by_label)
    sections = [
        Section("Questions", [_splits_table(stats.splits), *_left_out(there)]),
        Section("By type and reasoning", [types, reasonings]),
        Section("By label", [labels]),
        Section("By video", [_videos_table(split) for split in there]),
        Section("What the questions alone give away", _priors(stats)),
    ]
    return Document("Statistics of the questions", [section for section in sections if section.blocks])


def _splits_table(splits: Sequence[SplitStats]) -> Table:
    rows = [
        [
            split.split,
            f"{split.named - len(split.missing)} of {split.named}",
            *(f"{number:,}" for number in (split.frames, split.questions, split.distinct)),
            f"{split.questions / split.frames:.1f}" if split.frames else MISSING,
            str(len(split.by_label)),
        ]
        for split in splits
    ]
    head = ["split", "videos", "frames", "questions", "different ones", "per frame", "labels"]
    missing = [
        f"{split.split} lacks {', '.join(split.missing) if len(split.missing) < split.named else 'all its videos'}"
        for split in splits
        if split.missing
    ]
    return Table("splits", "Questions of the splits.", head, rows, note=f"{'; '.join(missing)}." if missing else "")


def _left_out(splits: Sequence[SplitStats]) -> list[Table]:
    """Lines and files that were left out, and what looks wrong; nothing if there is neither."""
    rows = [
        [text, *(f"{counts(split).get(reason, 0):,}" for split in splits)]
        for texts, counts in ((_LEFT_OUT, _skipped), (CONTENT_FAULTS, _suspect))
        for reason, text in texts.items()
        if any(counts(split).get(reason) for split in splits)
    ]
    head = ["left out, or looks wrong", *(split.split for split in splits)]
    return [Table("left-out", "Lines that are no questions, and what looks wrong.", head, rows)] if rows else []


def _skipped(split: SplitStats) -> Mapping[str, int]:
    return split.skipped


def _suspect(split: SplitStats) -> Mapping[str, int]:
    return split.suspect


def _counts_table(
    name: str,
    caption: str,
    title: str,
    splits: Sequence[SplitStats],
    counts: Callable[[SplitStats], Mapping[str, int]],
) -> Table:
    """A row for each name, with its number and its share in each split; the most frequent first."""
    total = {key: sum(counts(split).get(key, 0) for split in splits) for split in splits for key in counts(split)}
    rows = [
        [key, *(cell for split in splits for cell in _count(counts(split).get(key, 0), split.questions))]
        for key in sorted(total, key=lambda key: -total[key])
    ]
    return Table(name, caption, [title, *(cell for split in splits for cell in (split.split, "%"))], rows)


def _count(number: int, of: int) -> tuple[str, str]:
    return f"{number:,}", percent(number / of) if of else MISSING


def _videos_table(split: SplitStats) -> Table:
    rows = [[video, *_count(number, split.questions)] for video, number in sorted(split.by_video.items())]
    return Table(f"videos-{split.split}", f"Questions of the {split.split} videos.", ["video", "questions", "%"], rows)


def _priors(stats: QuestionStats) -> list[str | Table]:
    blocks: list[str | Table] = []
    for split in dict.fromkeys(prior.split for prior in stats.priors):
        priors = [prior for prior in stats.priors if prior.split == split]
        rows = [
            [
                prior.title,
                *(percent(getattr(prior.metrics, name)) for name in METRICS),
                MISSING if prior.metrics.intervals is None else between(*prior.metrics.intervals["acc"]),
            ]
            for prior in priors
        ]
        caption = (
            f"Fitted on the training split and asked on the {split} split, {priors[0].metrics.n:,} questions; in %."
        )
        head = ["without a frame", *METRICS, "95% of acc"]
        blocks.append(Table(f"priors-{split}", caption, head, rows, note=f"Intervals: {METHOD}."))
        blocks.append(_types_table(split, priors))
    return blocks + ([f"{stats.note[:1].upper()}{stats.note[1:]}."] if stats.note else [])


def _types_table(split: str, priors: Sequence[Prior]) -> Table:
    rows = [
        [name, f"{metrics.n:,}", *(percent(prior.by_type[name].acc) for prior in priors)]
        for name, metrics in priors[0].by_type.items()
        if not _repeats_a_type(name, priors[0].by_type)
    ]
    head = ["type", "questions", *(prior.title for prior in priors)]
    return Table(f"prior-types-{split}", f"Their accuracy by type on the {split} split, in %.", head, rows)


def _repeats_a_type(name: str, by_type: Mapping[str, Metrics]) -> bool:
    """Whether a group of types has a single one, which has a row of its own."""
    return sum(group == name and kind in by_type for kind, group in TYPE_GROUPS.items()) == 1
