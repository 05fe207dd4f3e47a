"""Prompts to token ids, and ids to packed rows: many questions of one frame in one sequence, none seeing another."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgvivqa.data.index import distinct_questions
from surgvivqa.data.ssgqa import Frame
from surgvivqa.errors import InputError
from surgvivqa.labels import LABELS
from surgvivqa.prompts import build_prompt, build_target

MASK_MODES = ("prefix", "causal", "bidirectional")


class PromptCoder:
    """Turns questions and labels into token ids.

    Args:
        tokenizer: a Hugging Face tokenizer; no special tokens are added.
        prompt_mode: ``simple`` or ``choices``.
        max_length: the longest prompt plus label allowed, in tokens.
    """

    def __init__(self, tokenizer: Any, prompt_mode: str, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.prompt_mode = prompt_mode
        self.max_length = max_length
        self.label_ids: list[list[int]] = [self._ids(build_target(label)) for label in LABELS]
        if not all(self.label_ids):
            raise InputError("The tokenizer gives no token at all for a label, so nothing could be trained on it.")

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the prompt of one question."""
        return self._ids(build_prompt(question, self.prompt_mode))

    def longest(self, *frames: Iterable[Frame]) -> tuple[int, str]:
        """Tokens of the longest prompt with the longest label after it, and its question."""
        questions = sorted({question for group in frames for question in distinct_questions(group)})
        tail = max(len(ids) for ids in self.label_ids)
        best = (0, "")
        for start in range(0, len(questions), 4096):
            batch = questions[start : start + 4096]
            encoded = self.tokenizer([build_prompt(q, self.prompt_mode) for q in batch], add_special_tokens=False)
            best = max([best, *((len(ids) + tail, q) for ids, q in zip(encoded["input_ids"], batch, strict=True))])
        return best

    def check_fits(self, *frames: Iterable[Frame]) -> None:
        """Raises InputError, naming the question, where a prompt and a label do not fit in ``max_length``."""
        length, question = self.longest(*frames)
        if length > self.max_length:
            raise InputError(
                f"The {self.prompt_mode} prompt of {question!r} takes {length} tokens with its answer, but "
                f"--max-length is {self.max_length}, so its answer would be cut off; "
                f"use --max-length {-(-length // 32) * 32}."
            )


@dataclass(frozen=True)
class Packed:
    """Rows of packed questions and where their answers are predicted.

    ``input_ids`` and ``position_ids`` are ``[F, S]`` int64, ``text_mask`` and ``decoder_mask`` ``[F, S, S]`` bool with
    True where the query (second axis) sees the key (third). The N targets are tokens to be predicted:
    ``target_ids[n]`` from the output at ``[target_rows[n], target_positions[n]]``, belonging to question
    ``target_question[n]`` of ``num_questions``, counted through the rows.
    """

    input_ids: Tensor
    position_ids: Tensor
    text_mask: Tensor
    decoder_mask: Tensor
    target_rows: Tensor
    target_positions: Tensor
    target_ids: Tensor
    target_question: Tensor
    num_questions: int

    def to(self, device: torch.device | str) -> "Packed":
        """The same rows on another device."""
        moved: Any = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
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


def pack_rows(rows: Sequence[Sequence[Block]], mask: str, num_questions: int) -> Packed:
    """Lays blocks side by side, one row for each inner list.

    Padding positions see themselves alone, so that no softmax is empty; nothing sees them.
    """
    if mask not in MASK_MODES:
        raise ValueError(f"mask {mask!r} is none of {', '.join(MASK_MODES)}")
    length = max((sum(len(b.prompt) + len(b.tokens) for b in row) for row in rows), default=0)
    shape = (len(rows), length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    text, decoder = np.zeros((*shape, length), bool), np.zeros((*shape, length), bool)
    targets: list[tuple[int, int, int, int]] = []
    for r, row in enumerate(rows):
        at = 0
        for block in row:
            p, a = len(block.prompt), len(block.tokens)
            depth, seen = np.zeros(a, np.int64), np.eye(a, dtype=bool)
            for i, parent in enumerate(block.parents):
                if parent >= 0:
                    depth[i] = depth[parent] + 1
                    seen[i] |= seen[parent]
            end = at + p + a
            ids[r, at : at + p], ids[r, at + p : end] = block.prompt, block.tokens
            positions[r, at : at + p], positions[r, at + p : end] = np.arange(p), p + depth
            for grid in (text, decoder):
                grid[r, at : at + p, at : at + p] = np.tri(p, dtype=bool)
                grid[r, at + p : end, at : at + p] = True
                grid[r, at + p : end, at + p : end] = seen
            if mask == "prefix":
                text[r, at : at + p, at : at + p] = True
            elif mask == "bidirectional":
                text[r, at:end, at:end] = True
            targets += [(r, at + p + node, token, block.question) for node, token in block.targets]
            at = end
        pad = np.arange(at, length)
        text[r, pad, pad] = decoder[r, pad, pad] = True
    where = torch.tensor(targets, dtype=torch.long).reshape(-1, 4)
    return Packed(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        text_mask=torch.from_numpy(text),
        decoder_mask=torch.from_numpy(decoder),
        target_rows=where[:, 0],
        target_positions=where[:, 1],
        target_ids=where[:, 2],
        target_question=where[:, 3],
        num_questions=num_questions,
    )


def pack_training(
    prompts: Sequence[Sequence[Sequence[int]]], answers: Sequence[Sequence[Sequence[int]]], mask: str
) -> Packed:
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
    return pack_rows(rows, mask, count)
