"""Estimates training on an accelerator: operations, bytes and kernel launches of a step, and minutes per epoch.

    python -m benchmarks.estimate [--frames 1 8 32] [--compute 989 --bandwidth 3.35 --utilisation 0.4]

No time is measured. Operations are counted from shapes (``flops``), launches by running the same operations on a small
model with as many layers, bytes by the model below. The defaults are those of an H100 SXM's data sheet: 989 dense bf16
TFLOP/s, 3.35 TB/s.
"""

import argparse
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import flops
from benchmarks.models import freeze_all_but_lora, make_config
from benchmarks.questions import FRAME_QUESTIONS, make_questions
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel

CORPUS_QUESTIONS = 723_000  # of the 35 training videos
BYTES = 2  # bf16
# Activations read and written by one layer for one token, in multiples of the width, if each operation is a kernel and
# the inner width is 4: norm 2, q k v 4, attention 4, projection 2, sum 3, norm 2, up 5, activation 8, down 5, sum 3.
LAYER = 38
CROSS = 14  # BLIP's cross-attention: query 2, attention 2, projection 2, sum 3, norm 2, padding 3
ADAPTERS = 36  # on c_attn and both c_proj: dropout, down, up, scaling and sum, of widths 1, 1 and 4
BACKWARD = 2  # multiple of the forward pass
LAUNCH = 6e-6  # seconds to launch one kernel from Python, typical of eager PyTorch


def step_packed(frames: int) -> PackedStream:
    """A stream of ``frames`` frames with 39 questions each."""
    questions = make_questions(FRAME_QUESTIONS)
    return pack_training([questions.prompts] * frames, [questions.answers] * frames, "prefix")


def traffic(config: Any, frames: int, tokens: int) -> dict[str, float]:
    """Bytes read and written in one training step by part: activations as above, weights once per pass."""
    video, text, gpt = config.video_config, config.text_config, config.decoder_config
    seen = frames * flops.video_tokens(video)
    weights = {
        "VideoMAE": 12 * video.hidden_size**2 * video.num_hidden_layers,
        "BLIP": 16 * text.hidden_size**2 * text.num_hidden_layers,
        "GPT-2": 12 * gpt.n_embd**2 * gpt.n_layer,
        "output layer": gpt.n_embd * gpt.vocab_size,
    }
    cross = 3 * seen * text.hidden_size * text.num_hidden_layers  # tokens read, keys and values written
    cross += 2 * seen * text.hidden_size * text.num_hidden_layers  # read again by attention
    elements = {
        "VideoMAE": weights["VideoMAE"] + LAYER * seen * video.hidden_size * video.num_hidden_layers,
        "cross keys+values": float(cross),
        "BLIP": weights["BLIP"] + (LAYER + CROSS) * tokens * text.hidden_size * text.num_hidden_layers,
        "GPT-2 forward": weights["GPT-2"] + (LAYER + ADAPTERS) * tokens * gpt.n_embd * gpt.n_layer,
        "GPT-2 backward": weights["GPT-2"] + BACKWARD * (LAYER + ADAPTERS) * tokens * gpt.n_embd * gpt.n_layer,
        "output layer": 2 * weights["output layer"] + 8 * frames * FRAME_QUESTIONS * 2 * gpt.vocab_size,
    }
    return {name: BYTES * count for name, count in elements.items()}


class Launches(TorchDispatchMode):
    """Counts the operations that launch a kernel; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        free = func.is_view or func._schema.name.split("::")[1] in ("detach", "_unsafe_view", "empty", "empty_like")
        self.count += not free
        return out


def launches(live: bool, text: bool) -> int:
    """Kernel launches of one training step, counted on a model of width 64 with all layers."""
    small, full = make_config("small"), make_config("full")
    for part, count in ((small.video_config, 12), (small.text_config, 12)):
        part.num_hidden_layers = count
    small.decoder_config.n_layer = full.decoder_config.n_layer
    model = SurgViVQAModel(small)
    freeze_all_but_lora(model)
    set_modes(model)
    packed = step_packed(1)
    video = torch.zeros(1, flops.video_tokens(small.video_config), 64)
    config = small.video_config
    clip = torch.zeros(1, config.num_frames, 3, config.image_size, config.image_size)
    inputs: dict[str, Any] = {"video_tokens": video}
    if live:
        inputs = {"pixel_values": clip}
    if text:
        inputs = {"text_states": torch.zeros(len(packed.input_ids), 64)}
    with Launches() as counted:
        model(packed, **inputs).mean().backward()
    return counted.count


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 8, 32], help="frames of 39 questions in a step")
    parser.add_argument("--compute", type=float, default=989.0, help="peak TFLOP/s")
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the peak that products of this size reach"
    )
    options = parser.parse_args()
    config, packed = make_config("full"), step_packed(1)
    counts = flops.breakdown(config, packed, train=True)
    moved = traffic(config, 1, len(packed.input_ids))
    print("| part, one frame of 39 questions | GFLOP | MB | ms by operations | ms by bytes |")
    print("| --- | --- | --- | --- | --- |")
    for name, count in counts.items():
        by_work = count / (options.compute * options.utilisation * 1e9)
        by_bytes = moved[name] / (options.bandwidth * 1e9)
        print(f"| {name} | {count / 1e9:.1f} | {moved[name] / 1e6:.0f} | {by_work:.2f} | {by_bytes:.2f} |")
    ways = {
        "frames encoded": (("VideoMAE", "cross keys+values", "BLIP"), launches(True, False)),
        "video tokens cached": (("cross keys+values", "BLIP"), launches(False, False)),
        "BLIP outputs cached": ((), launches(False, True)),
    }
    print("\n| training | frames per step | launches | ms per step: products | bytes | launches | epoch, minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, (encoders, started) in ways.items():
        for frames in options.frames:
            stream = step_packed(frames)
            parts = flops.breakdown(config, stream, train=True)
            bytes_moved = traffic(config, frames, len(stream.input_ids))
            runs = [n for n in parts if n in encoders or n.startswith(("GPT-2", "output"))]
            work = sum(parts[n] for n in runs) / (options.compute * options.utilisation * 1e12)
            memory = sum(bytes_moved[n] for n in runs) / (options.bandwidth * 1e12)
            # A part takes the larger of the two times; launches overlap with both.
            device = sum(
                max(
                    parts[n] / (options.compute * options.utilisation * 1e12),
                    bytes_moved[n] / (options.bandwidth * 1e12),
                )
                for n in runs
            )
            step = max(device, started * LAUNCH)
            minutes = step * CORPUS_QUESTIONS / (frames * FRAME_QUESTIONS) / 60
            print(
                f"| {way} | {frames} | {started:,} | {1e3 * work:.1f} | {1e3 * memory:.1f} | "
                f"{1e3 * started * LAUNCH:.1f} | {minutes:.1f} |"
            )


if __name__ == "__main__":
    main()
