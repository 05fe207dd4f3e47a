"""How our times grow: with questions a frame, with labels, with frames in the cache; and the plot of it."""

import itertools
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.full_size import make_questions, more_labels
from surgvivqa.data.packing import PackedStream, PromptTree, pack_stream
from surgvivqa.features.cache import FeatureStore
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import score_labels

if TYPE_CHECKING:
    from benchmarks.stages import Options

FEATURE_ROWS, FEATURE_WIDTH = 16, 768  # 24.6 KB a frame in fp16: 246 MB of 10,000 frames
READS = 500
VIDEOS = 40


def scoring_stream(prompts: Sequence[Sequence[int]], trie: LabelTrie, mask: str) -> PackedStream:
    """The stream that ``score_labels`` makes of one frame's prompts, to count its operations."""
    blocks = [PromptTree(p, trie.tokens, trie.parents, trie.edges, i) for i, p in enumerate(prompts)]
    return pack_stream([blocks], mask, len(blocks))


def questions(o: "Options") -> dict[str, Any]:
    """Seconds of a training step by questions a frame, with the frame's video tokens cached and without."""
    from benchmarks.stages import clock, stepper

    counts = [1, 2, 4, 8, 16, 32, 64] if o.size == "full" else [1, 2, 4]
    ours, every = o.ours(), make_questions(max(counts), seed=3)
    model, video = ours.model, ours.encode_video()
    lines: dict[str, list[float]] = {"cached": [], "live": []}
    stepper(model, lambda: model.question_losses(ours.packed, video.float()))()
    for count in counts:
        packed = ours.pack(every.first(count), o.device)
        cached = stepper(model, lambda packed=packed: model.question_losses(packed, video.float()))
        live = stepper(model, lambda packed=packed: model.question_losses(packed, model.encode_video(ours.clip)))
        repeats = 3 if count <= 8 else 2
        lines["cached"].append(statistics.median(clock(o.device, cached) for _ in range(repeats)))
        lines["live"].append(clock(o.device, live))
    return {"x": counts, "lines": lines}


def labels(o: "Options") -> dict[str, Any]:
    """Seconds a question of scoring by number of labels, eight questions of a frame, its video tokens cached."""
    from benchmarks.stages import MASK, clock

    ours = o.ours()
    model, video = ours.model.eval(), ours.encode_video().float()
    prompts = make_questions(8, seed=4).prompts
    times, seconds = (1, 2, 4), []
    for n in (1, *times):
        trie = LabelTrie(more_labels(n))
        took = [clock(o.device, lambda trie=trie: score_labels(model, [prompts], video, trie, MASK)) for _ in range(2)]
        seconds.append(statistics.median(took) / len(prompts))
    return {"x": [51 * n for n in times], "lines": {"all labels": seconds[1:]}}


def frames(o: "Options") -> dict[str, Any]:
    """Seconds of one read from the feature cache, and of opening it, by frames in it (40 videos, merged files).

    Reads are of frames drawn at random; the first reads of a frame include its checksum.
    """
    counts = [1, 10, 100, 1000, 10_000] if o.size == "full" else [1, 10, 100]
    folder = Path(tempfile.mkdtemp(prefix="surgvivqa-bench-"))
    made_of = {"benchmark": "frames cached"}
    rng, rows = random.Random(0), torch.randn(FEATURE_ROWS, FEATURE_WIDTH).half()
    reads, opening, disk = [], [], 0
    try:
        for before, count in itertools.pairwise([0, *counts]):
            writer = FeatureStore(folder, made_of, FEATURE_WIDTH, "fp16", flush_every=512)
            for frame in range(before, count):
                writer.put(f"VID{frame % VIDEOS:02d}", frame, 0, rows)
            for video in range(min(VIDEOS, count)):
                writer.merge(f"VID{video:02d}")
            disk = writer.size()
            started = time.perf_counter()
            reader = FeatureStore(folder, made_of, FEATURE_WIDTH, "fp16")
            opening.append(time.perf_counter() - started)
            chosen = [rng.randrange(count) for _ in range(READS)]
            started = time.perf_counter()
            for frame in chosen:
                if reader.get(f"VID{frame % VIDEOS:02d}", frame, 0) is None:
                    raise RuntimeError(f"frame {frame} of {count} is not in the cache")
            reads.append((time.perf_counter() - started) / READS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"x": counts, "lines": {"one read": reads, "opening": opening}, "bytes": disk}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the power law that fits best (least squares on logarithms)."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def in_words(exponent: float) -> str:
    """A slope as a person would say it."""
    if exponent < 0.15:
        return "hardly grows"
    if exponent < 0.85:
        return "grows more slowly than in proportion"
    return "grows in proportion" if exponent <= 1.15 else "grows faster than in proportion"


WHAT = {
    "scale_questions": ("questions a frame", "seconds a training step", "Training step"),
    "scale_labels": ("labels", "seconds a question", "Scoring, video tokens cached"),
    "scale_frames": ("frames in the cache", "seconds", "Feature cache"),
}


def described(results: dict[str, dict[str, Any]]) -> list[str]:
    """Rows of a Markdown table: what grows, its ends, its slopes over all and over the upper half, and words."""
    lines = [
        "| what | from | to | slope | slope, upper half | in words (upper half) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        x, (unit, of, title) = result["x"], WHAT[name]
        for line, y in result["lines"].items():
            upper = len(x) // 2
            whole, late = slope(x, y), slope(x[upper:], y[upper:])
            lines.append(
                f"| {title}, {line}: {of} | {y[0]:.3g} at {x[0]:,} | {y[-1]:.3g} at {x[-1]:,} {unit} | {whole:.2f} | "
                f"{late:.2f} | {in_words(late)} |"
            )
    return lines


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel for each, both axes logarithmic.

    Raises:
        ImportError: matplotlib is not installed (the extra ``[bench]``).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, panels = plt.subplots(1, len(results), figsize=(4.8 * len(results), 4.2), squeeze=False)
    for panel, (name, result) in zip(panels[0], results.items(), strict=True):
        unit, of, title = WHAT[name]
        x = result["x"]
        for line, y in result["lines"].items():
            panel.plot(x, y, marker="o", label=f"{line} (slope {slope(x, y):.2f})")
        panel.set(xscale="log", yscale="log", xlabel=unit, ylabel=of, title=title)
        panel.set_xticks(x, [f"{v:,}" for v in x])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        low, high = panel.get_ylim()
        if high < 10 * low:  # a flat line must look flat
            middle = math.sqrt(low * high)
            panel.set_ylim(middle / 5, middle * 5)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
