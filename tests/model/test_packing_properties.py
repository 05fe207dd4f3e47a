"""The packed stream and the label trie match their definitions for any prompts and labels."""

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
    """Tokens and parents of an answer tree; a parent precedes its children."""
    tokens = draw(st.lists(TOKENS, max_size=5))
    return tokens, [draw(st.integers(-1, n - 1)) for n in range(len(tokens))]


@given(st.data(), PROMPTS, st.sampled_from(["prefix", "causal", "bidirectional"]))
@settings(max_examples=60, deadline=None)
def test_masks_positions_and_targets_match_their_definitions(
    data: st.DataObject, prompts: list[list[list[int]]], mask: str
) -> None:
    rows, num_questions = [], 0
    for row in prompts:
        trees = []
        for prompt in row:
            tokens, parents = data.draw(answer_trees())
            trees.append(PromptTree(prompt, tokens, parents, [(n, 7) for n in range(-1, len(tokens))], num_questions))
            num_questions += 1
        rows.append(trees)
    packed = pack_stream(rows, mask, num_questions)
    trees = [tree for row in rows for tree in row]
    assert packed.input_ids.tolist() == [token for tree in trees for token in [*tree.prompt, *tree.tokens]]
    start = 0
    for n, tree in enumerate(trees):
        p, a = len(tree.prompt), len(tree.tokens)
        ancestors = {}  # of each answer token, including itself
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
        is_of_tree = packed.target_question == tree.question
        assert packed.target_positions[is_of_tree].tolist() == [start + p - 1, *range(start + p, start + p + a)]
        start += p + a
    assert packed.num_questions == num_questions
    assert len(packed.target_ids) == sum(len(tree.targets) for tree in trees)


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
def test_the_paths_of_a_trie_are_the_labels(labels: list[list[int]]) -> None:
    label_ids = [list(ids) for ids in labels]
    terminated = _terminate_prefixes(label_ids, [str(ids) for ids in label_ids], END)
    is_prefix = [any(other != ids and other[: len(ids)] == ids for other in labels) for ids in labels]
    assert terminated == [c for c, is_prefix_of_another in enumerate(is_prefix) if is_prefix_of_another]
    trie = LabelTrie(label_ids)
    for label, path in zip(label_ids, trie.paths, strict=True):
        node, tokens = -1, []
        for edge in path:
            parent, token = trie.edges[edge]
            assert parent == node
            tokens.append(token)
            node = trie.children.get((parent, token), -2)
        assert tokens == label and node == -2  # the path ends in a leaf
    assert sorted({e for path in trie.paths for e in path}) == list(range(len(trie.edges)))
    # Inner nodes are the proper prefixes of labels, each once, and a parent precedes its children.
    prefixes = {tuple(ids[:n]) for ids in label_ids for n in range(1, len(ids))}
    assert len(trie.tokens) == len(prefixes)
    assert all(parent < n for n, parent in enumerate(trie.parents))
    log_probs = torch.randn(len(trie.edges), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([sum((log_probs[e] for e in path), torch.tensor(0.0)) for path in trie.paths])
    torch.testing.assert_close(log_probs @ trie.path_matrix(log_probs.device).T, expected)


@given(PROMPTS, st.lists(TOKENS, min_size=1, max_size=4))
def test_a_chain_predicts_every_token_of_its_answer_once(prompts: list[list[list[int]]], answer: list[int]) -> None:
    for mask in ("prefix", "bidirectional"):
        tree = build_answer_chain(prompts[0][0], answer, 0, mask)
        assert [token for _, token in tree.targets] == answer
        assert [node for node, _ in tree.targets] == list(range(-1, len(answer) - 1))
        assert list(tree.tokens) == (answer if mask == "bidirectional" else answer[:-1])
