"""Differences between causal language models: layers, LoRA's targets, and support of packed streams."""

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from surgvivqa.data.packing import PromptTree, pack_stream
from surgvivqa.model.attention import AttentionLayout, build_layouts
from surgvivqa.utils.errors import InputError, first_line

_GPT2_TARGETS = ["c_attn", "c_proj"]  # as published; c_proj is in the attention and in the MLP
_LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
_TOLERANCE = 1e-3  # for packed logits, relative to the largest logit
_FORWARD_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError)


def output_layer(decoder: PreTrainedModel) -> nn.Module:
    """The layer that computes logits ``[..., vocabulary]`` from hidden states ``[..., hidden]``."""
    layer: nn.Module = decoder.get_output_embeddings()
    return layer


def decoder_layers(decoder: PreTrainedModel) -> nn.ModuleList:
    """The decoder's transformer layers, from first to last.

    Raises:
        InputError: the decoder has no list of layers.
    """
    lists = [m for m in decoder.base_model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise InputError(f"A {decoder.config.model_type} decoder has no list of layers; take another --decoder-model.")
    count = getattr(decoder.config, "num_hidden_layers", None)
    return max(lists, key=lambda layers: (len(layers) == count, len(layers)))


def lora_targets(decoder: PreTrainedModel) -> list[str]:
    """The names of the modules that LoRA adapts in a decoder.

    These are the published ones for GPT-2, the four attention projections for Llama-like decoders, PEFT's default for
    other model types, and all linear modules of the layers for model types that PEFT does not list.

    Raises:
        InputError: PEFT does not list the model type, and the decoder has no list of layers.
    """
    model_type = decoder.config.model_type
    if model_type == "gpt2":
        return list(_GPT2_TARGETS)
    names = {name.rpartition(".")[2] for name, _ in decoder.named_modules()}
    if names.issuperset(_LLAMA_TARGETS):
        return list(_LLAMA_TARGETS)
    if model_type in PEFT_TARGETS:
        return list(PEFT_TARGETS[model_type])
    modules = decoder_layers(decoder).named_modules()
    # PEFT names an adapted linear module "base_layer".
    linear = [name for name, m in modules if isinstance(m, nn.Linear | Conv1D) and ".lora_" not in name]
    return sorted({name.removesuffix(".base_layer").rpartition(".")[2] for name in linear})


def is_transposed(decoder: PreTrainedModel, targets: list[str]) -> bool:
    """Whether the targets store their weights as ``[in, out]``, as GPT-2's ``Conv1D`` does."""
    return any(isinstance(m, Conv1D) for n, m in decoder.named_modules() if n.rpartition(".")[2] in targets)


def run_decoder(decoder: PreTrainedModel, states: Tensor, position_ids: Tensor, layout: AttentionLayout) -> Tensor:
    """Runs a decoder on a packed stream of input embeddings.

    Args:
        decoder: the decoder, after ``attention.install_packed_attention``.
        states: input embeddings ``[N, hidden]`` float.
        position_ids: ``[N]`` int64.
        layout: the decoder's layout of the stream.

    Returns:
        The last hidden states ``[N, hidden]``, before the output layer.
    """
    result: Tensor = decoder.base_model(
        inputs_embeds=states.unsqueeze(0),
        position_ids=position_ids.unsqueeze(0),
        attention_mask=states.new_empty(1, 1, 1, 1),  # not used, but without it Transformers builds a mask
        layout=layout,
        use_cache=False,
    ).last_hidden_state.squeeze(0)
    return result


def _draw_probe_ids(decoder: PreTrainedModel) -> list[Tensor]:
    """Random token ids of two sequences, ``[5]`` and ``[8]`` int64."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = decoder.get_input_embeddings().weight.shape[0]
    return [torch.randint(vocab_size, (length,), generator=generator) for length in (5, 8)]


@torch.no_grad()
def reference_logits(decoder: PreTrainedModel, name: str) -> Tensor:
    """Computes the logits of two short sequences one at a time, with eager attention, for ``check_packing``.

    Args:
        decoder: the decoder in eval mode, before ``attention.install_packed_attention``.
        name: the decoder's name, for error messages.

    Returns:
        Logits ``[13, vocabulary]`` float.

    Raises:
        InputError: the decoder does not accept embeddings instead of token ids.
    """
    implementation = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    embeddings = decoder.get_input_embeddings().weight
    try:
        inputs = [embeddings[ids].unsqueeze(0) for ids in _draw_probe_ids(decoder)]
        return torch.cat([decoder(inputs_embeds=embeds, use_cache=False).logits[0] for embeds in inputs])
    except _FORWARD_ERRORS as error:
        raise _packing_error(decoder, name, error) from error
    finally:
        decoder.set_attn_implementation(implementation)


@torch.no_grad()
def check_packing(decoder: PreTrainedModel, name: str, max_length: int, reference: Tensor) -> None:
    """Checks that two short sequences have the same logits packed as one at a time.

    It detects decoders whose attention bypasses Transformers' interface, has sinks or soft caps, uses another kind of
    position, or that change their logits after the output layer. Their results would be wrong without an error.

    Args:
        decoder: the decoder in eval mode, after ``attention.install_packed_attention``.
        name: the decoder's name, for error messages.
        max_length: maximum sequence length in tokens.
        reference: ``[13, vocabulary]``, from ``reference_logits``.

    Raises:
        InputError: the logits differ, or a sliding window is shorter than ``max_length``.
    """
    config = decoder.config
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < max_length:
        raise InputError(
            f"--decoder-model {name} attends to the last {window} tokens only, but --max-length is {max_length}; take "
            f"a --max-length of at most {window}, or another decoder."
        )
    decoder_layers(decoder)
    prompts = [PromptTree(ids.tolist(), (), (), (), n) for n, ids in enumerate(_draw_probe_ids(decoder))]
    packed = pack_stream([prompts], "causal", len(prompts))
    try:
        states = decoder.get_input_embeddings().weight[packed.input_ids]
        hidden = run_decoder(decoder, states, packed.position_ids, build_layouts(packed, states.dtype)[1])
        logits = output_layer(decoder)(hidden)
    except _FORWARD_ERRORS as error:
        raise _packing_error(decoder, name, error) from error
    difference = float((logits - reference).abs().max() / reference.abs().max().clamp(min=1))
    if not difference < _TOLERANCE:
        raise InputError(
            f"--decoder-model {name}, a {config.model_type} model, has other logits in a packed stream than for one "
            f"sequence at a time (by {difference:.2g}), so its results would be wrong; take a decoder such as GPT-2, "
            f"Llama or Qwen3."
        )


def _packing_error(decoder: PreTrainedModel, name: str, error: BaseException) -> InputError:
    return InputError(
        f"--decoder-model {name}, a {decoder.config.model_type} model, cannot run a packed stream "
        f"({first_line(error)}); take a decoder such as GPT-2, Llama or Qwen3."
    )
