"""Frames of the source set with what the renderer knows about each patch: object, classes, offset to its centre."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.build_base.source_domain import SourceDomain, source_appearance
from surgvivqa.data.frames import load_image
from surgvivqa.data.vocabulary import COLORS, COMPONENTS, HEIGHT, INSTRUMENTS, LOCATIONS, WIDTH
from surgvivqa.synthetic.questions import ColoredObject, SceneIndex
from surgvivqa.synthetic.scene import VERBS, GraphObject

Array = np.ndarray[Any, Any]
VERB_WORDS = tuple(sorted({v for verbs in VERBS.values() for v in verbs}))


@dataclass(frozen=True)
class SourceFrame:
    """A frame of the source set with its scene.

    Attributes:
        video: the video's number.
        second: the frame's number.
        image: ``[3, size, size]`` uint8.
        owner: index of the object that each patch shows ``[patches]`` int64; -1 for background.
        scene_index: the scene graph.
    """

    video: int
    second: int
    image: Array
    owner: Array
    scene_index: SceneIndex


def read_source_frames(root: Path, video: str, seed: int, size: int, patch: int) -> list[SourceFrame]:
    """All frames of one video of a source set, in order: images of ``size`` px, patches of ``patch`` px."""
    frames = []
    for path in sorted((root / "frames" / video).glob("*.png")):
        number, second = int(video[3:]), int(path.stem)
        graph = json.loads((root / "scene_graph" / f"{video}_{second}.json").read_text(encoding="utf-8"))
        scene_index = SceneIndex(graph, source_appearance(seed, number, second).colors)
        image = load_image(path, size, "squash", mean=(0.0,) * 3, std=(1.0,) * 3)
        owner = patch_owners(root / "masks" / video / path.name, scene_index.objects, size // patch)
        frames.append(SourceFrame(number, second, (image * 255).round().to(torch.uint8).numpy(), owner, scene_index))
    return frames


def patch_owners(path: Path, objects: Sequence[GraphObject], grid: int) -> Array:
    """The object of each patch ``[grid * grid]`` int64, or -1: a tool that covers a sixth, else what covers most."""
    cells = 6
    with Image.open(path) as image:
        mask = np.asarray(image.resize((grid * cells, grid * cells), Image.Resampling.NEAREST))
    patches = mask.reshape(grid, cells, grid, cells).transpose(0, 2, 1, 3).reshape(grid * grid, cells * cells)
    counts = np.stack([(patches == value).sum(1) for value in range(len(COMPONENTS) + 1)], axis=1)
    tools = np.zeros(len(COMPONENTS) + 1, dtype=bool)
    tools[[COMPONENTS.index(name) + 1 for name in INSTRUMENTS]] = True
    component = (counts + np.where(tools & (counts >= cells * cells // 6), cells * cells, 0)).argmax(1) - 1
    owner = np.full(grid * grid, -1, np.int64)
    step = np.array([WIDTH / grid, HEIGHT / grid])
    centres = (np.stack([np.arange(grid * grid) % grid, np.arange(grid * grid) // grid], 1) + 0.5) * step
    for name in {o["component"] for o in objects}:
        same = [i for i, o in enumerate(objects) if o["component"] == name]
        mine = np.flatnonzero(component == COMPONENTS.index(name))
        away = [np.hypot(*(centres[mine] - np.array(objects[i]["center"])).T) for i in same]
        owner[mine] = np.array(same)[np.argmin(away, axis=0)] if len(mine) else owner[mine]
    return owner


def _component(o: ColoredObject, s: SceneIndex) -> int:
    return COMPONENTS.index(o["component"]) + 1


def _same(o: ColoredObject, s: SceneIndex) -> int:
    return min(3, sum(p["component"] == o["component"] for p in s.objects))


def _verb(o: ColoredObject, s: SceneIndex) -> int:
    own = [verb for tool, verb, _ in s.triplets if tool == o["component"]]
    return VERB_WORDS.index(own[0]) + 1 if len(own) == 1 and _same(o, s) == 1 else 0


COLOR_WORDS = tuple(sorted(set(COLORS.values())))
_CLASS_OF: tuple[Callable[[ColoredObject, SceneIndex], int], ...] = (
    _component,
    lambda o, s: COLOR_WORDS.index(o["color"]) + 1,
    lambda o, s: 2 if o["type"] == "instrument" else 1,
    lambda o, s: 1 + LOCATIONS.index(o["location"]) // 3,
    lambda o, s: 1 + LOCATIONS.index(o["location"]) % 3,
    _same,
    _verb,
)
VERB_GROUP = len(_CLASS_OF) - 1


def patch_classes(frame: SourceFrame) -> Array:
    """Classes ``[groups, patches]`` int64, in the order of ``word_groups``; 0 means none.

    Row and column of a background patch are its own.
    """
    owners, grid = frame.owner, int(len(frame.owner) ** 0.5)
    table = np.array(
        [[0] * len(_CLASS_OF), *([of(o, frame.scene_index) for of in _CLASS_OF] for o in frame.scene_index.objects)]
    )
    classes = table[owners + 1].T.copy()
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    empty = owners < 0
    classes[3, empty] = 1 + (rows[empty] * 2 + 1 >= grid)
    classes[4, empty] = 1 + (columns[empty] * 3 + 1) // grid
    return classes


def patch_offsets(frame: SourceFrame) -> Array:
    """The centre of each patch's object ``[patches, 2]`` float32, -1 to 1 over the frame; NaN in the background."""
    centres = np.array([[np.nan, np.nan], *(o["center"] for o in frame.scene_index.objects)], dtype=np.float32)
    return centres[frame.owner + 1] / np.array([WIDTH / 2, HEIGHT / 2], np.float32) - 1


class SourceFrames:
    """Frames as tensors, from which both stages draw their batches.

    Attributes:
        images: ``[N, 3, size, size]`` uint8.
        classes: ``[N, groups, patches]`` int64.
        offsets: ``[N, patches, 2]`` float32.
        moves: whether the frame before shows the same objects ``[N]`` bool.
    """

    def __init__(self, frames: Sequence[SourceFrame]) -> None:
        self.frames = frames
        self.images = torch.from_numpy(np.stack([f.image for f in frames]))
        self.classes = torch.from_numpy(np.stack([patch_classes(f) for f in frames]))
        self.offsets = torch.from_numpy(np.stack([patch_offsets(f) for f in frames]))
        self.moves = torch.tensor([f.second % SourceDomain.shot_seconds > 0 for f in frames])

    def clips(self, chosen: Tensor, past: Tensor, num_frames: int, light: Tensor | None = None) -> Tensor:
        """Normalized clips ``[B, T, 3, H, W]`` float32.

        Args:
            chosen: indices of frames ``[B]``.
            past: whether the first half of a clip shows the frame one second earlier, else the same frame ``[B]``.
            num_frames: ``T``.
            light: factors of the channels ``[B, 3]``.
        """
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        now = self.images[chosen]
        before = self.images[torch.where(past, chosen - 1, chosen)]
        half = num_frames // 2
        clip = torch.stack([before] * half + [now] * half, dim=1).float() / 255
        if light is not None:
            clip = (clip * light.view(-1, 1, 3, 1, 1)).clamp(max=1)
        return (clip - mean.view(3, 1, 1)) / std.view(3, 1, 1)
