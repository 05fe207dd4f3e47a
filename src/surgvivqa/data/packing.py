"""Prompts to token ids, and ids to packed rows: many questions of one frame in one stream, none seeing another."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgvivqa.utils.errors import InputError

MASK_MODES = ("prefix", "causal", "bidirectional")


@dataclass(frozen=True)
class PaddedLayout:
    """The tokens of a stream ``[N]`` laid out as a grid of G groups of L places, for attention within each group.

    ``slots`` ``[N]`` int64 is the flat place ``group * L + place`` of each token; ``source`` ``[G * L]`` int64 is the
    token at each place, empty places repeating some token of the stream (masks hide them).
    """

    slots: Tensor
    source: Tensor
    groups: int

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "PaddedLayout":
        """Groups of the given lengths, one after another in the stream."""
        sizes = np.asarray(lengths, np.int64)
        width = int(sizes.max(initial=0))
        slots = np.flatnonzero(np.arange(width)[None, :] < sizes[:, None])
        source = np.zeros(len(sizes) * width, np.int64)
        source[slots] = np.arange(len(slots))
        return cls(torch.from_numpy(slots), torch.from_numpy(source), len(sizes))

    @property
    def full(self) -> bool:
        """Whether there is no empty place, so that the grid is a mere view of the stream."""
        return len(self.slots) == len(self.source)

    def to(self, device: torch.device | str) -> "PaddedLayout":
        """The same grid on another device."""
        return PaddedLayout(self.slots.to(device), self.source.to(device), self.groups)


@dataclass(frozen=True)
class PackedStream:
    """Questions packed into one stream of N tokens, frame after frame, and where their answers are predicted.

    ``input_ids`` and ``position_ids`` are ``[N]`` int64, positions restarting at 0 for each block (a prompt with the
    answer tokens that hang on it). ``blocks`` lays the B blocks out for self-attention, ``frames`` the F frames for
    cross-attention. ``text_mask`` and ``decoder_mask`` are ``[B, L, L]`` bool, True where the query (second axis) sees
    the key (third): no block sees another. The T targets are tokens to be predicted: ``target_ids[t]`` from the output
    at ``target_positions[t]``, belonging to question ``target_question[t]`` of ``num_questions``.
    """

    input_ids: Tensor
    position_ids: Tensor
    blocks: PaddedLayout
    frames: PaddedLayout
    text_mask: Tensor
    decoder_mask: Tensor
    target_positions: Tensor
    target_ids: Tensor
    target_question: Tensor
    num_questions: int

    def to(self, device: torch.device | str) -> "PackedStream":
        """The same stream on another device."""
        moved: Any = {k: v.to(device) if isinstance(v, Tensor | PaddedLayout) else v for k, v in vars(self).items()}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class Block:
    """One prompt and the answer tokens that hang on it.

    ``parents[i]`` is the index of answer token i's parent among the answer tokens, -1 for the prompt's last token.
    ``targets`` are pairs (node, token id): the token predicted from that node's output, node -1 being the prompt's end.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    parents: Sequence[int]
    targets: Sequence[tuple[int, int]]
    question: int


def chain_block(prompt: Sequence[int], answer: Sequence[int], question: int, mask: str) -> Block:
    """A prompt with one answer. The last answer token predicts nothing, so only ``bidirectional`` feeds it: there
    the earlier tokens see it, as published."""
    fed = list(answer) if mask == "bidirectional" else list(answer[:-1])
    parents = list(range(-1, len(fed) - 1))
    return Block(prompt, fed, parents, [(i - 1, token) for i, token in enumerate(answer)], question)


def pack_blocks(rows: Sequence[Sequence[Block]], mask: str, num_questions: int, past: int = 0) -> PackedStream:
    """Lays blocks one after another in a stream; each inner list holds one frame's blocks.

    Args:
        rows: the blocks of each frame.
        mask: mask mode.
        num_questions: how many questions the targets belong to.
        past: 0, or the most prompt tokens that were fed before: then ``block.prompt`` is not fed again, the masks are
            ``[B, L, past + L]``, and every answer token sees its block's prompt among the past.
    """
    if mask not in MASK_MODES:
        raise ValueError(f"mask {mask!r} is none of {', '.join(MASK_MODES)}")
    blocks = [block for row in rows for block in row]
    fed = [(0 if past else len(b.prompt)) + len(b.tokens) for b in blocks]
    grid = PaddedLayout.of_lengths(fed)
    length = len(grid.source) // max(1, grid.groups)
    ids, positions = np.zeros(sum(fed), np.int64), np.zeros(sum(fed), np.int64)
    decoder = np.zeros((len(blocks), length, past + length), bool)
    text = decoder.copy()
    targets: list[tuple[int, int, int]] = []
    start = 0
    for n, block in enumerate(blocks):
        p, a = (0 if past else len(block.prompt)), len(block.tokens)
        depth, seen = np.zeros(a, np.int64), np.eye(a, dtype=bool)
        for i, parent in enumerate(block.parents):
            if parent >= 0:
                depth[i] = depth[parent] + 1
                seen[i] |= seen[parent]
        ids[start : start + p], ids[start + p : start + p + a] = block.prompt[:p], block.tokens
        positions[start : start + p] = np.arange(p)
        positions[start + p : start + p + a] = len(block.prompt) + depth
        decoder[n, :p, :p] = np.tri(p, dtype=bool)
        decoder[n, p : p + a, : len(block.prompt)] = True
        decoder[n, p : p + a, past + p : past + p + a] = seen
        text[n] = decoder[n]
        if mask == "prefix":
            text[n, :p, :p] = True
        elif mask == "bidirectional":
            text[n, : p + a, : p + a] = True
        # An empty place sees one token, so that no softmax is empty; nothing sees it.
        text[n, p + a :, 0] = decoder[n, p + a :, 0] = True
        targets += [(start + p + node, token, block.question) for node, token in block.targets]
        start += p + a
    where = torch.tensor(targets, dtype=torch.long).reshape(-1, 3)
    ends = np.cumsum([0, *(len(row) for row in rows)])
    return PackedStream(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        blocks=grid,
        frames=PaddedLayout.of_lengths([sum(fed[i:j]) for i, j in itertools.pairwise(ends)]),
        text_mask=torch.from_numpy(text),
        decoder_mask=torch.from_numpy(decoder),
        target_positions=where[:, 0],
        target_ids=where[:, 1],
        target_question=where[:, 2],
        num_questions=num_questions,
    )


def pack_training(
    prompts: Sequence[Sequence[Sequence[int]]], answers: Sequence[Sequence[Sequence[int]]], mask: str
) -> PackedStream:
    """Packs questions with their true answers: outer lists are rows (frames), inner ones questions.

    Raises:
        InputError: an answer has no token, so nothing would supervise it.
    """
    rows: list[list[Block]] = []
    count = 0
    for row_prompts, row_answers in zip(prompts, answers, strict=True):
        rows.append([])
        for prompt, answer in zip(row_prompts, row_answers, strict=True):
            if not answer or not prompt:
                raise InputError(f"Question {count} of the batch has no prompt or answer token: nothing supervises it.")
            rows[-1].append(chain_block(prompt, answer, count, mask))
            count += 1
    return pack_blocks(rows, mask, count)
