"""The synthetic set: answers recomputed from text and graph by another route, relations as in the real graphs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import COLORS, make_scene
from surgvivqa.synthetic.write import SynthConfig, write_synthetic
from tests.conftest import SHARED

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


def test_every_answer_is_found_again_from_text_and_graph(synthetic_set: Path) -> None:
    kinds = set()
    for path in sorted((synthetic_set / "ssg-qa").rglob("*.txt")):
        graph = json.loads((synthetic_set / "scene_graph" / f"{path.parent.name}_{path.stem}.json").read_text())
        things = graph["scenes"][0]["objects"]
        lines = path.read_text().splitlines()
        assert lines[0].startswith("Which anatomical structures") and lines[1].startswith("Which tools")
        for line in lines[2:]:
            fields = line.split("|")
            if len(fields) == 5:
                kinds.add((fields[2], fields[3]))
                assert answer(fields[0], fields[3], things) == fields[1], line
            elif len(fields) == 3:
                place = fields[0].split(" at the ")[1].split()[0]
                here = [t for t in named(f"{place} thing", things) if t["type"] == "anatomy"]
                assert [t["component"] for t in here] == [fields[1]]
            else:
                triplets = [t.split(",") for t in graph["info"]["triplet"]]
                assert all(any(a in t for t in triplets) for a in fields[1].split(", "))
    assert {r for r, _ in kinds} == {"zero_hop.json", "one_hop.json", "single_and.json"}
    assert {k for _, k in kinds} == {"count", "exist", "query_color", "query_type", "query_component"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here")
@pytest.mark.parametrize("name", ["VID01_0", "VID01_1"])
def test_direction_rules_are_those_of_the_real_graphs(name: str) -> None:
    scene = json.loads((SHARED / "scene_graph" / f"{name}.json").read_text())["scenes"][0]
    for relation in SIDE:
        for i, other in enumerate(scene["objects"]):
            ours = [j for j, thing in enumerate(scene["objects"]) if i != j and holds(relation, thing, other)]
            assert ours == scene["relationships"][relation][i], (relation, i)


def test_the_same_seed_gives_the_same_files_for_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_synthetic(SynthConfig(out=tmp_path / str(workers), videos=3, frames_per_video=1, workers=workers))
    files = [p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file()]
    assert len(files) == 3 * 4 + 1
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file


def test_things_move_from_second_to_second_and_views_change() -> None:
    first, second, later = (make_scene(0, 4, t) for t in (0, 1, 4))
    assert [t.component for t in first.things] == [t.component for t in second.things]
    moves = [np.hypot(a.x - b.x, a.y - b.y) for a, b in zip(first.things, second.things, strict=True)]
    assert 0 < max(moves) < 25
    assert first.things[0] != later.things[0]


def test_a_frame_is_lit_in_the_middle_and_dark_in_the_corners() -> None:
    frame, mask, _ = render(make_scene(0, 4, 0))
    pixels = np.asarray(frame, dtype=float)
    assert pixels[:12, :12].mean() < 12 < 50 < pixels[100:140, 180:250].mean()
    assert mask.size == (215, 120)
