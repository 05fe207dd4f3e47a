"""The precision of ``eval`` and ``predict``: float32, or matrix products in 16 bits with weights that are held so."""

import torch

from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.precision import autocast, hold_weights
from surgvivqa.utils.distributed import check_precision


def compute_dtype(fp16: bool, bf16: bool) -> torch.dtype:
    """The dtype of matrix products.

    Raises:
        InputError: both flags are given, or fp16 without a GPU.
    """
    check_precision(fp16, bf16)
    return torch.float16 if fp16 else torch.bfloat16 if bf16 else torch.float32


def prepare_inference(model: SurgViVQAModel, dtype: torch.dtype, *, fills_cache: bool = False) -> torch.autocast:
    """Freezes a model, holds its weights in a dtype, and returns the context manager in which it must run.

    The results are those of autocast alone, without its casts in every pass and with half the memory.

    Args:
        model: the model, on its device; changed in place.
        dtype: the dtype of matrix products; for float32 nothing is changed.
        fills_cache: whether the video encoder fills a cache, which it does in float32.
    """
    hold_weights(model, dtype, fills_cache=fills_cache)
    return autocast(model, dtype)
