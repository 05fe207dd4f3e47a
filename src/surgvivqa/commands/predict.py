"""``surgvivqa predict``: answers questions about a picture, or about moments of a video."""

import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from surgvivqa.auto import Answer, SurgViVQA
from surgvivqa.commands.answer_lines import AnswerLines, CsvLines, JsonLines, TextLines, TopLines, write_answers
from surgvivqa.commands.load_model import load_model
from surgvivqa.commands.precision import compute_dtype
from surgvivqa.commands.predict_config import PredictConfig
from surgvivqa.commands.question_file import read_questions
from surgvivqa.config import check_ranges
from surgvivqa.data.frames import open_image
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.progress_bar import Pace, ProgressBar
from surgvivqa.utils.atomic_files import write_file
from surgvivqa.utils.distributed import start_processes
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.tf32 import set_tf32
from surgvivqa.video.clip_source import ClipSource, PictureSource
from surgvivqa.video.moments import Moments, plan_moments
from surgvivqa.video.opening import VIDEO_SUFFIXES, open_clip_source
from surgvivqa.video.times import format_time

log = logging.getLogger("surgvivqa")


def predict(config: PredictConfig) -> int:
    """Writes the most probable answers to questions about a picture, a clip or moments of a video.

    It computes on a GPU if one is visible. Probabilities are at the temperature that is stored beside the checkpoint,
    if there is one.

    Raises:
        InputError: a question is empty, a picture, the video or a moment cannot be used, there are more images than the
            model takes, the precision is not available, or a file to write is not in a folder.
        RunError: a file cannot be written.
    """
    check_ranges(config)
    dtype = compute_dtype(config.fp16, config.bf16)
    questions = _check_inputs(config)
    source, moments = _open_source(config)
    try:
        total = len(questions) * (1 if moments is None else len(moments))
        _check_single(config, total)
        set_tf32(False)
        bundle = load_model(config.checkpoint, config.model, verify=config.verify)
        _check_count(config, bundle)
        model = SurgViVQA(bundle, start_processes().device, dtype)
        answers = model.answer_iter(source, questions, **_times(config), top=config.top)
        if config.format == "text" and not config.json and model.stored_temperature is not None:
            log.info(
                "Probabilities are at temperature %.3f, fitted on %d validation questions.",
                model.temperature,
                model.stored_temperature.questions,
            )
        if config.json:
            _print_json(next(answers), model)
        else:
            shown = _show_progress(answers, total, config.output is not None or not sys.stdout.isatty())
            write_answers(shown, _choose_lines(config, source, model, total), config.output)
        if config.explain:
            at = None if moments is None else moments[0]
            picture = model.explain(source, questions[0], at=at).draw()
            write_file(config.explain, lambda temporary: picture.save(temporary, "PNG"))
            if not config.json and config.format == "text":
                print(f"written: {config.explain}")
    finally:
        source.close()
    return 0


def _check_inputs(config: PredictConfig) -> list[str]:
    """Checks the flags that need no model, and returns the questions."""
    questions = list(chain.from_iterable(config.question))
    for question in questions:
        if not any(character.isalpha() for character in question):
            raise InputError(f"--question {question!r} has no letters; ask a question.")
    if config.questions is not None:
        questions += read_questions(config.questions)
    if not questions:
        raise InputError("There is no question; ask one with --question, or several with --questions FILE.")
    if config.video is None:
        _check_images(config)
    elif config.image:
        raise InputError("--image and --video cannot be combined; give one of them.")
    for flag, path in (("--image", config.image[0] if config.image else None), ("--video", config.video)):
        if path is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
            raise InputError(f"{flag} {path} is a web address. URLs are not read; download the file first.")
    if config.at and config.every is not None:
        raise InputError("--at and --every cannot be combined; give moments, or a step.")
    if config.every is None and (config.start is not None or config.end is not None):
        raise InputError("--start and --end are the first and the last moment of --every; give it too.")
    if config.json and (config.format != "text" or config.output is not None):
        raise InputError("--json cannot be combined with --format and --output; use --format jsonl.")
    if config.explain and (config.explain.suffix.lower() != ".png" or not config.explain.parent.is_dir()):
        raise InputError(f"--explain {config.explain} is not a .png file in a folder that exists; name one.")
    if config.output and (config.output.is_dir() or not config.output.parent.is_dir()):
        raise InputError(f"--output {config.output} is not a file in a folder that exists; name one.")
    return questions


def _check_images(config: PredictConfig) -> None:
    if not config.image:
        raise InputError("--image names no file; give the frame, or a video with --video.")
    for image in config.image:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(image)):
            raise InputError(f"--image {image} is a web address. URLs are not read; download the picture first.")
        if image.is_dir() or image.suffix.lower() in VIDEO_SUFFIXES:
            raise InputError(f"--image {image} is not a picture; give a video or a folder of frames with --video.")
    for flag, value in (("--at", config.at), ("--every", config.every), ("--fps", config.fps)):
        if value not in (None, []):
            raise InputError(f"{flag} is about a video; give one with --video, or leave {flag} out.")


def _open_source(config: PredictConfig) -> tuple[ClipSource, Sequence[float] | Moments | None]:
    """Opens the pictures or the video, and plans the moments."""
    if config.video is None:
        return PictureSource([open_image(path) for path in config.image], str(config.image[-1])), None
    source = open_clip_source(config.video, config.fps)
    try:
        if source.duration is not None and not config.at and config.every is None:
            raise InputError(
                f"--video {config.video} lasts {format_time(source.duration)}; say which moments to ask about with "
                f"--at TIME or --every STEP."
            )
        return source, plan_moments(source, **_times(config))
    except BaseException:
        source.close()
        raise


def _times(config: PredictConfig) -> dict[str, Any]:
    """The arguments of ``plan_moments`` and ``SurgViVQA.answer_iter`` about time."""
    at = list(chain.from_iterable(config.at)) or None
    return {"at": at, "every": config.every, "start": config.start, "end": config.end}


def _check_single(config: PredictConfig, total: int) -> None:
    """Checks that the flags about one answer go with one answer."""
    for flag, is_given in (("--json", config.json), ("--explain", config.explain is not None)):
        if is_given and total != 1:
            instead = "; use --format jsonl" if flag == "--json" else ""
            raise InputError(
                f"{flag} is for one question about one moment, but {total} answers are asked for{instead}."
            )


def _check_count(config: PredictConfig, bundle: ModelBundle) -> None:
    count, frames = len(config.image), bundle.model.config.video_config.num_frames
    if bundle.settings.clip_mode == "repeat" and count > 1:
        raise InputError(
            f"--image names {count} files, but this model was trained on single frames (--clip-mode repeat); give one."
        )
    if count > frames:
        raise InputError(f"--image names {count} files, but this model takes clips of at most {frames} frames.")


def _choose_lines(config: PredictConfig, source: ClipSource, model: SurgViVQA, total: int) -> AnswerLines:
    """How the answers are written."""
    if config.format == "jsonl":
        return JsonLines(source.name, None if model.stored_temperature is None else model.temperature)
    if config.format == "csv":
        return CsvLines(source.name, min(config.top, len(model.processor.label_set)))
    return TopLines() if total == 1 else TextLines()


def _print_json(answer: Answer, model: SurgViVQA) -> None:
    """Prints one answer as one JSON object."""
    rows = [{"answer": label, "probability": probability} for label, probability in answer.top]
    used = None if model.stored_temperature is None else model.temperature
    time = {} if answer.at is None else {"at": answer.at}
    print(json.dumps({"question": answer.question, **time, "answers": rows, "temperature": used}))


def _show_progress(answers: Iterator[Answer], total: int, enabled: bool) -> Iterator[Answer]:
    """Passes answers on, with a progress bar if there are many and standard error is a terminal."""
    pace = Pace(total, "answers")
    with ProgressBar(total, enabled and total > 1, "predict") as bar:
        for number, answer in enumerate(answers, 1):
            yield answer
            pace.add(number, 1)
            bar.show(number, pace.describe())
