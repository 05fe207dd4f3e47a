"""One answer is explained in three lines of Python, and by ``predict --explain``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgvivqa.cli import main
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig
from surgvivqa.explanation.explain import Explanation, explain_answer
from surgvivqa.model.bundle import ModelBundle

QUESTION = "What color is the top-left thing?"


@pytest.fixture(scope="module")
def frame(synthetic_set: Path) -> Path:
    return synthetic_set / "frames" / "VID02" / "000003.png"


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_model(Path("tiny"), OptionalModelConfig())


@pytest.fixture(scope="module")
def explanation(bundle: ModelBundle, frame: Path) -> Explanation:
    return explain_answer(bundle.model, bundle.processor(), frame, QUESTION)


def test_the_answer_is_the_one_that_predict_gives(
    explanation: Explanation, frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--checkpoint=tiny", f"--image={frame}", f"--question={QUESTION}", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["answers"][0]
    assert explanation.answer == best["answer"]
    assert explanation.probability == pytest.approx(best["probability"], abs=1e-5)


def test_there_are_three_maps_with_their_checks(explanation: Explanation) -> None:
    assert list(explanation.maps) == ["attention", "gradient_attention", "occlusion"]
    for method, values in explanation.maps.items():
        assert values.shape == (8, 8) and np.isfinite(values).all()
        correlation = explanation.randomisation_correlation[method]
        assert correlation is not None and -1 <= correlation <= 1


def test_another_answer_has_other_maps_except_attention(
    explanation: Explanation, bundle: ModelBundle, frame: Path
) -> None:
    other = explain_answer(bundle.model, bundle.processor(), frame, QUESTION, "anatomy")
    assert other.answer == "anatomy" != explanation.answer
    assert other.maps["attention"] == pytest.approx(explanation.maps["attention"], abs=1e-6)
    assert not np.allclose(other.maps["occlusion"], explanation.maps["occlusion"], atol=1e-3)


def test_a_picture_and_an_array_are_explained_like_their_file(
    explanation: Explanation, bundle: ModelBundle, frame: Path
) -> None:
    array = np.asarray(Image.open(frame).convert("RGB"))
    again = explain_answer(bundle.model, bundle.processor(), array, QUESTION)
    assert again.maps["attention"] == pytest.approx(explanation.maps["attention"], abs=1e-6)


def test_predict_writes_the_picture(
    explanation: Explanation, frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--image={frame}", f"--question={QUESTION}", f"--explain={tmp_path / 'why.png'}"]
    assert main(["predict", "--checkpoint=tiny", *flags]) == 0
    assert f"written: {tmp_path / 'why.png'}" in capsys.readouterr().out
    written = np.asarray(Image.open(tmp_path / "why.png"), int)
    drawn = np.asarray(explanation.draw(), int)
    assert written.shape == drawn.shape
    assert np.abs(written - drawn).mean() < 0.5


def test_predict_explains_the_answer_that_it_prints(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    explained = []

    def note_answer(model: object, processor: object, images: object, question: str, answer: str) -> Explanation:
        explained.append(answer)
        return explain_answer(model, processor, images, question, answer)  # type: ignore[arg-type]

    monkeypatch.setattr("surgvivqa.auto.explain_answer", note_answer)
    flags = [f"--image={frame}", f"--question={QUESTION}", f"--explain={tmp_path / 'why.png'}"]
    assert main(["predict", "--checkpoint=tiny", *flags]) == 0
    assert explained == [capsys.readouterr().out.split()[0]]


def test_a_clip_of_past_frames_is_explained(bundle: ModelBundle, synthetic_set: Path) -> None:
    clip = [synthetic_set / "frames" / "VID02" / f"{n:06d}.png" for n in (1, 2)]
    result = explain_answer(bundle.model, bundle.processor(), clip, "What is the hook doing?")
    assert result.is_clip
    assert np.array_equal(np.asarray(result.frame), np.asarray(Image.open(clip[-1]).convert("RGB")))
    assert result.maps["occlusion"].shape == (8, 8)


@pytest.mark.parametrize("name", ["why.jpg", "nowhere/why.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    name: str, frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--image={frame}", f"--question={QUESTION}", f"--explain={tmp_path / name}"]
    assert main(["predict", "--checkpoint=nowhere", *flags]) == 2
    assert "is not a .png file in a folder that exists" in capsys.readouterr().err
