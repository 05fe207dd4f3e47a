"""The first lesson of the base: what is in each patch of a frame, in the space of the words that name it.

Random frozen parts teach nothing, and questions alone teach a small model to look only after many hours. The renderer
knows what it drew, so its masks and graphs give what large-scale pretraining gives the published parts: patches that
mean something. Each patch learns to lie near the words for its object's component, colour, kind, place, verb and
number, and to know where its object's centre is.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from surgvivqa.data.frames import load_image
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.domain import BURST, Domain, look_of
from surgvivqa.synthetic.questions import Scenery
from surgvivqa.synthetic.scene import COLORS, COMPONENTS, HEIGHT, INSTRUMENTS, LOCATIONS, VERBS, WIDTH
from surgvivqa.synthetic.source_questions import SPEAKERS, Speaker

Array = np.ndarray[Any, Any]
VERB_WORDS = tuple(sorted({v for verbs in VERBS.values() for v in verbs}))


@dataclass(frozen=True)
class SourceFrame:
    """A frame of a synthetic set with all that its renderer knows.

    ``owner`` ``[patches]`` int64 is the graph's object that each patch shows most of (tools first), -1 for none.
    """

    video: int
    second: int
    image: Array  # [3, size, size] uint8
    owner: Array
    scenery: Scenery


def read_source(root: Path, video: str, domain: Domain, seed: int, size: int, patch: int) -> list[SourceFrame]:
    """All frames of one video of a synthetic set with masks, in order."""
    frames = []
    for path in sorted((root / "frames" / video).glob("*.png")):
        number, second = int(video[3:]), int(path.stem)
        graph = json.loads((root / "scene_graph" / f"{video}_{second}.json").read_text(encoding="utf-8"))
        scenery = Scenery(graph, look_of(domain, seed, number, second).colors)
        image = load_image(path, size, "squash", mean=(0.0,) * 3, std=(1.0,) * 3)
        owner = patch_owners(root / "masks" / video / path.name, scenery.objects, size // patch)
        frames.append(SourceFrame(number, second, (image * 255).round().to(torch.uint8).numpy(), owner, scenery))
    return frames


def patch_owners(path: Path, objects: Sequence[dict[str, Any]], grid: int) -> Array:
    """The object of each patch ``[grid * grid]``: a tool that covers a sixth of it, else what covers most; -1 none."""
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


@dataclass(frozen=True)
class WordGroup:
    """Words of which each patch has one (or none): token ids ``[K]`` of the words in all their forms, and the class of
    each ``[K]`` (classes count from 1; 0 is none)."""

    tokens: Tensor
    classes: Tensor


def _component(o: dict[str, Any], s: Scenery) -> int:
    return COMPONENTS.index(o["component"]) + 1


def _same(o: dict[str, Any], s: Scenery) -> int:
    return min(3, sum(p["component"] == o["component"] for p in s.objects))


def _verb(o: dict[str, Any], s: Scenery) -> int:
    own = [verb for tool, verb, _ in s.triplets if tool == o["component"]]
    return VERB_WORDS.index(own[0]) + 1 if len(own) == 1 and _same(o, s) == 1 else 0


_COLOR_WORDS = tuple(sorted(set(COLORS.values())))
_CLASS_OF: tuple[Callable[[dict[str, Any], Scenery], int], ...] = (
    _component,
    lambda o, s: _COLOR_WORDS.index(o["color"]) + 1,
    lambda o, s: 2 if o["type"] == "instrument" else 1,
    lambda o, s: 1 + LOCATIONS.index(o["location"]) // 3,
    lambda o, s: 1 + LOCATIONS.index(o["location"]) % 3,
    _same,
    _verb,
)
VERB_GROUP = len(_CLASS_OF) - 1


def patch_classes(frame: SourceFrame) -> Array:
    """Classes ``[groups, patches]`` int64, in the order of ``word_groups``; background patches have their own place."""
    owners, grid = frame.owner, int(len(frame.owner) ** 0.5)
    table = np.array(
        [[0] * len(_CLASS_OF), *([of(o, frame.scenery) for of in _CLASS_OF] for o in frame.scenery.objects)]
    )
    classes = table[owners + 1].T.copy()
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    empty = owners < 0
    classes[3, empty] = 1 + (rows[empty] * 2 + 1 >= grid)
    classes[4, empty] = 1 + (columns[empty] * 3 + 1) // grid
    return classes


def patch_offsets(frame: SourceFrame) -> Array:
    """The centre of each patch's object ``[patches, 2]``, -1 to 1 over the frame; NaN in the background."""
    centres = np.array([[np.nan, np.nan], *(o["center"] for o in frame.scenery.objects)], dtype=np.float32)
    return centres[frame.owner + 1] / np.array([WIDTH / 2, HEIGHT / 2], np.float32) - 1


def word_groups(tokenizer: Any) -> list[WordGroup]:
    """The words of component, colour, kind, row, column, number of alike objects, and verb."""
    speakers = [Speaker(n) for n in range(SPEAKERS)]
    names = [{f" {s.component(c)}" for s in speakers} for c in COMPONENTS]
    kinds = [{f" {s.kind(k)}{plural}" for s in speakers for plural in ("", "s")} for k in ("anatomy", "instrument")]
    return [
        _group(tokenizer, names),
        _group(tokenizer, [{f" {c}"} for c in _COLOR_WORDS]),
        _group(tokenizer, kinds),
        _group(tokenizer, [{" top"}, {" bottom"}]),
        _group(tokenizer, [{"left", " left"}, {"mid", " mid"}, {"right", " right"}]),
        _group(tokenizer, [{" 1", " one"}, {" 2", " two"}, {" 3", " three"}]),
        _group(tokenizer, [{f" {v}"} for v in VERB_WORDS]),
    ]


def _group(tokenizer: Any, words: Sequence[set[str]]) -> WordGroup:
    # Of several tokens the last: "plate" of "cystic_plate" tells it from "cystic_duct". What ends words of two classes,
    # such as a plural's own token, tells nothing and is left out.
    last = [{tokenizer(form, add_special_tokens=False)["input_ids"][-1] for form in forms} for forms in words]
    own = [sorted(t for t in tokens if sum(t in other for other in last) == 1) for tokens in last]
    if not all(own):
        raise ValueError(f"no token of its own for one of {words}")
    classes = [number for number, tokens in enumerate(own, 1) for _ in tokens]
    return WordGroup(torch.tensor(list(itertools.chain(*own))), torch.tensor(classes))


class SourceSet:
    """Frames of a synthetic set as tensors: what the lesson and the questions take their batches from."""

    def __init__(self, frames: Sequence[SourceFrame], domain: Domain = "source") -> None:
        self.frames = frames
        self.images = torch.from_numpy(np.stack([f.image for f in frames]))
        self.classes = torch.from_numpy(np.stack([patch_classes(f) for f in frames]))
        self.offsets = torch.from_numpy(np.stack([patch_offsets(f) for f in frames]))
        burst = BURST[domain]
        self.moves = torch.tensor([f.second % burst > 0 for f in frames])  # whether the frame before shows the same

    def clips(self, chosen: Tensor, past: Tensor, num_frames: int, light: Tensor | None = None) -> Tensor:
        """Clips ``[B, T, 3, H, W]``: the frame repeated, or with ``past`` in the second half the frame and before it
        the one a second earlier; ``light`` ``[B, 3]`` multiplies the channels."""
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        now = self.images[chosen]
        before = self.images[torch.where(past, chosen - 1, chosen)]
        half = num_frames // 2
        clip = torch.stack([before] * half + [now] * half, dim=1).float() / 255
        if light is not None:
            clip = (clip * light.view(-1, 1, 3, 1, 1)).clamp(max=1)
        return (clip - mean.view(3, 1, 1)) / std.view(3, 1, 1)


class Lesson(nn.Module):
    """The heads of the lesson, none of which the base keeps: "none of these words" a group, and the object's centre."""

    def __init__(self, model: SurgViVQAModel, groups: Sequence[WordGroup]) -> None:
        super().__init__()
        width = model.config.video_config.hidden_size
        self.groups = groups
        self.nothing = nn.Parameter(torch.zeros(len(groups), width))
        self.centre = nn.Linear(width, 2)

    def forward(self, model: SurgViVQAModel, tokens: Tensor, classes: Tensor, offsets: Tensor, past: Tensor) -> Any:
        """The loss of video tokens ``[B, patches, hidden]``, and which patches with an object have its component right.

        Verbs are asked of ``past`` clips alone: a frame repeated does not move.
        """
        embedding = model.text_encoder.embeddings.word_embeddings.weight
        flat = tokens.flatten(0, 1)
        loss, right = flat.new_zeros(()), torch.zeros(0)
        for number, group in enumerate(self.groups):
            words = functional.normalize(embedding[group.tokens], dim=-1)
            near = torch.cat([flat @ self.nothing[number : number + 1].T, flat @ words.T], dim=1)
            target = classes[:, number].flatten()
            # All forms of a word are taught: the chance of a class is shared by its forms.
            forms = torch.cat([torch.zeros(1, dtype=torch.long), group.classes])
            same = forms[None, :] == target[:, None]
            share = (near.log_softmax(-1) * same).sum(1) / same.sum(1).clamp(min=1)
            count = torch.bincount(target, minlength=int(forms.max()) + 1).clamp(min=50).float()
            weight = count.rsqrt()[target]
            if number == VERB_GROUP:
                weight = weight * past.repeat_interleave(tokens.shape[1])
            loss = loss - (share * weight).sum() / weight.sum().clamp(min=1e-6)
            if number == 0:
                found = target > 0
                right = (forms[near.argmax(-1)][found] == target[found]).float()
        known = ~offsets[..., 0].isnan()
        loss = loss + 4 * functional.smooth_l1_loss(self.centre(tokens)[known], offsets[known], beta=0.1)
        return loss, right


def set_words(model: SurgViVQAModel, groups: Sequence[WordGroup]) -> None:
    """Words keep the direction they learned at twice the length of the others, so that positions do not drown them; and
    the decoder answers in the same space: what is seen can be said."""
    with torch.no_grad():
        words = model.text_encoder.embeddings.word_embeddings.weight
        output = model.decoder.transformer.wte.weight
        taught = torch.unique(torch.cat([g.tokens for g in groups]))
        direction = functional.normalize(words[taught], dim=-1)
        words[taught] = direction * 2 * words.norm(dim=-1).median()
        output[taught] = direction * 2 * output.norm(dim=-1).median()


def open_eyes(model: SurgViVQAModel, sharpness: float = 1.5) -> None:
    """Starts cross-attention as a comparison: queries and keys near identity, so a word looks at patches like it."""
    with torch.no_grad():
        for layer in model.text_encoder.encoder.layer:
            attention = layer.crossattention.self
            identity = torch.eye(attention.query.weight.shape[0])
            attention.query.weight.add_(sharpness * identity)
            attention.key.weight.add_(sharpness * identity)
            attention.value.weight.add_(identity)
            layer.crossattention.output.dense.weight.add_(identity)
