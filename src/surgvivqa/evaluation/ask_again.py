"""Asks a model, in all processes of a run, about frames or about a view of them (``data.frame_views``)."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from surgvivqa.data.frames import BadFrame, FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.evaluation.pass_size import QUESTIONS_PER_FRAME
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.distributed import shard_and_gather


def predict_in_all_processes(
    frames: Sequence[FrameQuestions],
    predict: Callable[[Sequence[FrameQuestions]], list[Prediction]],
    *,
    all_alike: bool,
) -> list[Prediction]:
    """Predictions for all questions, in their order; each process makes a part of them and gets all.

    Args:
        frames: the frames with their questions, the same in every process.
        predict: predicts the answers to the questions of some frames.
        all_alike: whether all frames show the same picture. An answer then depends on the question alone, and each
            question is asked once.

    Raises:
        SurgViVQAError: ``predict`` failed in some process.
    """
    if not all_alike:
        return shard_and_gather(frames, predict, lambda f: (f.video, f.frame), lambda p: (p.video, p.frame))
    distinct = list({(q.question, q.label): q for frame in frames for q in frame.questions}.values())
    chunks = [
        # Named by position: no picture is read for them.
        FrameQuestions(distinct[start].video, start, tuple(distinct[start : start + QUESTIONS_PER_FRAME]))
        for start in range(0, len(distinct), QUESTIONS_PER_FRAME)
    ]
    chunk_of = {(q.question, q.label): chunk.frame for chunk in chunks for q in chunk.questions}
    found = shard_and_gather(chunks, predict, lambda f: f.frame, lambda p: chunk_of[p.question, p.answer])
    answers = {(p.question, p.answer): p for p in found}
    return [
        dataclasses.replace(
            answers[q.question, q.label], video=q.video, frame=q.frame, reasoning=q.reasoning, type=q.type
        )
        for frame in frames
        for q in frame.questions
        if (q.question, q.label) in answers  # all are, unless a signal ended the predictions
    ]


@dataclass(frozen=True)
class AskAgain:
    """Asks a model again about questions of an evaluation, on other pictures. Every process must call it.

    Attributes:
        bundle: the model, on its device, in the context of its precision.
        video_source: the source of video tokens for the questions' own frames.
        options: how predictions are made.
        skip_bad_frames: leave out the questions of frames that cannot be used; otherwise such a frame is an error.
    """

    bundle: ModelBundle
    video_source: VideoTokenSource
    options: InferenceOptions
    skip_bad_frames: bool

    def __call__(self, frames: Sequence[FrameQuestions], store: FrameStore) -> list[Prediction]:
        """The predictions for the questions of ``frames``, with the pictures that ``store`` shows.

        Raises:
            FrameError: a frame cannot be used, and they are not skipped.
        """
        options = dataclasses.replace(self.options, keep_scores=False, progress=False)
        if store.all_alike:
            options = dataclasses.replace(options, workers=0)  # they would have no picture to decode
        bad: list[BadFrame] | None = [] if self.skip_bad_frames else None

        def predict(part: Sequence[FrameQuestions]) -> list[Prediction]:
            return predict_frames(self.bundle, part, source, options, bad=bad, max_bad_frames=len(frames))

        with self.video_source.showing(store) as source:
            return predict_in_all_processes(frames, predict, all_alike=store.all_alike)


def select_predictions(
    frames: Iterable[FrameQuestions], *predictions: Sequence[Prediction]
) -> Iterator[tuple[Prediction, ...]]:
    """For each question that all have answered, its predictions, in the order of ``frames``."""
    tables = [{(p.video, p.frame, p.question, p.answer): p for p in some} for some in predictions]
    for frame in frames:
        for question in frame.questions:
            key = (question.video, question.frame, question.question, question.label)
            if all(key in table for table in tables):
                yield tuple(table[key] for table in tables)
