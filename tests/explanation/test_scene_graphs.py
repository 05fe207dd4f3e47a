"""SSG-QA's scene graphs are read, and anything else is refused in one sentence."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.explanation.scene_graphs import Box, parse_scene_graph, read_scene_graph, scene_graph_path
from surgvivqa.utils.errors import InputError
from tests.conftest import SHARED

REAL = SHARED / "scene_graph" / "VID01_0.json"
GRAPH: dict[str, Any] = {
    "scenes": [
        {
            "objects": [
                {"bbox": [0, 0, 214, 119], "component": "liver", "type": "anatomy", "location": "top-left"},
                {"bbox": [215, 120, 429, 239], "component": "hook", "type": "instrument", "location": "bottom-right"},
            ],
            "relationships": {"left": [[], [0]], "dissect": [[], [0]]},
        }
    ]
}


def test_boxes_are_fractions_of_the_frame() -> None:
    first, second = parse_scene_graph(GRAPH).objects
    assert first.box == Box(0.0, 0.0, 0.5, 0.5)
    assert second.box == Box(0.5, 0.5, 1.0, 1.0)
    assert not first.box.overlaps(second.box)


def test_relations_and_actions_are_told_apart() -> None:
    graph = parse_scene_graph(GRAPH)
    assert graph.related("left", 1) == {0}
    assert graph.related("above", 1) == set()
    assert graph.actions == [(1, "dissect", 0)]


@pytest.mark.skipif(not REAL.is_file(), reason="the real scene graphs are not here")
def test_a_real_scene_graph_is_read() -> None:
    graph = read_scene_graph(scene_graph_path(REAL.parent, "VID01", 0))
    assert [item.component for item in graph.objects][-2:] == ["gallbladder", "grasper"]
    assert graph.actions == [(5, "grasp", 4)]
    assert graph.objects[5].color == "silver"


def _changed(path: list[Any], value: Any) -> Any:
    graph = copy.deepcopy(GRAPH)
    part = graph
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return graph


OBJECT = ["scenes", 0, "objects", 0]


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "no list 'scenes' with one scene"),
        ({"scenes": []}, "no list 'scenes' with one scene"),
        (_changed(["scenes", 0, "objects"], "x"), "its 'objects' is not a list"),
        (_changed(["scenes", 0, "objects"], [{}] * 201), "its 'objects' is not a list of at most 200"),
        (_changed(["scenes", 0, "relationships"], []), "its 'relationships' is not a mapping"),
        (_changed(["scenes", 0, "relationships", "left"], [[]]), "'left' is not a list with one entry for each object"),
        (_changed(["scenes", 0, "relationships", "left"], [[], [2]]), "'left' names an object that does not exist"),
        (_changed(["scenes", 0, "relationships", "left"], [[], [True]]), "'left' names an object that does not exist"),
        (_changed(OBJECT, 7), "its object 0 is not a mapping"),
        (_changed([*OBJECT, "type"], "tool"), "its object 0 has no component, type or location"),
        (_changed([*OBJECT, "component"], None), "its object 0 has no component, type or location"),
        (_changed([*OBJECT, "bbox"], [1, 2, 3]), "its object 0 has no bbox of four numbers"),
        (_changed([*OBJECT, "bbox"], [1, 2, float("nan"), 4]), "its object 0 has no bbox of four numbers"),
        (_changed([*OBJECT, "bbox"], [9, 2, 3, 4]), "its object 0 has a bbox whose corners are swapped"),
        (_changed([*OBJECT, "bbox"], [900, 2, 950, 4]), "its object 0 has a bbox outside the frame"),
    ],
)
def test_anything_else_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "VID01_0.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"VID01_0\.json is not one of SSG-QA") as error:
        read_scene_graph(path)
    assert message in str(error.value)


def test_a_missing_graph_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"VID01_0\.json does not exist"):
        read_scene_graph(tmp_path / "VID01_0.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_scene_graph(tmp_path)
