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

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    def of_lengths(cls, lengths: Sequence[int], width: int = 0) -> "PaddedLayout":
        """Builds the layout of groups of these lengths, which follow one another in the stream; L is at least width."""
        sizes = np.asarray(lengths, np.int64)
        width = max(width, int(sizes.max(initial=0)))
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


class StreamShape(NamedTuple):
    """The sizes of a packed stream, which are the same for all streams of a bucket (``bucket_shape``)."""

    num_tokens: int
    num_sequences: int
    sequence_length: int
    num_targets: int
    question_slots: int


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
        output_positions: ``[P]`` int64, the distinct tokens whose output predicts a target, in order.
        target_rows: ``[T]`` int64, the index in ``output_positions`` of the output that predicts each target; sorted.
        target_ids: ``[T]`` int64, the token id to predict.
        target_question: ``[T]`` int64, the question that each target belongs to.
        targets_before: for each of the P output positions, and for the end, the number of targets of earlier ones.
        num_questions: Q, the number of questions.
        question_slots: number of questions with those that padding adds; Q without padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    sequences: PaddedLayout
    frames: PaddedLayout
    text_mask: Tensor
    decoder_mask: Tensor
    output_positions: Tensor
    target_rows: Tensor
    target_ids: Tensor
    target_question: Tensor
    targets_before: tuple[int, ...]
    num_questions: int
    question_slots: int

    @property
    def target_positions(self) -> Tensor:
        """``[T]`` int64, the token whose output predicts each target."""
        return self.output_positions[self.target_rows]

    @property
    def shape(self) -> StreamShape:
        """The sizes of the stream."""
        return StreamShape(
            len(self.input_ids),
            self.sequences.num_groups,
            self.sequences.group_length,
            len(self.target_ids),
            self.question_slots,
        )

    def map_buffers(self, function: Callable[[Tensor], Tensor]) -> "PackedStream":
        """The stream with ``function`` applied to its two buffers, of all integers and of both masks.

        A stream is moved, pinned and sent between processes as two tensors; its own are views of them.

        Args:
            function: returns a tensor of the same shape and dtype, such as a copy on another device.
        """
        tensors, numbers = self._parts()
        buffers = self.__dict__.get("_buffers") or _join_buffers(tensors)
        return _split_buffers((function(buffers[0]), function(buffers[1])), [t.shape for t in tensors], numbers)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedStream":
        """The same stream on another device."""
        if self.input_ids.device == torch.device(device):
            return self
        return self.map_buffers(lambda buffer: buffer.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedStream":
        """The same stream in pinned memory, from which a copy to a GPU is asynchronous."""
        return self.map_buffers(lambda buffer: buffer.pin_memory())

    def _parts(self) -> tuple[list[Tensor], tuple[Any, ...]]:
        """The tensors, integers first and masks last, and the other values."""
        tensors = [
            *(self.input_ids, self.position_ids, self.sequences.slots, self.sequences.source, self.frames.slots),
            *(self.frames.source, self.output_positions, self.target_rows, self.target_ids, self.target_question),
            *(self.text_mask, self.decoder_mask),
        ]
        numbers = (
            *(self.sequences.num_groups, self.frames.num_groups),
            *(self.targets_before, self.num_questions, self.question_slots),
        )
        return tensors, numbers

    def __reduce__(self) -> tuple[Any, ...]:
        tensors, numbers = self._parts()
        buffers = self.__dict__.get("_buffers") or _join_buffers(tensors)
        return _split_buffers, (buffers, [tuple(t.shape) for t in tensors], numbers)


def _join_buffers(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([t.flatten() for t in tensors[:-2]]), torch.stack(list(tensors[-2:]))


def _split_buffers(
    buffers: tuple[Tensor, Tensor], shapes: Sequence[Sequence[int]], numbers: tuple[Any, ...]
) -> PackedStream:
    """The stream whose tensors are views of two buffers; the inverse of ``_join_buffers``."""
    integers = buffers[0].split([shape[0] for shape in shapes[:-2]])
    ids, positions, slots, source, frame_slots, frame_source, outputs, rows, target_ids, questions = integers
    num_sequences, num_frames, targets_before, num_questions, question_slots = numbers
    stream = PackedStream(
        input_ids=ids,
        position_ids=positions,
        sequences=PaddedLayout(slots, source, num_sequences),
        frames=PaddedLayout(frame_slots, frame_source, num_frames),
        text_mask=buffers[1][0],
        decoder_mask=buffers[1][1],
        output_positions=outputs,
        target_rows=rows,
        target_ids=target_ids,
        target_question=questions,
        targets_before=targets_before,
        num_questions=num_questions,
        question_slots=question_slots,
    )
    object.__setattr__(stream, "_buffers", buffers)  # no field, so dataclasses.replace does not keep it
    return stream


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
    return PromptTree(prompt, *_answer_chain(tuple(answer), mask == "bidirectional"), question)


@functools.lru_cache(maxsize=1024)
def _answer_chain(
    answer: tuple[int, ...], is_whole: bool
) -> tuple[Sequence[int], Sequence[int], Sequence[tuple[int, int]]]:
    """The tokens (without the last one unless ``is_whole``), parents and targets of a chain."""
    fed = answer if is_whole else answer[:-1]
    return fed, tuple(range(-1, len(fed) - 1)), tuple((i - 1, token) for i, token in enumerate(answer))


def pack_stream(
    frames: Sequence[Sequence[PromptTree]],
    mask: str,
    num_questions: int,
    cached_length: int = 0,
    shape: StreamShape | None = None,
) -> PackedStream:
    """Packs prompt trees into one stream.

    Args:
        frames: the trees of each frame.
        mask: the mask mode.
        num_questions: the number of questions that the targets belong to.
        cached_length: 0, or the length C of a KV cache that holds the prompts, padded to the longest. Then only
            the answer tokens are packed, and the masks are ``[S, L, C + L]``.
        shape: the sizes to which the stream is padded, for the decoder alone: the stream has no ``frames`` then, and
            all streams of a shape have buffers of the same sizes. Sequences are added, which no other one sees, and
            targets of a question that does not count.

    Returns:
        The stream, on the CPU.

    Raises:
        ValueError: the mask mode is unknown, the targets of a tree are not in the order of its nodes, or the stream is
            larger than ``shape``.
    """
    if mask not in MASK_MODES:
        raise ValueError(f"mask {mask!r} is not one of {', '.join(MASK_MODES)}")
    trees = [tree for frame in frames for tree in frame]
    lengths = [(0 if cached_length else len(tree.prompt)) + len(tree.tokens) for tree in trees]
    added = _added_lengths(lengths, shape) if shape else []
    sequences = PaddedLayout.of_lengths([*lengths, *added], shape.sequence_length if shape else 0)
    width = sequences.group_length
    num_tokens = sum(lengths) + sum(added)
    ids, positions = np.zeros(num_tokens, np.int64), np.zeros(num_tokens, np.int64)
    decoder = np.zeros((len(trees) + len(added), width, cached_length + width), bool)
    text = decoder.copy()
    earlier = np.tri(max((len(tree.prompt) for tree in trees), default=0), dtype=bool)
    parts: dict[tuple[int, int], _AnswerTree] = {}  # the trees of a trie share their lists, and this
    output_parts, target_parts = [np.zeros(0, np.int64)], [(np.zeros(0, np.int64),) * 3]
    start = num_outputs = 0
    for n, tree in enumerate(trees):
        p, a = (0 if cached_length else len(tree.prompt)), len(tree.tokens)
        key = (id(tree.parents), id(tree.targets))
        if key not in parts:
            parts[key] = _AnswerTree.build(tree)
        answer = parts[key]
        ids[start : start + p], ids[start + p : start + p + a] = tree.prompt[:p], tree.tokens
        positions[start : start + p] = np.arange(p)
        positions[start + p : start + p + a] = len(tree.prompt) + answer.depths
        decoder[n, :p, :p] = earlier[:p, :p]
        decoder[n, p : p + a, : len(tree.prompt)] = True
        decoder[n, p : p + a, cached_length + p : cached_length + p + a] = answer.sees
        text[n] = decoder[n]
        if mask == "prefix":
            text[n, :p, :p] = True
        elif mask == "bidirectional":
            text[n, : p + a, : p + a] = True
        # A padding query sees one key, because a softmax over none is NaN; no token sees a padding key.
        text[n, p + a :, 0] = decoder[n, p + a :, 0] = True
        output_parts.append(start + p + answer.outputs)
        target_parts.append((num_outputs + answer.rows, answer.ids, np.full(len(answer.ids), tree.question)))
        num_outputs += len(answer.outputs)
        start += p + a
    text[len(trees) :, :, 0] = decoder[len(trees) :, :, 0] = True
    outputs = np.concatenate(output_parts)
    rows, target_ids, questions = (np.concatenate(columns) for columns in zip(*target_parts, strict=True))
    if shape:
        missing = shape.num_targets - len(rows)
        if missing < 0:
            raise ValueError(f"a stream of {len(rows)} targets does not fit into {shape}")
        rows = np.concatenate([rows, len(outputs) + np.arange(missing)])
        target_ids = np.concatenate([target_ids, np.zeros(missing, np.int64)])
        questions = np.concatenate([questions, np.full(missing, shape.question_slots - 1)])
        outputs = np.concatenate([outputs, np.zeros(missing, np.int64)])
    before = np.searchsorted(rows, np.arange(len(outputs) + 1))
    ends = np.cumsum([0, *(len(frame) for frame in frames)])
    frame_lengths = [] if shape else [sum(lengths[i:j]) for i, j in itertools.pairwise(ends)]
    return PackedStream(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        sequences=sequences,
        frames=PaddedLayout.of_lengths(frame_lengths),
        text_mask=torch.from_numpy(text),
        decoder_mask=torch.from_numpy(decoder),
        output_positions=torch.from_numpy(outputs),
        target_rows=torch.from_numpy(rows),
        target_ids=torch.from_numpy(target_ids),
        target_question=torch.from_numpy(questions),
        targets_before=tuple(before.tolist()),
        num_questions=num_questions,
        question_slots=shape.question_slots if shape else num_questions,
    )


def bucket_shape(trees: Sequence[PromptTree], num_questions: int) -> StreamShape:
    """The sizes to which a stream of trees is padded, so that an epoch has few different ones.

    Sizes are rounded up to multiples of an eighth of the next lower power of two: at most 12.5% are added, except to
    small streams.

    Args:
        trees: the trees of the stream.
        num_questions: number of questions.
    """
    lengths = [len(tree.prompt) + len(tree.tokens) for tree in trees]
    longest = _round_up(max(lengths), 8)
    num_tokens = _round_up(sum(lengths) + 1, 32)
    # The added tokens are in sequences of at most the same length; there is at least one.
    room = max(1, -(-(num_tokens - sum(lengths)) // longest))
    return StreamShape(
        num_tokens=num_tokens,
        num_sequences=_round_up(len(trees) + room, 8),
        sequence_length=longest,
        num_targets=_round_up(sum(len(tree.targets) for tree in trees), 32),
        question_slots=_round_up(num_questions + 1, 4),
    )


def _round_up(size: int, least: int) -> int:
    step = max(least, 2 ** (size.bit_length() - 1) // 8)
    return -(-size // step) * step


def _added_lengths(lengths: Sequence[int], shape: StreamShape) -> list[int]:
    """The lengths of the sequences that are added to a stream to give it a shape; some may be 0.

    Raises:
        ValueError: it does not fit.
    """
    count, rest = shape.num_sequences - len(lengths), shape.num_tokens - sum(lengths)
    added = [min(shape.sequence_length, max(0, rest - n * shape.sequence_length)) for n in range(count)]
    if count < 0 or rest < 0 or sum(added) != rest or max(lengths, default=0) > shape.sequence_length:
        raise ValueError(f"sequences of {sum(lengths)} tokens do not fit into {shape}")
    return added


class _AnswerTree(NamedTuple):
    """What a stream needs to know about the A answer tokens and T targets of a prompt tree.

    Attributes:
        depths: ``[A]`` int64, each answer token's depth.
        sees: ``[A, A]`` bool, which answer tokens are its ancestors or itself.
        outputs: ``[P]`` int64, the distinct nodes that predict a target, in order.
        rows: ``[T]`` int64, the index in ``outputs`` of each target's node.
        ids: ``[T]`` int64, the token ids to predict.
    """

    depths: np.ndarray
    sees: np.ndarray
    outputs: np.ndarray
    rows: np.ndarray
    ids: np.ndarray

    @classmethod
    def build(cls, tree: PromptTree) -> "_AnswerTree":
        """Builds it from a prompt tree.

        Raises:
            ValueError: the targets are not in the order of the tree's nodes.
        """
        depths, sees = np.zeros(len(tree.parents), np.int64), np.eye(len(tree.parents), dtype=bool)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                depths[node] = depths[parent] + 1
                sees[node] |= sees[parent]
        outputs: list[int] = []
        rows: list[int] = []
        for node, _ in tree.targets:
            if not outputs or outputs[-1] < node:
                outputs.append(node)
            elif outputs[-1] > node:
                raise ValueError("the targets of a prompt tree must be in the order of its nodes")
            rows.append(len(outputs) - 1)
        columns = (outputs, rows, [token for _, token in tree.targets])
        return cls(depths, sees, *(np.array(column, np.int64) for column in columns))


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
