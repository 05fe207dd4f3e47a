"""Closed-set scoring: the score of a label is the summed log-probability of its tokens after the prompt.

``score_labels`` computes the scores of all C labels in one pass. ``find_best_labels`` finds the best label exactly and
with less computation.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from surgvivqa.data.packing import PackedStream, PromptTree, build_answer_chain, pack_stream
from surgvivqa.model.attention import AttentionLayout, CrossAttentionCache, KVCache, build_layouts
from surgvivqa.model.label_trie import ROOT, Edge, LabelTrie
from surgvivqa.utils.tf32 import full_float32

Movable = TypeVar("Movable", PackedStream, Tensor)
SEQUENCES_PER_PASS = 1024  # under the bidirectional mask, to bound the memory of a pass


class PackedModel(Protocol):
    """The methods of ``SurgViVQAModel`` that scoring uses."""

    def text_states(self, packed: PackedStream, video: CrossAttentionCache, layout: AttentionLayout) -> Tensor:
        """The text encoder's last hidden states ``[N, hidden]``."""
        ...

    def decoder_states(self, packed: PackedStream, text: Tensor, layout: AttentionLayout) -> Tensor:
        """The decoder's last hidden states ``[N, hidden]``."""
        ...

    def log_probs_at(self, packed: PackedStream, hidden: Tensor) -> Tensor:
        """Log-probability ``[T]`` of each target, from the decoder's last hidden states ``[N, hidden]``."""
        ...

    def target_log_probs(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Log-probability ``[T]`` of each target."""
        ...

    def question_losses(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Negative log-likelihood ``[Q]`` of each answer."""
        ...


@torch.inference_mode()
def score_labels(
    model: PackedModel,
    prompts: Sequence[Sequence[Sequence[int]]],
    video: CrossAttentionCache | Tensor,
    trie: LabelTrie,
    mask: str,
) -> Tensor:
    """Computes the scores of all labels for each question, in one pass.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        prompts: token ids of each frame's prompts.
        video: video tokens ``[F, V, hidden]``, or a cache of them that several calls share.
        trie: the labels.
        mask: the mask mode. Under ``bidirectional`` a prompt's states depend on its answer, so every label needs a
            separate sequence; otherwise all labels share the prompt.

    Returns:
        ``[Q, C]`` float32, summed log-probabilities in nats, questions in frame order.
    """
    cache = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video)
    if mask == "bidirectional":
        return _score_each_label(model, prompts, cache, trie)
    return score_packed_labels(model, _to_device(pack_labels(prompts, trie, mask), cache.tokens.device), cache, trie)


def pack_labels(prompts: Sequence[Sequence[Sequence[int]]], trie: LabelTrie, mask: str) -> PackedStream:
    """Packs each prompt with the trie of all labels, for ``score_packed_labels``.

    Args:
        prompts: token ids of each frame's prompts.
        trie: the labels.
        mask: the mask mode, ``prefix`` or ``causal``.

    Returns:
        The stream of Q questions, on the CPU.
    """
    counter = itertools.count()
    trees = [[PromptTree(p, trie.tokens, trie.parents, trie.edges, next(counter)) for p in row] for row in prompts]
    return pack_stream(trees, mask, next(counter))


@torch.inference_mode()
def score_packed_labels(
    model: PackedModel, packed: PackedStream, video: CrossAttentionCache | Tensor, trie: LabelTrie
) -> Tensor:
    """Computes the scores of all labels from a packed stream; every tensor is on one device.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        packed: the output of ``pack_labels``, on the model's device.
        video: video tokens ``[F, V, hidden]``, or a cache of them.
        trie: the labels.

    Returns:
        ``[Q, C]`` float32, as ``score_labels``.
    """
    edge_log_probs = model.target_log_probs(packed, video).view(packed.num_questions, len(trie.edges))
    # Autocast and TF32 would round the log-probabilities.
    with torch.autocast(edge_log_probs.device.type, enabled=False), full_float32():
        return edge_log_probs @ trie.path_matrix(edge_log_probs.device).T


def _score_each_label(
    model: PackedModel, prompts: Sequence[Sequence[Sequence[int]]], cache: CrossAttentionCache, trie: LabelTrie
) -> Tensor:
    """Computes ``score_labels`` under the bidirectional mask: one sequence per question and label."""
    scores = []
    for index, frame_prompts in enumerate(prompts):
        frame = cache.select_frame(index)
        pairs = [(prompt, label) for prompt in frame_prompts for label in trie.label_ids]
        losses = []
        for start in range(0, len(pairs), SEQUENCES_PER_PASS):
            part = pairs[start : start + SEQUENCES_PER_PASS]
            chains = [build_answer_chain(prompt, label, i, "bidirectional") for i, (prompt, label) in enumerate(part)]
            packed = _to_device(pack_stream([chains], "bidirectional", len(part)), cache.tokens.device)
            losses.append(model.question_losses(packed, frame))
        scores.append(-torch.cat(losses).view(len(frame_prompts), len(trie.label_ids)))
    return torch.cat(scores)


@torch.inference_mode()
def find_best_labels(
    model: PackedModel,
    prompts: Sequence[Sequence[Sequence[int]]],
    video: CrossAttentionCache | Tensor,
    trie: LabelTrie,
    mask: str,
) -> tuple[Tensor, Tensor, int]:
    """Finds the best label of each question by branch and bound, without computing the scores of all labels.

    No log-probability is above 0, so the score of a label's first tokens is an upper bound of its score. The prompts
    run once and fill a KV cache, which gives the scores of one-token labels and the bounds of the others. Then each
    pass runs the inner nodes of one trie level whose bound is not below the best score so far. The host waits for the
    device once for each level, to read which nodes these are.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        prompts: token ids of each frame's prompts.
        video: video tokens ``[F, V, hidden]``, or a cache of them that several calls share.
        trie: the labels.
        mask: the mask mode, ``prefix`` or ``causal``.

    Returns:
        On the device of ``video``, the labels ``[Q]`` int64, the first of equal ones, and their scores ``[Q]`` float32,
        which are not finite if the model's outputs are not; and the number of nodes that were run.

    Raises:
        ValueError: the mask is ``bidirectional``, under which labels cannot share a prompt.
    """
    if mask == "bidirectional":
        raise ValueError("under the bidirectional mask labels cannot share a prompt")
    cache = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video, reuse=True)
    search = _Search(model, prompts, cache, trie, mask)
    log_probs = search.run_prompts()
    is_finite = log_probs.isfinite().all()
    for depth in range(1, 1 + len(trie.levels)):
        is_open = _read(search.open_nodes(depth) & is_finite)
        if not any(map(any, is_open)):
            break
        search.run_level(depth, is_open)
    best, order = search.scores.sort(dim=1, descending=True, stable=True)
    labels = order[:, 0].masked_fill(~is_finite, 0)
    return labels, torch.where(is_finite, best[:, 0], log_probs.sum(dim=1)), search.nodes_run


class _Search:
    """Branch and bound over the trie, for Q questions at once.

    The tensors are on the device of the video tokens. The host reads one of them for each trie level, because the open
    nodes decide the next packed stream.

    Attributes:
        scores: ``[Q, C]`` float32, the scores of labels that are complete; -inf for the others.
        sums: ``[Q, 1 + nodes]`` float32, the summed log-probability of the path to the root and to each node; NaN if
            its parent did not run.
        nodes_run: the number of nodes that were run, over all questions.
    """

    def __init__(
        self,
        model: PackedModel,
        prompts: Sequence[Sequence[Sequence[int]]],
        video: CrossAttentionCache,
        trie: LabelTrie,
        mask: str,
    ) -> None:
        self.model, self.video, self.trie, self.mask = model, video, trie, mask
        self.device = video.tokens.device
        self.tables = trie.level_tables(self.device)
        self.num_frames = len(prompts)
        self.questions = [(frame, prompt) for frame, row in enumerate(prompts) for prompt in row]
        self.subtrees: dict[tuple[int, ...], _Subtree] = {}
        self.kv_caches = (KVCache(), KVCache())  # the text encoder's and the decoder's
        self.sums = torch.full((len(self.questions), 1 + len(trie.tokens)), torch.nan, device=self.device)
        self.sums[:, 0].zero_()
        self.scores = torch.full((len(self.questions), len(trie.label_ids)), -torch.inf, device=self.device)
        self.nodes_run = 0

    def run_prompts(self) -> Tensor:
        """Runs the prompts and fills the KV caches.

        Returns:
            The log-probabilities ``[Q, E]`` of the root's E edges.
        """
        edges = self.trie.level_edges[0]
        trees: list[list[PromptTree]] = [[] for _ in range(self.num_frames)]
        for q, (frame, prompt) in enumerate(self.questions):
            trees[frame].append(PromptTree(prompt, (), (), edges, q))
        packed = _to_device(pack_stream(trees, self.mask, len(self.questions)), self.device)
        layouts = build_layouts(packed, self.video.tokens.dtype)
        for layout, kv_cache in zip(layouts, self.kv_caches, strict=True):
            layout.write_cache = kv_cache
        log_probs = self._log_probs(packed, layouts).view(len(self.questions), len(edges))
        self._extend(0, log_probs)
        return log_probs

    def open_nodes(self, depth: int) -> Tensor:
        """Which nodes ``[Q, n]`` bool of level ``depth`` (1 or more) have a bound that is not below the best score."""
        bounds = self.sums.index_select(1, self.tables[depth].nodes)
        return bounds >= self.scores.amax(dim=1, keepdim=True)  # False for NaN

    def run_level(self, depth: int, is_open: Sequence[Sequence[bool]]) -> None:
        """Runs nodes of level ``depth``: for each question those that are open; at least one is."""
        nodes, edges = self.trie.levels[depth - 1], self.trie.level_edges[depth]
        columns = {edge: n for n, edge in enumerate(edges)}
        active = [q for q, row in enumerate(is_open) if any(row)]
        trees: list[list[PromptTree]] = [[] for _ in range(self.num_frames)]
        slots: list[int] = []  # the flat index of each target in a table [Q, E]
        for row, q in enumerate(active):
            frame, prompt = self.questions[q]
            part = self._subtree(tuple(itertools.compress(nodes, is_open[q])))
            trees[frame].append(PromptTree(prompt, part.tokens, part.parents, part.targets, row))
            slots += [q * len(edges) + columns[edge] for edge in part.edges]
            self.nodes_run += len(part.tokens)
        longest_prompt = max(len(prompt) for _, prompt in self.questions)
        stream = pack_stream(trees, self.mask, len(active), cached_length=longest_prompt)
        packed = _to_device(stream, self.device)
        indices = _indices(active + slots, self.device)
        layouts = build_layouts(packed, self.video.tokens.dtype)
        for layout, kv_cache in zip(layouts, self.kv_caches, strict=True):
            layout.read_cache, layout.read_rows = kv_cache, indices[: len(active)]
        log_probs = self._log_probs(packed, layouts)
        table = self.sums.new_full((len(self.questions) * len(edges),), torch.nan)
        table.index_copy_(0, indices[len(active) :], log_probs)
        self._extend(depth, table.view(len(self.questions), len(edges)))

    def _subtree(self, nodes: tuple[int, ...]) -> "_Subtree":
        """The subtree of some nodes; questions with the same open nodes share it."""
        if nodes not in self.subtrees:
            self.subtrees[nodes] = _build_subtree(self.trie, nodes)
        return self.subtrees[nodes]

    def _log_probs(self, packed: PackedStream, layouts: tuple[AttentionLayout, AttentionLayout]) -> Tensor:
        """Computes the log-probabilities ``[T]`` of the targets, writing or reading the KV caches."""
        text = self.model.text_states(packed, self.video, layouts[0])
        return self.model.log_probs_at(packed, self.model.decoder_states(packed, text, layouts[1]))

    def _extend(self, depth: int, log_probs: Tensor) -> None:
        """Extends the paths by the E edges of a level, 0 for the root's, given log-probabilities ``[Q, E]``."""
        tables = self.tables[depth]
        reached = self.sums.index_select(1, tables.starts) + log_probs
        complete = reached.index_select(1, tables.label_edges)
        self.scores.index_copy_(1, tables.labels, complete.masked_fill(complete.isnan(), -torch.inf))
        self.sums.index_copy_(1, tables.children, reached.index_select(1, tables.child_edges))


def _read(values: Tensor) -> list[Any]:
    """Reads a tensor on the host, which waits for the device."""
    result: list[Any] = values.tolist()
    return result


def _indices(values: list[int], device: torch.device) -> Tensor:
    """Indices ``[n]`` int64 on a device."""
    return _to_device(torch.tensor(values), device)


def _to_device(value: Movable, device: torch.device) -> Movable:
    """Copies a stream or a tensor from the CPU to a device; to a GPU from pinned memory, without waiting for it."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


class _Subtree(NamedTuple):
    """Some nodes of the trie and their ancestors.

    Attributes:
        tokens: the token id of each node.
        parents: the index of each node's parent; ``ROOT`` for children of the root.
        targets: the edges that leave the given nodes, each as the index of its node and its token id.
        edges: the same edges of the trie.
    """

    tokens: list[int]
    parents: list[int]
    targets: list[tuple[int, int]]
    edges: list[Edge]


def _build_subtree(trie: LabelTrie, nodes: Sequence[int]) -> _Subtree:
    ancestors = trie.with_ancestors(nodes)
    edges = [edge for edge in trie.edges if edge[0] in nodes]
    parents = [ancestors.index(trie.parents[n]) if trie.parents[n] != ROOT else ROOT for n in ancestors]
    targets = [(ancestors.index(node), token) for node, token in edges]
    return _Subtree([trie.tokens[n] for n in ancestors], parents, targets, edges)


def normalise_scores(scores: Tensor, trie: LabelTrie, norm: str = "sum") -> tuple[Tensor, Tensor]:
    """Computes ranking scores and a probability distribution over the labels.

    Args:
        scores: ``[Q, C]`` float, summed log-probabilities in nats.
        trie: the labels.
        norm: ``sum`` keeps the scores; ``mean`` divides each by its label's number of tokens, as published (which
            favours long labels with predictable endings).

    Returns:
        The ranking scores and their softmax over the labels, both ``[Q, C]`` float.

    Raises:
        ValueError: ``norm`` is unknown.
    """
    if norm not in ("sum", "mean"):
        raise ValueError(f"score norm {norm!r} is not sum or mean")
    ranking = scores if norm == "sum" else scores / trie.lengths.to(scores)
    return ranking, ranking.softmax(dim=-1)
