"""A trie of the labels' token ids, with which one pass of the decoder scores all labels."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.utils.errors import InputError

ROOT = -1  # the prompt's last token
Edge = tuple[int, int]  # (node, token id): this token after that node


@dataclass(frozen=True)
class LevelTables:
    """Where the E edges that leave a level of the trie begin and end, as indices on one device.

    Attributes:
        nodes: ``[n]`` int64, the level's nodes, counted from 1; empty for the root.
        starts: ``[E]`` int64, the node that each edge leaves, counted from 1; 0 is the root.
        label_edges: ``[K]`` int64, the edges that complete a label.
        labels: ``[K]`` int64, the labels that they complete.
        child_edges: ``[E - K]`` int64, the other edges.
        children: ``[E - K]`` int64, the nodes that they lead to, counted from 1.
    """

    nodes: Tensor
    starts: Tensor
    label_edges: Tensor
    labels: Tensor
    child_edges: Tensor
    children: Tensor


class LabelTrie:
    """A trie of C labels.

    Only the inner nodes run through the model. A label's last token is a leaf, whose log-probability is computed from
    the output of its parent.

    Args:
        label_ids: the token ids of each label.

    Raises:
        InputError: a label's ids are a prefix of another label's, or equal to them.

    Attributes:
        tokens: the token id of each inner node below the root, each after its parent.
        parents: the index of each inner node's parent; ``ROOT`` for children of the root.
        edges: all E edges, each as its parent node and its token id, in the order of the nodes.
        children: the inner node that an edge leads to, for edges that lead to one.
        ends: the label that an edge completes, for the other edges.
        paths: for each label, the indices of its edges.
        lengths: ``[C]`` int64, each label's number of tokens.
        levels: the inner nodes by depth, from the children of the root.
        level_edges: the edges that leave the root, and those that leave each of the levels, in the order of ``edges``.
    """

    def __init__(self, label_ids: Sequence[Sequence[int]]) -> None:
        self.label_ids = [list(ids) for ids in label_ids]
        self.lengths = torch.tensor([len(ids) for ids in self.label_ids])
        nodes: dict[tuple[int, ...], int] = {(): ROOT}
        self.tokens: list[int] = []
        self.parents: list[int] = []
        for ids in self.label_ids:
            for depth in range(1, len(ids)):
                prefix = tuple(ids[:depth])
                if prefix not in nodes:
                    self.parents.append(nodes[prefix[:-1]])
                    nodes[prefix] = len(self.tokens)
                    self.tokens.append(ids[depth - 1])
        for c, ids in enumerate(self.label_ids):
            if tuple(ids) in nodes or self.label_ids.index(ids) != c:
                raise InputError(
                    f"With this tokenizer label {c} is a prefix of another label (or equal to one), so a sum of token "
                    f"log-probabilities cannot tell them apart; use a tokenizer with which no label is a prefix."
                )
        self.children = {(nodes[prefix[:-1]], prefix[-1]): n for prefix, n in nodes.items() if prefix}
        self.ends = {(nodes[tuple(ids[:-1])], ids[-1]): c for c, ids in enumerate(self.label_ids)}
        paths = [[(nodes[tuple(ids[:depth])], token) for depth, token in enumerate(ids)] for ids in self.label_ids]
        distinct = dict.fromkeys(itertools.chain.from_iterable(paths))
        self.edges: list[Edge] = sorted(distinct, key=lambda edge: edge[0])
        numbers = {edge: n for n, edge in enumerate(self.edges)}
        self.paths = [[numbers[edge] for edge in path] for path in paths]
        by_depth = sorted(range(len(self.tokens)), key=self._depth)
        self.levels = [list(nodes) for _, nodes in itertools.groupby(by_depth, self._depth)]
        self.level_edges = [[e for e in self.edges if e[0] in nodes] for nodes in ([ROOT], *self.levels)]
        self._path_matrices: dict[torch.device, Tensor] = {}
        self._level_tables: dict[torch.device, list[LevelTables]] = {}

    def _depth(self, node: int) -> int:
        return 0 if node == ROOT else 1 + self._depth(self.parents[node])

    def edges_from(self, node: int) -> list[Edge]:
        """The edges that leave a node, in the order of ``edges``."""
        return [edge for edge in self.edges if edge[0] == node]

    def with_ancestors(self, nodes: Sequence[int]) -> list[int]:
        """The given inner nodes and their ancestors below the root, each after its parent."""
        result = set(nodes)
        for node in nodes:
            while (node := self.parents[node]) != ROOT:
                result.add(node)
        return sorted(result)  # a parent has a smaller index than its children

    def path_matrix(self, device: torch.device) -> Tensor:
        """``[C, E]`` float32: 1 where an edge is on a label's path. It is made once for a device."""
        if device not in self._path_matrices:
            matrix = torch.zeros(len(self.paths), len(self.edges))
            for c, path in enumerate(self.paths):
                matrix[c, path] = 1.0
            self._path_matrices[device] = matrix.to(device)
        return self._path_matrices[device]

    def level_tables(self, device: torch.device) -> list[LevelTables]:
        """The tables of the root and of each of ``levels``. They are made once for a device."""
        if device not in self._level_tables:
            self._level_tables[device] = [
                self._build_tables(nodes, edges, device)
                for nodes, edges in zip([[], *self.levels], self.level_edges, strict=True)
            ]
        return self._level_tables[device]

    def _build_tables(self, nodes: list[int], edges: list[Edge], device: torch.device) -> LevelTables:
        ends = [(n, self.ends[edge]) for n, edge in enumerate(edges) if edge in self.ends]
        inner = [(n, self.children[edge] + 1) for n, edge in enumerate(edges) if edge not in self.ends]
        columns = [[node + 1 for node in nodes], [start + 1 for start, _ in edges], *_unzip(ends), *_unzip(inner)]
        return LevelTables(*(torch.tensor(column, dtype=torch.long).to(device) for column in columns))


def _unzip(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
