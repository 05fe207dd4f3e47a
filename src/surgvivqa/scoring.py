"""Closed-set scores: the log-probability of each of the 51 labels after a prompt, all in one pass over their trie."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surgvivqa.data.packing import Block, chain_block, pack_rows
from surgvivqa.errors import InputError

_BLOCKS_A_ROW = 102  # bidirectional: label blocks in one row, which bounds the S x S masks


class LabelTrie:
    """The labels' token ids as a trie.

    ``tokens`` and ``parents`` describe the inner nodes below the root (fed to the model), ``edges`` every (node, token)
    pair whose log-probability is needed (node -1 is the prompt's end), ``paths[c]`` the edges that make label c.
    """

    def __init__(self, label_ids: Sequence[Sequence[int]]) -> None:
        self.label_ids = [list(ids) for ids in label_ids]
        self.lengths = torch.tensor([len(ids) for ids in self.label_ids])
        inner: dict[tuple[int, ...], int] = {(): -1}
        self.tokens: list[int] = []
        self.parents: list[int] = []
        for ids in self.label_ids:
            for depth in range(1, len(ids)):
                prefix = tuple(ids[:depth])
                if prefix not in inner:
                    self.parents.append(inner[prefix[:-1]])
                    inner[prefix] = len(self.tokens)
                    self.tokens.append(ids[depth - 1])
        for c, ids in enumerate(self.label_ids):
            if tuple(ids) in inner or self.label_ids.index(ids) != c:
                raise InputError(
                    f"With this tokenizer label {c} is the beginning of another label (or equal to one), so a sum of "
                    f"token log-probabilities cannot tell them apart; use a tokenizer that keeps labels prefix-free."
                )
        edges: dict[tuple[int, int], int] = {}
        self.paths: list[list[int]] = []
        for ids in self.label_ids:
            steps = [(inner[tuple(ids[:depth])], token) for depth, token in enumerate(ids)]
            self.paths.append([edges.setdefault(step, len(edges)) for step in steps])
        self.edges: list[tuple[int, int]] = list(edges)

    def path_matrix(self) -> Tensor:
        """``[51, E]`` float: 1 where an edge is part of a label's path."""
        matrix = torch.zeros(len(self.paths), len(self.edges))
        for c, path in enumerate(self.paths):
            matrix[c, path] = 1.0
        return matrix


@torch.inference_mode()
def score_rows(
    model: Any, prompts: Sequence[Sequence[Sequence[int]]], video_tokens: Tensor, trie: LabelTrie, mask: str
) -> Tensor:
    """Log-probabilities of all labels for each question.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        prompts: token ids; the outer list is rows (frames), the inner one questions.
        video_tokens: ``[F, V, H]``, one entry a row.
        trie: the labels.
        mask: mask mode. Under ``bidirectional`` a prompt's states depend on its answer, so every label is a block of
            its own; otherwise a prompt is shared by all labels.

    Returns:
        ``[Q, 51]`` float32 sums of token log-probabilities, questions in row order.
    """
    if mask == "bidirectional":
        return _score_bidirectional(model, prompts, video_tokens, trie)
    rows, count = [], 0
    for row in prompts:
        rows.append([Block(p, trie.tokens, trie.parents, trie.edges, count + i) for i, p in enumerate(row)])
        count += len(row)
    packed = pack_rows(rows, mask, count).to(video_tokens.device)
    steps = model.target_log_probs(packed, video_tokens).view(count, len(trie.edges))
    return steps @ trie.path_matrix().to(steps).T


def _score_bidirectional(
    model: Any, prompts: Sequence[Sequence[Sequence[int]]], video_tokens: Tensor, trie: LabelTrie
) -> Tensor:
    labels = len(trie.label_ids)
    results = []
    for r, row in enumerate(prompts):
        blocks = [chain_block(prompt, answer, 0, "bidirectional") for prompt in row for answer in trie.label_ids]
        scores = []
        for start in range(0, len(blocks), _BLOCKS_A_ROW):
            part = blocks[start : start + _BLOCKS_A_ROW]
            numbered = [Block(b.prompt, b.tokens, b.parents, b.targets, i) for i, b in enumerate(part)]
            packed = pack_rows([numbered], "bidirectional", len(part)).to(video_tokens.device)
            steps = model.target_log_probs(packed, video_tokens[r : r + 1])
            scores.append(torch.zeros(len(part)).to(steps).index_add(0, packed.target_question, steps))
        results.append(torch.cat(scores).view(len(row), labels))
    return torch.cat(results)


def normalise(scores: Tensor, trie: LabelTrie, norm: str = "sum") -> tuple[Tensor, Tensor]:
    """Ranking scores and a proper distribution over the labels.

    Args:
        scores: ``[Q, 51]`` sums of token log-probabilities.
        norm: ``sum`` leaves them; ``mean`` divides by the label's token count, as published (long labels with
            predictable tails gain).

    Returns:
        The ranking scores and their softmax over the labels, both ``[Q, 51]``.
    """
    if norm not in ("sum", "mean"):
        raise ValueError(f"score norm {norm!r} is none of sum, mean")
    ranking = scores if norm == "sum" else scores / trie.lengths.to(scores)
    return ranking, ranking.softmax(dim=-1)
