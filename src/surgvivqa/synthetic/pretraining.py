"""The second lesson of the base: questions of the source domain, with cross-attention drawn to what their words mean.

Binding words to places is what a small model learns last from answers alone. The question writer knows what each phrase
points at, so a part of the heads of each cross-attention layer is drawn there: words in the first layer, referents in
the second, what is asked for in the others (and from the prompt's last token too). Where a phrase means nothing in the
frame, it is drawn to the patches that show nothing.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.data.prompts import build_prompt, build_target
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.lesson import SourceFrame, SourceSet
from surgvivqa.synthetic.source_questions import SPEAKERS, SourceQuestion, Speaker, source_questions

LAYERS = {"word": (0,), "referent": (1,), "target": (2, 3), "end": (2, 3)}
DRAWN_HEADS = 2


@dataclass(frozen=True)
class Pointers:
    """Marked tokens of a stream: their place in it ``[M]``, their frame ``[M]``, the patches they mean ``[M, patches]``
    bool, and the layers where their attention is drawn, as a mask ``[M, layers]`` bool."""

    places: Tensor
    frames: Tensor
    patches: Tensor
    layers: Tensor


@dataclass(frozen=True)
class SourceBatch:
    """Frames (indices and whether as a moving clip), their questions as a stream, and what they point at."""

    chosen: Tensor
    past: Tensor
    questions: list[SourceQuestion]
    packed: PackedStream
    pointers: Pointers


def source_batch(
    data: SourceSet, tokenizer: Any, rng: np.random.Generator, frames: int, questions: int, mask: str, layers: int
) -> SourceBatch:
    """A batch drawn by ``rng``: ``questions`` of each of ``frames`` frames, asked by speakers of any kind."""
    chosen = rng.choice(len(data.frames), size=frames, replace=False)
    past = (rng.random(frames) < 0.5) & data.moves.numpy()[chosen]
    rows = [
        source_questions(data.frames[i].scenery, Speaker(int(rng.integers(SPEAKERS))), rng, questions, bool(moving))
        for i, moving in zip(chosen, past, strict=True)
    ]
    asked = list(itertools.chain.from_iterable(rows))
    encoded = tokenizer([build_prompt(q.text) for q in asked], add_special_tokens=False, return_offsets_mapping=True)
    answers = tokenizer([build_target(q.answer) for q in asked], add_special_tokens=False)["input_ids"]
    prompts = encoded["input_ids"]
    ends = np.cumsum([len(row) for row in rows])[:-1].tolist()
    packed = pack_training(_split(prompts, ends), _split(answers, ends), mask)
    numbers = [n for n, row in enumerate(rows) for _ in row]
    pointers = _pointers(
        asked,
        [data.frames[chosen[n]] for n in numbers],
        numbers,
        prompts,
        answers,
        encoded["offset_mapping"],
        layers,
        mask,
    )
    return SourceBatch(torch.from_numpy(chosen), torch.from_numpy(past), asked, packed, pointers)


def _split(items: Sequence[Any], ends: Sequence[int]) -> list[list[Any]]:
    return [list(items[i:j]) for i, j in itertools.pairwise([0, *ends, len(items)])]


def _pointers(
    asked: Sequence[SourceQuestion],
    frames: Sequence[SourceFrame],
    numbers: Sequence[int],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    offsets: Sequence[Sequence[tuple[int, int]]],
    layers: int,
    mask: str,
) -> Pointers:
    places, where, patches, drawn = [], [], [], []
    head, start = len(build_prompt("").partition("\n")[0]), 0
    for question, frame, number, prompt, answer, spans in zip(
        asked, frames, numbers, prompts, answers, offsets, strict=True
    ):
        ends = np.array([end for _, end in spans])
        related = any(m.role == "referent" for m in question.marks)
        for mark in question.marks:
            last = [len(prompt) - 1] if mark.role in ("target", "end") else []
            # Reading forwards alone, the phrase asked for does not know yet what it stands to the left of.
            known = mark.role != "end" and not (mark.role == "target" and related and mask == "causal")
            here = [int(np.searchsorted(ends, head + mark.end))] if known else []
            shown = np.isin(frame.owner, mark.objects) if mark.objects else frame.owner < 0
            for token in (here + last) * bool(shown.any()):  # an object may be too small to own a patch
                places.append(start + token)
                where.append(number)
                patches.append(shown)
                drawn.append(np.isin(np.arange(layers), LAYERS[mark.role]))
        start += len(prompt) + len(answer) - 1
    return Pointers(
        torch.tensor(places),
        torch.tensor(where),
        torch.from_numpy(np.stack(patches)),
        torch.from_numpy(np.stack(drawn)),
    )


class Gaze:
    """Follows the cross-attention of a forward pass; ``loss`` is how far the drawn heads look from what is meant."""

    def __init__(self, model: SurgViVQAModel) -> None:
        self.attentions = [layer.crossattention.self for layer in model.text_encoder.encoder.layer]
        self.inputs: dict[int, Tensor] = {}
        self.hooks = [a.register_forward_pre_hook(self._see(n)) for n, a in enumerate(self.attentions)]

    def _see(self, number: int) -> Any:
        def see(module: Any, inputs: tuple[Tensor, ...]) -> None:
            self.inputs[number] = inputs[0][0]

        return see

    def loss(self, pointers: Pointers, video: CrossAttentionCache) -> tuple[Tensor, Tensor]:
        """Mean negative log of the attention that falls on the meant patches, and that attention by layer."""
        total, count, shares = torch.zeros(()), 0, []
        for number, attention in enumerate(self.attentions):
            rows = pointers.layers[:, number].nonzero()[:, 0]
            key = video.keys_values(attention)[0]
            heads, width = key.shape[1], key.shape[3]
            query = attention.query(self.inputs[number].index_select(0, pointers.places[rows]))
            # Frame by frame, the marks being in the stream's order: a gather of keys by mark has a slow gradient.
            marks = torch.bincount(pointers.frames[rows], minlength=len(key)).tolist()
            by_frame = query.view(len(rows), heads, width)[:, :DRAWN_HEADS].split(marks)
            scores = width**-0.5 * torch.cat(
                [torch.einsum("mhd,hvd->mhv", q, k[:DRAWN_HEADS]) for q, k in zip(by_frame, key, strict=True)]
            )
            meant = pointers.patches[rows][:, None].expand_as(scores)
            each = scores.masked_fill(~meant, -torch.inf).logsumexp(-1) - scores.logsumexp(-1)
            total, count = total - each.sum(), count + each.numel()
            shares.append(each.detach().exp().mean())
        return total / max(1, count), torch.stack(shares)

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self.hooks:
            hook.remove()
