"""The tables of docs/overlaps.md, made from ``dataset_overlaps.yaml``: ``python -m surgvivqa.data.overlap_tables``."""

from collections.abc import Iterable

from surgvivqa.data.dataset_overlaps import OverlapTable, load_overlaps, parse_numbers
from surgvivqa.data.splits import TEST_VIDEOS

BEGIN, END = "<!-- tables from dataset_overlaps.yaml -->", "<!-- end of tables -->"
_TESTED = parse_numbers(", ".join(video.removeprefix("VID") for video in sorted(TEST_VIDEOS)))


def format_numbers(numbers: Iterable[int]) -> str:
    """Numbers as a text such as ``1, 4-6``, the inverse of ``parse_numbers``; two in a row stay apart."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    texts = [f"{span[0]}-{span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans]
    return ", ".join(texts)


def format_tables(table: OverlapTable) -> str:
    """The tables of data sets, of pretrained models and of sources, in Markdown."""
    keys = {name: number for number, name in enumerate(table.sources, 1)}
    sets = [
        (
            row.name,
            row.videos,
            format_numbers(row.operations) or "none",
            format_numbers(row.possible) or "none",
            _tested(row.operations, row.possible),
            _evidence(row.evidence, row.sources, keys),
            row.note,
        )
        for row in table.sets
    ]
    models = [
        (
            row.title,
            " ".join(f"`{pattern}`" for pattern in row.matches),
            row.trained_on,
            _tested(row.seen, row.possible),
            _evidence(row.evidence, row.sources, keys),
            row.note,
        )
        for row in table.models
    ]
    sources = [
        f"{keys[name]}. {source.title if source.url is None else f'[{source.title}]({source.url})'}"
        for name, source in table.sources.items()
    ]
    return "\n\n".join(
        [
            "### Data sets",
            _table(
                "set | videos | operations | may also show | SSG-QA's test videos | evidence (sources) | notes", sets
            ),
            "### Pretrained models",
            _table("model | names | trained on | SSG-QA's test videos | evidence (sources) | notes", models),
            f"### Sources\n\nRead on {table.checked}.",
            "\n".join(sources),
        ]
    )


def _tested(known: frozenset[int], possible: frozenset[int]) -> str:
    """Which of SSG-QA's test videos are among the operations."""
    parts = []
    if known & _TESTED:
        parts.append(format_numbers(known & _TESTED))
    if (possible - known) & _TESTED:
        parts.append(f"perhaps {format_numbers((possible - known) & _TESTED)}")
    return ", ".join(parts) or "none"


def _evidence(evidence: str, sources: Iterable[str], keys: dict[str, int]) -> str:
    return f"{evidence} ({', '.join(str(keys[name]) for name in sources)})"


def _table(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "| " + " | ".join(["---"] * columns) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)).rstrip() + " |" for row in rows])


if __name__ == "__main__":
    print(format_tables(load_overlaps()))
