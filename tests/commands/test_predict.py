"""``predict`` answers questions about pictures and videos, and refuses anything else in one sentence."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.auto import Answer, SurgViVQA
from surgvivqa.cli import main
from surgvivqa.video.writing import write_video
from tests.helpers.videos import Recipe

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


COUNT = "--question=How many instruments are there?"


@pytest.fixture(scope="module")
def video(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "operation.mp4"
    write_video(path, (Image.open(picture) for picture in sorted(frame.parent.iterdir())))
    return path


def predicted(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["predict", "--checkpoint=tiny", *flags]) == 0
    return capsys.readouterr().out


def test_json_lines_have_all_questions_about_all_moments(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--at", "0:02", "1s", "--at=0", COUNT, QUESTION, "--format=jsonl", "--top=3"]
    rows = [json.loads(line) for line in predicted(capsys, f"--video={video}", *asked).splitlines()]
    assert [(row["at"], row["time"]) for row in rows[::2]] == [(2, "0:02"), (1, "0:01"), (0, "0:00")]
    assert [row["question"] for row in rows[:2]] == [COUNT[11:], QUESTION[11:]]
    for row in rows:
        assert row["source"] == str(video) and len(row["answers"]) == 3
        assert row["answers"][0] == {"answer": row["answer"], "probability": row["probability"]}


def test_a_table_has_a_row_for_each_answer(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answers.csv"
    flags = ["--every=1.5s", "--start=1", COUNT, "--format=csv", f"--output={output}", "--top=2"]
    assert predicted(capsys, f"--video={video}", *flags) == ""
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["at"] for row in rows] == ["1.000", "2.500"]
    assert list(rows[0]) == "source at time question answer probability answer_2 probability_2".split()
    assert all(1 >= float(row["probability"]) >= float(row["probability_2"]) for row in rows)


def test_a_table_has_no_columns_for_more_answers_than_there_are(
    frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = predicted(capsys, f"--image={frame}", COUNT, "--format=csv", "--top=100")
    header, row = csv.reader(text.splitlines())
    assert len(header) == len(row)


def test_a_json_line_may_hold_the_end_of_a_line_of_unicode(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text('{"question": "What\u2028is it?"}\n', encoding="utf-8")
    text = predicted(capsys, f"--image={frame}", f"--questions={tmp_path / 'q.txt'}", "--format=jsonl")
    assert json.loads(text)["question"] == "What\u2028is it?"


def test_a_folder_of_frames_is_answered_as_its_pictures(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_folder = answers(capsys, f"--video={frame.parent}", "--at=3", QUESTION)
    assert of_folder == answers(capsys, f"--image={frame}", QUESTION)


@pytest.mark.parametrize(
    "text",
    ["How many hooks?\r\n\n  What is it?\n", '{"question": "How many hooks?", "id": 1}\n{"question": "What is it?"}'],
)
def test_questions_are_read_from_a_file(
    text: str, frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text(text)
    flags = [f"--image={frame}", f"--questions={tmp_path / 'q.txt'}", COUNT, "--format=jsonl"]
    rows = [json.loads(line) for line in predicted(capsys, *flags).splitlines()]
    assert [row["question"] for row in rows] == [COUNT[11:], "How many hooks?", "What is it?"]
    assert rows[0]["at"] is None


def test_text_has_a_line_for_each_answer(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = predicted(capsys, f"--video={video}", "--every=2", COUNT, QUESTION, "--top=2").splitlines()
    assert [line.split()[0] for line in lines] == ["0:00", "0:00", "0:02", "0:02"]
    assert all("%" in line and "?" in line for line in lines)


@pytest.mark.parametrize("to_file", [False, True])
def test_what_is_answered_before_an_interrupt_is_kept(
    to_file: bool,
    video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    captured_log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score = SurgViVQA._score
    calls = []

    def interrupt(self: SurgViVQA, *inputs: Any) -> list[Answer]:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return score(self, *inputs)

    monkeypatch.setattr(SurgViVQA, "_score", interrupt)
    output = tmp_path / "answers.jsonl"
    flags = [f"--video={video}", "--every=0.1", COUNT, "--format=jsonl", *([f"--output={output}"] if to_file else [])]
    assert main(["predict", "--checkpoint=tiny", *flags]) == 130
    captured = capsys.readouterr()
    text = output.read_text() if to_file else captured.out
    assert len([json.loads(line) for line in text.splitlines()]) == 8 and text.endswith("\n")
    if to_file:
        assert f"{output} has the 8 answers until then." in captured_log()
    assert not list(tmp_path.glob(".*"))


def test_a_cut_video_leaves_the_answers_before_the_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Recipe(options={"g": "12"}, container={"movflags": "+faststart"}).write(tmp_path)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    output = tmp_path / "answers.csv"
    flags = [f"--video={whole}", "--every=0.1", COUNT, "--format=csv", f"--output={output}"]
    assert main(["predict", "--checkpoint=tiny", *flags]) == 2
    assert "damaged or cut off" in capsys.readouterr().err
    assert len(output.read_text().splitlines()) > 4


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--image={frame}"], "There is no question; ask one with --question"),
        (["--image={video}", QUESTION], "is not a picture; give a video or a folder of frames with --video"),
        (["--image={folder}", QUESTION], "is not a picture; give a video or a folder of frames with --video"),
        (["--image={frame}", QUESTION, "--at=5"], "--at is about a video; give one with --video"),
        (["--image={frame}", QUESTION, "--every=5"], "--every is about a video"),
        (["--image={frame}", QUESTION, "--fps=0"], "--fps is about a video"),
        (["--image={frame}", "--video={video}", QUESTION], "--image and --video cannot be combined"),
        (["--video={video}", QUESTION], "lasts 0:04; say which moments to ask about with --at TIME or --every STEP"),
        (["--video={video}", QUESTION, "--at=5"], "0:05 is beyond the end of {video}, which lasts 0:04"),
        (["--video={video}", QUESTION, "--at=-5"], "is negative"),
        (["--video={video}", QUESTION, "--at=soon"], "'soon' is not a time"),
        (["--video={video}", QUESTION, "--at=1", "--every=1"], "--at and --every cannot be combined"),
        (["--video={video}", QUESTION, "--at=1", "--end=2"], "--start and --end are the first and the last moment"),
        (["--video={video}", QUESTION, "--at=1", "--fps=2"], "has its own frames per second"),
        (["--video={video}", QUESTION, "--every=1", "--json"], "--json is for one question about one moment, but 4"),
        (["--video={video}", QUESTION, "--every=1", "--explain={tmp}/x.png"], "--explain is for one question"),
        (["--video={video}", QUESTION, "--at=1", "--json", "--format=csv"], "--json cannot be combined with --format"),
        (["--video={video}", QUESTION, "--at=1", "--output={tmp}/no/x.csv"], "is not a file in a folder that exists"),
        (["--video={tmp}/none.mp4", QUESTION, "--at=1"], "none.mp4 does not exist"),
        (["--video=https://x.y/z.mp4", QUESTION, "--at=1"], "is a web address. URLs are not read"),
        (["--video={tmp}/empty.mp4", QUESTION, "--at=1"], "empty.mp4 is empty"),
        (["--image={frame}", "--questions={tmp}/empty.mp4"], "holds no question; write one on each line"),
        (["--image={frame}", "--questions={tmp}/none"], "cannot be read (No such file or directory)"),
        (["--image={frame}", "--questions={tmp}/bad.jsonl"], "bad.jsonl:2 holds no question"),
        (["--image={frame}", "--questions={tmp}/worse.jsonl"], "worse.jsonl:1 is not JSON"),
    ],
)
def test_wrong_input_about_videos_is_reported_before_the_model_is_loaded(
    flags: list[str], message: str, frame: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "bad.jsonl").write_text('{"question": "Is it?"}\n{"query": "Is it?"}\n')
    (tmp_path / "worse.jsonl").write_text('{"question": \n')
    names = {"frame": frame, "folder": frame.parent, "video": video, "tmp": tmp_path}
    assert main(["predict", "--checkpoint=nowhere", *(flag.format(**names) for flag in flags)]) == 2
    captured = capsys.readouterr()
    assert message.format(**names) in captured.err and not captured.out
