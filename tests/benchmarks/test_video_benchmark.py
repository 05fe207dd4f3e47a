"""The benchmark of videos runs, and both of its ways give the same answers."""

from pathlib import Path

import pytest

from benchmarks.video import answer_plainly, draw_video, measure
from surgvivqa.auto import SurgViVQA


@pytest.mark.slow
def test_both_ways_answer_the_same(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    draw_video(path, 2, (96, 64))
    model, questions = (
        SurgViVQA.from_pretrained("tiny", "cpu"),
        ["How many instruments are there?", "What is it doing?"],
    )
    plain, ours = answer_plainly(model, path, questions, 2), model.answer(path, questions, every=1)
    for answer, other in zip(plain, ours, strict=True):
        assert dict(answer.top) == pytest.approx(dict(other.top), abs=2e-5)
    figures = measure(path, 2, 1)
    assert len(figures) == 3
    for row in figures.values():
        assert row["ratio"] == pytest.approx(row["plain"] / row["surgvivqa"])
