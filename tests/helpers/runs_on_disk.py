"""Evaluated runs on disk, with frames, for tests of reports."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.predictions import Prediction
from tests.helpers.evaluations import write_evaluation

TYPES = ("exist", "count", "query_color", "query_component")
VIDEOS = ("VID02", "VID22", "VID43")
HOSTILE = "Is <script>alert(1)</script> there?"


def make_predictions(count: int, frames: int = 8, videos: tuple[str, ...] = VIDEOS) -> list[Prediction]:
    """Predictions of random labels, half of them right; the question with markup is the most confident mistake."""
    generator = np.random.default_rng(0)
    truth, wrong = generator.integers(0, len(LABELS), (2, count)).tolist()
    right, probability = (generator.random(count) < 0.5).tolist(), generator.uniform(0.2, 0.95, count).tolist()
    predictions = []
    for i in range(count):
        prediction = truth[i] if right[i] else wrong[i]
        top5 = [(LABELS[prediction], probability[i])]
        top5 += [(LABELS[(prediction + step) % len(LABELS)], 0.05 / step) for step in range(1, 5)]
        question, video = f"What is the object number {i % 97}?", videos[i % len(videos)]
        frame, kind = i // len(videos) % frames, TYPES[i % len(TYPES)]
        found = Prediction(video, frame, question, truth[i], prediction, probability[i], 1.0, top5, "zero_hop", kind)
        predictions.append(found)
    predictions[0] = Prediction(videos[0], 0, HOSTILE, 1, 2, 0.99, 3.0, [(LABELS[2], 0.99)], "zero_hop", "exist")
    return predictions


def write_run(folder: Path, predictions: list[Prediction], seed: int = 0, frames: Path | None = None) -> None:
    """Writes a run folder with ``eval-test``, ``config.yaml`` and ``metrics.jsonl``."""
    write_evaluation(folder / "eval-test", predictions, checkpoint=str(folder))
    root = "" if frames is None else f"image_root: {frames}\n"
    settings = "lr: 0.002\nbatch_size: 8\nbest_metric: acc\nsplits_dir: null\n"
    (folder / "config.yaml").write_text(f"{settings}seed: {seed}\nssgvqa_root: /home/someone/ssg-qa\n{root}")
    lines = [{"step": 50 * i, "loss": 3 / i, "chance": 3.93, "lr": 0.001 / i, "grad_norm": 1.0} for i in range(1, 9)]
    lines.append({"step": 400, "val_n": 80, "val_acc": 0.5, "val_mAF1": 0.4, "val_wF1": 0.45, "val_loss": 0.9})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_frames(root: Path, frames: int = 8, videos: tuple[str, ...] = VIDEOS) -> None:
    """Writes pictures of noise on a colour, of CholecT45's size."""
    generator = np.random.default_rng(1)
    for video in videos:
        (root / video).mkdir(parents=True)
        for frame in range(frames):
            coarse = Image.fromarray(generator.integers(40, 200, (24, 43, 3), np.uint8))
            coarse.resize((854, 480), Image.Resampling.BICUBIC).save(root / video / f"{frame:06d}.png")
