"""Frozen weights in the dtype of the computation, so that autocast does not cast them in every pass."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from surgvivqa.model.decoders import output_layer

_CAST_BY_AUTOCAST = (nn.Linear, nn.Conv3d, Conv1D)


class FrozenWeights:
    """The frozen weights of a model's matrix products, held in the dtype that autocast would cast them to.

    Under autocast the results are the same, bit for bit. Norms, embeddings and the output layer, which run in float32,
    and trained parameters stay as they are.

    Args:
        model: a ``SurgViVQAModel``; changed in place.
        dtype: bfloat16 or float16.
        parts: attribute names of the parts to change; a part that also runs in float32, to fill a cache, is left out.
        keep_originals: keep the weights in float32 too, in the memory of the CPU, for ``originals``.
    """

    def __init__(self, model: Any, dtype: torch.dtype, parts: Collection[str], *, keep_originals: bool = False) -> None:
        self._originals: list[tuple[nn.Parameter, Tensor]] = []
        output = output_layer(model.decoder).weight
        for part in parts:
            for module in getattr(model, part).modules():
                if not isinstance(module, _CAST_BY_AUTOCAST):
                    continue
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad or parameter is output or parameter.dtype != torch.float32:
                        continue
                    if keep_originals:
                        self._originals.append((parameter, parameter.data.cpu()))
                    parameter.data = parameter.data.to(dtype)

    @contextlib.contextmanager
    def originals(self) -> Iterator[None]:
        """Context manager in which the model has its weights in float32, on the CPU, to save them."""
        held = [(parameter, parameter.data) for parameter, _ in self._originals]
        try:
            for parameter, original in self._originals:
                parameter.data = original
            yield
        finally:
            for parameter, data in held:
                parameter.data = data


_PARTS = ("text_encoder", "llm", "video_projection", "text_projection")


def hold_weights(model: Any, dtype: torch.dtype, *, fills_cache: bool = False) -> None:
    """Freezes a model for inference and holds its weights in the dtype of its matrix products.

    Args:
        model: a ``SurgViVQAModel`` on its device; changed in place.
        dtype: the dtype of matrix products; for float32 the weights are not changed.
        fills_cache: whether the video encoder fills a cache, which it does in float32.
    """
    model.requires_grad_(False)
    if dtype != torch.float32:
        parts = [part for part in _PARTS if getattr(model, part) is not None]
        FrozenWeights(model, dtype, parts if fills_cache else [*parts, "visual_encoder"])


def autocast(model: Any, dtype: torch.dtype) -> torch.autocast:
    """The context manager in which a model whose weights are held in ``dtype`` must run."""
    is_16_bit = dtype != torch.float32
    return torch.autocast(model.device.type, dtype if is_16_bit else torch.bfloat16, is_16_bit)
