"""For any prompts and labels, the packed stream and the label trie match their definitions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgvivqa.data.packing import PaddedLayout, PromptTree, build_answer_chain, pack_stream
from surgvivqa.data.prompt_tokens import _terminate_prefixes
from surgvivqa.model.attention import pad, unpad
from surgvivqa.model.label_trie import LabelTrie

TOKENS = st.integers(0, 9)
PROMPTS = st.lists(st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=4), min_size=1, max_size=3)
LABELS = st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple)
END = 99


@st.composite
def answer_trees(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Tokens of an answer tree, each with its parent before it."""
    tokens = draw(st.lists(TOKENS, max_size=5))
    return tokens, [draw(st.integers(-1, n - 1)) for n in range(len(tokens))]


@given(st.data(), PROMPTS, st.sampled_from(["prefix", "causal", "bidirectional"]))
@settings(max_examples=60, deadline=None)
def test_masks_positions_and_targets_of_a_packed_stream(
    data: st.DataObject, prompts: list[list[list[int]]], mask: str
) -> None:
    rows, number = [], 0
    for row in prompts:
        trees = []
        for prompt in row:
            tokens, parents = data.draw(answer_trees())
            trees.append(PromptTree(prompt, tokens, parents, [(n, 7) for n in range(-1, len(tokens))], number))
            number += 1
        rows.append(trees)
    packed = pack_stream(rows, mask, number)
    trees = [tree for row in rows for tree in row]
    assert packed.input_ids.tolist() == [t for b in trees for t in [*b.prompt, *b.tokens]]
    start = 0
    for n, tree in enumerate(trees):
        p, a = len(tree.prompt), len(tree.tokens)
        ancestors = {}  # of each answer token, found by walking up
        for i in range(a):
            ancestors[i] = {i}
            parent = tree.parents[i]
            while parent >= 0:
                ancestors[i].add(parent)
                parent = tree.parents[parent]
        for q in range(p + a):
            for k in range(packed.text_mask.shape[2]):
                if k >= p + a:
                    text = decoder = False
                elif q < p:
                    decoder = k <= q
                    text = k < p if mask == "prefix" else decoder
                else:
                    text = decoder = k < p or k - p in ancestors[q - p]
                if mask == "bidirectional" and k < p + a:
                    text = True
                assert bool(packed.text_mask[n, q, k]) == text, (n, q, k)
                assert bool(packed.decoder_mask[n, q, k]) == decoder, (n, q, k)
        depths = [*range(p), *(p + len(ancestors[i]) - 1 for i in range(a))]
        assert packed.position_ids[start : start + p + a].tolist() == depths
        mine = packed.target_question == tree.question
        assert packed.target_positions[mine].tolist() == [start + p - 1, *range(start + p, start + p + a)]
        start += p + a
    assert packed.num_questions == number and len(packed.target_ids) == sum(len(b.targets) for b in trees)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_unpad_inverts_pad(lengths: list[int]) -> None:
    layout = PaddedLayout.of_lengths(lengths)
    stream = torch.arange(2.0 * sum(lengths)).view(-1, 2)
    padded = pad(stream, layout)
    assert torch.equal(unpad(padded, layout), stream)
    start = 0
    for group, length in enumerate(lengths):
        assert torch.equal(padded[group, :length], stream[start : start + length])
        start += length


@given(LABELS)
@settings(max_examples=300, deadline=None)
def test_a_trie_holds_every_label_and_nothing_else(labels: list[list[int]]) -> None:
    ended = [list(ids) for ids in labels]
    which = _terminate_prefixes(ended, END)
    begins = [any(o != ids and o[: len(ids)] == ids for o in labels) for ids in labels]
    assert which == [c for c, begins_another in enumerate(begins) if begins_another]
    trie = LabelTrie(ended)
    for label, path in zip(ended, trie.paths, strict=True):
        node, tokens = -1, []
        for edge in path:
            at, token = trie.edges[edge]
            assert at == node
            tokens.append(token)
            node = trie.children.get((at, token), -2)
        assert tokens == label and node == -2  # the path ends in a leaf
    assert sorted({e for path in trie.paths for e in path}) == list(range(len(trie.edges)))
    # Inner nodes are the proper prefixes of labels, each once, and a parent comes before its children.
    prefixes = {tuple(ids[:n]) for ids in ended for n in range(1, len(ids))}
    assert len(trie.tokens) == len(prefixes)
    assert all(parent < n for n, parent in enumerate(trie.parents))
    steps = torch.randn(len(trie.edges), generator=torch.Generator().manual_seed(0))
    sums = steps @ trie.path_matrix().T
    plain = torch.stack([sum((steps[e] for e in path), torch.tensor(0.0)) for path in trie.paths])
    torch.testing.assert_close(sums, plain)


@given(PROMPTS, st.lists(TOKENS, min_size=1, max_size=4))
def test_a_chain_predicts_every_token_of_its_answer_once(prompts: list[list[list[int]]], answer: list[int]) -> None:
    for mask in ("prefix", "bidirectional"):
        tree = build_answer_chain(prompts[0][0], answer, 0, mask)
        assert [token for _, token in tree.targets] == answer
        assert [node for node, _ in tree.targets] == list(range(-1, len(answer) - 1))
        assert list(tree.tokens) == (answer if mask == "bidirectional" else answer[:-1])
