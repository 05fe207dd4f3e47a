"""The grid of predictions."""

import json
from pathlib import Path

from PIL import Image

from surgvivqa.synthetic.answer_grid import draw_answers, sample_records


def record(video: str, frame: int, kind: str | None, right: bool) -> dict[str, object]:
    return {
        "video": video, "frame": frame, "question": "How many instruments are there in this frame?", "answer": "2",
        "prediction": "2" if right else "3", "probability": 0.5 if right else None, "type": kind,
    }  # fmt: skip


def test_question_types_alternate_and_frames_are_distinct() -> None:
    kinds = ("count", "exist", None)
    records = [record("VID02", n // 3, kinds[n % 3], True) for n in range(60)]
    chosen = sample_records(records, 12, seed=3)
    assert len(chosen) == len({r["frame"] for r in chosen}) == 12
    assert sorted([r["type"] or "other" for r in chosen[:3]]) == ["count", "exist", "other"]
    assert chosen == sample_records(records, 12, seed=3) != sample_records(records, 12, seed=4)
    assert len(sample_records(records[:4], 12, seed=0)) == 2  # two frames, so two pictures


def test_the_grid_shows_frames_and_marks_wrong_answers(synthetic_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    rows = [record("VID02", n, "count", right=n != 1) for n in range(3)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Image.open(draw_answers(path, synthetic_set / "frames", tmp_path / "a" / "grid.png")) as grid:
        colors = {color for _, color in grid.getcolors(grid.width * grid.height) or ()}
        assert grid.size == (1770, 382)
        assert {(24, 120, 60), (176, 32, 32)} <= colors
    assert not list(tmp_path.rglob("*.tmp"))
