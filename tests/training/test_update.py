"""The update on the device: no host reads, no update with figures that are not finite, fp16's scale, frozen weights."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from surgvivqa.data.packing import bucket_shape, build_answer_chain, pack_stream
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.precision import FrozenWeights
from surgvivqa.training.update import StepFigures, Updater
from tests.helpers.dispatch import watch_operations
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model


def updater(max_grad_norm: float = 1.0, scaler: torch.amp.GradScaler | None = None) -> tuple[nn.Module, Updater]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    return model, Updater(model, 0.1, 0.01, max_grad_norm, scaler)


def add_loss(model: nn.Module, updater: Updater, factor: float = 1.0, seed: int = 1) -> None:
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    loss = model(inputs).square().mean() * factor
    updater.bucket.add_gradients(updater.scale(loss))
    updater.bucket.figures[0] += loss.detach()


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("lost", [0, 2])
def test_updates_equal_those_of_the_plain_way(max_grad_norm: float, lost: int) -> None:
    model, fast = updater(max_grad_norm)
    plain = copy.deepcopy(model)
    matrices, others = ([p for p in plain.parameters() if (p.ndim >= 2) == flag] for flag in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    for step in range(6):
        for micro in range(2):
            add_loss(model, fast, seed=2 * step + micro)
        fast.bucket.add_figures(StepFigures(asked=8, lost=lost))
        norm = fast.step(0.1, 0).read().grad_norm
        optimizer.zero_grad()
        for micro in range(2):
            inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(2 * step + micro))
            (plain(inputs).square().mean() * 8 / (8 - lost)).backward()
        expected = nn.utils.clip_grad_norm_(plain.parameters(), max_grad_norm or math.inf)
        optimizer.step()
        assert norm == pytest.approx(float(expected), rel=1e-5)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_nothing_is_updated_from_figures_that_are_not_finite_on(factor: float) -> None:
    model, fast = updater()
    before = weights(model)
    add_loss(model, fast, factor)
    fast.bucket.add_figures(StepFigures(asked=5))
    assert not math.isfinite(fast.step(0.1, 0).read().loss)
    for _ in range(2):  # later steps are good, but the run is to stop at the first one
        add_loss(model, fast)
        fast.bucket.add_figures(StepFigures(asked=5))
        fast.step(0.1, 0)
    assert all(map(torch.equal, before, weights(model)))
    fast.resume()
    add_loss(model, fast)
    fast.bucket.add_figures(StepFigures(asked=5))
    fast.step(0.1, 0)
    assert not torch.equal(before[0], weights(model)[0])


@pytest.mark.parametrize(("allowed", "is_updated"), [(1, False), (2, True)])
def test_more_bad_frames_than_allowed_make_no_update(allowed: int, is_updated: bool) -> None:
    model, fast = updater()
    before = weights(model)
    add_loss(model, fast)
    fast.bucket.add_figures(StepFigures(asked=5, lost=2, new_bad=2))
    fast.step(0.1, allowed)
    assert torch.equal(before[0], weights(model)[0]) != is_updated


def test_a_step_without_a_question_changes_neither_weights_nor_moments() -> None:
    model, fast = updater()
    add_loss(model, fast)
    fast.bucket.add_figures(StepFigures(asked=5))
    fast.step(0.1, 0)
    before, state = weights(model), copy.deepcopy(fast.optimizer.state_dict()["state"])
    fast.bucket.add_figures(StepFigures(asked=5, lost=5))
    assert fast.step(0.1, 0).read().grad_norm == 0
    assert all(map(torch.equal, before, weights(model)))
    for number, values in fast.optimizer.state_dict()["state"].items():
        assert all(torch.equal(values[key], state[number][key]) for key in values)
    add_loss(model, fast)
    fast.bucket.add_figures(StepFigures(asked=5))
    fast.step(0.1, 0)
    assert not torch.equal(before[0], weights(model)[0])


def test_fp16_may_begin_with_a_step_without_a_question() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model, fast = updater(0.0, scaler)
    before = weights(model)
    fast.bucket.add_figures(StepFigures(asked=5, lost=5))
    fast.step(0.1, 0)
    assert all(map(torch.equal, before, weights(model)))
    assert scaler.get_scale() == 1024.0


def test_fp16_skips_a_step_with_infinite_gradients_and_lowers_its_scale() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    model, fast = updater(0.0, scaler)
    plain, unscaled = updater(0.0)
    before = weights(model)
    add_loss(model, fast)
    fast.bucket.gradients[0] = torch.inf
    fast.bucket.add_figures(StepFigures(asked=5))
    assert math.isinf(fast.step(0.1, 0).read().grad_norm)
    assert all(map(torch.equal, before, weights(model)))
    assert scaler.get_scale() == 512.0
    for seed in range(3):  # and goes on as without a scale
        add_loss(model, fast, seed=seed)
        add_loss(plain, unscaled, seed=seed)
        for each in (fast, unscaled):
            each.bucket.add_figures(StepFigures(asked=5))
        assert fast.step(0.1, 0).read().grad_norm == pytest.approx(unscaled.step(0.1, 0).read().grad_norm, rel=1e-5)
    for one, other in zip(weights(model), weights(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert scaler.get_scale() == 1024.0


def test_a_step_reads_nothing_on_the_host() -> None:
    """Forward, backward and update; on the device ``meta`` a tensor made on the CPU would be an error."""
    model = small_model(lora=True)
    set_modes(model)
    trees = [build_answer_chain(PROMPTS[0][n], LABEL_IDS[n + 2], n, "prefix") for n in range(3)]
    stream = pack_stream([trees], "prefix", 3, shape=bucket_shape(trees, 3))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    fast = Updater(model, 1e-3, 0.01, 1.0)
    states = torch.randn(len(stream.input_ids), 32)

    def step(states: Tensor) -> Tensor:
        losses: Tensor = model(stream, text_states=states)
        fast.bucket.add_gradients(losses.sum())
        fast.bucket.figures[0] += losses.detach().sum()
        return losses

    with watch_operations("cpu") as names:
        step(states)
        fast.bucket.sum_over_processes()
        fast.step(1e-3, 0)
    assert "aten::_fused_adamw_" in names and "aten::_foreach_add_" in names
    model.to("meta")
    fast = Updater(model, 1e-3, 0.01, 1.0)
    stream, states = stream.to("meta"), states.to("meta")
    with watch_operations("meta"):
        step(states)


def test_encoding_ahead_reads_nothing_on_the_host() -> None:
    model = small_model(lora=True).to("meta")
    trees = [build_answer_chain(p, [20], n, "prefix") for n, p in enumerate(PROMPTS[0])]
    stream = pack_stream([trees], "prefix", 3).to("meta")
    pixels = clips()[:1].to("meta")
    model.encode_video(pixels)  # moves the table of positions
    with torch.no_grad(), watch_operations("meta"):
        tokens = model.encode_video(pixels)
        model(stream, video_tokens=tokens)


def test_frozen_weights_in_bfloat16_change_no_bit_under_autocast() -> None:
    model = small_model(lora=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trees = [build_answer_chain(p, [22, 24, 25], n, "prefix") for n, p in enumerate(PROMPTS[0])]
    stream = pack_stream([trees], "prefix", 3)

    def losses_and_gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            losses = model(stream, pixel_values=clips()[:1])
        return [losses, *torch.autograd.grad(losses.sum(), [p for p in model.parameters() if p.requires_grad])]

    expected = losses_and_gradients()
    frozen = FrozenWeights(model, torch.bfloat16, ("visual_encoder", "text_encoder", "llm"), keep_originals=True)
    changed = [n for n, t in model.state_dict().items() if t.dtype == torch.bfloat16]
    assert any("visual" in n for n in changed) and any("c_attn.base_layer.weight" in n for n in changed)
    assert not any("lora_" in n or "norm" in n.lower() or "embeddings.word" in n or "lm_head" in n for n in changed)
    assert all(map(torch.equal, expected, losses_and_gradients()))
    with frozen.originals():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name]), name
    assert all(map(torch.equal, expected, losses_and_gradients()))
