"""The adapters' dropout: its fraction and scale, its mask in the backward pass, and its seed."""

import pytest
import torch

from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.dropout import LaneDropout
from surgvivqa.model.modeling import SurgViVQAModel
from tests.helpers.small_models import small_model


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_dropped_fraction_is_p_and_the_rest_is_scaled(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1003)
    out = LaneDropout(p)(x)
    dropped = (out == 0).double()
    assert float(dropped.mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 1e-5)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)))
    # Neighbouring elements share a random number but must be dropped independently.
    for lag in (1, 2, 3, 4):
        a, b = dropped.flatten()[:-lag] - p, dropped.flatten()[lag:] - p
        assert abs(float((a * b).mean())) < 5 * p * (1 - p) / x.numel() ** 0.5


def test_the_gradient_has_the_mask_of_the_output() -> None:
    x = torch.randn(33, 7, requires_grad=True)
    out = LaneDropout(0.3)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, out == 0)


def test_the_mask_depends_on_the_seed() -> None:
    dropout, x = LaneDropout(0.5), torch.randn(64)
    torch.manual_seed(1)
    first = dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(dropout(x), first)


def test_eval_mode_is_the_identity() -> None:
    x = torch.randn(64)
    assert LaneDropout(0.5).eval()(x) is x


def test_every_adapter_has_this_dropout() -> None:
    old = small_model().config
    lora = {"r": 4, "alpha": 8, "dropout": 0.1}
    model = SurgViVQAModel(SurgViVQAConfig(old.video_config, old.text_config, old.decoder_config, lora=lora))
    modules = [m for n, m in model.llm.named_modules() if n.endswith("lora_dropout.default")]
    assert len(modules) == 6  # c_attn and two c_proj in each of two layers
    assert all(isinstance(m, LaneDropout) and m.p == 0.1 for m in modules)
