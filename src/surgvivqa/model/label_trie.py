"""A trie of the labels' token ids, with which one pass of the decoder scores all labels."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from surgvivqa.utils.errors import InputError

ROOT = -1  # the prompt's last token
Edge = tuple[int, int]  # (node, token id): this token after that node


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
        self._path_matrices: dict[torch.device, Tensor] = {}

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
