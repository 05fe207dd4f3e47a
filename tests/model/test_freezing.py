"""Training and eval modes of frozen parts, and activation checkpointing."""

import pytest
import torch
from torch import nn

from surgvivqa.data.packing import pack_training
from surgvivqa.model.freezing import checkpoint_activations, set_modes
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model


def gradients(checkpointing: bool, lora: bool) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of one step, and the number of calls of the decoder's first attention."""
    model = small_model(lora)
    if lora:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    if checkpointing:
        checkpoint_activations(model)
    set_modes(model)
    calls = []
    model.decoder.transformer.h[0].attn.register_forward_hook(lambda *_: calls.append(1))
    packed = pack_training(PROMPTS, [[LABEL_IDS[c] for c in row] for row in ([3, 0, 5], [2])], "prefix")
    model(packed, pixel_values=clips()).mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.parametrize("lora", [False, True])
def test_activation_checkpointing_does_not_change_gradients(lora: bool) -> None:
    expected, calls = gradients(False, lora)
    recomputed, recomputed_calls = gradients(True, lora)
    assert (calls, recomputed_calls) == (1, 2)
    assert expected.keys() == recomputed.keys()
    for name in expected:
        torch.testing.assert_close(expected[name], recomputed[name], rtol=0, atol=1e-7, msg=name)


def test_dropout_is_off_in_frozen_parts_and_on_in_adapters() -> None:
    model = small_model(lora=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    set_modes(model)
    active = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.training]
    assert all("lora_dropout" in n for n in active)
    assert not model.text_encoder.training
    assert not model.visual_encoder.training
