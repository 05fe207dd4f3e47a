"""How far bf16 losses are from float32 ones, for the reference implementation and the project, at full size on a CPU.

    python -m benchmarks.bf16_accuracy [--cuda-list]

Both have the same weights and see the same questions about one frame. ``--cuda-list`` keeps the operations in float32
that CUDA's autocast keeps there, which is a longer list than the CPU's. Takes about a minute on two cores.
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import reference
from benchmarks.models import build_model, make_clip
from benchmarks.project_model import MASK
from benchmarks.questions import make_questions
from surgvivqa.data.packing import pack_training

QUESTIONS, LENGTH = 24, 40  # the reference implementation pads its sequences to LENGTH tokens


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without autocast, on tensors that are converted to float32."""

    def convert(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return function(*map(convert, args), **{name: convert(value) for name, value in kwargs.items()})

    return wrapped


@torch.no_grad()
def measure() -> None:
    """Prints the largest and the mean absolute difference in nats."""
    ours, plain = build_model("full", "cpu").eval(), reference.build_reference("full", "cpu").eval()
    clip, asked = make_clip(ours.config), make_questions(39)
    found: dict[str, list[Tensor]] = {"project": [], "reference": []}
    for is_bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            video = ours.encode_video(clip)
            some = asked.first(QUESTIONS)
            found["project"].append(ours(pack_training([some.prompts], [some.answers], MASK), video_tokens=video))
            parts = [asked.part(n, reference.TRAIN_BATCH) for n in range(QUESTIONS // reference.TRAIN_BATCH)]
            tokens = video.expand(reference.TRAIN_BATCH, -1, -1)
            losses = [reference.losses(plain, p.prompts, p.answers, tokens, MASK, LENGTH) for p in parts]
            found["reference"].append(torch.cat(losses))
    for name, (exact, rounded) in found.items():
        difference = (rounded - exact).abs()
        print(f"{name}: largest {float(difference.max()):.4f}, mean {float(difference.mean()):.4f}")
    agreement = (found["project"][0] - found["reference"][0]).abs().max()
    print(f"float32 losses of both agree within {float(agreement):.1e}")


def main() -> None:
    """Reads the flag and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda-list", action="store_true")
    if not parser.parse_args().cuda_list:
        measure()
        return
    with (
        mock.patch.object(functional, "layer_norm", in_float32(functional.layer_norm)),
        mock.patch.object(functional, "softmax", in_float32(functional.softmax)),
        mock.patch.object(torch, "pow", in_float32(torch.pow)),
    ):
        measure()


if __name__ == "__main__":
    main()
