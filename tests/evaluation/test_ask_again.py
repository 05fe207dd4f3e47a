"""Asking about black frames: each distinct question once, with the answers of asking every one."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import ModelConfig
from surgvivqa.data.frame_views import show_black, show_other_videos
from surgvivqa.data.ssgqa import FrameQuestions, read_split
from surgvivqa.evaluation.ask_again import AskAgain, predict_in_all_processes
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import ModelBundle


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    found = load_checkpoint(Path("tiny"), ModelConfig())
    found.model.requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def frames(synthetic_set: Path) -> Sequence[FrameQuestions]:
    frames, _ = read_split(synthetic_set / "ssg-qa", ["VID01", "VID02"])
    return [FrameQuestions(f.video, f.frame, f.questions[:9]) for f in frames]


def answers(predictions: Sequence[Prediction]) -> list[tuple[object, ...]]:
    return [(p.video, p.frame, p.question, p.answer, p.reasoning, p.type, p.prediction) for p in predictions]


def test_distinct_questions_give_the_answers_of_asking_each_about_its_frame(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], synthetic_set: Path
) -> None:
    source = build_video_token_source(bundle, show_black(bundle.frame_store(synthetic_set / "frames")))
    each = predict_frames(bundle, frames, source, InferenceOptions())
    asked: list[int] = []

    def predict(part: Sequence[FrameQuestions]) -> list[Prediction]:
        asked.extend(len(frame.questions) for frame in part)
        return predict_frames(bundle, part, source, InferenceOptions())

    once = predict_in_all_processes(frames, predict, all_alike=True)
    assert answers(once) == answers(each)
    assert [p.loss for p in once] == pytest.approx([p.loss for p in each], abs=1e-4)
    distinct = {(q.question, q.label) for frame in frames for q in frame.questions}
    assert sum(asked) == len(distinct) < len(each) and max(asked) <= 40


def test_questions_that_were_not_answered_are_left_out(frames: Sequence[FrameQuestions]) -> None:
    def predict(part: Sequence[FrameQuestions]) -> list[Prediction]:
        return [Prediction.of_question(q, 0) for frame in part for q in frame.questions][:1]

    (found, *others) = predict_in_all_processes(frames, predict, all_alike=True)
    first = frames[0].questions[0]
    assert {(p.question, p.answer) for p in [found, *others]} == {(first.question, first.label)}


def test_a_model_is_asked_about_the_frames_that_a_view_shows(
    bundle: ModelBundle, frames: Sequence[FrameQuestions], synthetic_set: Path, tmp_path: Path
) -> None:
    store = bundle.frame_store(synthetic_set / "frames")
    source = build_video_token_source(bundle, store, tmp_path, "fp32")
    ask = AskAgain(bundle, source, InferenceOptions(keep_scores=True), skip_bad_frames=False)
    view = show_other_videos(store, [(f.video, f.frame) for f in frames])
    moved = [FrameQuestions(*view.shown(f.video, f.frame), f.questions) for f in frames]
    expected = predict_frames(bundle, moved, build_video_token_source(bundle, store), InferenceOptions())
    found = ask(frames, view)
    assert answers(found) == answers(expected)
    assert json.dumps(found[0].to_json()).find("scores") == -1
