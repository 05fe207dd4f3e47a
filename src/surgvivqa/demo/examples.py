"""The examples of the page: drawn scenes of the synthetic set, made when the server starts."""

from dataclasses import dataclass
from pathlib import Path

from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene

_SEED = 7
_CLIP = (2, 24)  # number of the video, seconds
_FRAMES = ((4, 5), (22, 9))  # number of the video, second


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        title: its name on the page.
        path: a picture, or a folder of frames, one per second.
        picture: the picture of its button.
    """

    title: str
    path: Path
    picture: Path


def write_examples(folder: Path) -> list[Example]:
    """Draws a clip of 24 seconds and two frames into a folder."""
    video, seconds = _CLIP
    clip = folder / "clip"
    clip.mkdir(parents=True)
    for second in range(seconds):
        _draw(video, second, clip / f"{second:06d}.png")
    examples = [Example("Drawn clip", clip, clip / "000005.png")]
    for number, (video, second) in enumerate(_FRAMES, start=1):
        path = folder / f"frame{number}.png"
        _draw(video, second, path)
        examples.append(Example(f"Drawn frame {number}", path, path))
    return examples


def _draw(video: int, second: int, path: Path) -> None:
    frame, _, _ = render(generate_scene(_SEED, video, second))
    frame.save(path, compress_level=1)
