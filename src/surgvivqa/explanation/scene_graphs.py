"""Reads SSG-QA's scene graphs: the objects of a frame with their boxes, and the relations between them.

A graph is a file ``<VIDxx>_<frame>.json`` of the data set (Yuan et al., IJCARS 2024; ``scene_graph_ssgqa.zip`` of
CAMMA-public/SSG-VQA). Its boxes and components come from detectors, not from people. Lengths are pixels of a 430x240
frame, whatever size the frames on disk have.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from surgvivqa.data.vocabulary import COLORS, HEIGHT, LOCATIONS, WIDTH
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

SPATIAL_RELATIONS = ("left", "right", "above", "below", "within", "horizontal")
KINDS = ("anatomy", "instrument")
_MOST_OBJECTS = 200  # a frame has about ten


class Box(NamedTuple):
    """A rectangle of a frame, as fractions of its width and height: 0 is left or top, 1 is right or bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """The share of the frame's area."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def contains(self, x: float, y: float) -> bool:
        """Whether a point lies inside; the left and the top edge belong to the box."""
        return self.left <= x < self.right and self.top <= y < self.bottom

    def overlaps(self, other: "Box") -> bool:
        """Whether two boxes share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True)
class GraphObject:
    """One object of a frame.

    Attributes:
        component: its SSG-QA name, such as ``cystic_duct``.
        kind: ``anatomy`` or ``instrument``.
        location: one of ``LOCATIONS``.
        box: its box.
    """

    component: str
    kind: str
    location: str
    box: Box

    @property
    def color(self) -> str:
        """The colour that SSG-QA's questions give to its component; empty for a component without one."""
        return COLORS.get(self.component, "")


@dataclass(frozen=True)
class SceneGraph:
    """The scene graph of one frame.

    Attributes:
        objects: the objects.
        relations: by name, for each object ``i`` the indices of the objects that are ``name`` of ``i``: spatial
            relations, and actions (``grasp``), where ``i`` is the instrument and the indices are its targets.
    """

    objects: tuple[GraphObject, ...]
    relations: Mapping[str, tuple[tuple[int, ...], ...]]

    def related(self, relation: str, index: int) -> frozenset[int]:
        """The objects that are ``relation`` of object ``index``; none if the graph does not have the relation."""
        rows = self.relations.get(relation)
        return frozenset(rows[index]) if rows else frozenset()

    @property
    def actions(self) -> list[tuple[int, str, int]]:
        """Instrument, verb and target of each action."""
        return [
            (tool, verb, target)
            for verb, rows in self.relations.items()
            if verb not in SPATIAL_RELATIONS
            for tool, targets in enumerate(rows)
            for target in targets
        ]


def scene_graph_path(root: Path, video: str, frame: int) -> Path:
    """The file of a frame's scene graph."""
    return root / f"{video}_{frame}.json"


def read_scene_graph(path: Path) -> SceneGraph:
    """Reads the scene graph of a frame.

    Raises:
        InputError: the file is missing, cannot be read, or is not a scene graph of SSG-QA.
    """
    try:
        return parse_scene_graph(read_json(path))
    except FileNotFoundError:
        raise InputError(
            f"Scene graph {path} does not exist; --scene-graph-root must hold <VIDxx>_<frame>.json for the frames."
        ) from None
    except OSError as error:
        raise InputError(f"Scene graph {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise InputError(f"Scene graph {path} is not one of SSG-QA ({str(error)[:120]}); replace the file.") from None


def parse_scene_graph(content: Any) -> SceneGraph:
    """Parses the content of a scene graph's file.

    Raises:
        ValueError: it is not a scene graph of SSG-QA; the message says what is wrong with "it".
    """
    scenes = content.get("scenes") if isinstance(content, dict) else None
    if not isinstance(scenes, list) or len(scenes) != 1 or not isinstance(scenes[0], dict):
        raise ValueError("it has no list 'scenes' with one scene")
    objects, relations = scenes[0].get("objects"), scenes[0].get("relationships")
    if not isinstance(objects, list) or len(objects) > _MOST_OBJECTS:
        raise ValueError(f"its 'objects' is not a list of at most {_MOST_OBJECTS}")
    if not isinstance(relations, dict):
        raise ValueError("its 'relationships' is not a mapping")
    return SceneGraph(
        tuple(_parse_object(item, number) for number, item in enumerate(objects)),
        {str(name): _parse_relation(rows, str(name), len(objects)) for name, rows in relations.items()},
    )


def _parse_object(item: Any, number: int) -> GraphObject:
    where = f"its object {number}"
    if not isinstance(item, dict):
        raise ValueError(f"{where} is not a mapping")
    names = [item.get(key) for key in ("component", "type", "location")]
    component, kind, location = (name if isinstance(name, str) else "" for name in names)
    if not component or kind not in KINDS or location not in LOCATIONS:
        raise ValueError(f"{where} has no component, type or location of SSG-QA")
    corners = item.get("bbox")
    if not isinstance(corners, list) or len(corners) != 4 or not all(map(_is_number, corners)):
        raise ValueError(f"{where} has no bbox of four numbers")
    left, top, right, bottom = corners
    if not (left <= right and top <= bottom):
        raise ValueError(f"{where} has a bbox whose corners are swapped")
    # The last row and column belong to the object, and a detector's box may reach beyond the frame.
    edges = (left / WIDTH, top / HEIGHT, (right + 1) / WIDTH, (bottom + 1) / HEIGHT)
    box = Box(*(min(1.0, max(0.0, edge)) for edge in edges))
    if not box.area:
        raise ValueError(f"{where} has a bbox outside the frame")
    return GraphObject(component, kind, location, box)


def _parse_relation(rows: Any, name: str, count: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(rows, list) or len(rows) != count:
        raise ValueError(f"its relation {name!r} is not a list with one entry for each object")
    for row in rows:
        if not isinstance(row, list) or not all(type(index) is int and 0 <= index < count for index in row):
            raise ValueError(f"its relation {name!r} names an object that does not exist")
    return tuple(map(tuple, rows))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
