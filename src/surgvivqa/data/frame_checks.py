"""Finds frames that look wrong: another frame rate, frames of one colour, identical frames, implausible sizes."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from surgvivqa.data.frames import FrameStore, list_frames, open_image
from surgvivqa.data.index import frame_names
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.errors import FrameError

# Questions are numbered by second, so a video of CholecT45 has about as many frames as its highest question number. A
# rate near twice that is wrong; the second bound avoids false alarms for short videos.
_MAX_RATE = 1.8
_MIN_SURPLUS = 10
_FLAT = 12  # of 255; a frame whose channels all vary less has one colour, even after JPEG compression
# Real videos have a few black frames, when the camera is outside the body, and a few that repeat.
_MAX_FLAT_SHARE = 0.1
_MAX_IDENTICAL_SHARE = 0.2
_MIN_COUNT = 3
_SIDES = (64, 4096)  # shortest and longest plausible side of an endoscopic frame in px


def find_wrong_rates(store: FrameStore, frames: Sequence[FrameQuestions]) -> list[tuple[str, int, int]]:
    """Finds videos with far more frames than seconds: name, number of frames, highest question number."""
    highest: dict[str, int] = {}
    for video, number in frame_names(frames):
        highest[video] = max(highest.get(video, 0), number)
    counts = {video: len(list_frames(store, video)[0]) for video in highest}
    return [(video, counts[video], number) for video, number in highest.items() if is_wrong_rate(counts[video], number)]


def is_wrong_rate(count: int, highest: int) -> bool:
    """Whether ``count`` frames are far more than one per second, if ``highest`` is the highest question number."""
    return count >= _MAX_RATE * (highest + 1) and count - highest - 1 >= _MIN_SURPLUS


@dataclass
class Inspection:
    """The results of opening a sample of frames.

    Attributes:
        opened: number of frames opened.
        unreadable: the reason for each frame that cannot be used, because of its image or another one of its clip.
        one_colour: frames that have one colour.
        odd_sizes: frames with an implausibly short or long side.
        digests: by video, the hash of the pixels and the path of each frame that has more than one colour.
    """

    opened: int = 0
    unreadable: list[str] = field(default_factory=list)
    one_colour: list[Path] = field(default_factory=list)
    odd_sizes: list[Path] = field(default_factory=list)
    digests: dict[str, list[tuple[bytes, Path]]] = field(default_factory=dict)

    def add(self, other: "Inspection") -> None:
        """Adds the results of other frames."""
        self.opened += other.opened
        self.unreadable += other.unreadable
        self.one_colour += other.one_colour
        self.odd_sizes += other.odd_sizes
        for video, digests in other.digests.items():
            self.digests.setdefault(video, []).extend(digests)

    def problems(self) -> list[tuple[str, list[Path], str]]:
        """The problems that too many frames have: a short name, the frames, and a sentence about them."""
        found = []
        if len(self.one_colour) >= max(_MIN_COUNT, _MAX_FLAT_SHARE * self.opened):
            sentence = (
                f"{len(self.one_colour)} of the {self.opened} opened frames have one colour (first: "
                f"{self.one_colour[0]}); extract the frames again."
            )
            found.append(("one-colour", self.one_colour, sentence))
        for video, digests in sorted(self.digests.items()):
            counts = Counter(digest for digest, _ in digests)
            same = [path for digest, path in digests if counts[digest] > 1]
            if len(same) >= max(_MIN_COUNT, _MAX_IDENTICAL_SHARE * len(digests)):
                sentence = (
                    f"{len(same)} of the {len(digests)} opened frames of {video} are identical to others (first: "
                    f"{same[0]}); extract the frames again."
                )
                found.append(("identical", same, sentence))
        if self.odd_sizes:
            sentence = (
                f"{len(self.odd_sizes)} of the {self.opened} opened frames have a side below {_SIDES[0]} or above "
                f"{_SIDES[1]} px (first: {self.odd_sizes[0]})."
            )
            found.append(("odd-size", self.odd_sizes, sentence))
        return found

    def describe(self) -> list[str]:
        """Formats a sentence for each problem that too many frames have."""
        return [sentence for _, _, sentence in self.problems()]


def inspect_frames(store: FrameStore, frames: Sequence[FrameQuestions]) -> Inspection:
    """Opens the images of the clips of ``frames``, each once, and inspects the images of ``frames`` themselves."""
    result = Inspection(opened=len(frames))
    reasons: dict[tuple[str, int], str | None] = {}
    sampled = set(frame_names(frames))
    for frame in frames:
        clip = [(frame.video, number) for number in dict.fromkeys(store.clip_frames(frame.video, frame.frame))]
        for name in clip:
            if name in reasons:
                continue
            try:
                image = open_image(store.path(*name))
                reasons[name] = None
            except FrameError as error:
                reasons[name] = str(error)
                continue
            if name in sampled:
                _inspect_image(image, name[0], store.path(*name), result)
        if reason := next((reason for name in clip if (reason := reasons[name])), None):
            result.unreadable.append(reason)
    return result


def _inspect_image(image: Image.Image, video: str, path: Path, result: Inspection) -> None:
    """Adds a frame's size, colour and digest to ``result``."""
    if min(image.size) < _SIDES[0] or max(image.size) > _SIDES[1]:
        result.odd_sizes.append(path)
    extrema: Sequence[tuple[int, int]] = image.getextrema()
    if all(high - low < _FLAT for low, high in extrema):
        result.one_colour.append(path)
    else:
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        result.digests.setdefault(video, []).append((digest, path))
