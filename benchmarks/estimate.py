"""Estimates training on an accelerator: operations, bytes and kernel launches of a step, and minutes per epoch.

    python -m benchmarks.estimate [--frames 1 8 32] [--kernel-us 10 25] [--workers 12]
                                  [--cached-ms 24.4 --text-ms 13]
                                  [--compute 989 --bandwidth 3.35 --utilisation 0.4]

No time is measured. Operations are counted from shapes (``flops``), launches by running the same operations on a small
model with as many layers, bytes by the model below. The defaults are those of an H100 SXM's data sheet: 989 dense bf16
TFLOP/s, 3.35 TB/s. ``make bench-gpu`` measures.
"""

import argparse
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import flops
from benchmarks.models import freeze_all_but_lora, make_config
from benchmarks.questions import FRAME_QUESTIONS, make_questions
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.precision import FrozenWeights

CORPUS_QUESTIONS = 723_000  # of the 35 training videos
BYTES = 2  # bf16
# Activations read and written by one layer for one token, in multiples of the width, if each operation is a kernel and
# the inner width is 4: norm 2, q k v 4, attention 4, projection 2, sum 3, norm 2, up 5, activation 8, down 5, sum 3.
LAYER = 38
CROSS = 14  # BLIP's cross-attention: query 2, attention 2, projection 2, sum 3, norm 2, padding 3
ADAPTERS = 36  # on c_attn and both c_proj: dropout, down, up, scaling and sum, of widths 1, 1 and 4
BACKWARD = 2  # multiple of the forward pass
CAST_BYTES = 4 + BYTES  # a float32 weight is read and its bf16 copy written
# Milliseconds that a frame takes until a step has it, from docs/performance.md. Live: decoding an 854x480 PNG on one
# core. Cached: a frame of 39 questions at the measured rates of whole training commands, 1,600 and 3,000 questions
# per second in the middle. Those rates include the steps, so the two are upper bounds.
DECODE_MS = 11.0
CACHED_MS, TEXT_MS = 1e3 * FRAME_QUESTIONS / 1600, 1e3 * FRAME_QUESTIONS / 3000

Weights = Literal["cast", "held"]
WAYS: dict[str, tuple[str, ...]] = {
    "frames encoded": ("VideoMAE", "cross keys+values", "BLIP"),
    "video tokens cached": ("cross keys+values", "BLIP"),
    "BLIP outputs cached": (),
}  # the frozen parts that run


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


def launches(live: bool, text: bool, weights: Weights) -> int:
    """Kernel launches of one training step, counted on a model of width 64 with all layers; the update is not counted.

    Args:
        live: whether frames are encoded.
        text: whether the text encoder's outputs are cached.
        weights: ``cast``: autocast casts the frozen weights in every step; ``held``: they are held in bf16.
    """
    small, full = make_config("small"), make_config("full")
    for part, count in ((small.video_config, 12), (small.text_config, 12)):
        part.num_hidden_layers = count
    small.decoder_config.n_layer = full.decoder_config.n_layer
    model = SurgViVQAModel(small)
    freeze_all_but_lora(model)
    set_modes(model)
    if weights == "held":
        FrozenWeights(model, torch.bfloat16, parts=("visual_encoder", "text_encoder", "llm"))
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
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(packed, **inputs).mean()
        loss.backward()
    return counted.count


def print_parts(options: argparse.Namespace) -> None:
    """Prints operations and bytes of each part as Markdown."""
    config, packed = make_config("full"), step_packed(1)
    moved = traffic(config, 1, len(packed.input_ids))
    print("| part, one frame of 39 questions | GFLOP | MB | ms by operations | ms by bytes |")
    print("| --- | --- | --- | --- | --- |")
    for name, count in flops.breakdown(config, packed, train=True).items():
        by_work = count / (options.compute * options.utilisation * 1e9)
        by_bytes = moved[name] / (options.bandwidth * 1e9)
        print(f"| {name} | {count / 1e9:.1f} | {moved[name] / 1e6:.0f} | {by_work:.2f} | {by_bytes:.2f} |")


def frozen_matrices(config: Any, parts: Sequence[str]) -> float:
    """Number of frozen weights in the matrices of some parts of ``WAYS``; the output layer runs in float32."""
    video, text, gpt = config.video_config, config.text_config, config.decoder_config
    count = 12.0 * gpt.n_embd**2 * gpt.n_layer
    count += 12 * video.hidden_size**2 * video.num_hidden_layers if "VideoMAE" in parts else 0
    return count + (16 * text.hidden_size**2 * text.num_hidden_layers if "BLIP" in parts else 0)


def print_steps(options: argparse.Namespace) -> None:
    """Prints the time of a step, by what limits it, and the minutes of an epoch as Markdown."""
    config, rate = make_config("full"), options.compute * options.utilisation * 1e12
    each = [f"at {us:g} us" for us in options.kernel_us]
    head = ["training", "frozen weights", "frames per step", "kernels", "ms per step: products", "bytes", "casts"]
    head += [*(f"kernels {text}" for text in each), "feeding", *(f"epoch, minutes, {text}" for text in each)]
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for way, parts in WAYS.items():
        for weights in get_args(Weights):
            started = launches("VideoMAE" in parts, not parts, weights)
            for frames in options.frames:
                stream = step_packed(frames)
                counts = flops.breakdown(config, stream, train=True)
                moved = traffic(config, frames, len(stream.input_ids))
                runs = [n for n in counts if n in parts or n.startswith(("GPT-2", "output"))]
                work = {n: counts[n] / rate for n in runs}
                memory = {n: moved[n] / (options.bandwidth * 1e12) for n in runs}
                casts = 0.0
                if weights == "cast":
                    casts = frozen_matrices(config, parts) * CAST_BYTES / (options.bandwidth * 1e12)
                # A part takes the larger of its two times; launching and feeding overlap with the device's work.
                device = sum(max(work[n], memory[n]) for n in runs) + casts
                feed = frames * feeding_ms(way, options) / 1e3
                host = [started * us * 1e-6 for us in options.kernel_us]
                epochs = [max(device, t, feed) * CORPUS_QUESTIONS / (frames * FRAME_QUESTIONS) / 60 for t in host]
                cells = [way, weights, str(frames), f"{started:,}"]
                cells += [f"{1e3 * t:.1f}" for t in (sum(work.values()), sum(memory.values()), casts, *host, feed)]
                print(f"| {' | '.join([*cells, *(f'{t:.1f}' for t in epochs)])} |")


def feeding_ms(way: str, options: argparse.Namespace) -> float:
    """Milliseconds per frame until a step has its inputs."""
    live, tokens = DECODE_MS / options.workers, options.cached_ms
    return {"frames encoded": live, "video tokens cached": tokens}.get(way, options.text_ms)


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 8, 32], help="frames of 39 questions in a step")
    parser.add_argument(
        "--kernel-us", type=float, nargs="+", default=[10.0, 25.0], help="microseconds to start one kernel"
    )
    parser.add_argument("--workers", type=int, default=12, help="processes that decode frames")
    parser.add_argument(
        "--cached-ms",
        type=float,
        default=CACHED_MS,
        help="milliseconds until the cached video tokens of a frame are read",
    )
    parser.add_argument("--text-ms", type=float, default=TEXT_MS, help="the same of cached BLIP outputs")
    parser.add_argument("--compute", type=float, default=989.0, help="peak TFLOP/s")
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the peak that products of this size reach"
    )
    options = parser.parse_args()
    print_parts(options)
    print_steps(options)


if __name__ == "__main__":
    main()
