"""Passes on a GPU: which frames they take, when their scores are read, and that predictions are those of a CPU."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import ModelConfig
from surgvivqa.data.labels import LABELS
from surgvivqa.data.ssgqa import FrameQuestions, Question, read_split
from surgvivqa.evaluation import inference
from surgvivqa.evaluation.inference import InferenceOptions, group_frames, predict_frames
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.scoring import normalise_scores
from tests.conftest import CapturedLog
from tests.helpers.dispatch import watch_operations

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_checkpoint(Path("tiny"), ModelConfig())


@pytest.fixture(scope="module")
def frames(synthetic_set: Path) -> Sequence[FrameQuestions]:
    frames, _ = read_split(synthetic_set / "ssg-qa", ["VID02", "VID04"])
    return frames


@pytest.fixture(scope="module")
def image_root(synthetic_set: Path) -> Path:
    return synthetic_set / "frames"


def predict(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], image_root: Path, options: InferenceOptions
) -> list[Prediction]:
    source = build_video_token_source(bundle, bundle.frame_store(image_root))
    return predict_frames(bundle, frames, source, options)


class FakeGPU:
    """What inference asks of a GPU, on tensors of the CPU.

    Attributes:
        events: ``start`` for a pass whose copy is recorded, ``read`` for one that the host waits for, ``wait`` for a
            wait for the whole device.
    """

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self) -> Any:
        gpu = self

        class Event:
            def record(self) -> None:
                gpu.events.append("start")

            def synchronize(self) -> None:
                gpu.events.append("read")

        return Event()


@pytest.fixture
def gpu(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGPU]:
    fake = FakeGPU()
    monkeypatch.setattr(type(bundle.model), "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: fake.events.append("wait"))
    monkeypatch.setattr(inference, "free_memory", lambda _: 80 * 10**9)
    yield fake


def assert_equal_answers(found: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    assert [(p.video, p.frame, p.question) for p in found] == [(p.video, p.frame, p.question) for p in expected]
    assert [p.prediction for p in found] == [p.prediction for p in expected]


def test_groups_have_at_most_the_given_frames_and_questions() -> None:
    assert group_frames([10] * 6, 40, 32) == [range(4), range(4, 6)]
    assert group_frames([10] * 6, 1000, 2) == [range(2), range(2, 4), range(4, 6)]
    assert group_frames([50, 1], 40, 32) == [range(1), range(1, 2)]


def test_scores_are_read_one_pass_late(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], image_root: Path, gpu: FakeGPU
) -> None:
    predict(bundle, frames[:4], image_root, InferenceOptions(batch_size=30))
    starts = gpu.events.count("start")
    assert starts > 4
    assert gpu.events == ["start", *["start", "read"] * (starts - 1), "read"]


def test_a_gpu_scores_all_frames_that_fit_in_one_pass(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], image_root: Path, gpu: FakeGPU, captured_log: CapturedLog
) -> None:
    predict(bundle, frames, image_root, InferenceOptions())
    assert gpu.events == ["start", "read"]
    assert "A pass scores at most 1280 questions about 32 frames." in captured_log.lines


def test_a_small_gpu_gives_the_same_scores_in_more_passes(
    bundle: ModelBundle,
    frames: Sequence[FrameQuestions],
    image_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: FakeGPU,
) -> None:
    options = InferenceOptions(keep_scores=True)
    large = predict(bundle, frames, image_root, options)
    monkeypatch.setattr(inference, "free_memory", lambda _: 2**20)
    small = predict(bundle, frames[:2], image_root, options)
    assert gpu.events.count("start") > 10
    assert_equal_answers(small, large[: len(small)])
    for one, other in zip(small, large, strict=False):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_a_cpu_scores_40_questions_a_pass(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], image_root: Path
) -> None:
    default = predict(bundle, frames[:3], image_root, InferenceOptions(keep_scores=True))
    assert default == predict(bundle, frames[:3], image_root, InferenceOptions(batch_size=40, keep_scores=True))


def test_the_best_label_alone_is_the_same_in_both_ways(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], image_root: Path, gpu: FakeGPU, captured_log: CapturedLog
) -> None:
    options = InferenceOptions(batch_size=40, answer_only=True)
    found = predict(bundle, frames, image_root, options)
    assert gpu.events.count("wait") == 12  # before and after three passes of both ways
    assert any("The rest is done by" in line for line in captured_log.lines)
    assert all(p.probability is None and p.top5 is None and p.loss is None for p in found)
    assert_equal_answers(found, predict(bundle, frames, image_root, dataclasses.replace(options, answer_only=False)))


def test_starting_a_pass_reads_nothing_on_the_host(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], image_root: Path
) -> None:
    scorer = inference._Scorer(bundle, InferenceOptions())
    source = build_video_token_source(bundle, bundle.frame_store(image_root))
    inputs = source.reader.read(frames[:2])
    with torch.inference_mode(), watch_operations("cpu"):
        started = scorer.start([frame.questions for frame in frames[:2]], CrossAttentionCache(source(inputs)))
    assert len(started.values[0]) == sum(len(frame.questions) for frame in frames[:2])


@pytest.mark.parametrize("norm", ["sum", "mean"])
def test_predictions_are_built_as_one_question_at_a_time(bundle: ModelBundle, norm: str) -> None:
    """With ties: the first label is the best."""
    scorer = inference._Scorer(bundle, InferenceOptions(score_norm=norm, keep_scores=True))
    scores = torch.randn(50, len(LABELS), generator=torch.Generator().manual_seed(0)).mul(4).round().div(2) - 9
    questions = [
        Question("VID01", n, f"question {n}?", LABELS[n], label=n, reasoning="zero_hop", type="count", line=3)
        for n in range(50)
    ]
    built = scorer._build_predictions(questions, scores)
    for question, row, prediction in zip(questions, scores, built, strict=True):
        ranking, probability = normalise_scores(row, scorer.trie, norm)
        best = ranking.sort(descending=True, stable=True).indices[:5].tolist()
        exact = ranking.double().softmax(0)
        truth = torch.nn.functional.one_hot(torch.tensor(question.label), len(LABELS))
        assert prediction.answer_probability == pytest.approx(float(exact[question.label]), rel=1e-12)
        assert prediction.brier == pytest.approx(float((exact - truth).square().sum()), abs=1e-12)
        assert prediction.scores is not None
        prediction = dataclasses.replace(
            prediction, answer_probability=None, brier=None, scores=list(prediction.scores)
        )
        expected = Prediction.of_question(
            question,
            best[0],
            probability=float(probability[best[0]]),
            loss=-float(row[question.label]),
            top5=[(LABELS[label], float(probability[label])) for label in best],
            scores=row.tolist(),
        )
        assert prediction == expected
    assert any(row.max() == row.topk(2).values[1] for row in scores)
