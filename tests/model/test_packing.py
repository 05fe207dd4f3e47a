"""Packed losses, gradients and scores equal the reference; the answer does not reach its own prediction."""

import pytest
import torch

from surgvivqa.data.packing import pack_training
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import find_best_labels, normalise_scores, score_labels
from surgvivqa.utils.errors import InputError
from tests.helpers.reference import reference_log_prob
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model

MASKS = ["prefix", "causal", "bidirectional"]


@pytest.fixture(scope="module")
def model() -> SurgViVQAModel:
    return small_model()


CHOSEN = [[3, 0, 5], [2]]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("lora", [False, True])
def test_packed_losses_and_gradients_equal_the_reference(mask: str, lora: bool) -> None:
    model = small_model(lora)
    answers = [[LABEL_IDS[c] for c in row] for row in CHOSEN]
    packed = pack_training(PROMPTS, answers, mask)
    losses = model(packed, pixel_values=clips())
    losses.mean().backward()
    fast = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    plain = []
    for f, row in enumerate(PROMPTS):
        for prompt, answer in zip(row, answers[f], strict=True):
            plain.append(-reference_log_prob(model, prompt, answer, model.encode_video(clips()[f : f + 1]), mask))
    torch.stack(plain).mean().backward()
    torch.testing.assert_close(losses, torch.stack(plain), rtol=1e-5, atol=1e-5)
    slow = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert fast.keys() == slow.keys()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("mask", MASKS)
def test_trie_scores_equal_one_sequence_per_label(model: SurgViVQAModel, mask: str) -> None:
    with torch.no_grad():
        video = model.encode_video(clips())
        fast = score_labels(model, PROMPTS, video, LabelTrie(LABEL_IDS), mask)
        plain = torch.stack(
            [
                torch.stack([reference_log_prob(model, prompt, ids, video[f : f + 1], mask) for ids in LABEL_IDS])
                for f, row in enumerate(PROMPTS)
                for prompt in row
            ]
        )
    assert fast.shape == (4, len(LABEL_IDS))
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", ["prefix", "causal"])
@pytest.mark.parametrize("sharpness", [0.2, 1.0, 4.0])
def test_branch_and_bound_finds_the_best_label(sharpness: float, mask: str) -> None:
    """With flat scores nearly every node runs, with sharp ones hardly any."""
    model, trie, found = small_model(), LabelTrie(LABEL_IDS), set()
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 9, (2, 7), generator=generator).tolist()
    prompts = [[torch.randint(40, (n,), generator=generator).tolist() for n in row] for row in lengths]
    with torch.no_grad():
        video = model.encode_video(clips())
        for _ in range(4):
            model.decoder.lm_head.weight.normal_(std=sharpness, generator=generator)
            ranking = score_labels(model, prompts, video, trie, mask)
            labels, scores, num_run = find_best_labels(model, prompts, video, trie, mask)
            assert torch.equal(labels, ranking.argmax(1))
            torch.testing.assert_close(scores, ranking.max(1).values, rtol=1e-5, atol=1e-5)
            assert num_run <= 14 * len(trie.tokens) * 2
            found |= set(labels.tolist())
    assert len(found) > 2


def test_of_equal_labels_the_first_is_the_best() -> None:
    model, trie = small_model(), LabelTrie(LABEL_IDS)
    with torch.no_grad():
        model.decoder.lm_head.weight.zero_()
        video = model.encode_video(clips())
        ranking = score_labels(model, PROMPTS, video, trie, "prefix")
        labels, _, _ = find_best_labels(model, PROMPTS, video, trie, "prefix")
    assert labels.tolist() == ranking.sort(descending=True, stable=True).indices[:, 0].tolist() == [0] * 4


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_under_autocast_logits_and_sums_stay_float32(shift: float) -> None:
    """A constant added to all logits changes nothing; in bfloat16 it would hide what distinguishes labels."""
    model, trie = small_model(), LabelTrie(LABEL_IDS)
    head = model.decoder.lm_head
    head.bias = torch.nn.Parameter(torch.full((60,), -shift))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = score_labels(model, PROMPTS, model.encode_video(clips()), trie, "prefix")
    assert scores.dtype == torch.float32
    assert len(set(scores.flatten().tolist())) == scores.numel()


def test_branch_and_bound_runs_fewer_nodes_when_the_model_is_sure() -> None:
    model, trie = small_model(), LabelTrie(LABEL_IDS)
    with torch.no_grad():
        model.decoder.lm_head.weight.mul_(8)
        video = model.encode_video(clips())
        _, _, num_run = find_best_labels(model, PROMPTS, video, trie, "prefix")
    assert num_run < 4 * len(trie.tokens)


def test_a_cross_attention_cache_is_reused_and_gives_the_same_scores(model: SurgViVQAModel) -> None:
    trie = LabelTrie(LABEL_IDS)
    with torch.no_grad():
        tokens = model.encode_video(clips()[:1])
        cache = CrossAttentionCache(tokens, reuse=True)
        first = score_labels(model, [PROMPTS[0][:2]], cache, trie, "prefix")
        computed = dict(cache.layers)
        second = score_labels(model, [PROMPTS[0][2:]], cache, trie, "prefix")
    assert len(computed) == 2  # one for each layer
    assert all(cache.layers[k][0] is v[0] for k, v in computed.items())
    whole = score_labels(model, [PROMPTS[0]], tokens, trie, "prefix")
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
def test_changing_an_answer_changes_prompt_logits_only_under_bidirectional(model: SurgViVQAModel, mask: str) -> None:
    prompt = PROMPTS[0][0]
    with torch.no_grad():
        video = model.encode_video(clips()[:1])
        logits = [
            model.stream_logits(pack_training([[prompt]], [[answer]], mask), video)[: len(prompt)]
            for answer in ([22, 24, 25], [27, 28, 29])
        ]
    assert torch.equal(logits[0], logits[1]) == (mask != "bidirectional")


@pytest.mark.parametrize("mask", MASKS)
def test_another_question_in_the_stream_changes_no_loss(model: SurgViVQAModel, mask: str) -> None:
    video = model.encode_video(clips()[:1])
    first = [PROMPTS[0][0], PROMPTS[0][1]]
    other = [PROMPTS[0][0], [40, 41]]
    a, b = (
        model.question_losses(pack_training([row], [[LABEL_IDS[3], LABEL_IDS[0]]], mask), video)
        for row in (first, other)
    )
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], b[1])


def test_the_frame_matters(model: SurgViVQAModel) -> None:
    packed = pack_training([[PROMPTS[0][0]]], [[LABEL_IDS[3]]], "prefix")
    losses = [model(packed, pixel_values=clips()[f : f + 1]) for f in range(2)]
    assert not torch.equal(losses[0], losses[1])


def test_the_stream_and_the_video_must_have_the_same_frames(model: SurgViVQAModel) -> None:
    packed = pack_training([[PROMPTS[0][0]]], [[LABEL_IDS[3]]], "prefix")
    with pytest.raises(ValueError, match="1 frames, but the video tokens have 2"):
        model(packed, pixel_values=clips())


def test_a_question_without_an_answer_token_is_an_error() -> None:
    with pytest.raises(InputError, match="cannot be trained on"):
        pack_training([[[1, 2]]], [[[]]], "prefix")


def test_a_label_that_is_a_prefix_of_another_is_an_error() -> None:
    with pytest.raises(InputError, match="label 1 is a prefix of another label"):
        LabelTrie([[1, 2], [1]])


def test_normalised_scores_are_a_distribution_and_mean_divides_by_length() -> None:
    trie = LabelTrie([[1], [2, 3, 4]])
    scores = torch.tensor([[-2.0, -3.0]])
    ranking, probability = normalise_scores(scores, trie, "mean")
    torch.testing.assert_close(ranking, torch.tensor([[-2.0, -1.0]]))
    assert normalise_scores(scores, trie, "sum")[1].argmax() == 0
    assert probability.argmax() == 1
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0))


def test_the_fused_activation_is_gpt2s() -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 10_001)
    torch.testing.assert_close(
        small_model().decoder.transformer.h[0].mlp.act(x), ACT2FN["gelu_new"](x), rtol=1e-5, atol=1e-6
    )
