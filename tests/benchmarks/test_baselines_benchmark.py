"""The benchmark of the baselines runs, and measures the questions that it was asked for."""

from pathlib import Path

import pytest

from benchmarks.baselines import measure, read_frames, write_questions


@pytest.mark.slow
def test_it_measures_the_baselines_on_as_many_questions_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgvivqa.evaluation.baselines.MAX_FITTED", 100_000)  # measure changes it
    path = tmp_path / "questions.tsv"
    write_questions(path, 900)
    frames = list(read_frames(path))
    assert len({(f.video, f.frame) for f in frames}) == len(frames)
    figures = measure(path, 600, 200)
    assert 600 <= figures["training questions"] < 700
    assert 200 <= figures["questions to answer"] < 300
    # Below the limit the regression is fitted on all questions both times.
    assert figures["accuracy, question only"] == figures["accuracy, question only on all questions"] > 0.2
