"""What ``eval`` asks besides the questions of the split: other pictures, partner questions, covered objects."""

import logging
from collections.abc import Sequence

from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.commands.eval_setup import Evaluation
from surgvivqa.commands.evidence import measure_evidence
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.index import frame_names, question_counts, subsample
from surgvivqa.evaluation.ask_again import AskAgain
from surgvivqa.evaluation.evidence import Evidence
from surgvivqa.evaluation.inference import InferenceOptions
from surgvivqa.evaluation.picture_check import PictureCheck, check_picture
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.robustness import Robustness, measure_robustness
from surgvivqa.explanation.overlay import Overlay
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


def inference_options(config: EvalConfig) -> InferenceOptions:
    """How all questions of an evaluation are asked."""
    return InferenceOptions(
        score_norm=config.score_norm,
        batch_size=config.batch_size,
        workers=config.workers,
        answer_only=config.answer_only,
    )


def ask_again(
    config: EvalConfig, evaluation: Evaluation, predictions: Sequence[Prediction], bad: BadFrames
) -> tuple[PictureCheck | None, Robustness | None]:
    """Asks ``--check-samples`` questions again, on other pictures and on corrupted ones; in all processes."""
    if not config.check_samples:
        return None, None
    skips = config.on_bad_frame == "skip"
    ask = AskAgain(evaluation.bundle, evaluation.video_source, inference_options(config), skips)
    sample = subsample(evaluation.frames, config.check_samples)
    unusable = {(frame.video, frame.frame) for frame in bad.to_list()}
    sources = [name for name in frame_names(evaluation.frames) if name not in unusable]
    log.info("%d questions are asked again, on other pictures.", sum(question_counts(sample)))
    picture = check_picture(ask, sample, sources, evaluation.store, {evaluation.shown: predictions})
    if not evaluation.corruptions:
        return picture, None
    return picture, measure_robustness(ask, sample, evaluation.store, predictions, evaluation.corruptions)


def ask_partners(config: EvalConfig, evaluation: Evaluation, bad: BadFrames) -> list[Prediction]:
    """The answers to the questions of ``--ask-partners`` about frames that can be used; in all processes."""
    unusable = {(frame.video, frame.frame) for frame in bad.to_list()}
    partners = [frame for frame in evaluation.partners if (frame.video, frame.frame) not in unusable]
    if not partners:
        return []
    log.info("%d partner questions are asked about %d frames.", sum(question_counts(partners)), len(partners))
    skips = config.on_bad_frame == "skip"
    ask = AskAgain(evaluation.bundle, evaluation.video_source, inference_options(config), skips)
    return ask(partners, evaluation.video_source.reader.store)


def find_evidence(config: EvalConfig, evaluation: Evaluation, bad: BadFrames) -> tuple[Evidence | None, list[Overlay]]:
    """The evidence and its overlays; None and none without --evidence, or if no question can be measured."""
    if config.evidence is None or config.scene_graph_root is None:
        return None, []
    try:
        return measure_evidence(
            evaluation.bundle,
            evaluation.frames,
            evaluation.store,
            config.scene_graph_root,
            config.evidence,
            skip={(frame.video, frame.frame) for frame in bad.to_list()},
            score_norm=config.score_norm,
        )
    except InputError as error:  # the predictions, which may have taken hours, are written all the same
        log.warning("%s There is no section evidence.", error)
        return None, []
