"""Draws scenes: organs with texture and specular highlights, metal tools, and the endoscope's round view."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from surgvivqa.data.vocabulary import COMPONENTS, HEIGHT, INSTRUMENTS, WIDTH
from surgvivqa.synthetic.appearance import RGB, TARGET_APPEARANCE, Appearance
from surgvivqa.synthetic.scene import Scene, SceneObject, tool_angle

Array = np.ndarray[Any, Any]
_MIN_VISIBLE = 60  # minimum number of pixels of a visible object
_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)


def render(
    scene: Scene, appearance: Appearance = TARGET_APPEARANCE
) -> tuple[Image.Image, Image.Image, list[tuple[int, int, int, int] | None]]:
    """Draws one second.

    Returns:
        The frame (RGB, 430x240), the mask (mode L, half the size: 0 for background, else the component's index + 1),
        and the visible box ``(x1, y1, x2, y2)`` of each object, px; None where less than 60 px of it are visible.
    """
    rng = np.random.default_rng(scene.seed)
    base = np.array(appearance.tissue, dtype=np.float32)
    canvas = base + 18 * _noise(rng, 9)[..., None] + 9 * _noise(rng, 40)[..., None]
    owner = np.full((HEIGHT, WIDTH), -1, dtype=np.int16)
    for index, item in enumerate(scene.objects):
        tool = item.component in INSTRUMENTS
        if tool and item.component != "specimenbag":
            canvas = _shaft(canvas, item)
        item_rng = np.random.default_rng(item.seed)
        mask = _draw(item, item_rng)
        box = mask.getbbox()
        if box is None:
            continue
        # Paint only the object and its surroundings.
        x1, y1, x2, y2 = max(0, box[0] - 20), max(0, box[1] - 20), min(WIDTH, box[2] + 20), min(HEIGHT, box[3] + 20)
        region = (slice(y1, y2), slice(x1, x2))
        part = mask.crop((x1, y1, x2, y2))
        canvas[region] = _paint(canvas[region], part, appearance.rgb[item.component], tool, item_rng)
        owner[region][np.asarray(part) > 127] = index
    light_x, light_y = WIDTH / 2 + rng.uniform(-40, 40), HEIGHT / 2 + rng.uniform(-25, 25)
    distance = np.hypot((_COLUMNS - light_x) / 1.15, _ROWS - light_y)
    canvas *= np.clip(1.25 - (distance / 300) ** 2 * appearance.light_falloff, 0.3, 1.3)[..., None]
    # The endoscope's round view, cut off at the top and the bottom of the frame.
    canvas *= np.array(appearance.tint, dtype=np.float32)
    edge = np.hypot(_COLUMNS - appearance.view_center[0], _ROWS - appearance.view_center[1]) / appearance.view_radius
    canvas *= np.clip((1.0 - edge) * 30, 0.02, 1)[..., None]
    frame = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    owner[edge > 0.99] = -1
    boxes = [_box(owner == i) for i in range(len(scene.objects))]
    values = np.array([0, *(COMPONENTS.index(t.component) + 1 for t in scene.objects)], dtype=np.uint8)
    return frame, Image.fromarray(values[owner[::2, ::2] + 1]), boxes


def _paint(below: Array, mask: Image.Image, rgb: RGB, tool: bool, rng: np.random.Generator) -> Array:
    """Paints one object over ``below`` ``[h, w, 3]`` float32; ``below`` and ``mask`` are cut to its surroundings."""
    height, width = below.shape[:2]
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.0)), dtype=np.float32)[..., None] / 255
    # A height field over the shape: its slope gives the shading, its top the specular highlights.
    height_field = np.asarray(mask.filter(ImageFilter.GaussianBlur(3 if tool else 9)), dtype=np.float32) / 255
    slope_y, slope_x = np.gradient(height_field)
    shade = np.clip(1.0 - (4.0 if tool else 9.0) * (slope_x + slope_y), 0.45, 1.5)
    colour = np.array(rgb, dtype=np.float32) * (1 + 0.03 * rng.standard_normal(3))
    if tool:
        grain = 0.04 * _noise(rng, 60, width, height)
    else:
        grain = 0.09 * _noise(rng, 70, width, height) + 0.09 * _noise(rng, 14, width, height)
    surface = colour * (shade * (1 + grain))[..., None]
    spots = np.clip((_noise(rng, 55, width, height) - (1.9 if tool else 1.5)) * 1.6, 0, 1) * (height_field > 0.75)
    surface = surface + 200 * spots[..., None]
    if not tool:  # a dark rim between tissues
        rim = np.clip(1 - np.abs(height_field - 0.5) * 6, 0, 1) * 0.28
        below = below * (1 - (rim * (height_field < 0.5))[..., None])
        surface = surface * (1 - (rim * (height_field >= 0.5))[..., None])
    painted: Array = below * (1 - soft) + surface * soft
    return painted


def _box(solid: Array) -> tuple[int, int, int, int] | None:
    if int(solid.sum()) < _MIN_VISIBLE:
        return None
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


def _noise(rng: np.random.Generator, cells: int, width: int = WIDTH, height: int = HEIGHT) -> Array:
    """Smooth noise ``[height, width]`` of about unit deviation, with ``cells`` features across a whole frame."""
    shape = (max(2, cells * height // WIDTH), max(2, cells * width // WIDTH))
    small = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _rotate(
    item: SceneObject, points: list[tuple[float, float]], turn: float | None = None
) -> list[tuple[float, float]]:
    angle = item.turn if turn is None else turn
    c, s = math.cos(angle), math.sin(angle)
    return [(item.x + c * px - s * py, item.y + s * px + c * py) for px, py in points]


def _draw(item: SceneObject, rng: np.random.Generator) -> Image.Image:
    """The object's silhouette, mode L."""
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(mask)
    if item.component not in INSTRUMENTS:
        _organ(draw, item, rng)
    elif item.component == "specimenbag":
        outline = [(math.cos(a) * item.rx, math.sin(a) * item.ry * (1 + 0.15 * math.sin(5 * a))) for a in _angles(40)]
        draw.polygon(_rotate(item, outline), fill=255)
    else:
        _tool(draw, item)
    return mask


def _angles(count: int) -> list[float]:
    return [2 * math.pi * i / count for i in range(count)]


def _organ(draw: ImageDraw.ImageDraw, item: SceneObject, rng: np.random.Generator) -> None:
    lobes = {"omentum": 9, "gut": 7, "liver": 3}.get(item.component, 2)
    depth = {"omentum": 0.07, "gut": 0.09, "liver": 0.14, "cystic_plate": 0.16}.get(item.component, 0.05)
    phase = rng.uniform(0, 2 * math.pi, 2)
    outline = []
    for a in _angles(72):
        r = 1 + depth * math.sin(lobes * a + phase[0]) + 0.5 * depth * math.sin((lobes + 2) * a + phase[1])
        x = math.cos(a) * item.rx * r
        y = math.sin(a) * item.ry * r
        if item.component == "gallbladder":  # pear-shaped, with a narrow neck on one side
            y *= 1 - 0.42 * max(0.0, math.cos(a))
        if item.component == "cystic_duct":  # a bent tube
            y += 0.9 * item.ry * math.cos(1.6 * x / item.rx)
        outline.append((x, y))
    draw.polygon(_rotate(item, outline), fill=255)


def _shaft(canvas: Array, item: SceneObject) -> Array:
    """Draws the dark shaft from the tip to the frame's border. It is not part of the object: boxes bound the tip."""
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    w, n = item.ry * 0.5, item.rx
    ends = [(-1.8 * n, -w), (-1.8 * n, w), (-500, 1.6 * w), (-500, -1.6 * w)]
    ImageDraw.Draw(mask).polygon(_rotate(item, ends, tool_angle(item.x, item.turn)), fill=255)
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)[..., None] / 255
    height_field = np.asarray(mask.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32)[..., None] / 255
    return canvas * (1 - soft) + (np.array([26, 27, 32], dtype=np.float32) + 60 * height_field**3) * soft


def _tool(draw: ImageDraw.ImageDraw, item: SceneObject) -> None:
    """The working end of a tool: a piece of metal shaft and a tip whose shape identifies it."""
    angle = tool_angle(item.x, item.turn)
    w, n = item.ry * 0.62, item.rx
    draw.polygon(_rotate(item, [(-2.0 * n, -w), (0, -w), (0, w), (-2.0 * n, w)], angle), fill=255)
    if item.component in ("grasper", "bipolar", "clipper"):
        gap = {"grasper": 0.75, "bipolar": 0.35, "clipper": 0.5}[item.component]
        thick = {"grasper": 0.45, "bipolar": 0.35, "clipper": 0.8}[item.component] * w
        for sign in (-1, 1):
            jaw = [(0, 0), (0.5 * n, sign * gap * n * 0.5), (n, sign * gap * n * 0.35)]
            draw.line(_rotate(item, jaw, angle), fill=255, width=max(3, round(2 * thick)))
    elif item.component == "scissors":
        for sign in (-1, 1):
            blade = [(0, -sign * w * 0.6), (1.1 * n, sign * 0.55 * n), (0.25 * n, sign * 0.5 * w)]
            draw.polygon(_rotate(item, blade, angle), fill=255)
    elif item.component == "hook":
        bend = [(0, 0), (0.8 * n, 0), (0.8 * n, 0.65 * n), (0.6 * n, 0.8 * n)]
        draw.line(_rotate(item, bend, angle), fill=255, width=max(4, round(w * 0.9)))
    else:  # irrigator: a wide blunt tube
        tube = [(-n, -1.5 * w), (0.9 * n, -1.5 * w), (0.9 * n, 1.5 * w), (-n, 1.5 * w)]
        draw.polygon(_rotate(item, tube, angle), fill=255)
