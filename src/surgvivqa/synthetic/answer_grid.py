"""Draws a grid of predictions: frames, each with a question, the predicted answer and the true answer."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from surgvivqa.data.frames import FrameStore, open_image
from surgvivqa.utils.atomic_files import write_file

COLUMNS = 4
_CELL, _FRAME = (440, 372), (430, 240)
_RIGHT, _WRONG, _INK, _GREY = (24, 120, 60), (176, 32, 32), (28, 28, 30), (110, 110, 116)


def draw_answers(predictions: Path, image_root: Path, out: Path, count: int = 12, seed: int = 0) -> Path:
    """Writes a PNG with randomly chosen predictions.

    Args:
        predictions: a ``predictions.jsonl`` of ``surgvivqa eval``.
        image_root: folder of the frames.
        out: the PNG.
        count: number of predictions.
        seed: seed of the choice.

    Returns:
        ``out``.
    """
    records = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    chosen = sample_records(records, count, seed)
    rows = -(-len(chosen) // COLUMNS)
    grid = Image.new("RGB", (COLUMNS * _CELL[0] + 10, rows * _CELL[1] + 10), "white")
    store = FrameStore(image_root)
    for number, record in enumerate(chosen):
        left, top = 10 + _CELL[0] * (number % COLUMNS), 10 + _CELL[1] * (number // COLUMNS)
        frame = open_image(store.path(record["video"], record["frame"]))
        grid.paste(frame.resize(_FRAME, Image.Resampling.BILINEAR), (left, top))
        _write_text(ImageDraw.Draw(grid), record, left, top + _FRAME[1] + 6)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, lambda temporary: grid.save(temporary, format="PNG"), durable=False)
    return out


def sample_records(records: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Chooses ``count`` random records, alternating between the types of question, at most one per frame."""
    order = np.random.default_rng(seed).permutation(len(records))
    by_type: dict[str, list[dict[str, Any]]] = {}
    for index in order:
        record = records[int(index)]
        by_type.setdefault(record["type"] or "other", []).append(record)
    chosen: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    while len(chosen) < count and any(by_type.values()):
        for name in sorted(by_type):
            while by_type[name] and len(chosen) < count:
                record = by_type[name].pop(0)
                if (record["video"], record["frame"]) not in seen:
                    seen.add((record["video"], record["frame"]))
                    chosen.append(record)
                    break
    return chosen


def _write_text(draw: ImageDraw.ImageDraw, record: dict[str, Any], left: int, top: int) -> None:
    regular, small = ImageFont.load_default(16), ImageFont.load_default(13)
    draw.text((left, top), f"{record['video']}, frame {record['frame']}", fill=_GREY, font=small)
    lines = textwrap.wrap(record["question"], 52)[:3]
    draw.multiline_text((left, top + 18), "\n".join(lines), fill=_INK, font=regular)
    correct = record["prediction"] == record["answer"]
    probability = "" if record["probability"] is None else f" ({100 * record['probability']:.0f}%)"
    verdict = f"{'right' if correct else 'wrong'}: {record['prediction']}{probability}"
    if not correct:
        verdict += f"   true: {record['answer']}"
    draw.text((left, top + 102), verdict, fill=_RIGHT if correct else _WRONG, font=regular)
