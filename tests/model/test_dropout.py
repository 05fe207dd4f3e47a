"""The adapters' dropout: the right fraction and scale, the same mask in the backward pass, a function of the seed."""

import pytest
import torch

from surgvivqa.model.dropout import LaneDropout
from tests.helpers.small_models import small_model


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_fraction_and_the_scale(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1003)
    out = LaneDropout(p)(x)
    dropped = (out == 0).double()
    assert float(dropped.mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 1e-5)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)))
    # Neighbours share a random number but must be dropped independently.
    for lag in (1, 2, 3, 4):
        a, b = dropped.flatten()[:-lag] - p, dropped.flatten()[lag:] - p
        assert abs(float((a * b).mean())) < 5 * p * (1 - p) / x.numel() ** 0.5


def test_the_gradient_has_the_same_mask() -> None:
    x = torch.randn(33, 7, requires_grad=True)
    out = LaneDropout(0.3)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, out == 0)


def test_the_seed_decides_and_eval_mode_changes_nothing() -> None:
    dropout, x = LaneDropout(0.5), torch.randn(64)
    torch.manual_seed(1)
    first = dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(dropout(x), first)
    assert dropout.eval()(x) is x


def test_every_adapter_has_it() -> None:
    from surgvivqa.model.configuration import SurgViVQAConfig
    from surgvivqa.model.modeling import SurgViVQAModel

    old = small_model().config
    lora = {"r": 4, "alpha": 8, "dropout": 0.1}
    model = SurgViVQAModel(SurgViVQAConfig(old.video_config, old.text_config, old.decoder_config, lora=lora))
    found = [m for n, m in model.llm.named_modules() if n.endswith("lora_dropout.default")]
    assert len(found) == 6  # c_attn and two c_proj of each of two layers
    assert all(isinstance(m, LaneDropout) and m.p == 0.1 for m in found)
