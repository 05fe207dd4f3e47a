"""Scenes: what lies where in each second of a video, and the scene graph in SSG-QA's format."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 430, 240
NEAR = 40.0  # px between centres from which one object is left of, right of, above or below another

ANATOMIES: dict[str, str] = {
    "abdominal_wall_cavity": "red",
    "liver": "brown",
    "gut": "yellow",
    "omentum": "yellow",
    "gallbladder": "white",
    "cystic_plate": "red",
    "cystic_duct": "white",
}
INSTRUMENTS: dict[str, str] = {
    "grasper": "silver",
    "hook": "white",
    "bipolar": "blue",
    "scissors": "silver",
    "clipper": "blue",
    "irrigator": "silver",
    "specimenbag": "white",
}
COMPONENTS: tuple[str, ...] = (*ANATOMIES, *INSTRUMENTS)
COLORS: dict[str, str] = ANATOMIES | INSTRUMENTS
LOCATIONS = tuple(f"{row}-{column}" for row in ("top", "bottom") for column in ("left", "mid", "right"))
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
# How a tool moves while it does something: px a second outwards along itself, and px of a stroke across itself.
MOTION: dict[str, tuple[float, float]] = {
    "retract": (13.0, 0.0),
    "pack": (-6.0, 0.0),
    "dissect": (0.0, 13.0),
    "irrigate": (0.0, 13.0),
}


@dataclass(frozen=True)
class Thing:
    """One object in one second: its component, centre (px), half sizes (px), turn (radians) and its own seed."""

    component: str
    x: float
    y: float
    rx: float
    ry: float
    turn: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """One second: things from back to front, the actions (tool index, verb, target index), and the light's seed."""

    things: tuple[Thing, ...]
    actions: tuple[tuple[int, str, int], ...]
    seed: int


def make_scene(seed: int, video: int, second: int, burst: int = 4, tool_size: float = 1.0) -> Scene:
    """The scene of one second: a pure function of its arguments, smooth in ``second`` within a burst.

    A burst of seconds shows the same objects: organs drift along slow sinusoids, a tool moves as what it does asks
    (``MOTION``): of a tool's two verbs one keeps still and one moves, so a single frame does not tell them apart.
    """
    shot, t = second // burst, float(second % burst)
    rng = np.random.default_rng([seed, video, shot])
    things: list[Thing] = []
    layout = {
        # component: chance, centre x, centre y (ranges), half width, half height
        "abdominal_wall_cavity": (0.45, (40, 390), (20, 60), (50, 90), (25, 45)),
        "liver": (0.6, (80, 350), (40, 150), (75, 110), (45, 65)),
        "gut": (0.4, (50, 380), (175, 215), (45, 75), (22, 32)),
        "omentum": (0.5, (50, 380), (120, 205), (40, 70), (28, 40)),
        "gallbladder": (0.6, (80, 350), (50, 190), (38, 55), (26, 36)),
        "cystic_plate": (0.45, (60, 370), (50, 190), (26, 38), (18, 26)),
        "cystic_duct": (0.4, (60, 370), (50, 190), (28, 40), (8, 11)),
    }
    names = [n for n, (chance, *_) in layout.items() if rng.random() < chance]
    while len(names) < 2:
        names = sorted({*names, str(rng.choice(list(layout)))}, key=list(layout).index)
    tools = [str(n) for n in rng.choice(list(INSTRUMENTS), size=int(rng.integers(1, 4)), replace=False)]
    if rng.random() < 0.35 and len(tools) < 3:
        tools.append("grasper")  # two graspers are common
    verbs: dict[int, str] = {}
    starts: list[tuple[float, float]] = []
    for place, name in enumerate([*names, *tools]):
        tool = name in INSTRUMENTS
        if tool:
            x, y = rng.uniform(75, 355), rng.uniform(45, 195)
            rx, ry = tool_size * rng.uniform(34, 43), tool_size * rng.uniform(14, 17)
            if name == "specimenbag":
                rx, ry = tool_size * rng.uniform(38, 50), tool_size * rng.uniform(27, 35)
            if rng.random() < 0.8:
                verbs[place] = str(rng.choice(VERBS[name]))
        else:
            _, xs, ys, ws, hs = layout[name]
            x, y = rng.uniform(*xs), rng.uniform(*ys)
            rx, ry = 1.15 * rng.uniform(*ws), 1.15 * rng.uniform(*hs)
        starts.append((x, y))
        reach = 1.5 if tool else 4.0
        phase, speed = rng.uniform(0, 2 * math.pi, 3), rng.uniform(0.4, 0.9, 3)
        turn = float(rng.uniform(-0.5, 0.5) + 0.12 * math.sin(phase[2] + speed[2] * t))
        x += reach * math.sin(phase[0] + speed[0] * t)
        y += reach * math.sin(phase[1] + speed[1] * t)
        outward, across = MOTION.get(verbs.get(place, ""), (0.0, 0.0))
        angle = inward(x, turn)
        out, side = -outward * t, across * math.sin(phase[0] + 1.9 * t)
        x += math.cos(angle) * out - math.sin(angle) * side
        y += math.sin(angle) * out + math.cos(angle) * side
        things.append(Thing(name, float(x), float(y), float(rx), float(ry), turn, int(rng.integers(2**31))))
    actions = []
    for place, verb in verbs.items():
        # By where things are at the burst's start, so that the target stays the same while they move.
        target = min(range(len(names)), key=lambda j: math.dist(starts[j], starts[place]))
        actions.append((place, verb, target))
    return Scene(tuple(things), tuple(actions), int(rng.integers(2**31)))


def inward(x: float, turn: float) -> float:
    """Direction of a tool at ``x`` px, radians: in over the nearer side, from a little below."""
    side = -1.0 if x < WIDTH / 2 else 1.0
    return math.atan2(-30 - 60 * abs(math.sin(turn)), -side * 200) + turn * 0.5


def scene_graph(scene: Scene, boxes: list[tuple[int, int, int, int] | None], name: str) -> dict[str, Any]:
    """The scene graph in SSG-QA's JSON format.

    Args:
        scene: the scene.
        boxes: visible box ``(x1, y1, x2, y2)`` of each thing, px at 430x240; None where it cannot be seen (left out).
        name: ``VIDxx_<frame>``.
    """
    kept = [i for i, box in enumerate(boxes) if box is not None]
    number = {old: new for new, old in enumerate(kept)}
    objects = []
    for i in kept:
        box = boxes[i]
        assert box is not None
        center = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        component = scene.things[i].component
        objects.append(
            {
                "bbox": list(box),
                "component": component,
                "type": "anatomy" if component in ANATOMIES else "instrument",
                "center": center,
                "location": location(*center),
            }
        )
    relationships = {r: [related(objects, i, r) for i in range(len(objects))] for r in (*RELATIONS, "horizontal")}
    triplets = []
    for tool, verb, target in scene.actions:
        if tool in number and target in number:
            relationships.setdefault(verb, [[] for _ in objects])[number[tool]].append(number[target])
            triplets.append(f"{scene.things[tool].component},{verb},{scene.things[target].component}")
    return {
        "scenes": [{"objects": objects, "image_filename": name, "relationships": dict(sorted(relationships.items()))}],
        "info": {"split": "new", "image_index": 0, "image_filename": [name], "triplet": triplets},
    }


def location(x: float, y: float) -> str:
    """One of the six places: top where y < 120, and thirds of the width."""
    return f"{'top' if y < HEIGHT / 2 else 'bottom'}-{('left', 'mid', 'right')[min(2, int(3 * x / WIDTH))]}"


def related(objects: list[dict[str, Any]], i: int, relation: str) -> list[int]:
    """Objects that ARE ``relation`` of object ``i``.

    Left, right, above and below need ``NEAR`` px between the centres; ``within`` needs nine tenths of a box in another;
    ``horizontal`` is right of it at nearly the same height.
    """
    found = []
    x, y = objects[i]["center"]
    for j, other in enumerate(objects):
        if i == j:
            continue
        dx, dy = other["center"][0] - x, other["center"][1] - y
        holds = {
            "left": dx <= -NEAR,
            "right": dx >= NEAR,
            "above": dy <= -NEAR,
            "below": dy >= NEAR,
            "horizontal": dx >= NEAR and abs(dy) < NEAR / 4,
            "within": _inside(other["bbox"], objects[i]["bbox"]),
        }[relation]
        if holds:
            found.append(j)
    return found


def _inside(inner: list[int], outer: list[int]) -> bool:
    width = max(0, min(inner[2], outer[2]) - max(inner[0], outer[0]))
    height = max(0, min(inner[3], outer[3]) - max(inner[1], outer[1]))
    area = max(1, (inner[2] - inner[0]) * (inner[3] - inner[1]))
    return width * height >= 0.9 * area and area < (outer[2] - outer[0]) * (outer[3] - outer[1])
