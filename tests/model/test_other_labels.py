"""A model with another data set's labels: the fast paths equal a plain loop over labels, and answers are its labels."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.packing import pack_training
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.explanation.explain import explain_answer
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.initial_model import build_for_training
from tests.helpers.label_sets import SEVEN
from tests.helpers.reference import reference_log_prob

RELATIVE = 5e-7  # scores are near -100 nats, where float32 has steps of 8e-6
QUESTIONS = ["Is there a polyp?", "Which tool is in use?", "How many?"]


@pytest.fixture(scope="module", params=["simple", "choices"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    loaded = load_checkpoint(Path("tiny"), ModelConfig())
    loaded.settings.prompt_mode = request.param
    loaded.apply_settings()
    loaded.use_labels(SEVEN)
    return loaded


def questions(frame: int) -> FrameQuestions:
    asked = [Question("colon1", frame, text, "", n + frame, None, None, n) for n, text in enumerate(QUESTIONS)]
    return FrameQuestions("colon1", frame, tuple(asked))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frames")
    (root / "colon1").mkdir()
    for frame in range(3):
        pixels = np.random.default_rng(frame).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "colon1" / f"{frame:06d}.png")
    return root


def reference(bundle: ModelBundle, store: FrameStore, frames: list[FrameQuestions]) -> torch.Tensor:
    """``[Q, 7]``: one question, one label, one sequence at a time."""
    tokens = bundle.prompt_tokenizer()
    rows = []
    with torch.inference_mode():
        for frame in frames:
            video = bundle.model.encode_video(store.clip(frame.video, frame.frame).unsqueeze(0))
            for question in frame.questions:
                prompt = tokens.prompt_ids(question.question)
                log_probs = [
                    reference_log_prob(bundle.model, prompt, ids, video, bundle.settings.mask)
                    for ids in tokens.label_ids
                ]
                rows.append(torch.stack(log_probs))
    return torch.stack(rows)


def test_packed_scores_of_seven_labels_equal_one_label_at_a_time(bundle: ModelBundle, images: Path) -> None:
    frames = [questions(n) for n in range(3)]
    store = bundle.frame_store(images)
    source = build_video_token_source(bundle, store, None, "fp32")
    expected = reference(bundle, store, frames)
    found = predict_frames(bundle, frames, source, InferenceOptions(keep_scores=True))
    scores = torch.tensor([list(p.scores or ()) for p in found])
    torch.testing.assert_close(scores, expected, rtol=RELATIVE, atol=1e-5)
    best = predict_frames(bundle, frames, source, InferenceOptions(answer_only=True))
    for prediction, only, row in zip(found, best, expected, strict=True):
        assert prediction.prediction_label == only.prediction_label == SEVEN.labels[int(row.argmax())]
        assert prediction.answer_label == SEVEN.labels[prediction.answer]
        assert [label for label, _ in prediction.top5 or ()] == [SEVEN.labels[i] for i in row.argsort(descending=True)][
            :5
        ]
        assert prediction.probability == pytest.approx(float(row.softmax(0).max()), abs=1e-5)


def test_training_losses_are_those_of_the_labels(bundle: ModelBundle, images: Path) -> None:
    frame, tokens = questions(2), bundle.prompt_tokenizer()
    store = bundle.frame_store(images)
    prompts = [tokens.prompt_ids(q.question) for q in frame.questions]
    packed = pack_training([prompts], [[tokens.target_ids(q) for q in frame.questions]], bundle.settings.mask)
    with torch.inference_mode():
        losses = bundle.model(packed, pixel_values=store.clip("colon1", 2).unsqueeze(0))
    expected = -reference(bundle, store, [frame])[range(3), [q.label for q in frame.questions]]
    torch.testing.assert_close(losses, expected, rtol=RELATIVE, atol=1e-5)


def test_the_processor_answers_with_the_labels(bundle: ModelBundle, images: Path) -> None:
    processor, image = bundle.processor(), images / "colon1" / "000001.png"
    scores = bundle.model.score(**processor(image, QUESTIONS))
    assert scores.shape == (3, 7)
    for row in processor.answers(scores, top=7):
        assert sorted(label for label, _ in row) == sorted(SEVEN.labels)
        assert math.isclose(sum(p for _, p in row), 1, abs_tol=1e-5)


def test_an_answer_is_explained_by_its_label(images: Path) -> None:
    loaded = load_checkpoint(Path("tiny"), ModelConfig())
    loaded.use_labels(SEVEN)
    image = images / "colon1" / "000001.png"
    assert explain_answer(loaded.model, loaded.processor(), image, QUESTIONS[0], "cold snare").answer == "cold snare"


def test_training_takes_the_labels_of_its_data() -> None:
    assert build_for_training(TrainConfig(preset="tiny"), SEVEN).label_set == SEVEN
