"""Supervised cross-attention of stage 2: a token attends to the patches of the objects that its phrase refers to.

A small model learns the binding of words to places last if it learns from answers alone. The question writer knows what
each phrase refers to, so two heads of each cross-attention layer are trained towards it: words in the first layer,
referents in the second, the queried phrase (and the prompt's last token) in the others. A phrase that refers to nothing
in the frame is trained towards the background.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.build_base.source_frames import SourceFrame, SourceFrames
from experiments.build_base.source_questions import WORDINGS, SourceQuestion, Wording, source_questions
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.data.prompts import build_prompt, build_target
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.modeling import SurgViVQAModel

LAYERS = {"word": (0,), "referent": (1,), "target": (2, 3), "end": (2, 3)}
SUPERVISED_HEADS = 2


@dataclass(frozen=True)
class AttentionTargets:
    """Supervised tokens of a packed stream.

    Attributes:
        positions: positions in the stream ``[M]`` int64.
        frames: index of the frame in the batch ``[M]`` int64.
        patches: the patches they refer to ``[M, patches]`` bool.
        layers: the layers that are supervised ``[M, layers]`` bool.
    """

    positions: Tensor
    frames: Tensor
    patches: Tensor
    layers: Tensor


@dataclass(frozen=True)
class SourceBatch:
    """Frames with their questions.

    Attributes:
        chosen: indices of the frames ``[F]``.
        past: whether a frame is shown as a moving clip ``[F]`` bool.
        questions: of all frames, in the order of the stream.
        packed: the stream.
        attention_targets: what the questions' tokens refer to.
    """

    chosen: Tensor
    past: Tensor
    questions: list[SourceQuestion]
    packed: PackedStream
    attention_targets: AttentionTargets


def source_batch(
    data: SourceFrames, tokenizer: Any, rng: np.random.Generator, frames: int, questions: int, mask: str, layers: int
) -> SourceBatch:
    """Draws a batch: ``questions`` questions about each of ``frames`` frames, each frame in one of the wordings."""
    chosen = rng.choice(len(data.frames), size=frames, replace=False)
    past = (rng.random(frames) < 0.5) & data.moves.numpy()[chosen]
    rows = [
        source_questions(data.frames[i].scene_index, Wording(int(rng.integers(WORDINGS))), rng, questions, bool(moving))
        for i, moving in zip(chosen, past, strict=True)
    ]
    asked = list(itertools.chain.from_iterable(rows))
    encoded = tokenizer([build_prompt(q.text) for q in asked], add_special_tokens=False, return_offsets_mapping=True)
    answers = tokenizer([build_target(q.answer) for q in asked], add_special_tokens=False)["input_ids"]
    prompts = encoded["input_ids"]
    ends = np.cumsum([len(row) for row in rows])[:-1].tolist()
    packed = pack_training(_split(prompts, ends), _split(answers, ends), mask)
    numbers = [n for n, row in enumerate(rows) for _ in row]
    attention_targets = _attention_targets(
        asked,
        [data.frames[chosen[n]] for n in numbers],
        numbers,
        prompts,
        answers,
        encoded["offset_mapping"],
        layers,
        mask,
    )
    return SourceBatch(torch.from_numpy(chosen), torch.from_numpy(past), asked, packed, attention_targets)


def _split(items: Sequence[Any], ends: Sequence[int]) -> list[list[Any]]:
    return [list(items[i:j]) for i, j in itertools.pairwise([0, *ends, len(items)])]


def _attention_targets(
    asked: Sequence[SourceQuestion],
    frames: Sequence[SourceFrame],
    numbers: Sequence[int],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    offsets: Sequence[Sequence[tuple[int, int]]],
    layers: int,
    mask: str,
) -> AttentionTargets:
    positions, where, patches, supervised = [], [], [], []
    head, start = len(build_prompt("").partition("\n")[0]), 0
    for question, frame, number, prompt, answer, spans in zip(
        asked, frames, numbers, prompts, answers, offsets, strict=True
    ):
        ends = np.array([end for _, end in spans])
        related = any(m.role == "referent" for m in question.mentions)
        for mention in question.mentions:
            last = [len(prompt) - 1] if mention.role in ("target", "end") else []
            # Under the causal mask the queried phrase does not see the referents, which follow it.
            known = mention.role != "end" and not (mention.role == "target" and related and mask == "causal")
            here = [int(np.searchsorted(ends, head + mention.end))] if known else []
            shown = np.isin(frame.owner, mention.objects) if mention.objects else frame.owner < 0
            for token in (here + last) * bool(shown.any()):  # a small object may own no patch
                positions.append(start + token)
                where.append(number)
                patches.append(shown)
                supervised.append(np.isin(np.arange(layers), LAYERS[mention.role]))
        start += len(prompt) + len(answer) - 1
    return AttentionTargets(
        torch.tensor(positions),
        torch.tensor(where),
        torch.from_numpy(np.stack(patches)),
        torch.from_numpy(np.stack(supervised)),
    )


class AttentionSupervision:
    """Records the cross-attention inputs of a forward pass and computes the loss of the supervised heads."""

    def __init__(self, model: SurgViVQAModel) -> None:
        self.attentions = [layer.crossattention.self for layer in model.text_encoder.encoder.layer]
        self.inputs: dict[int, Tensor] = {}
        self.hooks = [a.register_forward_pre_hook(self._record(n)) for n, a in enumerate(self.attentions)]

    def _record(self, number: int) -> Any:
        def record(module: Any, inputs: tuple[Tensor, ...]) -> None:
            self.inputs[number] = inputs[0][0]

        return record

    def loss(self, attention_targets: AttentionTargets, video: CrossAttentionCache) -> tuple[Tensor, Tensor]:
        """Mean negative log of the attention on the target patches, and its mean per layer ``[layers]``."""
        total, count, shares = torch.zeros(()), 0, []
        for number, attention in enumerate(self.attentions):
            rows = attention_targets.layers[:, number].nonzero()[:, 0]
            key = video.keys_values(attention)[0]
            heads, width = key.shape[1], key.shape[3]
            query = attention.query(self.inputs[number].index_select(0, attention_targets.positions[rows]))
            # Frame by frame, since tokens are in the stream's order: gathering keys per token has a slow gradient.
            per_frame = torch.bincount(attention_targets.frames[rows], minlength=len(key)).tolist()
            by_frame = query.view(len(rows), heads, width)[:, :SUPERVISED_HEADS].split(per_frame)
            scores = width**-0.5 * torch.cat(
                [torch.einsum("mhd,hvd->mhv", q, k[:SUPERVISED_HEADS]) for q, k in zip(by_frame, key, strict=True)]
            )
            target = attention_targets.patches[rows][:, None].expand_as(scores)
            each = scores.masked_fill(~target, -torch.inf).logsumexp(-1) - scores.logsumexp(-1)
            total, count = total - each.sum(), count + each.numel()
            shares.append(each.detach().exp().mean())
        return total / max(1, count), torch.stack(shares)

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self.hooks:
            hook.remove()
