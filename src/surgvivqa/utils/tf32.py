"""TF32, the fast format of matrix products in float32 on NVIDIA GPUs since Ampere."""

import contextlib
from collections.abc import Iterator

import torch


def allow_tf32() -> None:
    """Allows TF32 in all float32 matrix products and convolutions of this process on a GPU; no effect on a CPU.

    TF32 rounds the factors to 11 significant bits (float32 has 24, bfloat16 8) and sums in float32.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Context manager in which matrix products in float32 do not use TF32."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
