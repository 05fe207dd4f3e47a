"""An error about missing data says what is there instead, with a real path."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from surgvivqa.data.frames import FrameStore, check_missing_frames
from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.errors import InputError


def question(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("Which anatomical structures are present?|liver\nWhich tools are present?|hook\na?|liver")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def pictures(*paths: Path) -> None:
    for path in paths:
        picture(path)


QUESTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "lower case": (lambda r: question(r / "vid04" / "2.txt"), "Found {root}/vid04, where the split says VID04; rename"),
    "no zero": (lambda r: question(r / "VID4" / "2.txt"), "Found {root}/VID4, where the split says VID04; rename"),
    "root above": (
        lambda r: question(r / "in" / "VID04" / "2.txt"),
        "Found {root}/in/VID04; give --ssgvqa-root {root}",
    ),
    "own folder": (lambda r: question(r / "2.txt"), "the folder of one video (found {root}/2.txt)"),
    "pictures": (lambda r: picture(r / "VID04" / "000002.png"), "pictures (found {root}/VID04/000002.png); are"),
    "other names": (lambda r: question(r / "VID04" / "frame002_QA.txt"), "Found {root}/VID04/frame002_QA.txt; name"),
    "deeper": (lambda r: question(r / "VID04" / "qa" / "2.txt"), "Found {root}/VID04/qa/2.txt, deeper than"),
}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_missing_questions(kind: str, tmp_path: Path) -> None:
    make, hint = QUESTIONS[kind]
    make(tmp_path)
    with pytest.raises(InputError) as error:
        open_questions(tmp_path, ["VID04"])
    assert hint.format(root=tmp_path) in str(error.value)


def test_a_root_one_folder_too_deep(tmp_path: Path) -> None:
    question(tmp_path / "VID04" / "2.txt")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=f"Found {tmp_path}/VID04; give --ssgvqa-root {tmp_path}."):
        open_questions(tmp_path / "other", ["VID04"])


FRAMES: dict[str, tuple[Callable[[Path], object], str]] = {
    "JPEG": (lambda r: picture(r / "VID04" / "000002.jpg"), "Found {root}/VID04/000002.jpg; frames must be named like"),
    "unpadded": (
        lambda r: picture(r / "VID04" / "2.png"),
        "Found {root}/VID04/2.png; frames must be named like 00000",
    ),
    "deeper": (lambda r: picture(r / "VID04" / "in" / "000002.png"), "Found {root}/VID04/in/000002.png, deeper than"),
    "lower case": (lambda r: picture(r / "vid04" / "000002.png"), "Found {root}/vid04, where the split says VID04"),
    "root above": (lambda r: picture(r / "in" / "VID04" / "000002.png"), "Found {root}/in/VID04; give --image-root"),
    "two deeper": (lambda r: picture(r / "VID04" / "a" / "b" / "000002.png"), "Found {root}/VID04/a/b/000002.png"),
    "root far above": (
        lambda r: picture(r / "a" / "b" / "VID04" / "1.png"),
        "Found {root}/a/b/VID04; give --image",
    ),
    "own folder": (lambda r: picture(r / "000002.png"), "the folder of one video (found {root}/000002.png); give"),
    "texts": (lambda r: question(r / "VID04" / "2.txt"), "text files (found {root}/VID04/2.txt); are --ssgvqa-root"),
    "steps of 25": (
        lambda r: pictures(*(r / "VID04" / f"{n:06d}.png" for n in (0, 25, 50, 75))),
        "increase in steps of 25 (found {root}/VID04/000025.png)",
    ),
    "other names": (lambda r: picture(r / "VID04" / "img_a.png"), "Found {root}/VID04/img_a.png; frames must be"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_missing_frames(kind: str, tmp_path: Path) -> None:
    make, hint = FRAMES[kind]
    make(tmp_path)
    with pytest.raises(InputError) as error:
        check_missing_frames(FrameStore(tmp_path), [FrameQuestions("VID04", n, ()) for n in (2, 3)])
    assert hint.format(root=tmp_path) in str(error.value)


def test_a_video_with_some_of_its_frames_has_no_hint(tmp_path: Path) -> None:
    picture(tmp_path / "VID04" / "000002.png")
    picture(tmp_path / "VID04" / "000003.jpg")
    with pytest.raises(InputError) as error:
        check_missing_frames(FrameStore(tmp_path), [FrameQuestions("VID04", n, ()) for n in (2, 3)])
    assert str(error.value).endswith("000003.png).")
