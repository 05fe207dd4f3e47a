"""The synthetic set: answers equal those of an independent reader; relations follow the real graphs' rules."""

import json
from pathlib import Path

import numpy as np
import pytest

from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene
from surgvivqa.synthetic.write import SynthConfig, write_synthetic
from tests.conftest import SHARED
from tests.helpers.templates import SIDE, answer, holds, named


def test_every_answer_equals_that_of_an_independent_parser(synthetic_set: Path) -> None:
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


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data")
@pytest.mark.parametrize("name", ["VID01_0", "VID01_1"])
def test_direction_rules_match_the_real_graphs(name: str) -> None:
    scene = json.loads((SHARED / "scene_graph" / f"{name}.json").read_text())["scenes"][0]
    for relation in SIDE:
        for i, other in enumerate(scene["objects"]):
            ours = [j for j, thing in enumerate(scene["objects"]) if i != j and holds(relation, thing, other)]
            assert ours == scene["relationships"][relation][i], (relation, i)


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_synthetic(SynthConfig(out=tmp_path / str(workers), videos=3, frames_per_video=1, workers=workers))
    files = [p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file()]
    assert len(files) == 3 * 4 + 1
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file


def test_objects_move_within_a_shot_and_change_between_shots() -> None:
    first, second, later = (generate_scene(0, 4, t) for t in (0, 1, 4))
    assert [t.component for t in first.objects] == [t.component for t in second.objects]
    moves = [np.hypot(a.x - b.x, a.y - b.y) for a, b in zip(first.objects, second.objects, strict=True)]
    assert 0 < max(moves) < 25
    assert first.objects[0] != later.objects[0]


def test_a_frame_is_bright_in_the_centre_and_dark_in_the_corners() -> None:
    frame, mask, _ = render(generate_scene(0, 4, 0))
    pixels = np.asarray(frame, dtype=float)
    assert pixels[:12, :12].mean() < 12 < 50 < pixels[100:140, 180:250].mean()
    assert mask.size == (215, 120)
