"""The gallery of a page: frames with their questions, true and predicted answers, and where the model looks."""

import base64
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from surgvivqa.data.frames import FrameStore, open_image
from surgvivqa.data.picture_files import is_inside
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.explanation.overlay import Overlay, color_map
from surgvivqa.utils.errors import FrameError

Key = tuple[str, int, str]  # video, frame and question
PICTURE_WIDTH = 320  # pixels; a frame of CholecT45 then takes about 6 kB
_QUALITY = 68
_LOOKAHEAD = 40  # questions of a group that the choice compares


@dataclass(frozen=True)
class Answer:
    """A model's answer in a gallery.

    Attributes:
        name: whose answer it is, such as ``Model`` or the name of a run.
        prediction: the predicted label.
        probability: its probability; None if it is not known.
        top5: the most probable labels with their probabilities, best first; empty if they are not known.
    """

    name: str
    prediction: str
    probability: float | None = None
    top5: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Box:
    """A box on a frame; the sides are fractions of its width and height.

    Attributes:
        left: the left side.
        top: the upper side.
        right: the right side.
        bottom: the lower side.
        role: whether the question asks about the object, or only names it.
    """

    left: float
    top: float
    right: float
    bottom: float
    role: Literal["asked", "referent"] = "asked"


@dataclass(frozen=True)
class HeatMap:
    """A map over a frame of where a model looks.

    Attributes:
        method: short name of the method that made it.
        title: its name in words.
        picture: the map as a data URI, partly transparent.
    """

    method: str
    title: str
    picture: str


@dataclass(frozen=True)
class Item:
    """One question of a gallery.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        question: the question.
        answer: the true label.
        answers: the answers of the models.
        outcome: what the filter of answers calls it, such as ``wrong``.
        type: the question's type; empty for lines without one.
        picture: the frame as a data URI; None if it was not found.
        width: width of the picture in pixels.
        height: its height.
        maps: maps of where the model looks; empty if there are none.
        boxes: the boxes of the objects.
        caption: further words below the answers.
    """

    video: str
    frame: int
    question: str
    answer: str
    answers: Sequence[Answer]
    outcome: str
    type: str = ""
    picture: str | None = None
    width: int = 0
    height: int = 0
    maps: Sequence[HeatMap] = ()
    boxes: Sequence[Box] = ()
    caption: str = ""

    @property
    def labels(self) -> list[str]:
        """The true label and the predicted ones."""
        return list(dict.fromkeys([self.answer, *(answer.prediction for answer in self.answers)]))


@dataclass(frozen=True)
class Gallery:
    """What the template ``_gallery.html`` shows.

    Attributes:
        items: the questions, in their first order.
        order: what that order is called.
        note: what is missing and why; empty if nothing is.
        legend: how the overlays are to be read; empty without overlays.
    """

    items: Sequence[Item]
    order: str = "most confident mistakes first"
    note: str = ""
    legend: str = ""

    @property
    def outcomes(self) -> list[str]:
        """The values of the filter of answers."""
        return sorted({item.outcome for item in self.items})

    @property
    def types(self) -> list[str]:
        """The question types."""
        return sorted({item.type for item in self.items if item.type})

    @property
    def labels(self) -> list[str]:
        """The true and predicted labels."""
        return sorted({label for item in self.items for label in item.labels})

    @property
    def videos(self) -> list[str]:
        """The videos."""
        return sorted({item.video for item in self.items})

    @property
    def methods(self) -> dict[str, str]:
        """The titles of the maps' methods by their short names."""
        return {shown.method: shown.title for item in self.items for shown in item.maps}

    @property
    def has_overlays(self) -> bool:
        """Whether an item shows where a model looks."""
        return any(item.maps or item.boxes for item in self.items)


def choose_predictions(
    predictions: Sequence[Prediction], count: int, seed: int = 0, preferred: Container[Key] = ()
) -> list[Prediction]:
    """Chooses the questions of a gallery.

    Half of them are the most confident mistakes, each of another frame while there are other frames. The rest is spread
    over question types, right and wrong answers, labels and videos; half of it is preferred questions, if there are so
    many.

    Args:
        predictions: all predictions.
        count: number of questions to choose; fewer if there are fewer.
        seed: of the order in which questions of one group are looked at.
        preferred: video, frame and question of those that have more to show.

    Returns:
        The chosen predictions: mistakes by falling probability, then right answers by rising probability.
    """
    wrong = sorted((p for p in predictions if not p.correct), key=lambda p: -(p.probability or 0.0))
    chosen = _of_different_frames(wrong, count // 2)
    taken = {id(p) for p in chosen}
    others = [p for p in predictions if id(p) not in taken]
    first = [p for p in others if (p.video, p.frame, p.question) in preferred]
    chosen += _spread(first, (count - len(chosen)) // 2, chosen, seed)
    taken = {id(p) for p in chosen}
    chosen += _spread([p for p in others if id(p) not in taken], count - len(chosen), chosen, seed)
    return sorted(chosen, key=lambda p: (p.correct, (p.probability or 0.0) * (1 if p.correct else -1)))


def _of_different_frames(ordered: Sequence[Prediction], count: int) -> list[Prediction]:
    """The first ``count`` predictions, of different frames as far as there are so many."""
    chosen, repeated, frames = list[Prediction](), list[Prediction](), set[tuple[str, int]]()
    for prediction in ordered:
        if len(chosen) == count:
            return chosen
        name = (prediction.video, prediction.frame)
        (repeated if name in frames else chosen).append(prediction)
        frames.add(name)
    return chosen + repeated[: count - len(chosen)]


def _spread(candidates: Sequence[Prediction], count: int, chosen: Sequence[Prediction], seed: int) -> list[Prediction]:
    """Goes round the groups (type, right or wrong) and takes of each the question with the rarest frame and label."""
    groups = defaultdict[tuple[str, bool], list[Prediction]](list)
    for index in np.random.default_rng(seed).permutation(len(candidates)):
        prediction = candidates[index]
        groups[prediction.type or "", prediction.correct].append(prediction)
    frames = Counter((p.video, p.frame) for p in chosen)
    labels, videos = Counter(p.answer for p in chosen), Counter(p.video for p in chosen)
    spread = list[Prediction]()
    while len(spread) < count and groups:
        for key in sorted(groups):
            if len(spread) == count:
                break
            ahead = groups[key][:_LOOKAHEAD]
            best = min(ahead, key=lambda p: (frames[p.video, p.frame], labels[p.answer], videos[p.video]))
            groups[key].remove(best)
            spread.append(best)
            frames[best.video, best.frame] += 1
            labels[best.answer] += 1
            videos[best.video] += 1
            if not groups[key]:
                del groups[key]
    return spread


def item_of(prediction: Prediction, name: str = "Model") -> Item:
    """A gallery's item of one model's prediction, without a picture."""
    answer = Answer(name, prediction.prediction_label, prediction.probability, prediction.top5 or ())
    return Item(
        prediction.video,
        prediction.frame,
        prediction.question,
        prediction.answer_label,
        [answer],
        "right" if prediction.correct else "wrong",
        prediction.type or "",
    )


class Pictures:
    """Frames as small WebP pictures.

    Args:
        root: the folder of the frames; None if it is not known.

    Attributes:
        missing: the frames that could not be read, with the reason of the first.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.missing: dict[tuple[str, int], str] = {}
        self._read: dict[tuple[str, int], tuple[str, int, int] | None] = {}

    def picture(self, video: str, frame: int, image: str | None = None) -> tuple[str, int, int] | None:
        """A frame as a data URI with its width and height in pixels; None if it cannot be read.

        Args:
            video: name of the video.
            frame: number of the frame.
            image: its path below the root; None for CholecT45's layout.
        """
        name = (video, frame)
        if name not in self._read:
            self._read[name] = self._load(video, frame, image)
        return self._read[name]

    def note(self, frames: Iterable[tuple[str, int]]) -> str:
        """Why pictures of these frames are missing, in a sentence; empty if none is."""
        frames = set(frames)
        if self.root is None:
            return "No pictures: the folder of the frames is not known. Give it with --image-root."
        absent = [frame for frame in frames if frame in self.missing]
        if not absent:
            return ""
        why = self.missing[absent[0]]
        return f"{len(absent)} of {len(frames)} frames have no picture: {why} Give their folder with --image-root."

    def _load(self, video: str, frame: int, image_path: str | None) -> tuple[str, int, int] | None:
        if self.root is None:
            return None
        try:
            # Predictions may be another person's file, whose names must not lead out of the folder.
            if not re.fullmatch(r"\w[\w.-]*", video) or not 0 <= frame < 10**9:
                raise FrameError(f"{video!r} is not the name of a video.")
            if image_path is not None and not is_inside(image_path):
                raise FrameError(f"{image_path!r} is not a path below the folder of the frames.")
            store = FrameStore(self.root)
            image = open_image(store.path(video, frame) if image_path is None else store.root / image_path)
        except FrameError as error:
            self.missing[video, frame] = error.sentence.replace(f"{self.root}{os.sep}", "")
            return None
        width = min(PICTURE_WIDTH, image.width)
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        return data_uri(image, quality=_QUALITY), width, height


def data_uri(image: Image.Image, **options: object) -> str:
    """An image as the data URI of a WebP file; ``options`` are those of Pillow's writer."""
    file = io.BytesIO()
    image.save(file, "WEBP", method=4, **options)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def heat_map_uri(rows: Sequence[Sequence[float]]) -> str:
    """A heat map as a data URI, one pixel a value, in the colours of ``explanation.overlay`` and as opaque as there.

    Args:
        rows: ``[H, W]`` values from 0 to 1, from the top left.
    """
    values = np.asarray(rows, np.float32)
    opacity = np.round(255 * (0.25 + 0.5 * np.clip(values, 0, 1))).astype(np.uint8)
    pixels = np.dstack([color_map(values), opacity])
    return data_uri(Image.fromarray(pixels, "RGBA"), lossless=True, exact=True)


def with_overlay(item: Item, overlay: Overlay) -> Item:
    """An item with the maps and boxes of its question."""
    maps = [HeatMap(method, shown.title, heat_map_uri(shown.rows)) for method, shown in overlay.maps.items()]
    boxes = [Box(*box, role="asked") for box in overlay.asked] + [
        Box(*box, role="referent") for box in overlay.referents
    ]
    return replace(item, maps=maps, boxes=boxes)
