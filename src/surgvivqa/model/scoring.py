"""Closed-set scores: the log-probability of each of the 51 labels after a prompt, all in one pass over their trie."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surgvivqa.data.packing import Block, PackedStream, chain_block, pack_blocks
from surgvivqa.model.attention import CrossAttentionCache, KVCache, layouts
from surgvivqa.utils.errors import InputError

_BLOCKS_A_PASS = 1024  # bidirectional: label blocks in one pass, which bounds the memory


class LabelTrie:
    """The labels' token ids as a trie.

    ``tokens`` and ``parents`` describe the inner nodes below the root (fed to the model), ``edges`` every (node, token)
    pair whose log-probability is needed (node -1 is the prompt's end), ``paths[c]`` the edges that make label c. An
    edge leads to an inner node (``children``) or ends a label (``ends``).
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
        self.children = {(inner[p[:-1]], p[-1]): n for p, n in inner.items() if p}
        self.ends = {(inner[tuple(ids[:-1])], ids[-1]): c for c, ids in enumerate(self.label_ids)}
        edges: dict[tuple[int, int], int] = {}
        self.paths: list[list[int]] = []
        for ids in self.label_ids:
            steps = [(inner[tuple(ids[:depth])], token) for depth, token in enumerate(ids)]
            self.paths.append([edges.setdefault(step, len(edges)) for step in steps])
        self.edges: list[tuple[int, int]] = list(edges)

    def grown(self, nodes: Sequence[int]) -> list[int]:
        """Inner nodes with all that lead to them, each after its parent."""
        tree = set(nodes)
        for node in nodes:
            while (node := self.parents[node]) >= 0:
                tree.add(node)
        return sorted(tree)  # a parent is made before its children

    def path_matrix(self) -> Tensor:
        """``[51, E]`` float: 1 where an edge is part of a label's path."""
        matrix = torch.zeros(len(self.paths), len(self.edges))
        for c, path in enumerate(self.paths):
            matrix[c, path] = 1.0
        return matrix


@torch.inference_mode()
def score_labels(
    model: Any,
    prompts: Sequence[Sequence[Sequence[int]]],
    video: CrossAttentionCache | Tensor,
    trie: LabelTrie,
    mask: str,
) -> Tensor:
    """Log-probabilities of all labels for each question.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        prompts: token ids; the outer list is rows (frames), the inner one questions.
        video: video tokens ``[F, V, H]``, one entry a row, or a memory of them that several calls share.
        trie: the labels.
        mask: mask mode. Under ``bidirectional`` a prompt's states depend on its answer, so every label is a block of
            its own; otherwise a prompt is shared by all labels.

    Returns:
        ``[Q, 51]`` float32 sums of token log-probabilities, questions in row order.
    """
    memory = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video)
    if mask == "bidirectional":
        return _score_bidirectional(model, prompts, memory, trie)
    numbers = itertools.count()
    rows = [[Block(p, trie.tokens, trie.parents, trie.edges, next(numbers)) for p in row] for row in prompts]
    count = next(numbers)
    packed = pack_blocks(rows, mask, count).to(memory.tokens.device)
    steps = model.target_log_probs(packed, memory).view(count, len(trie.edges))
    with torch.autocast(steps.device.type, enabled=False):  # which would round the sums
        return steps @ trie.path_matrix().to(steps).T


def _score_bidirectional(
    model: Any, prompts: Sequence[Sequence[Sequence[int]]], memory: CrossAttentionCache, trie: LabelTrie
) -> Tensor:
    results = []
    for r, row in enumerate(prompts):
        frame = memory.frame(r)
        blocks = [chain_block(prompt, answer, 0, "bidirectional") for prompt in row for answer in trie.label_ids]
        scores = []
        for start in range(0, len(blocks), _BLOCKS_A_PASS):
            part = blocks[start : start + _BLOCKS_A_PASS]
            numbered = [Block(b.prompt, b.tokens, b.parents, b.targets, i) for i, b in enumerate(part)]
            packed = pack_blocks([numbered], "bidirectional", len(part)).to(memory.tokens.device)
            scores.append(-model.question_losses(packed, frame))
        results.append(torch.cat(scores).view(len(row), len(trie.label_ids)))
    return torch.cat(results)


@torch.inference_mode()
def best_labels(
    model: Any,
    prompts: Sequence[Sequence[Sequence[int]]],
    video: CrossAttentionCache | Tensor,
    trie: LabelTrie,
    mask: str,
) -> tuple[Tensor, Tensor, int]:
    """The best label of each question, exact, without the scores of those that cannot win (branch and bound).

    No token's log-probability is above 0, so the score of a label is at most that of its beginning. The prompts are fed
    once, which gives the one-token labels their scores and the others their bounds; then, level by level, only those
    inner nodes whose bound still reaches the best whole label, looking back at the prompts' kept keys and values.

    Args:
        model, prompts, video, trie: as ``score_labels``.
        mask: ``prefix`` or ``causal``; under ``bidirectional`` no prompt could be shared.

    Returns:
        The labels ``[Q]`` int64, their sums of log-probabilities ``[Q]`` float32 (not finite where the model's
        are not), and how many inner nodes were fed in all.

    Raises:
        ValueError: the mask is ``bidirectional``.
    """
    if mask == "bidirectional":
        raise ValueError("under the bidirectional mask every label needs a pass of its own")
    memory = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video, reuse=True)
    flat = [(r, prompt) for r, row in enumerate(prompts) for prompt in row]
    longest = max(len(prompt) for _, prompt in flat)
    kept = (KVCache(), KVCache())
    roots = [(-1, token) for node, token in trie.edges if node == -1]
    rows: list[list[Block]] = [[] for _ in prompts]
    for q, (r, prompt) in enumerate(flat):
        rows[r].append(Block(prompt, (), (), roots, q))
    steps = _log_probs(model, pack_blocks(rows, mask, len(flat)), memory, keep=kept).view(len(flat), -1).cpu()
    if not steps.isfinite().all():
        return torch.zeros(len(flat), dtype=torch.long), steps.sum(dim=1), 0
    sums = {-1: torch.zeros(len(flat))}  # of the path to each node, NaN where it was not fed
    scores = torch.full((len(flat), len(trie.label_ids)), -torch.inf)
    _follow(trie, -1, roots, steps, sums, scores)
    fed, level = 0, [n for n, parent in enumerate(trie.parents) if parent == -1]
    while level:
        reached = scores.max(dim=1).values
        bounds = torch.stack([sums[n] for n in level], dim=1)
        wanted = bounds >= reached[:, None]  # NaN, where a parent was not fed, is not
        nodes = [[n for n, w in zip(level, row, strict=True) if w] for row in wanted.tolist()]
        asked = [q for q, some in enumerate(nodes) if some]
        if not asked:
            break
        rows = [[] for _ in prompts]
        places: list[tuple[int, tuple[int, int]]] = []  # the question and edge of each target
        for place, q in enumerate(asked):
            tree = trie.grown(nodes[q])
            targets = [(tree.index(n), token) for n, token in trie.edges if n in nodes[q]]
            parents = [tree.index(trie.parents[n]) if trie.parents[n] >= 0 else -1 for n in tree]
            rows[flat[q][0]].append(Block(flat[q][1], [trie.tokens[n] for n in tree], parents, targets, place))
            places += [(q, edge) for edge in trie.edges if edge[0] in nodes[q]]
            fed += len(tree)
        packed = pack_blocks(rows, mask, len(asked), past=longest)
        found = _log_probs(model, packed, memory, past=kept, past_rows=torch.tensor(asked)).tolist()
        for n in level:
            edges = [edge for edge in trie.edges if edge[0] == n]
            column = {edge: place for place, edge in enumerate(edges)}
            steps = torch.full((len(flat), len(edges)), torch.nan)
            for (q, edge), value in zip(places, found, strict=True):
                if edge in column:
                    steps[q, column[edge]] = value
            _follow(trie, n, edges, steps, sums, scores)
        level = [n for n, parent in enumerate(trie.parents) if parent in level]
    best, order = scores.sort(dim=1, descending=True, stable=True)  # of equal ones the first label, as everywhere
    return order[:, 0], best[:, 0], fed


def _follow(
    trie: LabelTrie,
    node: int,
    edges: Sequence[tuple[int, int]],
    steps: Tensor,
    sums: dict[int, Tensor],
    scores: Tensor,
) -> None:
    """Takes the log-probabilities ``[Q, len(edges)]`` of one node's edges into path sums and label scores."""
    for place, edge in enumerate(edges):
        reached = sums[node] + steps[:, place]
        label, child = trie.ends.get(edge), trie.children.get(edge)
        if label is not None:
            scores[:, label] = torch.where(reached.isnan(), -torch.inf, reached)
        if child is not None:
            sums[child] = reached


def _log_probs(
    model: Any,
    packed: PackedStream,
    memory: CrossAttentionCache,
    keep: tuple[KVCache, KVCache] | None = None,
    past: tuple[KVCache, KVCache] | None = None,
    past_rows: Tensor | None = None,
) -> Tensor:
    """Target log-probabilities of a pass that keeps its keys and values, or that looks back at kept ones."""
    packed = packed.to(memory.tokens.device)
    text, decoder = layouts(packed, memory.tokens.dtype)
    for n, layout in enumerate((text, decoder)):
        layout.keep, layout.past = (keep[n] if keep else None), (past[n] if past else None)
        layout.past_rows = past_rows.to(memory.tokens.device) if past_rows is not None else None
    states = model.decoder_states(packed, model.text_states(packed, memory, text), decoder)
    result: Tensor = model.log_probs_at(packed, states)
    return result


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
