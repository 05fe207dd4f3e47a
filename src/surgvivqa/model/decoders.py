"""What differs among causal language models: where their parts lie, what LoRA adapts, and whether packed rows fit."""

from typing import Any

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from surgvivqa.data.packing import PromptTree, pack_stream
from surgvivqa.model.attention import build_layouts
from surgvivqa.utils.errors import InputError, first_line

_GPT2_TARGETS = ["c_attn", "c_proj"]  # c_proj is both the attention's and the MLP's, as published
_LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
_TOLERANCE = 1e-3
_FAULTS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError)


def backbone(decoder: Any) -> Any:
    """A causal language model without its output layer."""
    return decoder.base_model


def output_layer(decoder: Any) -> nn.Module:
    """The layer from hidden states to logits."""
    layer: nn.Module = decoder.get_output_embeddings()
    return layer


def decoder_layers(decoder: Any) -> nn.ModuleList:
    """The layers, first to last.

    Raises:
        InputError: there is no list of layers.
    """
    lists = [m for m in backbone(decoder).modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise InputError(f"A {decoder.config.model_type} decoder has no list of layers; take another --decoder-model.")
    count = getattr(decoder.config, "num_hidden_layers", None)
    return max(lists, key=lambda layers: (len(layers) == count, len(layers)))


def lora_targets(decoder: Any) -> list[str]:
    """Names of the modules that LoRA adapts in a decoder of this kind: GPT-2's as published, the four attention
    projections of Llama-like decoders, else PEFT's own choice for the kind, else all linear layers of its layers."""
    kind = decoder.config.model_type
    if kind == "gpt2":
        return list(_GPT2_TARGETS)
    names = {name.rpartition(".")[2] for name, _ in decoder.named_modules()}
    if names.issuperset(_LLAMA_TARGETS):
        return list(_LLAMA_TARGETS)
    if kind in PEFT_TARGETS:
        return list(PEFT_TARGETS[kind])
    inner = decoder_layers(decoder).named_modules()
    # Under adapters the layer itself has gone one level down.
    linear = [n for n, m in inner if isinstance(m, nn.Linear | Conv1D) and ".lora_" not in n]
    return sorted({n.removesuffix(".base_layer").rpartition(".")[2] for n in linear})


def is_transposed(decoder: Any, targets: list[str]) -> bool:
    """Whether the targets keep their weights as ``[in, out]``, as GPT-2 does."""
    return any(isinstance(m, Conv1D) for n, m in decoder.named_modules() if n.rpartition(".")[2] in targets)


def run_decoder(decoder: Any, states: Tensor, positions: Tensor, layout: Any) -> Tensor:
    """Last hidden states ``[N, hidden]`` of a stream of input states ``[N, hidden]`` at ``positions`` ``[N]``."""
    result: Tensor = backbone(decoder)(
        inputs_embeds=states.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        attention_mask=states.new_empty(1, 1, 1, 1),  # given, so that none is made: the layout says who sees whom
        layout=layout,
        use_cache=False,
    ).last_hidden_state[0]
    return result


def _probe(decoder: Any) -> list[Tensor]:
    """Token ids of two short sequences."""
    generator = torch.Generator().manual_seed(0)
    rows = decoder.get_input_embeddings().weight.shape[0]
    return [torch.randint(rows, (length,), generator=generator) for length in (5, 8)]


@torch.no_grad()
def reference_logits(decoder: Any, name: str) -> Tensor:
    """Logits of two short sequences, one by one, by the attention that Transformers' authors wrote out for the kind;
    for ``check_packing``, before ``attention.install_packed_attention``.

    Raises:
        InputError: the decoder takes no embeddings in the place of token ids.
    """
    usual = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    words = decoder.get_input_embeddings().weight
    try:
        return torch.cat(
            [decoder(inputs_embeds=words[ids].unsqueeze(0), use_cache=False).logits[0] for ids in _probe(decoder)]
        )
    except _FAULTS as error:
        raise _cannot(decoder, name, error) from error
    finally:
        decoder.set_attn_implementation(usual)


@torch.no_grad()
def check_packing(decoder: Any, name: str, max_length: int, plain: Tensor) -> None:
    """Runs two short sequences packed; the logits must be those that they have one by one.

    A decoder whose attention does not go through Transformers' interface, has sinks or caps that ours has not, has
    another kind of position, or that changes its logits after the output layer, would give wrong numbers in silence.

    Args:
        decoder: in eval mode, with ``attention.install_packed_attention`` done.
        name: what to call it.
        max_length: the longest sequence it will meet, in tokens.
        plain: of ``reference_logits``.

    Raises:
        InputError: they differ, or a sliding window is shorter than ``max_length``.
    """
    config = decoder.config
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < max_length:
        raise InputError(
            f"--decoder-model {name} looks back over {window} tokens only, but --max-length is {max_length}; take a "
            f"--max-length of at most {window}, or another decoder."
        )
    decoder_layers(decoder)
    blocks = [PromptTree(ids.tolist(), (), (), (), n) for n, ids in enumerate(_probe(decoder))]
    packed = pack_stream([blocks], "causal", len(blocks))
    try:
        states = decoder.get_input_embeddings().weight[packed.input_ids]
        ours = run_decoder(decoder, states, packed.position_ids, build_layouts(packed, states.dtype)[1])
        fast = output_layer(decoder)(ours)
    except _FAULTS as error:
        raise _cannot(decoder, name, error) from error
    # Where the largest logit is small, a difference is measured against 1.
    gap = float((fast - plain).abs().max() / plain.abs().max().clamp(min=1))
    if not gap < _TOLERANCE:
        raise InputError(
            f"--decoder-model {name}, a {config.model_type} model, gives other logits for packed rows than one by one "
            f"(by {gap:.2g}), so its figures would be wrong; take a decoder such as GPT-2, Llama or Qwen3."
        )


def _cannot(decoder: Any, name: str, error: BaseException) -> InputError:
    return InputError(
        f"--decoder-model {name}, a {decoder.config.model_type} model, cannot run packed rows ({first_line(error)}); "
        f"take a decoder such as GPT-2, Llama or Qwen3."
    )
