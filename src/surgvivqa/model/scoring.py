"""Closed-set scoring: the score of a label is the summed log-probability of its tokens after the prompt.

``score_labels`` computes the scores of all C labels in one pass. ``find_best_labels`` finds the best label exactly and
with less computation.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from surgvivqa.data.packing import PackedStream, PromptTree, build_answer_chain, pack_stream
from surgvivqa.model.attention import AttentionLayout, CrossAttentionCache, KVCache, build_layouts
from surgvivqa.model.label_trie import ROOT, Edge, LabelTrie

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
    counter = itertools.count()
    trees = [[PromptTree(p, trie.tokens, trie.parents, trie.edges, next(counter)) for p in row] for row in prompts]
    num_questions = next(counter)
    packed = pack_stream(trees, mask, num_questions).to(cache.tokens.device)
    edge_log_probs = model.target_log_probs(packed, cache).view(num_questions, len(trie.edges))
    with torch.autocast(edge_log_probs.device.type, enabled=False):  # autocast would round the sums
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
            packed = pack_stream([chains], "bidirectional", len(part)).to(cache.tokens.device)
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
    pass runs the inner nodes of one trie level whose bound is not below the best score so far.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        prompts: token ids of each frame's prompts.
        video: video tokens ``[F, V, hidden]``, or a cache of them that several calls share.
        trie: the labels.
        mask: the mask mode, ``prefix`` or ``causal``.

    Returns:
        The labels ``[Q]`` int64, the first of equal ones; their scores ``[Q]`` float32, which are not finite if the
        model's outputs are not; and the number of nodes that were run.

    Raises:
        ValueError: the mask is ``bidirectional``, under which labels cannot share a prompt.
    """
    if mask == "bidirectional":
        raise ValueError("under the bidirectional mask labels cannot share a prompt")
    cache = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video, reuse=True)
    search = _Search(model, prompts, cache, trie, mask)
    log_probs = search.run_prompts()
    if not log_probs.isfinite().all():
        return torch.zeros(len(log_probs), dtype=torch.long), log_probs.sum(dim=1), 0
    level = [n for n, parent in enumerate(trie.parents) if parent == ROOT]
    while level and search.run_level(level):
        level = [n for n, parent in enumerate(trie.parents) if parent in level]
    best, order = search.scores.sort(dim=1, descending=True, stable=True)
    return order[:, 0], best[:, 0], search.nodes_run


class _Search:
    """Branch and bound over the trie, for Q questions at once.

    Attributes:
        scores: ``[Q, C]`` float32, the scores of labels that are complete; -inf for the others.
        sums: for each node, ``[Q]`` float32, the summed log-probability of the path to it; NaN if its parent did not
            run.
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
        self.num_frames = len(prompts)
        self.questions = [(frame, prompt) for frame, row in enumerate(prompts) for prompt in row]
        self.kv_caches = (KVCache(), KVCache())  # the text encoder's and the decoder's
        self.sums = {ROOT: torch.zeros(len(self.questions))}
        self.scores = torch.full((len(self.questions), len(trie.label_ids)), -torch.inf)
        self.nodes_run = 0

    def run_prompts(self) -> Tensor:
        """Runs the prompts and fills the KV caches.

        Returns:
            The log-probabilities ``[Q, edges]`` of the root's edges, on the CPU.
        """
        edges = self.trie.edges_from(ROOT)
        trees: list[list[PromptTree]] = [[] for _ in range(self.num_frames)]
        for q, (frame, prompt) in enumerate(self.questions):
            trees[frame].append(PromptTree(prompt, (), (), edges, q))
        packed = pack_stream(trees, self.mask, len(self.questions)).to(self.video.tokens.device)
        layouts = build_layouts(packed, self.video.tokens.dtype)
        for layout, kv_cache in zip(layouts, self.kv_caches, strict=True):
            layout.write_cache = kv_cache
        log_probs = self._log_probs(packed, layouts).view(len(self.questions), len(edges)).cpu()
        self._extend(ROOT, log_probs)
        return log_probs

    def run_level(self, level: Sequence[int]) -> bool:
        """Runs the nodes of a trie level whose bound is not below the best score; False if there is none."""
        open_nodes = self._open_nodes(level)
        active = [q for q, nodes in enumerate(open_nodes) if nodes]
        if not active:
            return False
        trees: list[list[PromptTree]] = [[] for _ in range(self.num_frames)]
        targets: list[tuple[int, Edge]] = []  # the question and the edge of each target
        for row, q in enumerate(active):
            frame, prompt = self.questions[q]
            tree, edges = _subtree(self.trie, prompt, open_nodes[q], row)
            trees[frame].append(tree)
            targets += [(q, edge) for edge in edges]
            self.nodes_run += len(tree.tokens)
        longest_prompt = max(len(prompt) for _, prompt in self.questions)
        packed = pack_stream(trees, self.mask, len(active), cached_length=longest_prompt).to(self.video.tokens.device)
        layouts = build_layouts(packed, self.video.tokens.dtype)
        for layout, kv_cache in zip(layouts, self.kv_caches, strict=True):
            layout.read_cache, layout.read_rows = kv_cache, torch.tensor(active, device=self.video.tokens.device)
        log_probs = dict(zip(targets, self._log_probs(packed, layouts).tolist(), strict=True))
        for node in level:
            edges = self.trie.edges_from(node)
            table = [[log_probs.get((q, edge), torch.nan) for edge in edges] for q in range(len(self.questions))]
            self._extend(node, torch.tensor(table))
        return True

    def _open_nodes(self, level: Sequence[int]) -> list[list[int]]:
        """For each question, the nodes of a level whose bound is not below its best score."""
        bounds = torch.stack([self.sums[node] for node in level], dim=1)
        is_open = bounds >= self.scores.max(dim=1).values[:, None]  # False for NaN
        return [list(itertools.compress(level, row)) for row in is_open.tolist()]

    def _log_probs(self, packed: PackedStream, layouts: tuple[AttentionLayout, AttentionLayout]) -> Tensor:
        """Computes the log-probabilities ``[T]`` of the targets, writing or reading the KV caches."""
        text = self.model.text_states(packed, self.video, layouts[0])
        return self.model.log_probs_at(packed, self.model.decoder_states(packed, text, layouts[1]))

    def _extend(self, node: int, log_probs: Tensor) -> None:
        """Extends the paths by a node's edges, given their log-probabilities ``[Q, edges]``."""
        for edge, column in zip(self.trie.edges_from(node), log_probs.unbind(dim=1), strict=True):
            reached = self.sums[node] + column
            if edge in self.trie.ends:
                self.scores[:, self.trie.ends[edge]] = torch.where(reached.isnan(), -torch.inf, reached)
            if edge in self.trie.children:
                self.sums[self.trie.children[edge]] = reached


def _subtree(
    trie: LabelTrie, prompt: Sequence[int], nodes: Sequence[int], question: int
) -> tuple[PromptTree, list[Edge]]:
    """Builds the prompt tree of some nodes and their ancestors; returns it with the edges that leave the nodes."""
    ancestors = trie.with_ancestors(nodes)
    edges = [edge for edge in trie.edges if edge[0] in nodes]
    tokens = [trie.tokens[n] for n in ancestors]
    parents = [ancestors.index(trie.parents[n]) if trie.parents[n] != ROOT else ROOT for n in ancestors]
    targets = [(ancestors.index(node), token) for node, token in edges]
    return PromptTree(prompt, tokens, parents, targets, question), edges


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
