"""Attention maps are the model's own weights, and recording them changes no output."""

import pytest
import torch
from torch import Tensor

from surgvivqa.data.packing import build_answer_chain, pack_stream
from surgvivqa.explanation.attention_maps import compute_attention_maps
from surgvivqa.model.attention import CrossAttentionCache, PackedBlipAttention, build_layouts
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import score_labels
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model

PROMPT, ANSWER = [7, 8, 9, 10, 11], [22, 24, 25]
MASKS = ("prefix", "causal", "bidirectional")


@pytest.fixture
def model() -> SurgViVQAModel:
    return small_model(lora=True)


def tokens(model: SurgViVQAModel) -> Tensor:
    with torch.no_grad():
        return model.encode_video(clips()[:1])


@pytest.mark.parametrize("mask", MASKS)
def test_explicit_softmax_gives_the_scores_of_the_fused_kernel(model: SurgViVQAModel, mask: str) -> None:
    with torch.no_grad():
        video = model.encode_video(clips())
    trie = LabelTrie(LABEL_IDS)
    if mask != "bidirectional":
        explicit = score_labels(model, PROMPTS, CrossAttentionCache(video, record_weights=True), trie, mask)
        assert torch.allclose(explicit, score_labels(model, PROMPTS, video, trie, mask), atol=1e-5)
    packed = pack_stream([[build_answer_chain(PROMPT, ANSWER, 0, mask)]], mask, 1)
    fused, recorded = (
        model.question_losses(packed, CrossAttentionCache(video[:1], record_weights=r)) for r in (False, True)
    )
    assert torch.allclose(fused, recorded, atol=1e-5)


def test_the_weights_reproduce_every_layers_output(model: SurgViVQAModel) -> None:
    """Weights times values is what the fused kernel returns, for each cross-attention as it runs in the model."""
    video = tokens(model)
    packed = pack_stream([[build_answer_chain(PROMPT, ANSWER, 0, "prefix")]], "prefix", 1)
    outputs: dict[torch.nn.Module, Tensor] = {}
    layers = [layer.crossattention.self for layer in model.text_encoder.encoder.layer]
    hooks = [layer.register_forward_hook(lambda m, _, out: outputs.__setitem__(m, out[0])) for layer in layers]
    fused = CrossAttentionCache(video)
    with torch.no_grad():
        model.text_states(packed, fused, build_layouts(packed, video.dtype)[0])
        expected = dict(outputs)
        recording = CrossAttentionCache(video, record_weights=True)
        model.text_states(packed, recording, build_layouts(packed, video.dtype)[0])
    for hook in hooks:
        hook.remove()
    assert recording.weights is not None and list(recording.weights) == layers
    for layer, weights in recording.weights.items():
        assert isinstance(layer, PackedBlipAttention)
        _, value = fused.keys_values(layer)
        context = (weights @ value).transpose(1, 2).flatten(2)
        assert torch.allclose(context, expected[layer], atol=1e-5)
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)


def test_attention_is_that_of_the_prompts_last_token(model: SurgViVQAModel) -> None:
    """An independent softmax of one layer's queries and keys, at one token."""
    video = tokens(model)
    maps = compute_attention_maps(model, video, PROMPT, ANSWER, "prefix")
    inputs: list[Tensor] = []
    layer = model.text_encoder.encoder.layer[0].crossattention.self
    hook = layer.query.register_forward_hook(lambda _, args, out: inputs.append(out))
    packed = pack_stream([[build_answer_chain(PROMPT, ANSWER, 0, "prefix")]], "prefix", 1)
    with torch.no_grad():
        model.text_states(packed, CrossAttentionCache(video), build_layouts(packed, video.dtype)[0])
        key = layer.key(video)[0]
    hook.remove()
    query = inputs[0][0, len(PROMPT) - 1]
    size = query.shape[0] // layer.num_attention_heads
    heads = []
    for start in range(0, query.shape[0], size):
        part = slice(start, start + size)
        heads.append((key[:, part] @ query[part] / size**0.5).softmax(0))
    expected = torch.stack(heads).mean(0).view(2, 2, 2).sum(0)  # two tubelets of 2 x 2 patches
    assert torch.allclose(maps.layers[0], expected, atol=1e-5)
    assert torch.allclose(maps.attention, maps.layers.mean(0))
    assert float(maps.attention.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mask", MASKS)
def test_the_score_is_the_answers_log_probability(model: SurgViVQAModel, mask: str) -> None:
    video = tokens(model)
    maps = compute_attention_maps(model, video, PROMPT, ANSWER, mask)
    expected = score_labels(model, [[PROMPT]], video, LabelTrie(LABEL_IDS), mask)[0, LABEL_IDS.index(ANSWER)]
    assert maps.score == pytest.approx(float(expected), abs=1e-4)


def test_gradients_are_those_of_finite_differences(model: SurgViVQAModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a little to one weight of the last layer changes the score by the gradient times as much."""
    model = model.double()
    video = tokens_of_double = model.encode_video(clips()[:1].double()).detach()
    packed = pack_stream([[build_answer_chain(PROMPT, ANSWER, 0, "prefix")]], "prefix", 1)
    cache = CrossAttentionCache(video, record_weights=True)
    score = -model.question_losses(packed, cache)[0]
    assert cache.weights is not None
    last = model.text_encoder.encoder.layer[-1].crossattention.self
    (gradient,) = torch.autograd.grad(score, [cache.weights[last]])
    weights = cache.weights[last].detach()
    at, step = (0, 1, 3, 5), 1e-2  # the output layer's float32 hides smaller steps

    def forward(moved: Tensor) -> float:
        value = CrossAttentionCache(tokens_of_double).keys_values(last)[1]
        context = (moved @ value).transpose(1, 2).flatten(2)
        monkeypatch.setattr(PackedBlipAttention, "forward", _replaced(last, context))
        with torch.no_grad():
            result = -float(model.question_losses(packed, CrossAttentionCache(video))[0])
        monkeypatch.undo()
        return result

    shift = torch.zeros_like(weights)
    shift[at] = step
    slope = (forward(weights + shift) - forward(weights - shift)) / (2 * step)
    assert slope == pytest.approx(float(gradient[at]), rel=5e-3)


def _replaced(module: PackedBlipAttention, context: Tensor):  # type: ignore[no-untyped-def]
    original = PackedBlipAttention.forward

    def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        output = original(self, *args, **kwargs)
        return (context, None) if self is module else output

    return forward


def test_frozen_parameters_get_no_gradient_and_the_map_is_the_same(model: SurgViVQAModel) -> None:
    video = tokens(model)
    trained = compute_attention_maps(model, video, PROMPT, ANSWER, "prefix")
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen = compute_attention_maps(model.requires_grad_(False), video, PROMPT, ANSWER, "prefix")
    assert torch.allclose(trained.gradient_attention, frozen.gradient_attention, atol=1e-7)
    assert float(frozen.gradient_attention.min()) >= 0 and float(frozen.gradient_attention.max()) > 0


def test_the_map_depends_on_the_answer_that_is_explained(model: SurgViVQAModel) -> None:
    video = tokens(model)
    first, second = (compute_attention_maps(model, video, PROMPT, a, "prefix") for a in ([20], [32]))
    assert torch.allclose(first.attention, second.attention)  # the prompt does not see the answer
    assert not torch.allclose(first.gradient_attention, second.gradient_attention)


def test_pooled_video_tokens_have_maps_of_the_same_shape() -> None:
    model = small_model()
    model.config.video_pool = "temporal"
    maps = compute_attention_maps(model, tokens(model), PROMPT, ANSWER, "prefix")
    assert maps.attention.shape == maps.gradient_attention.shape == (2, 2)
