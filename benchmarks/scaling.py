"""How the project's times grow: with questions per frame, with labels, with frames in the cache."""

import functools
import itertools
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.project_model import MASK, Options
from benchmarks.questions import make_questions, more_labels
from benchmarks.timing import time_call, training_step
from surgvivqa.data.packing import PackedStream, PromptTree, pack_stream
from surgvivqa.features.cache import FeatureCache
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import score_labels

FEATURE_ROWS, FEATURE_WIDTH = 16, 768  # 24.6 KB per frame in fp16, 246 MB for 10,000 frames
READS = 500
VIDEOS = 40


def scoring_stream(prompts: Sequence[Sequence[int]], trie: LabelTrie, mask: str) -> PackedStream:
    """The stream that ``score_labels`` builds from one frame's prompts, to count its operations."""
    trees = [PromptTree(p, trie.tokens, trie.parents, trie.edges, i) for i, p in enumerate(prompts)]
    return pack_stream([trees], mask, len(trees))


def questions(o: Options) -> dict[str, Any]:
    """Seconds per training step by questions per frame, with and without cached video tokens."""
    counts = [1, 2, 4, 8, 16, 32, 64] if o.size == "full" else [1, 2, 4]
    ours, every = o.project_model(), make_questions(max(counts), seed=3)
    model, video = ours.model, ours.encode_video()
    lines: dict[str, list[float]] = {"cached": [], "encoded": []}
    training_step(model, lambda: model.question_losses(ours.packed, video.float()))()
    for count in counts:
        packed = ours.pack(every.first(count))

        def loss_cached(packed: PackedStream = packed) -> Tensor:
            return model.question_losses(packed, video.float())

        def loss_encoded(packed: PackedStream = packed) -> Tensor:
            return model.question_losses(packed, model.encode_video(ours.clip))

        cached, encoded = training_step(model, loss_cached), training_step(model, loss_encoded)
        repeats = 3 if count <= 8 else 2
        lines["cached"].append(statistics.median(time_call(o.device, cached) for _ in range(repeats)))
        lines["encoded"].append(time_call(o.device, encoded))
    return {"x": counts, "lines": lines}


def labels(o: Options) -> dict[str, Any]:
    """Seconds per question of scoring by number of labels: eight questions about a frame, cached video tokens."""
    ours = o.project_model()
    model, video = ours.model.eval(), ours.encode_video().float()
    prompts = make_questions(8, seed=4).prompts
    times, seconds = (1, 2, 4), []
    for n in (1, *times):
        trie = LabelTrie(more_labels(n))
        score = functools.partial(score_labels, model, [prompts], video, trie, MASK)
        took = [time_call(o.device, score) for _ in range(2)]
        seconds.append(statistics.median(took) / len(prompts))
    return {"x": [51 * n for n in times], "lines": {"all labels": seconds[1:]}}


def frames(o: Options) -> dict[str, Any]:
    """Seconds to read a frame from the feature cache, and to open it, by frames in it (40 videos, merged files).

    Frames are drawn at random; the first read of a frame includes its checksum.
    """
    counts = [1, 10, 100, 1000, 10_000] if o.size == "full" else [1, 10, 100]
    folder = Path(tempfile.mkdtemp(prefix="surgvivqa-bench-"))
    made_of = {"benchmark": "frames cached"}
    rng, rows = random.Random(0), torch.randn(FEATURE_ROWS, FEATURE_WIDTH).half()
    reads, opening, disk = [], [], 0
    try:
        for before, count in itertools.pairwise([0, *counts]):
            writer = FeatureCache(folder, made_of, FEATURE_WIDTH, "fp16", flush_every=512)
            for frame in range(before, count):
                writer.put(f"VID{frame % VIDEOS:02d}", frame, 0, rows)
            for video in range(min(VIDEOS, count)):
                writer.merge(f"VID{video:02d}")
            disk = writer.num_bytes()
            started = time.perf_counter()
            reader = FeatureCache(folder, made_of, FEATURE_WIDTH, "fp16")
            opening.append(time.perf_counter() - started)
            chosen = [rng.randrange(count) for _ in range(READS)]
            started = time.perf_counter()
            for frame in chosen:
                if reader.get(f"VID{frame % VIDEOS:02d}", frame, 0) is None:
                    raise RuntimeError(f"Frame {frame} of {count} is not in the cache.")
            reads.append((time.perf_counter() - started) / READS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"x": counts, "lines": {"one read": reads, "opening": opening}, "bytes": disk}
