"""Packs the questions of several frames into one stream of tokens, without padding between them.

A *prompt tree* is one prompt with the answer tokens that follow it. For training the answer is a chain of tokens; for
scoring it is the trie of all labels, so that the prompt runs once for all of them. The packed stream holds the trees
one after another, frame by frame::

    frame        |------------- 0 -------------|------- 1 -------|
    sequence     |------ 0 ------|----- 1 -----|------- 2 -------|
    token         p p p p p a a   p p p a a a   p p p p p p a a      p prompt, a answer
    position      0 1 2 3 4 5 6   0 1 2 3 4 4   0 1 2 3 4 5 6 7      answer tokens of equal depth: two branches

A *sequence* is one tree's part of the stream. Self-attention stays within a sequence (the mask is block-diagonal);
cross-attention of all sequences of a frame reads that frame's video tokens. In a sequence, the mask mode says which
keys a query sees:

=================  =================================  ===========================================
mask mode          a prompt token                     an answer token
=================  =================================  ===========================================
``prefix``         the whole prompt (text encoder),   the prompt, its ancestors in the answer
                   itself and earlier (decoder)       tree, itself
``causal``         itself and earlier tokens          as ``prefix``
``bidirectional``  every token, the answer included   every token (text encoder), as ``prefix``
                   (text encoder), as ``causal``      (decoder)
                   (decoder)
=================  =================================  ===========================================

``prefix`` is a prefix-LM mask in the text encoder: no answer token reaches the states that predict it. Under
``bidirectional`` (arXiv 2511.03325, as published) the text encoder sees the answer, which leaks into the loss.
"""

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
    """The mapping between a stream of N tokens and a padded tensor ``[G, L]`` of G groups.

    Attributes:
        slots: ``[N]`` int64, the flat index ``group * L + offset`` of each token in the padded tensor.
        source: ``[G * L]`` int64, the token in each slot; padding slots repeat token 0, which the masks hide.
        num_groups: G.
    """

    slots: Tensor
    source: Tensor
    num_groups: int

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "PaddedLayout":
        """Builds the layout of groups of these lengths, which follow one another in the stream."""
        sizes = np.asarray(lengths, np.int64)
        width = int(sizes.max(initial=0))
        slots = np.flatnonzero(np.arange(width)[None, :] < sizes[:, None])
        source = np.zeros(len(sizes) * width, np.int64)
        source[slots] = np.arange(len(slots))
        return cls(torch.from_numpy(slots), torch.from_numpy(source), len(sizes))

    @property
    def group_length(self) -> int:
        """L, the length of the longest group."""
        return len(self.source) // max(1, self.num_groups)

    @property
    def has_padding(self) -> bool:
        """Whether groups differ in length; without padding the padded tensor is a view of the stream."""
        return len(self.slots) != len(self.source)

    def to(self, device: torch.device | str) -> "PaddedLayout":
        """The same layout on another device."""
        return PaddedLayout(self.slots.to(device), self.source.to(device), self.num_groups)


@dataclass(frozen=True)
class PackedStream:
    """N tokens in S sequences of F frames, with T tokens to predict (see the diagram at the top of this file).

    Attributes:
        input_ids: ``[N]`` int64.
        position_ids: ``[N]`` int64, restarting at 0 in each sequence; the depth in the answer tree for answer tokens.
        sequences: the padded layout of the S sequences, for self-attention.
        frames: the padded layout of the F frames, for cross-attention.
        text_mask: ``[S, L, L]`` bool, True where a query (second axis) sees a key (third), in the text encoder.
        decoder_mask: ``[S, L, L]`` bool, the same in the decoder.
        target_positions: ``[T]`` int64, the token whose output predicts each target.
        target_ids: ``[T]`` int64, the token id to predict.
        target_question: ``[T]`` int64, the question that each target belongs to.
        num_questions: Q, the number of questions.
    """

    input_ids: Tensor
    position_ids: Tensor
    sequences: PaddedLayout
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
class PromptTree:
    """A prompt with the tree of answer tokens that follow it.

    Attributes:
        prompt: the prompt's token ids.
        tokens: the answer tokens' ids, each after its parent.
        parents: for each answer token, the index of its parent among them; -1 for the prompt's last token.
        targets: pairs (node, token id): the token to predict from an answer token's output; node -1 is the prompt's
            last token.
        question: the index of the question that the targets belong to.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    parents: Sequence[int]
    targets: Sequence[tuple[int, int]]
    question: int


def build_answer_chain(prompt: Sequence[int], answer: Sequence[int], question: int, mask: str) -> PromptTree:
    """Builds the prompt tree of a prompt with one answer.

    The last answer token predicts nothing, so it is left out, except under ``bidirectional``, where earlier tokens see
    it.

    Args:
        prompt: the prompt's token ids.
        answer: the answer's token ids.
        question: the index of the question.
        mask: the mask mode.
    """
    fed = list(answer) if mask == "bidirectional" else list(answer[:-1])
    parents = list(range(-1, len(fed) - 1))
    return PromptTree(prompt, fed, parents, [(i - 1, token) for i, token in enumerate(answer)], question)


def pack_stream(
    frames: Sequence[Sequence[PromptTree]], mask: str, num_questions: int, cached_length: int = 0
) -> PackedStream:
    """Packs prompt trees into one stream.

    Args:
        frames: the trees of each frame.
        mask: the mask mode.
        num_questions: the number of questions that the targets belong to.
        cached_length: 0, or the length C of a KV cache that holds the prompts, padded to the longest. Then only
            the answer tokens are packed, and the masks are ``[S, L, C + L]``.

    Returns:
        The stream, on the CPU.

    Raises:
        ValueError: the mask mode is unknown.
    """
    if mask not in MASK_MODES:
        raise ValueError(f"mask {mask!r} is not one of {', '.join(MASK_MODES)}")
    trees = [tree for frame in frames for tree in frame]
    lengths = [(0 if cached_length else len(tree.prompt)) + len(tree.tokens) for tree in trees]
    sequences = PaddedLayout.of_lengths(lengths)
    width = sequences.group_length
    ids, positions = np.zeros(sum(lengths), np.int64), np.zeros(sum(lengths), np.int64)
    decoder = np.zeros((len(trees), width, cached_length + width), bool)
    text = decoder.copy()
    targets: list[tuple[int, int, int]] = []
    start = 0
    for n, tree in enumerate(trees):
        p, a = (0 if cached_length else len(tree.prompt)), len(tree.tokens)
        depths, sees = _ancestors(tree.parents)
        ids[start : start + p], ids[start + p : start + p + a] = tree.prompt[:p], tree.tokens
        positions[start : start + p] = np.arange(p)
        positions[start + p : start + p + a] = len(tree.prompt) + depths
        decoder[n, :p, :p] = np.tri(p, dtype=bool)
        decoder[n, p : p + a, : len(tree.prompt)] = True
        decoder[n, p : p + a, cached_length + p : cached_length + p + a] = sees
        text[n] = decoder[n]
        if mask == "prefix":
            text[n, :p, :p] = True
        elif mask == "bidirectional":
            text[n, : p + a, : p + a] = True
        # A padding query sees one key, because a softmax over none is NaN; no token sees a padding key.
        text[n, p + a :, 0] = decoder[n, p + a :, 0] = True
        targets += [(start + p + node, token, tree.question) for node, token in tree.targets]
        start += p + a
    target_table = torch.tensor(targets, dtype=torch.long).reshape(-1, 3)
    ends = np.cumsum([0, *(len(frame) for frame in frames)])
    return PackedStream(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        sequences=sequences,
        frames=PaddedLayout.of_lengths([sum(lengths[i:j]) for i, j in itertools.pairwise(ends)]),
        text_mask=torch.from_numpy(text),
        decoder_mask=torch.from_numpy(decoder),
        target_positions=target_table[:, 0],
        target_ids=target_table[:, 1],
        target_question=target_table[:, 2],
        num_questions=num_questions,
    )


def _ancestors(parents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Each node's depth ``[A]`` int64, and which nodes ``[A, A]`` bool are its ancestors or itself."""
    depths, sees = np.zeros(len(parents), np.int64), np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            depths[node] = depths[parent] + 1
            sees[node] |= sees[parent]
    return depths, sees


def pack_training(
    prompts: Sequence[Sequence[Sequence[int]]], answers: Sequence[Sequence[Sequence[int]]], mask: str
) -> PackedStream:
    """Packs questions with their true answers.

    Args:
        prompts: token ids of each frame's prompts.
        answers: token ids of each frame's answers.
        mask: the mask mode.

    Raises:
        InputError: a prompt or an answer has no token.
    """
    frames: list[list[PromptTree]] = []
    count = 0
    for frame_prompts, frame_answers in zip(prompts, answers, strict=True):
        frames.append([])
        for prompt, answer in zip(frame_prompts, frame_answers, strict=True):
            if not answer or not prompt:
                raise InputError(
                    f"Question {count} of the batch has no prompt or answer token, so it cannot be trained on."
                )
            frames[-1].append(build_answer_chain(prompt, answer, count, mask))
            count += 1
    return pack_stream(frames, mask, count)
