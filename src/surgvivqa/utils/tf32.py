"""TF32, the fast format of matrix products in float32 on NVIDIA GPUs since Ampere."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def set_tf32(allowed: bool) -> None:
    """Allows TF32 in all float32 matrix products and convolutions of this process on a GPU, or forbids it.

    PyTorch allows it in convolutions by default. It has no effect on a CPU. TF32 rounds the factors to 11 significant
    bits (float32 has 24, bfloat16 8) and sums in float32.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Context manager in which matrix products and convolutions in float32 do not use TF32."""
    flags: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    allowed = [flag.allow_tf32 for flag in flags]
    set_tf32(False)
    try:
        yield
    finally:
        for flag, value in zip(flags, allowed, strict=True):
            flag.allow_tf32 = value
