"""Attention over packed streams, under Transformers' own BLIP and decoder layers.

Every linear layer of the model runs on the stream ``[1, N, hidden]`` of all tokens, without padding. Only attention
depends on the sequences. It pads the stream to one row per sequence ``[S, L, hidden]``, so that its cost is linear in
the number of questions and not quadratic, attends, and unpads the result::

    [1, N, hidden] --pad--> [S, L, hidden] --attention--> [S, L, hidden] --unpad--> [1, N, hidden]

The layout is passed to the attention modules as the attention mask (BLIP) or as an argument of Transformers' attention
interface (decoder). Without an ``AttentionLayout`` both attention functions fall back to Transformers' own;
the tests' reference implementation relies on that.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, BlipTextModel, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

from surgvivqa.data.packing import PackedStream, PaddedLayout

ATTENTION = "surgvivqa_packed"  # the name in Transformers' registry of attention functions
KeysValues = tuple[Tensor, Tensor]


@dataclass
class KVCache:
    """Keys and values of each self-attention, for later tokens of the same sequences.

    Attributes:
        layers: by attention module, keys and values ``[S, heads, L, head size]``.
    """

    layers: dict[nn.Module, KeysValues] = field(default_factory=dict)


@dataclass
class AttentionLayout:
    """How the self-attention of one model pads a stream, and which keys each query sees.

    Attributes:
        padding: the padded layout of the S sequences.
        mask: additive float mask, ``[S, 1, L, L]``, or ``[S, 1, L, C + L]`` if a cache of length C is read.
        write_cache: receives the keys and values of this pass.
        read_cache: keys and values of an earlier pass, which precede those of this pass.
        read_rows: ``[S]`` int64, the row of ``read_cache`` that each sequence continues.
    """

    padding: PaddedLayout
    mask: Tensor
    write_cache: KVCache | None = None
    read_cache: KVCache | None = None
    read_rows: Tensor | None = None


class CrossAttentionCache:
    """Video tokens for cross-attention, with each layer's keys and values of them.

    Args:
        tokens: video tokens ``[F, V, hidden]`` float.
        reuse: whether each layer's keys and values are computed once and kept for later streams.
        record_weights: whether cross-attention computes its softmax explicitly and keeps it in ``weights``, with
            gradients if they are enabled. Takes more time and memory than the fused kernel; the outputs are the same
            to rounding.

    Attributes:
        layers: by attention module, keys and values ``[F, heads, V, head size]``.
        frames: the padded layout of the current stream's F frames.
        projection: the layer that is applied to the video tokens before cross-attention; None for no layer.
        weights: by attention module, its weights ``[F, heads, L, V]`` of the current stream; None unless they are
            recorded.
    """

    def __init__(self, tokens: Tensor, *, reuse: bool = False, record_weights: bool = False) -> None:
        self.tokens, self.reuse = tokens, reuse
        self.weights: dict[nn.Module, Tensor] | None = {} if record_weights else None
        self.layers: dict[nn.Module, KeysValues] = {}
        self.frames: PaddedLayout | None = None
        self.projection: nn.Module | None = None
        self._projected: Tensor | None = None

    def for_stream(self, frames: PaddedLayout, projection: nn.Module | None = None) -> "CrossAttentionCache":
        """Prepares this cache for one stream, in place, and returns it.

        Args:
            frames: the padded layout of the stream's tokens by frame.
            projection: applied to the video tokens if the encoders' widths differ.

        Raises:
            ValueError: the stream and the video tokens have different numbers of frames, which Transformers' BLIP would
                broadcast silently.
        """
        if frames.num_groups != self.tokens.shape[0]:
            raise ValueError(
                f"the stream has {frames.num_groups} frames, but the video tokens have {self.tokens.shape[0]}"
            )
        self.frames, self.projection, self._projected = frames, projection, None
        return self

    def select_frame(self, index: int) -> "CrossAttentionCache":
        """A cache of one frame ``[1, V, hidden]``, with the keys and values computed so far."""
        if len(self.tokens) == 1:
            return self
        part = slice(index, index + 1)
        selected = CrossAttentionCache(self.tokens[part], reuse=True)
        selected.layers = {attention: (key[part], value[part]) for attention, (key, value) in self.layers.items()}
        return selected

    def keys_values(self, attention: BlipTextSelfAttention) -> KeysValues:
        """Keys and values ``[F, heads, V, head size]`` of one layer."""
        if attention in self.layers:
            return self.layers[attention]
        if self._projected is None:
            self._projected = self.tokens if self.projection is None else self.projection(self.tokens)
        heads = attention.num_attention_heads
        key = _split_heads(attention.key(self._projected), heads)
        value = _split_heads(attention.value(self._projected), heads)
        if self.reuse:
            self.layers[attention] = (key, value)
        return key, value


class PackedBlipAttention(BlipTextSelfAttention):
    """BLIP's self- or cross-attention over packed streams, with PyTorch's fused kernel.

    The parameters are those of ``BlipTextSelfAttention``, whose forward has only eager attention.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends over a packed stream; as in Transformers if the mask is not an ``AttentionLayout``.

        Args:
            hidden_states: ``[1, N, hidden]`` float.
            attention_mask: an ``AttentionLayout``.
            encoder_hidden_states: a ``CrossAttentionCache`` for cross-attention; None for self-attention.
            *args: passed on to Transformers' forward.
            **kwargs: passed on to Transformers' forward.

        Returns:
            Outputs ``[1, N, hidden]``, and None instead of attention weights.
        """
        if not isinstance(attention_mask, AttentionLayout):
            output: tuple[Tensor, Tensor] = super().forward(
                hidden_states, attention_mask, encoder_hidden_states, *args, **kwargs
            )
            return output
        heads = self.num_attention_heads
        query = self.query(hidden_states)
        dropout = self.dropout.p if self.training else 0.0
        if isinstance(encoder_hidden_states, CrossAttentionCache):
            key, value = encoder_hidden_states.keys_values(self)
            frames = encoder_hidden_states.frames
            assert frames is not None
            query = _split_heads(pad(query.squeeze(0), frames), heads)
            if encoder_hidden_states.weights is None:
                context = scaled_dot_product_attention(query, key, value, dropout_p=dropout)
            else:
                weights = attention_weights(query, key)
                encoder_hidden_states.weights[self] = weights
                context = weights @ value
            return unpad(_merge_heads(context), frames).unsqueeze(0), None
        padding = attention_mask.padding
        key, value = self.key(hidden_states), self.value(hidden_states)
        query, key, value = (_split_heads(pad(x.squeeze(0), padding), heads) for x in (query, key, value))
        context = _self_attention(self, query, key, value, attention_mask, dropout, None)
        return unpad(_merge_heads(context), padding).unsqueeze(0), None


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """The weights ``[G, heads, L, K]`` with which queries ``[G, heads, L, d]`` attend to keys ``[G, heads, K, d]``.

    With gradients enabled the weights require one even if nothing before them does, so that an output can be
    differentiated by them although all parameters are frozen.
    """
    weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)
    return weights.requires_grad_() if torch.is_grad_enabled() and not weights.requires_grad else weights


def install_packed_attention(text_encoder: BlipTextModel, decoder: PreTrainedModel) -> None:
    """Makes a text encoder and a decoder attend over packed streams; parameters and their names stay the same.

    GPT-2's activation, which takes eight passes over memory in Transformers, is replaced by PyTorch's fused one with
    the same formula. With cached text states this saves 11% of a training step.
    """
    for layer in text_encoder.encoder.layer:
        for attention in (layer.attention, layer.crossattention):
            attention.self.__class__ = PackedBlipAttention
    decoder.set_attn_implementation(ATTENTION)
    for module in list(decoder.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def build_layouts(packed: PackedStream, dtype: torch.dtype) -> tuple[AttentionLayout, AttentionLayout]:
    """Builds the text encoder's and the decoder's layout of a stream, with additive masks in ``dtype``."""
    text, decoder = (_additive_mask(mask, dtype) for mask in (packed.text_mask, packed.decoder_mask))
    return AttentionLayout(packed.sequences, text), AttentionLayout(packed.sequences, decoder)


def pad(stream: Tensor, layout: PaddedLayout) -> Tensor:
    """Pads a stream ``[N, hidden]`` to ``[G, L, hidden]``; padding slots repeat the first token."""
    padded = _PadTokens.apply(stream, layout.source, layout.slots) if layout.has_padding else stream
    return padded.view(layout.num_groups, -1, stream.shape[-1])


def unpad(padded: Tensor, layout: PaddedLayout) -> Tensor:
    """Removes the padding of ``[G, L, hidden]``, to ``[N, hidden]``; the inverse of ``pad``."""
    flat = padded.flatten(0, 1)
    return _UnpadTokens.apply(flat, layout.slots) if layout.has_padding else flat


class _PadTokens(torch.autograd.Function):
    """Gathers tokens into slots; the backward gathers the gradient from the slots.

    The backward of ``index_select`` would sum over slots that repeat a token, which is slow and not needed: a padding
    slot has a zero gradient, because its key and value are masked and its query's result is not used.
    """

    @staticmethod
    def forward(ctx: Any, stream: Tensor, source: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return stream.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grads[0].index_select(0, slots), None, None


class _UnpadTokens(torch.autograd.Function):
    """Gathers tokens from distinct slots; the gradient of a padding slot is zero."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.num_slots = flat.shape[0]
        return flat.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        gradient = grads[0].new_zeros(ctx.num_slots, grads[0].shape[1])
        return gradient.index_copy_(0, slots, grads[0]), None


def _decoder_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: AttentionLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: ``[1, heads, N, head size]`` in, ``[1, N, heads, head size]`` out."""
    if layout is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    unsupported = [name for name in ("s_aux", "softcap") if kwargs.get(name) is not None]
    if unsupported:
        raise ValueError(f"its attention has {', '.join(unsupported)}, which packed streams do not support")
    # With grouped queries there are fewer key and value heads than query heads.
    num_heads, head_size = query.shape[1], query.shape[3]
    query, key, value = (
        _split_heads(pad(x.transpose(1, 2).flatten(2).squeeze(0), layout.padding), x.shape[1])
        for x in (query, key, value)
    )
    context = _self_attention(module, query, key, value, layout, dropout, scaling)
    return unpad(_merge_heads(context), layout.padding).view(1, -1, num_heads, head_size), None


def _self_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: AttentionLayout,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Attention within the sequences, ``[S, heads, L, head size]``, with the layout's caches."""
    if layout.write_cache is not None:
        layout.write_cache.layers[module] = (key, value)
    if layout.read_cache is not None:
        cached_key, cached_value = layout.read_cache.layers[module]
        key = torch.cat([cached_key[layout.read_rows], key], dim=2)
        value = torch.cat([cached_value[layout.read_rows], value], dim=2)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=layout.mask.to(query.dtype),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _split_heads(padded: Tensor, heads: int) -> Tensor:
    """Reshapes ``[G, L, hidden]`` to ``[G, heads, L, head size]``."""
    return padded.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge_heads(padded: Tensor) -> Tensor:
    """Reshapes ``[G, heads, L, head size]`` to ``[G, L, hidden]``."""
    return padded.transpose(1, 2).flatten(2)


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts a mask ``[S, L, K]`` bool, True for visible keys, to an additive one ``[S, 1, L, K]``."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf).unsqueeze(1)


AttentionInterface.register(ATTENTION, _decoder_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
