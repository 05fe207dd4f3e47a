"""Synthetic sets in the layouts of other data sets open by their own descriptions."""

import json
from pathlib import Path

import pytest

from surgvivqa.datasets.opening import open_dataset
from surgvivqa.synthetic.layouts import LAYOUTS
from surgvivqa.synthetic.write import SynthConfig, write_synthetic
from surgvivqa.utils.errors import InputError


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_layout_opens_by_its_description(tmp_path: Path, layout: str) -> None:
    seconds = 8 if layout == "real-colon-vqa" else 2
    write_synthetic(SynthConfig(out=tmp_path, layout=layout, videos=3, frames_per_video=seconds, workers=1))  # type: ignore[arg-type]
    root, name = tmp_path / "questions", LAYOUTS[layout].dataset
    dataset = open_dataset(str(root / name) if name.endswith(".yaml") else name, root, tmp_path / "splits", strict=True)
    assert dataset.is_synthetic
    frames, report = dataset.questions(dataset.splits.train, strict=True)
    assert report.questions >= 4 and set(report.skipped) == set()
    pictures = [question.image for frame in frames for question in frame.questions]
    assert all(picture and (tmp_path / "frames" / picture).is_file() for picture in pictures)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_synthetic(SynthConfig(out=tmp_path / name, layout="csv", videos=3, frames_per_video=2, seed=4, workers=1))
    texts = [(tmp_path / name / "questions" / "questions.csv").read_bytes() for name in ("first", "second")]
    assert texts[0] == texts[1]


def test_another_layout_is_not_taken_for_an_existing_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SynthConfig(out=tmp_path, layout="csv", videos=3, frames_per_video=1, workers=1)
    write_synthetic(config)
    capsys.readouterr()
    write_synthetic(config)
    assert "exists already" in capsys.readouterr().out
    write_synthetic(SynthConfig(out=tmp_path, layout="endovis18-vqa", videos=3, frames_per_video=1, workers=1))
    assert json.loads((tmp_path / "synthetic.json").read_text())["layout"] == "endovis18-vqa"
    assert not (tmp_path / "questions" / "questions.csv").exists()


def test_clips_need_long_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too short for clips of 8 frames"):
        write_synthetic(SynthConfig(out=tmp_path, layout="real-colon-vqa", videos=3, frames_per_video=7, workers=1))
