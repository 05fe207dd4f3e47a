"""Reads SSG-QA's template questions and answers them from a scene graph, independently of the generator."""

import re
from typing import Any

from surgvivqa.data.vocabulary import COLORS

WORDS = r"(?:[a-z_-]+ )*?(?:anatomy|instrument|thing|object)"
RELATION = (
    r"(to the left of|on the left side of|left of|to the right of|on the right side of|right of|above|below|within)"
)
SIDE = {"left": lambda dx, dy: dx <= -40, "right": lambda dx, dy: dx >= 40,
        "above": lambda dx, dy: dy <= -40, "below": lambda dx, dy: dy >= 40}  # fmt: skip


def holds(relation: str, thing: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether ``thing`` is ``relation`` of ``other``, from boxes alone."""
    name = next(n for n in ("left", "right", "above", "below", "within") if n in relation)
    a, b = thing["bbox"], other["bbox"]
    if name != "within":
        return bool(SIDE[name]((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2))
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area, other_area = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return overlap >= 0.9 * max(1, area) and area < other_area


def named(phrase: str, things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects that a noun phrase means."""
    found = things
    for word in phrase.split():
        word = word.removesuffix("s") if word not in COLORS else word
        if word in set(COLORS.values()):
            found = [t for t in found if COLORS[t["component"]] == word]
        elif re.fullmatch(r"(top|bottom)-(left|mid|right)", word):
            row, column = word.split("-")
            found = [
                t for t in found
                if ((t["bbox"][1] + t["bbox"][3]) / 2 < 120) == (row == "top")
                and ["left", "mid", "right"][int((t["bbox"][0] + t["bbox"][2]) / 2 / (430 / 3))] == column
            ]  # fmt: skip
        elif word in COLORS:
            found = [t for t in found if t["component"] == word]
        elif word in ("anatomy", "instrument"):
            found = [t for t in found if t["type"] == word]
        else:
            assert word in ("thing", "object"), word
    return found


def answer(question: str, kind: str, things: list[dict[str, Any]]) -> str:
    """Reads a template question and answers it; asserts that every referring expression names one object."""
    text = question.rstrip("?")
    text = re.sub(r";.*$", "", text).rstrip("?")
    text = re.sub(r" (is what (color|type))$", "", text)
    text = re.sub(
        r"^(How many|What number of|Are there any|What color is the|What type is the|There is a|What is the|The) ",
        "",
        text,
    )
    text = re.sub(r" (are there|that is both|that is|are)(?= |$)", "", text)
    pool = things
    for part in re.finditer(rf"{RELATION} the ({WORDS})(?= and |$)", text):
        referent = named(part[2], things)
        assert len(referent) == 1, (question, part[2])
        pool = [t for t in pool if t is not referent[0] and holds(part[1], t, referent[0])]
    head = re.split(rf" {RELATION} the ", text)[0]
    found = named(head, pool)
    if kind == "count":
        return str(len(found))
    if kind == "exist":
        return str(bool(found))
    assert len(found) == 1, question
    return {"query_color": COLORS[found[0]["component"]], "query_type": found[0]["type"]}.get(
        kind, found[0]["component"]
    )
