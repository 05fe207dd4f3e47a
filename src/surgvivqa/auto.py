"""The classes that users import, registered with Hugging Face's Auto classes.

``SurgViVQA`` answers questions about videos and pictures. ::

    from surgvivqa.auto import SurgViVQA

    model = SurgViVQA.from_pretrained("runs/lora")  # or a folder, a .pth file, a hub name, "tiny"
    for answer in model.answer("operation.mp4", "What is the grasper doing?", every="5s"):
        print(answer.at, answer.answer, answer.probability)

After ``import surgvivqa.auto``, ``AutoConfig``, ``AutoModel`` and ``AutoProcessor`` load SurgViVQA models. ::

    from surgvivqa.auto import SurgViVQAModel, SurgViVQAProcessor

    model = SurgViVQAModel.from_pretrained("folder or hub name")
    processor = SurgViVQAProcessor.from_pretrained("folder or hub name")
    scores = model.score(**processor("frame.png", "How many tools are there?"))  # [1, 51]
    print(processor.answers(scores))  # [[("2", 0.87)]]: label and probability
"""

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, BatchFeature

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.pretrained import SurgViVQAModel
from surgvivqa.checkpoints.stored_temperature import read_temperature
from surgvivqa.config import ModelConfig
from surgvivqa.data.frames import open_image
from surgvivqa.data.labels import LABELS
from surgvivqa.data.question_examples import example_questions
from surgvivqa.explanation.explain import Explanation, explain_answer
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.precision import autocast, hold_weights
from surgvivqa.model.processing import Picture, SurgViVQAProcessor
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.video.clip_source import ClipSource, PictureSource
from surgvivqa.video.moments import Moments, Time, plan_moments
from surgvivqa.video.opening import open_clip_source

__all__ = ["Answer", "SurgViVQA", "SurgViVQAConfig", "SurgViVQAModel", "SurgViVQAProcessor"]

AutoConfig.register(SurgViVQAConfig.model_type, SurgViVQAConfig)
AutoModel.register(SurgViVQAConfig, SurgViVQAModel)
AutoProcessor.register(SurgViVQAConfig, SurgViVQAProcessor)

Source: TypeAlias = ClipSource | Picture | Sequence[Picture]
_MOMENTS_PER_PASS, _MOMENTS_PER_PASS_ON_GPU = 4, 16


@dataclass(frozen=True)
class Answer:
    """The answer to one question about one moment.

    Attributes:
        question: the question.
        at: seconds from the beginning of the video; None for a picture.
        answer: the most probable label.
        probability: its probability among the model's labels.
        top: the most probable labels with their probabilities, best first.
    """

    question: str
    at: float | None
    answer: str
    probability: float
    top: tuple[tuple[str, float], ...]


class SurgViVQA:
    """A model that answers questions about videos, folders of frames and pictures.

    Several threads may use one object: they take turns with the model, and each call opens its own file.

    Args:
        bundle: the loaded model; its weights are moved, and cast to ``dtype``.
        device: where it computes; None for a GPU if one is visible, and else the CPU.
        dtype: the dtype of matrix products, ``float32`` (default), ``bfloat16`` or ``float16``.

    Attributes:
        model: the model in eval mode.
        processor: its processor.
        temperature: what divides scores before their softmax: fitted by ``eval --fit-temperature``, or else 1.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        self.stored_temperature = read_temperature(bundle, "sum")
        self.temperature = 1.0 if self.stored_temperature is None else self.stored_temperature.temperature
        self.model, self.processor = bundle.model, bundle.processor()
        self._dtype, self._lock = _as_dtype(dtype), threading.Lock()
        try:
            self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except (RuntimeError, AssertionError) as error:  # PyTorch raises both for a device that it does not have
            raise InputError(f"The device {device!r} cannot be used ({first_line(error)}).") from None
        hold_weights(self.model, self._dtype)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        verify: bool = True,
    ) -> Self:
        """Loads a checkpoint of any form.

        Args:
            name: a run folder, a folder in Hugging Face's or PEFT's format, a published ``.pth`` file, a hub name, or
                ``tiny``, the packaged base.
            device: where it computes; None for a GPU if one is visible, and else the CPU.
            dtype: the dtype of matrix products, ``float32`` (default), ``bfloat16`` or ``float16``.
            verify: verify the checksums of the checkpoint.

        Raises:
            InputError: there is no such checkpoint, it is damaged, or device or dtype cannot be used.
        """
        bundle = load_checkpoint(Path(name), ModelConfig(), "from_pretrained", verify=verify)
        return cls(bundle, device, dtype)

    def answer(
        self,
        source: Source,
        questions: str | Sequence[str],
        *,
        at: Time | Sequence[Time] | None = None,
        every: Time | None = None,
        start: Time | None = None,
        end: Time | None = None,
        top: int = 5,
        fps: float | None = None,
    ) -> list[Answer]:
        """Answers all questions about all moments.

        Args:
            source: a video file, a folder of frames or an image; a picture (PIL or an array ``[H, W, 3]`` uint8); a
                list of pictures, which is one clip, oldest first; or what ``surgvivqa.video.open_clip_source`` returns.
            questions: one or several questions.
            at: moments in seconds, or as text such as ``"12:34"``.
            every: seconds between moments, or text such as ``"5s"``, instead of ``at``.
            start: the first moment of ``every``; None for the beginning.
            end: the last moment of ``every``; None for the end of the video.
            top: the number of labels in ``Answer.top``.
            fps: frames per second of a folder whose frames are not named after seconds.

        Returns:
            The answers by moment, and for each moment in the order of the questions.

        Raises:
            InputError: the source, a moment or a question cannot be used.
        """
        return list(self.answer_iter(source, questions, at=at, every=every, start=start, end=end, top=top, fps=fps))

    def answer_iter(
        self,
        source: Source,
        questions: str | Sequence[str],
        *,
        at: Time | Sequence[Time] | None = None,
        every: Time | None = None,
        start: Time | None = None,
        end: Time | None = None,
        top: int = 5,
        fps: float | None = None,
    ) -> Iterator[Answer]:
        """The answers of ``answer`` one after another, a few moments at a time, for long videos.

        Raises:
            InputError: the source, a moment or a question cannot be used. A wrong argument is reported at once, a place
                of a video that cannot be decoded when it is reached.
        """
        asked = [questions] if isinstance(questions, str) else list(questions)
        _check_questions(asked)
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}.")
        clips, is_own = self._open(source, fps)
        try:
            moments = plan_moments(clips, at, every, start, end)
        except BaseException:
            if is_own:
                clips.close()
            raise
        return self._answer_moments(clips, is_own, asked, moments, top)

    def explain(
        self, source: Source, question: str, *, at: Time | None = None, fps: float | None = None
    ) -> Explanation:
        """Explains the answer to one question about one moment; it takes as long as encoding about 100 clips.

        Args:
            source: as in ``answer``.
            question: the question.
            at: the moment; None for a picture.
            fps: as in ``answer``.

        Returns:
            The explanation; ``draw()`` makes one picture of it.

        Raises:
            InputError: the source, the moment or the question cannot be used.
        """
        _check_questions([question])
        clips, is_own = self._open(source, fps)
        try:
            moments = plan_moments(clips, at)
            if moments is not None and len(moments) != 1:
                raise InputError(f"{len(moments)} moments were given; an explanation is of one.")
            moment = None if moments is None else moments[0]
            clip = self._clip(clips, moment)
        finally:
            if is_own:
                clips.close()
        answer = self._score([moment], [self._prepare(clip, [question])], [question], 1)[0]
        with self._lock, autocast(self.model, self._dtype):
            # In its passes of several clips, rounding might give another answer than the usual pass.
            explanation = explain_answer(self.model, self.processor, clip, question, answer.answer)
        return dataclasses.replace(explanation, probability=answer.probability)

    def suggest_questions(self) -> dict[str, tuple[str, ...]]:
        """A few questions by kind (``action``, ``counting``, ...) for a model with SSG-QA's labels, or else none."""
        labels = getattr(self.model.config, "labels", None)
        return example_questions() if labels is None or tuple(labels) == LABELS else {}

    def _open(self, source: Source, fps: float | None) -> tuple[ClipSource, bool]:
        """The source of clips, and whether it was opened here."""
        if isinstance(source, str | os.PathLike):
            return open_clip_source(Path(source), fps), True
        if isinstance(source, Image.Image | np.ndarray):
            return PictureSource([_as_picture(source)]), True
        if isinstance(source, Sequence):
            if not source:
                raise InputError("The list of pictures is empty; give at least one.")
            return PictureSource([_as_picture(picture) for picture in source], "the list"), True
        return source, False

    @property
    def _frames(self) -> int:
        """The number of different pictures in a clip, as the model was trained."""
        return 1 if self.processor.clip_mode == "repeat" else self.processor.num_frames

    def _clip(self, clips: ClipSource, moment: float | None) -> list[Image.Image]:
        """The pictures of a moment."""
        return clips.clip(moment or 0.0, self._frames, float(self.processor.clip_stride))

    def _prepare(self, clip: Sequence[Image.Image], questions: list[str]) -> BatchFeature:
        """A clip with its questions, as tensors of the model's size."""
        with self._lock:  # a tokenizer serves one thread at a time
            return self.processor([clip], [questions])

    def _answer_moments(
        self, clips: ClipSource, is_own: bool, questions: list[str], moments: Moments | Sequence[float] | None, top: int
    ) -> Iterator[Answer]:
        """Answers the questions, a few moments in a pass; closes the source if it is its own."""
        size = _MOMENTS_PER_PASS if self.model.device.type == "cpu" else _MOMENTS_PER_PASS_ON_GPU
        planned: Sequence[float | None] | Moments = [None] if moments is None else moments
        try:
            for first in range(0, len(planned), size):
                some = [planned[number] for number in range(first, min(first + size, len(planned)))]
                # One after another, so that the pictures of one clip are in memory, and of the others small tensors.
                inputs = [self._prepare(self._clip(clips, moment), questions) for moment in some]
                yield from self._score(some, inputs, questions, top)
        finally:
            if is_own:
                clips.close()

    def _score(
        self, moments: Sequence[float | None], inputs: Sequence[BatchFeature], questions: list[str], top: int
    ) -> list[Answer]:
        """The answers to the questions about each moment, in one pass."""
        pixels = torch.cat([one["pixel_values"] for one in inputs])
        prompts = [row for one in inputs for row in one["prompts"]]
        with self._lock, autocast(self.model, self._dtype):
            scores = self.model.score(pixels, prompts, inputs[0]["label_ids"])
            rows = self.processor.answers(scores, top, temperature=self.temperature)
        asked = [(moment, question) for moment in moments for question in questions]
        return [
            Answer(question, moment, *row[0], tuple(row)) for (moment, question), row in zip(asked, rows, strict=True)
        ]


def _as_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The dtype of matrix products.

    Raises:
        InputError: it is none of the three.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    chosen = known.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if chosen is None or chosen not in known.values():
        raise InputError(f"The dtype {dtype!r} is not one of {', '.join(known)}.")
    return chosen


def _as_picture(picture: Picture) -> Image.Image:
    """A picture as a PIL image; the processor checks and converts it."""
    if isinstance(picture, str | os.PathLike):
        return open_image(Path(picture))
    try:
        return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    except (TypeError, ValueError) as error:
        raise InputError(f"The array cannot be used as a picture ({first_line(error)}).") from None


def _check_questions(questions: Sequence[str]) -> None:
    """Raises InputError if there is no question, or one without letters."""
    if not questions:
        raise InputError("There is no question; ask at least one.")
    for question in questions:
        if not any(character.isalpha() for character in question):
            raise InputError(f"The question {question!r} has no letters; ask a question.")
