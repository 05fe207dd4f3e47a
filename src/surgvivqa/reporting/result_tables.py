"""The tables of results by group of questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa.reporting.headline import GROUPED, Ends, ends_of
from surgvivqa.reporting.page import percent


@dataclass(frozen=True)
class GroupRow:
    """The figures of a group of questions.

    Attributes:
        name: the group.
        n: number of questions.
        accuracy: their accuracy.
        ends: its 95% interval; None if there is none.
        macro_f1: their mAF1.
        f1_ends: its 95% interval; None if there is none.
    """

    name: str
    n: int
    accuracy: float
    ends: Ends | None
    macro_f1: float
    f1_ends: Ends | None


@dataclass(frozen=True)
class GroupTable:
    """A table of groups.

    Attributes:
        title: its title.
        note: how the groups are made.
        rows: the groups.
    """

    title: str
    note: str
    rows: Sequence[GroupRow]


def group_tables(content: Mapping[str, Any]) -> list[GroupTable]:
    """The tables by the authors' groups of types, raw type, reasoning, fold and video; empty ones are left out."""
    folds = {f"fold {row['fold']}": row["metrics"] for row in (content.get("crossval") or {}).get("folds", ())}
    by_type = content["by_type"]
    raw = {name: row for name, row in by_type.items() if name not in GROUPED}
    tables = [
        GroupTable("By question type", "The authors' groups; template questions only.", _rows(by_type, GROUPED)),
        GroupTable("By raw type", "The types of the question files; template questions only.", _rows(raw, sorted(raw))),
        GroupTable(
            "By reasoning", "Template questions only.", _rows(content["by_reasoning"], sorted(content["by_reasoning"]))
        ),
        GroupTable("By fold", _describe_folds(content), _rows(folds, list(folds))),
        GroupTable("By video", "All questions of the video.", _rows(content["by_video"], sorted(content["by_video"]))),
    ]
    return [table for table in tables if table.rows]


def _describe_folds(content: Mapping[str, Any]) -> str:
    """The mean and the standard deviation of the accuracy over folds; empty without folds."""
    crossval = content.get("crossval") or {}
    if not crossval.get("folds"):
        return ""
    mean, spread = (percent(crossval[name]["acc"]) for name in ("mean", "spread"))
    return f"Accuracy {mean} on average over the folds, standard deviation {spread}."


def _rows(groups: Mapping[str, Any], names: Sequence[str]) -> list[GroupRow]:
    return [
        GroupRow(
            name,
            row["n"],
            row["acc"],
            ends_of(row.get("intervals"), "acc"),
            row["mAF1"],
            ends_of(row.get("intervals"), "mAF1"),
        )
        for name in names
        if (row := groups.get(name)) is not None
    ]
