"""What the server does for one visitor: takes an upload, shows a moment, answers, explains, asks along a video."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from surgvivqa.demo.facts import ModelFacts
from surgvivqa.demo.limits import Limits
from surgvivqa.demo.look import Look, Step, look_by_attention, look_by_occlusion
from surgvivqa.demo.media import Media, open_media
from surgvivqa.demo.timeline import Moment, list_moments
from surgvivqa.utils.errors import InputError

_MOMENTS_PER_PASS = 4


class Asked(Protocol):
    """One answer of the model (``auto.Answer``)."""

    answer: str
    probability: float
    top: tuple[tuple[str, float], ...]


class Answerer(Protocol):
    """A model that answers questions about clips (``auto.SurgViVQA``)."""

    model: Any
    processor: Any

    def answer(
        self, source: Any, questions: str | Sequence[str], *, at: Any = None, every: Any = None, top: int = 5
    ) -> Sequence[Any]:
        """The answers to each question at each moment."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model with what the page says about it.

    Attributes:
        answerer: what answers.
        facts: its name, what it was trained on, and warnings.
        labels: number of labels that it chooses from.
        temperature: at which probabilities are shown.
        questions: suggested questions by type; empty for none.
    """

    answerer: Answerer
    facts: ModelFacts
    labels: int
    temperature: float
    questions: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Reply:
    """An answered question.

    Attributes:
        question: the question.
        at: seconds; None for a picture.
        answers: label and probability, best first.
    """

    question: str
    at: float | None
    answers: tuple[tuple[str, float], ...]


@dataclass
class Visit:
    """What is known about a visitor.

    Attributes:
        folder: for the visitor's file.
        media: what is being asked about.
        reply: the last answer, which can be explained.
    """

    folder: Path
    media: Media | None = None
    reply: Reply | None = None

    def close(self) -> None:
        """Closes the visitor's file."""
        media, self.media, self.reply = self.media, None, None
        if media is not None:
            media.close()

    def require_media(self) -> Media:
        """The picture or video.

        Raises:
            InputError: there is none, or it was removed.
        """
        if self.media is None:
            raise InputError("There is no frame or video here any more; drop it again.")
        return self.media

    def require_still(self, media: Media) -> None:
        """Checks that a picture or video is still the visitor's, so that no answer is shown beside another one.

        Raises:
            InputError: it was replaced or removed meanwhile.
        """
        if self.media is not media:
            raise InputError("Another frame or video came meanwhile, so this is not shown; ask again.")


@dataclass(frozen=True)
class Desk:
    """Serves visitors with one model within limits."""

    answerer: Answerer
    limits: Limits
    arriving: Path

    def take_upload(self, visit: Visit, path: Path, name: str) -> Media:
        """Takes an upload over: moves it to the visitor's folder, opens it, and keeps only a video's file.

        Raises:
            InputError: it is not an upload, too large, too long, or cannot be read; its file is removed then.
        """
        if self.arriving.resolve() not in path.resolve().parents or not path.is_file() or path.is_symlink():
            raise InputError("The upload did not arrive; drop the file again.")
        visit.close()
        for old in visit.folder.iterdir():
            old.unlink()
        kept = visit.folder / f"upload{path.suffix.lower()[:8]}"
        shutil.move(path, kept)
        try:
            if kept.stat().st_size > self.limits.upload_mb * 1_000_000:
                raise InputError(f"{name} is larger than {self.limits.upload_mb} MB; drop a shorter or smaller file.")
            media = open_media(kept, name, self.limits.seconds)
        except BaseException:
            kept.unlink(missing_ok=True)
            raise
        if not media.is_video:
            kept.unlink()
        visit.media = media
        return media

    def take_example(self, visit: Visit, path: Path, title: str) -> Media:
        """Opens an example."""
        visit.close()
        visit.media = open_media(path, title, self.limits.seconds)
        return visit.media

    def ask(self, visit: Visit, question: str, at: float, top: int = 5) -> Reply:
        """Answers a question about the picture or about a moment of the video.

        Raises:
            InputError: there is no picture, or another one was dropped meanwhile; or the question cannot be used.
        """
        media, question = visit.require_media(), self._check(question)
        visit.reply = None
        source, moment = _source(media), at if media.is_video else None
        (asked,) = self.answerer.answer(source, question, at=moment, top=top)
        visit.require_still(media)
        visit.reply = Reply(question, moment, tuple(asked.top))
        return visit.reply

    def look(self, visit: Visit) -> list[Look]:
        """The attention maps of the last answer.

        Raises:
            InputError: nothing was asked.
        """
        reply, clip = self._explained(visit)
        return look_by_attention(self.answerer.model, self.answerer.processor, clip, reply.question)

    def cover(self, visit: Visit) -> Iterator[Step | Look | None]:
        """The occlusion map of the last answer with its progress (``look_by_occlusion``).

        Raises:
            InputError: nothing was asked, or another frame or video was dropped meanwhile.
        """
        reply, clip = self._explained(visit)
        deadline, media = time.monotonic() + self.limits.request_seconds, visit.require_media()
        model, processor = self.answerer.model, self.answerer.processor
        for step in look_by_occlusion(model, processor, clip, reply.question, deadline):
            visit.require_still(media)
            yield step

    def ask_along(self, visit: Visit, question: str, every: float) -> Iterator[tuple[list[Moment], int, str]]:
        """Asks a question every few seconds of the video.

        Yields:
            the moments so far, the number that will be asked, and why it stopped early, if it did.

        Raises:
            InputError: there is no video, or another one was dropped meanwhile; there would be too many moments, or the
                question cannot be used.
        """
        media, question = visit.require_media(), self._check(question)
        if not media.is_video:
            raise InputError("A timeline needs a video; drop one, or choose the drawn clip.")
        times = list_moments(media.duration, every, self.limits.moments)
        deadline = time.monotonic() + self.limits.request_seconds
        moments: list[Moment] = []
        yield moments, len(times), ""
        for start in range(0, len(times), _MOMENTS_PER_PASS):
            if time.monotonic() > deadline:
                limit = f"{self.limits.request_seconds:g} s"
                yield moments, len(times), f"Stopped after {limit}, the limit; {len(moments)} of {len(times)} moments."
                return
            part = times[start : start + _MOMENTS_PER_PASS]
            visit.require_still(media)
            try:
                answers = self.answerer.answer(_source(media), question, at=part, top=2)
            except InputError as error:  # a damaged place of the video
                visit.require_still(media)
                yield moments, len(times), str(error)
                return
            visit.require_still(media)
            moments += [_moment(at, asked) for at, asked in zip(part, answers, strict=True)]
            yield moments, len(times), ""

    def _check(self, question: str) -> str:
        text = " ".join(str(question or "").split())
        if not any(character.isalpha() for character in text):
            raise InputError("Type a question, or click one of the suggested ones.")
        if len(text) > self.limits.question_length:
            raise InputError(f"The question is longer than {self.limits.question_length} characters; shorten it.")
        return text

    def _explained(self, visit: Visit) -> tuple[Reply, list[Image.Image]]:
        media = visit.require_media()
        if visit.reply is None:
            raise InputError("Ask a question first; then its answer can be explained.")
        processor = self.answerer.processor
        frames = processor.num_frames if processor.clip_mode == "past" else 1
        return visit.reply, media.clip(visit.reply.at or 0.0, frames, float(processor.clip_stride))


def _source(media: Media) -> Any:
    return media if media.is_video else media.picture


def _moment(at: float, asked: Asked) -> Moment:
    second, probability = asked.top[1] if len(asked.top) > 1 else ("", 0.0)
    return Moment(at, asked.answer, asked.probability, second, probability)
