"""``SurgViVQA`` answers about videos, folders and pictures as the model answers about their frames."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from surgvivqa.auto import Answer, SurgViVQA
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig
from surgvivqa.data.question_examples import example_questions
from surgvivqa.data.question_forms import parse_question
from surgvivqa.explanation.explain import Explanation
from surgvivqa.utils.errors import InputError
from surgvivqa.video import open_clip_source
from surgvivqa.video.writing import write_video

QUESTIONS = ["What color is the top-left thing?", "How many instruments are there?"]


@pytest.fixture(scope="module")
def model() -> SurgViVQA:
    return SurgViVQA.from_pretrained("tiny")


@pytest.fixture(scope="module")
def folder(synthetic_set: Path) -> Path:
    return synthetic_set / "frames" / "VID02"


@pytest.fixture(scope="module")
def video(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "operation.mp4"
    write_video(path, (Image.open(frame) for frame in sorted(folder.iterdir())))
    return path


def tops(answers: list[Answer]) -> list[dict[str, float]]:
    return [dict(answer.top) for answer in answers]


def assert_same(answers: list[Answer], others: list[Answer]) -> None:
    assert [a.question for a in answers] == [a.question for a in others]
    for top, other in zip(tops(answers), tops(others), strict=True):
        assert top == pytest.approx(other, abs=2e-5)


def test_a_folder_is_answered_as_the_model_scores_its_frames(model: SurgViVQA, folder: Path) -> None:
    answers = model.answer(folder, QUESTIONS, every=1, top=51)
    assert [(a.at, a.question) for a in answers] == [(second, q) for second in range(4) for q in QUESTIONS]
    for second in range(4):
        scores = model.model.score(**model.processor(folder / f"{second:06d}.png", QUESTIONS))
        for answer, row in zip(answers[2 * second :], model.processor.answers(scores, 51), strict=False):
            assert (answer.answer, answer.probability) == answer.top[0]
            assert dict(answer.top) == pytest.approx(dict(row), abs=2e-5)


def test_a_video_is_answered_as_its_pictures(model: SurgViVQA, video: Path) -> None:
    source = open_clip_source(video)
    for at in ("0:02", 0.5):
        (picture,) = source.clip(2.0 if at == "0:02" else 0.5)
        assert_same(model.answer(video, QUESTIONS, at=at), model.answer(picture, QUESTIONS))
    assert_same(model.answer(source, QUESTIONS, at=1), model.answer(video, QUESTIONS, at=1))


def test_a_picture_may_be_a_path_an_image_or_an_array(model: SurgViVQA, folder: Path) -> None:
    path = folder / "000001.png"
    image = Image.open(path).convert("RGB")
    expected = model.answer(path, QUESTIONS[0])
    assert expected[0].at is None
    for source in (str(path), image, np.asarray(image), [path], [image]):
        assert_same(model.answer(source, QUESTIONS[0]), expected)


def test_a_model_of_past_clips_sees_the_past(folder: Path) -> None:
    bundle = load_checkpoint(Path("tiny"), ModelConfig())
    bundle.settings.clip_mode, bundle.settings.clip_stride = "past", 2
    model = SurgViVQA(bundle, "cpu")
    paths = [folder / f"{second:06d}.png" for second in (1, 3)]
    expected = model.processor.answers(model.model.score(**model.processor([paths], QUESTIONS)), 5)
    answers = model.answer(folder, QUESTIONS, at=3)
    for answer, row in zip(answers, expected, strict=True):
        assert dict(answer.top) == pytest.approx(dict(row), abs=2e-5)
    assert_same(model.answer(paths, QUESTIONS), answers)


def test_a_frame_is_encoded_once_for_its_questions(
    model: SurgViVQA, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = model.model.encode_video

    def note_frames(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(model.model, "encode_video", note_frames)
    assert len(model.answer(folder, [f"{q} {n}" for n in range(4) for q in QUESTIONS], every=0.5)) == 8 * 8
    assert sum(encoded) == 8


def test_a_long_video_is_read_as_its_answers_are_taken(model: SurgViVQA, video: Path) -> None:
    asked = []

    class Long:
        name, duration = "long", 1e6

        def clip(self, at: float, frames: int = 1, stride: float = 1.0) -> list[Image.Image]:
            asked.append(at)
            return [Image.new("RGB", (8, 8))]

        def close(self) -> None: ...

    answers = model.answer_iter(Long(), QUESTIONS[0], every=1)
    for _ in range(3):
        next(answers)
    assert len(asked) <= 16


def test_a_video_is_closed_when_its_answers_are_left(
    model: SurgViVQA, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr("surgvivqa.video.video_file.VideoFile.close", lambda self: closed.append(self.name))
    answers: Any = model.answer_iter(video, QUESTIONS[0], every=0.1)
    next(answers)
    assert not closed
    answers.close()
    assert closed == [str(video)]
    with pytest.raises(InputError):
        model.answer_iter(video, QUESTIONS[0])
    assert len(closed) == 2


@pytest.mark.parametrize("form", ["huggingface", "published"])
def test_checkpoints_of_other_forms_answer_the_same(form: str, model: SurgViVQA, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / ("model" if form == "huggingface" else "best_model.pth")
    assert main(["convert", "--checkpoint=tiny", f"--to={form}", f"--output={path}"]) == 0
    if form == "published":
        (tmp_path / "config.yaml").write_text("preset: tiny\n")
    again = SurgViVQA.from_pretrained(path)
    frame = folder / "000002.png"
    assert_same(again.answer(frame, QUESTIONS), model.answer(frame, QUESTIONS))


def test_threads_get_the_answers_of_one(model: SurgViVQA, video: Path) -> None:
    expected = model.answer(video, QUESTIONS, every=1)
    found: list[list[Answer]] = []
    threads = [threading.Thread(target=lambda: found.append(model.answer(video, QUESTIONS, every=1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for answers in found:
        assert_same(answers, expected)


def test_bfloat16_is_an_argument(folder: Path) -> None:
    model = SurgViVQA.from_pretrained("tiny", dtype="bfloat16")
    assert model.model.visual_encoder.encoder.layer[0].intermediate.dense.weight.dtype == torch.bfloat16
    assert len(model.answer(folder / "000000.png", QUESTIONS)) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dtype": "float8"}, "The dtype 'float8' is not one of float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "is not one of"),
        ({"device": "cuda:77"}, "The device 'cuda:77' cannot be used"),
        ({"device": "abacus"}, "The device 'abacus' cannot be used"),
        ({"name": "nowhere"}, "from_pretrained nowhere holds no checkpoint"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SurgViVQA.from_pretrained(**({"name": "tiny"} | arguments))


@pytest.mark.parametrize(
    "questions, arguments, message",
    [
        ([], {"at": 0}, "There is no question"),
        ("", {"at": 0}, "has no letters"),
        ([QUESTIONS[0], "??"], {"at": 0}, "has no letters"),
        (QUESTIONS, {"at": 0, "top": 0}, "top must be at least 1"),
        (QUESTIONS, {}, "say which moments to ask about"),
        (QUESTIONS, {"at": "soon"}, "is not a time"),
        ("What is it? " * 200, {"at": 0}, "tokens with its answer"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    questions: Any, arguments: dict[str, Any], message: str, model: SurgViVQA, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        model.answer(folder, questions, **arguments)


@pytest.mark.parametrize("source", [[], np.zeros((4, 4, 9), np.uint8), np.zeros((4, 4, 3), np.float64)])
def test_what_is_no_picture_is_refused(source: Any, model: SurgViVQA) -> None:
    with pytest.raises(InputError):
        model.answer(source, QUESTIONS)


def test_a_moment_is_explained(model: SurgViVQA, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def explain(inner: Any, processor: Any, clip: list[Image.Image], question: str, answer: str) -> Explanation:
        seen.append((clip, answer))
        return Explanation(question, answer, 0.0, clip[-1], {}, {})

    monkeypatch.setattr("surgvivqa.auto.explain_answer", explain)
    expected = model.answer(video, QUESTIONS[0], at=2)[0]
    explanation = model.explain(video, QUESTIONS[0], at=2)
    ((clip, answer),) = seen
    assert np.array_equal(np.asarray(clip[0]), np.asarray(open_clip_source(video).clip(2.0)[0]))
    assert (explanation.answer, explanation.probability) == (expected.answer, expected.probability)
    assert answer == expected.answer


def test_suggested_questions_are_of_ssg_qa(model: SurgViVQA, folder: Path) -> None:
    suggested = model.suggest_questions()
    assert list(suggested) == ["action", "object", "counting", "existence", "colour", "kind"]
    forms = {"counting": "count", "existence": "exist", "colour": "color", "kind": "type"}
    for kind, asks in forms.items():
        for question in suggested[kind]:
            form = parse_question(question)
            assert form is not None and form.asks == asks
    every = [question for questions in suggested.values() for question in questions]
    assert len(set(every)) == len(every) == len(model.answer(folder, every, at=0))
    assert suggested == example_questions()


def blocks(text: str) -> Iterator[str]:
    for block in text.split("```python\n")[1:]:
        yield block.partition("```")[0]


@pytest.mark.parametrize("page", ["README.md", "docs/video.md"])
def test_the_examples_of_the_documents_run(
    page: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).resolve().parents[1]
    found = [block for block in blocks((root / page).read_text()) if "SurgViVQA" in block and "operation.mp4" in block]
    assert found
    monkeypatch.chdir(video.parent)
    for block in found:
        exec(block, {})
    assert capsys.readouterr().out.count("\n") >= 4
