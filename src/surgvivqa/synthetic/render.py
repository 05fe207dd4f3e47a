"""Pictures of scenes: organs with texture and wet highlights, metal tools, an endoscope's round, dark-edged view."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from surgvivqa.synthetic.domain import RGB, TARGET, Look
from surgvivqa.synthetic.scene import COMPONENTS, HEIGHT, INSTRUMENTS, WIDTH, Scene, Thing, inward

Array = np.ndarray[Any, Any]
_SEEN = 60  # px from which a thing counts as visible
_YY, _XX = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)


def render(
    scene: Scene, look: Look = TARGET
) -> tuple[Image.Image, Image.Image, list[tuple[int, int, int, int] | None]]:
    """Draws one second.

    Returns:
        The frame (RGB, 430x240), the mask (mode L, half the size: 0 nothing, else the component's index + 1), and the
        visible box of each thing (None where less than 60 px of it can be seen).
    """
    rng = np.random.default_rng(scene.seed)
    base = np.array(look.tissue, dtype=np.float32)
    canvas = base + 18 * _noise(rng, 9)[..., None] + 9 * _noise(rng, 40)[..., None]
    owner = np.full((HEIGHT, WIDTH), -1, dtype=np.int16)
    for index, thing in enumerate(scene.things):
        tool = thing.component in INSTRUMENTS
        if tool and thing.component != "specimenbag":
            canvas = _shaft(canvas, thing)
        own = np.random.default_rng(thing.seed)
        mask = _draw(thing, own)
        box = mask.getbbox()
        if box is None:
            continue
        # Only the thing's surroundings are worked on.
        x1, y1, x2, y2 = max(0, box[0] - 20), max(0, box[1] - 20), min(WIDTH, box[2] + 20), min(HEIGHT, box[3] + 20)
        region = (slice(y1, y2), slice(x1, x2))
        part = mask.crop((x1, y1, x2, y2))
        canvas[region] = _paint(canvas[region], part, look.rgb[thing.component], tool, own)
        owner[region][np.asarray(part) > 127] = index
    light_x, light_y = WIDTH / 2 + rng.uniform(-40, 40), HEIGHT / 2 + rng.uniform(-25, 25)
    distance = np.hypot((_XX - light_x) / 1.15, _YY - light_y)
    canvas *= np.clip(1.25 - (distance / 300) ** 2 * look.falloff, 0.3, 1.3)[..., None]
    # The endoscope's round view, cut at the top and the bottom of the picture.
    canvas *= np.array(look.tint, dtype=np.float32)
    edge = np.hypot(_XX - look.centre[0], _YY - look.centre[1]) / look.view
    canvas *= np.clip((1.0 - edge) * 30, 0.02, 1)[..., None]
    frame = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    owner[edge > 0.99] = -1
    boxes = [_box(owner == i) for i in range(len(scene.things))]
    values = np.array([0, *(COMPONENTS.index(t.component) + 1 for t in scene.things)], dtype=np.uint8)
    return frame, Image.fromarray(values[owner[::2, ::2] + 1]), boxes


def _paint(below: Array, mask: Image.Image, rgb: RGB, tool: bool, rng: np.random.Generator) -> Array:
    """One thing over what lies below it; ``below`` ``[h, w, 3]`` and ``mask`` are cut to its surroundings."""
    height, width = below.shape[:2]
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.0)), dtype=np.float32)[..., None] / 255
    # Height of a pillow over the shape: its slope against the light gives shading, its top the wet highlights.
    swell = np.asarray(mask.filter(ImageFilter.GaussianBlur(3 if tool else 9)), dtype=np.float32) / 255
    slope_y, slope_x = np.gradient(swell)
    shade = np.clip(1.0 - (4.0 if tool else 9.0) * (slope_x + slope_y), 0.45, 1.5)
    colour = np.array(rgb, dtype=np.float32) * (1 + 0.03 * rng.standard_normal(3))
    if tool:
        grain = 0.04 * _noise(rng, 60, width, height)
    else:
        grain = 0.09 * _noise(rng, 70, width, height) + 0.09 * _noise(rng, 14, width, height)
    surface = colour * (shade * (1 + grain))[..., None]
    spots = np.clip((_noise(rng, 55, width, height) - (1.9 if tool else 1.5)) * 1.6, 0, 1) * (swell > 0.75)
    surface = surface + 200 * spots[..., None]
    if not tool:  # a dark rim where tissue meets tissue
        rim = np.clip(1 - np.abs(swell - 0.5) * 6, 0, 1) * 0.28
        below = below * (1 - (rim * (swell < 0.5))[..., None])
        surface = surface * (1 - (rim * (swell >= 0.5))[..., None])
    painted: Array = below * (1 - soft) + surface * soft
    return painted


def _box(solid: Array) -> tuple[int, int, int, int] | None:
    if int(solid.sum()) < _SEEN:
        return None
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


def _noise(rng: np.random.Generator, cells: int, width: int = WIDTH, height: int = HEIGHT) -> Array:
    """Smooth noise ``[height, width]`` of about unit deviation, with ``cells`` features across a whole frame."""
    shape = (max(2, cells * height // WIDTH), max(2, cells * width // WIDTH))
    small = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _turned(thing: Thing, points: list[tuple[float, float]], turn: float | None = None) -> list[tuple[float, float]]:
    angle = thing.turn if turn is None else turn
    c, s = math.cos(angle), math.sin(angle)
    return [(thing.x + c * px - s * py, thing.y + s * px + c * py) for px, py in points]


def _draw(thing: Thing, rng: np.random.Generator) -> Image.Image:
    """The thing's silhouette, mode L."""
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(mask)
    if thing.component not in INSTRUMENTS:
        _organ(draw, thing, rng)
    elif thing.component == "specimenbag":
        outline = [(math.cos(a) * thing.rx, math.sin(a) * thing.ry * (1 + 0.15 * math.sin(5 * a))) for a in _angles(40)]
        draw.polygon(_turned(thing, outline), fill=255)
    else:
        _tool(draw, thing)
    return mask


def _angles(count: int) -> list[float]:
    return [2 * math.pi * i / count for i in range(count)]


def _organ(draw: ImageDraw.ImageDraw, thing: Thing, rng: np.random.Generator) -> None:
    lobes = {"omentum": 9, "gut": 7, "liver": 3}.get(thing.component, 2)
    depth = {"omentum": 0.07, "gut": 0.09, "liver": 0.14, "cystic_plate": 0.16}.get(thing.component, 0.05)
    phase = rng.uniform(0, 2 * math.pi, 2)
    outline = []
    for a in _angles(72):
        r = 1 + depth * math.sin(lobes * a + phase[0]) + 0.5 * depth * math.sin((lobes + 2) * a + phase[1])
        x = math.cos(a) * thing.rx * r
        y = math.sin(a) * thing.ry * r
        if thing.component == "gallbladder":  # a pear: narrow neck on one side
            y *= 1 - 0.42 * max(0.0, math.cos(a))
        if thing.component == "cystic_duct":  # a bent tube
            y += 0.9 * thing.ry * math.cos(1.6 * x / thing.rx)
        outline.append((x, y))
    draw.polygon(_turned(thing, outline), fill=255)


def _shaft(canvas: Array, thing: Thing) -> Array:
    """The dark insulated shaft behind the tip, out to the border. It is no part of the object: boxes bound the tip."""
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    w, n = thing.ry * 0.5, thing.rx
    ends = [(-1.8 * n, -w), (-1.8 * n, w), (-500, 1.6 * w), (-500, -1.6 * w)]
    ImageDraw.Draw(mask).polygon(_turned(thing, ends, inward(thing.x, thing.turn)), fill=255)
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)[..., None] / 255
    swell = np.asarray(mask.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32)[..., None] / 255
    return canvas * (1 - soft) + (np.array([26, 27, 32], dtype=np.float32) + 60 * swell**3) * soft


def _tool(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    """The working end of a tool: a piece of metal shaft and a tip that tells which it is."""
    angle = inward(thing.x, thing.turn)
    w, n = thing.ry * 0.62, thing.rx
    draw.polygon(_turned(thing, [(-2.0 * n, -w), (0, -w), (0, w), (-2.0 * n, w)], angle), fill=255)
    if thing.component in ("grasper", "bipolar", "clipper"):
        gap = {"grasper": 0.75, "bipolar": 0.35, "clipper": 0.5}[thing.component]
        thick = {"grasper": 0.45, "bipolar": 0.35, "clipper": 0.8}[thing.component] * w
        for sign in (-1, 1):
            jaw = [(0, 0), (0.5 * n, sign * gap * n * 0.5), (n, sign * gap * n * 0.35)]
            draw.line(_turned(thing, jaw, angle), fill=255, width=max(3, round(2 * thick)))
    elif thing.component == "scissors":
        for sign in (-1, 1):
            blade = [(0, -sign * w * 0.6), (1.1 * n, sign * 0.55 * n), (0.25 * n, sign * 0.5 * w)]
            draw.polygon(_turned(thing, blade, angle), fill=255)
    elif thing.component == "hook":
        bend = [(0, 0), (0.8 * n, 0), (0.8 * n, 0.65 * n), (0.6 * n, 0.8 * n)]
        draw.line(_turned(thing, bend, angle), fill=255, width=max(4, round(w * 0.9)))
    else:  # irrigator: a wide blunt tube
        tube = [(-n, -1.5 * w), (0.9 * n, -1.5 * w), (0.9 * n, 1.5 * w), (-n, 1.5 * w)]
        draw.polygon(_turned(thing, tube, angle), fill=255)
