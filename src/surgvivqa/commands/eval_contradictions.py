"""The part of ``eval`` that asks generated questions, to find where the model contradicts itself."""

import logging
from collections.abc import Collection, Sequence

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.contradictions import choose_frames, generate_partners
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.distributed import shard_and_gather

log = logging.getLogger("surgvivqa")


def choose_partners(bundle: ModelBundle, frames: Sequence[FrameQuestions], number: int) -> list[FrameQuestions]:
    """Generates the partner questions of evenly spaced frames.

    Args:
        bundle: the model, whose prompts must be long enough for them.
        frames: the frames with their questions.
        number: number of frames.

    Returns:
        The frames with the generated questions alone; frames without one are left out.

    Raises:
        InputError: a question does not fit in the model's prompt.
    """
    generated = [generate_partners(frame) for frame in choose_frames(frames, number)]
    partners = [frame for frame in generated if frame.questions]
    if partners:
        bundle.prompt_tokenizer().check_fits(partners)
        log.info("%d partner questions are asked about %d frames.", sum(question_counts(partners)), len(partners))
    return partners


def ask_partners(
    bundle: ModelBundle,
    partners: Sequence[FrameQuestions],
    video_source: VideoTokenSource,
    options: InferenceOptions,
    unusable: Collection[tuple[str, int]],
) -> list[Prediction]:
    """Predicts the answers to generated questions, every process for its share of the frames.

    Args:
        bundle: the model, prepared for inference.
        partners: the frames with the generated questions.
        video_source: encodes the frames or reads their cached video tokens.
        options: how predictions are made.
        unusable: video and number of frames to leave out.

    Returns:
        The predictions of all processes, in the order of the frames. Their ``answer`` has no meaning.
    """
    usable = [frame for frame in partners if (frame.video, frame.frame) not in unusable]
    if not usable:
        return []
    bad: list[BadFrame] = []  # a frame that has become unreadable since; its questions are left out

    def predict(frames: Sequence[FrameQuestions]) -> list[Prediction]:
        return predict_frames(bundle, frames, video_source, options, bad=bad, max_bad_frames=len(usable))

    with video_source:
        return shard_and_gather(usable, predict, lambda f: (f.video, f.frame), lambda p: (p.video, p.frame))
