"""Scenes: the objects of each second of a video, and the scene graph in SSG-QA's format.

Lengths and positions are pixels of a 430x240 frame, as in SSG-QA's scene graphs; the origin is the top left corner.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np

from surgvivqa.data.vocabulary import ANATOMIES, HEIGHT, INSTRUMENTS, WIDTH

MIN_OFFSET = 40.0  # minimum distance of two centres, px along one axis, for left, right, above and below

RELATIONS = ("above", "below", "left", "right", "within")
VERBS: dict[str, tuple[str, ...]] = {
    "grasper": ("grasp", "retract"),
    "hook": ("dissect", "coagulate"),
    "bipolar": ("coagulate", "dissect"),
    "scissors": ("cut", "dissect"),
    "clipper": ("clip",),
    "irrigator": ("irrigate", "aspirate"),
    "specimenbag": ("pack",),
}
# How a tool moves during an action: px per second outwards along its axis, and px of a stroke across its axis.
MOTION: dict[str, tuple[float, float]] = {
    "retract": (13.0, 0.0),
    "pack": (-6.0, 0.0),
    "dissect": (0.0, 13.0),
    "irrigate": (0.0, 13.0),
}


class _Organ(NamedTuple):
    """Chance that a shot shows an organ, and ranges of its centre and its half sizes, px."""

    chance: float
    x: tuple[int, int]
    y: tuple[int, int]
    rx: tuple[int, int]
    ry: tuple[int, int]


_ORGANS = {
    "abdominal_wall_cavity": _Organ(0.45, (40, 390), (20, 60), (50, 90), (25, 45)),
    "liver": _Organ(0.6, (80, 350), (40, 150), (75, 110), (45, 65)),
    "gut": _Organ(0.4, (50, 380), (175, 215), (45, 75), (22, 32)),
    "omentum": _Organ(0.5, (50, 380), (120, 205), (40, 70), (28, 40)),
    "gallbladder": _Organ(0.6, (80, 350), (50, 190), (38, 55), (26, 36)),
    "cystic_plate": _Organ(0.45, (60, 370), (50, 190), (26, 38), (18, 26)),
    "cystic_duct": _Organ(0.4, (60, 370), (50, 190), (28, 40), (8, 11)),
}


@dataclass(frozen=True)
class SceneObject:
    """One object in one second.

    Attributes:
        component: its SSG-QA name.
        x: centre, px.
        y: centre, px.
        rx: half width, px.
        ry: half height, px.
        turn: rotation, radians.
        seed: seed of its shape and texture.
    """

    component: str
    x: float
    y: float
    rx: float
    ry: float
    turn: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """One second of a video.

    Attributes:
        objects: from back to front.
        actions: ``(tool index, verb, target index)``.
        seed: seed of the light and the background.
    """

    objects: tuple[SceneObject, ...]
    actions: tuple[tuple[int, str, int], ...]
    seed: int


class GraphObject(TypedDict):
    """An object of a scene graph; ``bbox`` is ``[x1, y1, x2, y2]`` in px."""

    bbox: list[int]
    component: str
    type: str
    center: list[float]
    location: str


class GraphScene(TypedDict):
    """The scene of a graph; ``relationships[r][i]`` lists the objects that are ``r`` of object ``i``."""

    objects: list[GraphObject]
    image_filename: str
    relationships: dict[str, list[list[int]]]


class SceneGraph(TypedDict):
    """A scene graph in SSG-QA's JSON format."""

    scenes: list[GraphScene]
    info: dict[str, Any]


def generate_scene(seed: int, video: int, second: int, shot_seconds: int = 4, tool_scale: float = 1.0) -> Scene:
    """The scene of one second: a pure function of its arguments.

    All seconds of a shot show the same objects. Organs drift along slow sinusoids; a tool moves as its action requires
    (``MOTION``). Of a tool's two verbs one moves and one does not, so a single frame does not tell them apart.
    """
    shot, time = second // shot_seconds, float(second % shot_seconds)
    rng = np.random.default_rng([seed, video, shot])
    organs, tools = _choose_components(rng)
    objects: list[SceneObject] = []
    verbs: dict[int, str] = {}
    starts: list[tuple[float, float]] = []
    for index, name in enumerate([*organs, *tools]):
        if name in INSTRUMENTS:
            x, y, rx, ry = _place_tool(name, tool_scale, rng)
            if rng.random() < 0.8:
                verbs[index] = str(rng.choice(VERBS[name]))
        else:
            x, y, rx, ry = _place_organ(name, rng)
        starts.append((x, y))
        x, y, turn = _move(x, y, name in INSTRUMENTS, verbs.get(index, ""), time, rng)
        objects.append(SceneObject(name, float(x), float(y), float(rx), float(ry), turn, int(rng.integers(2**31))))
    actions = []
    for tool, verb in verbs.items():
        # By the positions at the start of the shot, so that the target stays the same while objects move.
        target = min(range(len(organs)), key=lambda organ: math.dist(starts[organ], starts[tool]))
        actions.append((tool, verb, target))
    return Scene(tuple(objects), tuple(actions), int(rng.integers(2**31)))


def _choose_components(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """At least two organs, and one to three tools."""
    organs = [name for name, organ in _ORGANS.items() if rng.random() < organ.chance]
    while len(organs) < 2:
        organs = sorted({*organs, str(rng.choice(list(_ORGANS)))}, key=list(_ORGANS).index)
    tools = [str(n) for n in rng.choice(list(INSTRUMENTS), size=int(rng.integers(1, 4)), replace=False)]
    if rng.random() < 0.35 and len(tools) < 3:
        tools.append("grasper")  # two graspers are common
    return organs, tools


def _place_organ(name: str, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Centre and half sizes, px."""
    organ = _ORGANS[name]
    x, y = rng.uniform(*organ.x), rng.uniform(*organ.y)
    return x, y, 1.15 * rng.uniform(*organ.rx), 1.15 * rng.uniform(*organ.ry)


def _place_tool(name: str, scale: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Centre and half sizes, px."""
    x, y = rng.uniform(75, 355), rng.uniform(45, 195)
    rx, ry = scale * rng.uniform(34, 43), scale * rng.uniform(14, 17)
    if name == "specimenbag":
        rx, ry = scale * rng.uniform(38, 50), scale * rng.uniform(27, 35)
    return x, y, rx, ry


def _move(
    x: float, y: float, tool: bool, verb: str, time: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Centre (px) and rotation (radians) of an object ``time`` seconds after the start of its shot."""
    reach = 1.5 if tool else 4.0
    phase, speed = rng.uniform(0, 2 * math.pi, 3), rng.uniform(0.4, 0.9, 3)
    turn = float(rng.uniform(-0.5, 0.5) + 0.12 * math.sin(phase[2] + speed[2] * time))
    x += reach * math.sin(phase[0] + speed[0] * time)
    y += reach * math.sin(phase[1] + speed[1] * time)
    outward, across = MOTION.get(verb, (0.0, 0.0))
    angle = tool_angle(x, turn)
    out, side = -outward * time, across * math.sin(phase[0] + 1.9 * time)
    x += math.cos(angle) * out - math.sin(angle) * side
    y += math.sin(angle) * out + math.cos(angle) * side
    return x, y, turn


def tool_angle(x: float, turn: float) -> float:
    """Direction of a tool at ``x`` px, radians: it enters over the nearer side, from slightly below."""
    side = -1.0 if x < WIDTH / 2 else 1.0
    return math.atan2(-30 - 60 * abs(math.sin(turn)), -side * 200) + turn * 0.5


def scene_graph(scene: Scene, boxes: list[tuple[int, int, int, int] | None], name: str) -> SceneGraph:
    """The scene graph in SSG-QA's JSON format.

    Args:
        scene: the scene.
        boxes: visible box ``(x1, y1, x2, y2)`` of each object, px; None for an invisible object, which is omitted.
        name: ``VIDxx_<frame>``.
    """
    visible = [i for i, box in enumerate(boxes) if box is not None]
    new_index = {old: new for new, old in enumerate(visible)}
    objects: list[GraphObject] = []
    for i in visible:
        box = boxes[i]
        assert box is not None
        center = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        component = scene.objects[i].component
        objects.append(
            {
                "bbox": list(box),
                "component": component,
                "type": "anatomy" if component in ANATOMIES else "instrument",
                "center": center,
                "location": location(*center),
            }
        )
    relationships = {
        r: [related_objects(objects, i, r) for i in range(len(objects))] for r in (*RELATIONS, "horizontal")
    }
    triplets = []
    for tool, verb, target in scene.actions:
        if tool in new_index and target in new_index:
            relationships.setdefault(verb, [[] for _ in objects])[new_index[tool]].append(new_index[target])
            triplets.append(f"{scene.objects[tool].component},{verb},{scene.objects[target].component}")
    return {
        "scenes": [{"objects": objects, "image_filename": name, "relationships": dict(sorted(relationships.items()))}],
        "info": {"split": "new", "image_index": 0, "image_filename": [name], "triplet": triplets},
    }


def location(x: float, y: float) -> str:
    """SSG-QA's location of a point, one of six: top or bottom half, and left, mid or right third."""
    return f"{'top' if y < HEIGHT / 2 else 'bottom'}-{('left', 'mid', 'right')[min(2, int(3 * x / WIDTH))]}"


def related_objects(objects: list[GraphObject], i: int, relation: str) -> list[int]:
    """Indices ``j`` of the objects for which "j is ``relation`` of ``i``" holds.

    Left, right, above and below need ``MIN_OFFSET`` px between the centres; ``within`` needs nine tenths of a box
    inside a larger one; ``horizontal`` means to the right at nearly the same height.
    """
    related = []
    x, y = objects[i]["center"]
    for j, other in enumerate(objects):
        if i == j:
            continue
        dx, dy = other["center"][0] - x, other["center"][1] - y
        holds = {
            "left": dx <= -MIN_OFFSET,
            "right": dx >= MIN_OFFSET,
            "above": dy <= -MIN_OFFSET,
            "below": dy >= MIN_OFFSET,
            "horizontal": dx >= MIN_OFFSET and abs(dy) < MIN_OFFSET / 4,
            "within": _inside(other["bbox"], objects[i]["bbox"]),
        }[relation]
        if holds:
            related.append(j)
    return related


def _inside(inner: list[int], outer: list[int]) -> bool:
    width = max(0, min(inner[2], outer[2]) - max(inner[0], outer[0]))
    height = max(0, min(inner[3], outer[3]) - max(inner[1], outer[1]))
    area = max(1, (inner[2] - inner[0]) * (inner[3] - inner[1]))
    return width * height >= 0.9 * area and area < (outer[2] - outer[0]) * (outer[3] - outer[1])
