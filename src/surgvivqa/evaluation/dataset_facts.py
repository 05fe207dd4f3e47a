"""The section ``dataset``: which data set the questions are of, and what is published on it. SSG-QA has none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgvivqa.datasets.description import DatasetDescription


@dataclass(frozen=True)
class PublishedRow:
    """A published result.

    Attributes:
        title: the model.
        source: where it is published.
        figures: metrics in %, by their names in ``metrics.json``.
        wordings: accuracy in % by wording.
        note: what a reader has to know.
    """

    title: str
    source: str
    figures: Mapping[str, float] = field(default_factory=dict)
    wordings: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class DatasetFacts:
    """What a reader of figures has to know about a data set; see ``DatasetDescription``.

    ``own_splits`` is False where ``--splits-dir`` named other videos than the description.
    """

    name: str
    title: str
    licence: str
    source: str
    homepage: str
    protocol: str
    published: list[PublishedRow]
    own_splits: bool = True

    @classmethod
    def of_description(cls, description: DatasetDescription, *, own_splits: bool = True) -> "DatasetFacts":
        """The facts of a description."""
        rows = [
            PublishedRow(row.title, row.source, dict(row.figures), dict(row.wordings), row.note)
            for row in description.published
        ]
        return cls(
            description.name,
            description.title or description.name,
            description.licence,
            description.source,
            description.homepage,
            description.protocol,
            rows,
            own_splits,
        )


def format_published_rows(facts: DatasetFacts) -> str:
    """The published results as a table in %; empty if there are none."""
    names = list(dict.fromkeys(name for row in facts.published for name in (*row.figures, *row.wordings)))
    if not names:
        return ""
    lines = [f"{'published on ' + facts.title:<36}" + "".join(f"{name[:14]:>15}" for name in names)]
    for row in facts.published:
        figures = {**row.figures, **row.wordings}
        cells = "".join(f"{figures[name]:>15.2f}" if name in figures else f"{'':>15}" for name in names)
        lines.append(f"{row.title[:35]:<36}{cells}  {row.note}".rstrip())
    if facts.protocol:
        lines.append(f"protocol: {facts.protocol}")
    return "\n".join(lines)
