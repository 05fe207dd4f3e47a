"""``predict`` answers a real question about a real picture, and refuses anything else in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.cli import main

QUESTION = "--question=What is the color of the gallbladder?"


@pytest.fixture(scope="module")
def frame(synthetic_set: Path) -> Path:
    return synthetic_set / "frames" / "VID02" / "000003.png"


def answers(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    assert main(["predict", "--checkpoint=tiny", "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)["answers"]


@pytest.mark.parametrize("orientation, degrees", [(1, None), (3, 180), (6, 90), (8, 270)])
def test_the_exif_orientation_of_a_picture_is_applied(
    orientation: int, degrees: int | None, frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.open(frame).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = picture if degrees is None else picture.rotate(degrees, expand=True)
    turned.save(tmp_path / "turned.png", exif=exif)
    picture.save(tmp_path / "upright.png")
    flags = [f"--image={tmp_path / 'turned.png'}", QUESTION]
    assert answers(capsys, *flags) == answers(capsys, f"--image={tmp_path / 'upright.png'}", QUESTION)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--image={frame}", "--question="], "--question '' has no letters"),
        (["--image={frame}", "--question=   "], "has no letters"),
        (["--image={frame}", "--question=12 ?!"], "has no letters"),
        (["--image={frame}", QUESTION, "--top=0"], "--top must be at least 1"),
        (["--image", "{frame}", "{frame}", QUESTION], "--image names 2 files, but this model was trained on single"),
        (["--image=https://x.y/z.png", QUESTION], "is a web address. URLs are not read"),
        (["--image", QUESTION], "--image names no file"),
        (["--image=nowhere.png", QUESTION], "nowhere.png does not exist"),
    ],
)
def test_wrong_input_is_reported_in_one_sentence(
    flags: list[str], message: str, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--checkpoint=tiny", *(flag.format(frame=frame) for flag in flags)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


def test_a_question_in_another_script_is_answered(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(answers(capsys, f"--image={frame}", "--question=胆嚢?", "--top=2")) == 2
