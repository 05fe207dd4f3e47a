"""Attention over packed streams, put under Transformers' own BLIP and decoder layers.

Every linear layer of a model runs on the stream ``[1, N, hidden]`` of all tokens, without padding. Attention alone has
to know which tokens belong together: it lays the stream out as a grid of blocks ``[B, L]``, so that its cost grows with
the number of questions and not with its square, and puts the result back.

Without an ``AttentionLayout`` both hooks do what Transformers does, which the tests use as their oracle.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, BlipTextModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

from surgvivqa.data.packing import PackedStream, PaddedLayout

ATTENTION = "surgvivqa_blocks"
KeysValues = tuple[Tensor, Tensor]


@dataclass
class KVCache:
    """Keys and values of each self-attention ``[B, heads, L, head]``, kept so that later tokens can look back."""

    kept: dict[nn.Module, KeysValues] = field(default_factory=dict)


@dataclass
class AttentionLayout:
    """How one model lays a stream out: the grid of blocks, and the additive mask ``[B, 1, L, past + L]``.

    ``keep`` is filled with this pass's keys and values; ``past``, of an earlier pass, comes before this pass's own, row
    ``past_rows[b]`` of it for block b.
    """

    grid: PaddedLayout
    mask: Tensor
    keep: KVCache | None = None
    past: KVCache | None = None
    past_rows: Tensor | None = None


class CrossAttentionCache:
    """Video tokens ``[F, V, hidden]`` and, with ``reuse``, each cross-attention's keys and values of them, made once.

    ``frames`` says which tokens of the stream look at which frame.
    """

    def __init__(self, tokens: Tensor, *, reuse: bool = False) -> None:
        self.tokens, self.reuse = tokens, reuse
        self.kept: dict[nn.Module, KeysValues] = {}
        self.frames: PaddedLayout | None = None
        self.projection: nn.Module | None = None
        self._seen: Tensor | None = None

    def viewed_by(self, frames: PaddedLayout, projection: nn.Module | None = None) -> "CrossAttentionCache":
        """The same memory for another stream, seen through ``projection`` where the encoders' widths differ.

        Raises:
            ValueError: stream and video tokens differ in their number of frames (Transformers' BLIP would spread one
                row's video tokens over the others in silence).
        """
        if frames.groups != self.tokens.shape[0]:
            raise ValueError(f"{frames.groups} rows of text but {self.tokens.shape[0]} of video tokens")
        self.frames, self.projection, self._seen = frames, projection, None
        return self

    def frame(self, index: int) -> "CrossAttentionCache":
        """The memory of one frame, with what was made of it so far."""
        if len(self.tokens) == 1:
            return self
        part = slice(index, index + 1)
        one = CrossAttentionCache(self.tokens[part], reuse=True)
        one.kept = {attention: (key[part], value[part]) for attention, (key, value) in self.kept.items()}
        return one

    def keys_values(self, attention: BlipTextSelfAttention) -> KeysValues:
        """Keys and values ``[F, heads, V, head]`` of one layer."""
        if attention in self.kept:
            return self.kept[attention]
        if self._seen is None:
            self._seen = self.tokens if self.projection is None else self.projection(self.tokens)
        heads = attention.num_attention_heads
        made = (_heads(attention.key(self._seen), heads), _heads(attention.value(self._seen), heads))
        if self.reuse:
            self.kept[attention] = made
        return made


class BlockSelfAttention(BlipTextSelfAttention):
    """BLIP's attention, which in Transformers is eager alone, for packed streams and through PyTorch's fused kernel.

    It is the same module with the same parameters; an ``AttentionLayout`` or a ``CrossAttentionCache``
    adds the packed path.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """``[1, N, hidden]`` to ``[1, N, hidden]``; with plain tensors as masks, Transformers' own forward."""
        if not isinstance(attention_mask, AttentionLayout):
            stock: tuple[Tensor, Tensor] = super().forward(
                hidden_states, attention_mask, encoder_hidden_states, *args, **kwargs
            )
            return stock
        heads = self.num_attention_heads
        query = self.query(hidden_states)
        dropout = self.dropout.p if self.training else 0.0
        if isinstance(encoder_hidden_states, CrossAttentionCache):
            key, value = encoder_hidden_states.keys_values(self)
            grid = encoder_hidden_states.frames
            assert grid is not None
            seen = scaled_dot_product_attention(_heads(pad(query[0], grid), heads), key, value, dropout_p=dropout)
            return unpad(_merged(seen), grid).unsqueeze(0), None
        key, value = self.key(hidden_states), self.value(hidden_states)
        query, key, value = (_heads(pad(x[0], attention_mask.grid), heads) for x in (query, key, value))
        seen = _attend(self, query, key, value, attention_mask, dropout, None)
        return unpad(_merged(seen), attention_mask.grid).unsqueeze(0), None


def install_packed_attention(text_encoder: BlipTextModel, decoder: Any) -> None:
    """Puts both hooks under a text encoder and a decoder; their parameters and names stay as they are.

    GPT-2's activation, in Transformers eight passes over memory, becomes PyTorch's one of the same formula.
    """
    for layer in text_encoder.encoder.layer:
        for attention in (layer.attention, layer.crossattention):
            attention.self.__class__ = BlockSelfAttention
    decoder.set_attn_implementation(ATTENTION)
    for module in list(decoder.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def layouts(packed: PackedStream, dtype: torch.dtype) -> tuple[AttentionLayout, AttentionLayout]:
    """The text encoder's and the decoder's layout of a stream."""
    text, decoder = (_additive(mask, dtype) for mask in (packed.text_mask, packed.decoder_mask))
    return AttentionLayout(packed.blocks, text), AttentionLayout(packed.blocks, decoder)


def pad(stream: Tensor, grid: PaddedLayout) -> Tensor:
    """``[N, hidden]`` to ``[G, L, hidden]``; empty places repeat some token."""
    laid = stream if grid.full else _Take.apply(stream, grid.source, grid.slots)
    return laid.view(grid.groups, -1, stream.shape[-1])


def unpad(laid: Tensor, grid: PaddedLayout) -> Tensor:
    """``[G, L, hidden]`` to ``[N, hidden]``: what ``pad`` did, undone."""
    flat = laid.flatten(0, 1)
    return flat if grid.full else _Collect.apply(flat, grid.slots)


class _Take(torch.autograd.Function):
    """Rows by index, where the gradient of the empty places is known to be nothing: their keys and values are hidden,
    their queries' results dropped. So the gradient is rows by index again, and not a slow sum over indices."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, source: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return stream.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grads[0].index_select(0, slots), None, None


class _Collect(torch.autograd.Function):
    """Rows by distinct indices; the gradient of the rows left out is zero."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.rows = flat.shape[0]
        return flat.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        whole = grads[0].new_zeros(ctx.rows, grads[0].shape[1])
        return whole.index_copy_(0, slots, grads[0]), None


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
    """Transformers' attention interface: ``[1, heads, N, head]`` in, ``[1, N, heads, head]`` out."""
    if layout is None:
        stock: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return stock
    odd = [k for k in ("s_aux", "softcap") if kwargs.get(k) is not None]
    if odd:
        raise ValueError(f"its attention has {', '.join(odd)}, which packed rows have not")
    laid = [
        _heads(pad(x.transpose(1, 2).flatten(2)[0], layout.grid), x.shape[1]) for x in (query, key, value)
    ]  # fewer key than query heads (grouped queries) stay as they are
    seen = _attend(module, laid[0], laid[1], laid[2], layout, dropout, scaling)
    return unpad(_merged(seen), layout.grid).view(1, -1, query.shape[1], query.shape[3]), None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: AttentionLayout,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    if layout.keep is not None:
        layout.keep.kept[module] = (key, value)
    if layout.past is not None:
        old_key, old_value = layout.past.kept[module]
        key = torch.cat([old_key[layout.past_rows], key], dim=2)
        value = torch.cat([old_value[layout.past_rows], value], dim=2)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=layout.mask.to(query.dtype),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _heads(laid: Tensor, heads: int) -> Tensor:
    """``[G, L, hidden]`` to ``[G, heads, L, head]``."""
    return laid.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merged(laid: Tensor) -> Tensor:
    """``[G, heads, L, head]`` to ``[G, L, hidden]``."""
    return laid.transpose(1, 2).flatten(2)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """``[B, L, K]`` bool to an additive ``[B, 1, L, K]``."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf).unsqueeze(1)


AttentionInterface.register(ATTENTION, _decoder_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
