"""Corruptions of laparoscopic pictures in five severities: smoke, blood, blur, noise and others.

They imitate what happens in the operating room (smoke of the diathermy, blood on the lens, movement, the lens out of
focus, wet reflections, the circular edge of the scope) and in the recording (noise, overexposure, compression). Haze
follows the scattering model of Koschmieder, ``J t + A (1 - t)``, which is also usual for surgical smoke; blood absorbs
by Beer and Lambert's law, green and blue more than red. Blur and exposure act on linear light, in which a camera
integrates, so that highlights spread. Lengths are fractions of the picture's short side, so that a severity looks the
same in every resolution. Imitations are no measurement of real smoke or blood: ``eval --strata`` takes labels of those.

What is drawn (places, directions, grain) follows from seed, corruption, video and frame, not from the severity: a
higher severity shows more of the same.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from surgvivqa.utils.errors import InputError

Pixels: TypeAlias = NDArray[np.floating]
"""``[H, W, 3]`` float between 0 and 1, sRGB; of one channel ``[H, W]``."""
SEVERITIES = (1, 2, 3, 4, 5)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Corruption:
    """One corruption in one severity.

    Attributes:
        name: one of ``CORRUPTIONS``.
        severity: from 1 (just visible) to 5.
    """

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"


def parse_corruptions(texts: Sequence[str]) -> list[Corruption]:
    """The corruptions that ``NAME``, ``NAME:SEVERITY`` and ``all`` name, each once, in the order of ``CORRUPTIONS``.

    Args:
        texts: values of ``--corrupt``; a name alone stands for all severities.

    Raises:
        InputError: a name is unknown, or a severity is not a number from 1 to 5.
    """
    found: set[tuple[str, int]] = set()
    for text in texts:
        name, colon, severity = text.partition(":")
        if name != "all" and name not in CORRUPTIONS:
            raise InputError(f"--corrupt {text}: {name!r} is not one of all, {', '.join(CORRUPTIONS)}.")
        if colon and severity not in map(str, SEVERITIES):
            raise InputError(f"--corrupt {text}: the severity is a number from 1 to {len(SEVERITIES)}.")
        names = CORRUPTIONS if name == "all" else (name,)
        found |= {(n, s) for n in names for s in ((int(severity),) if colon else SEVERITIES)}
    return [Corruption(name, s) for name in CORRUPTIONS for s in SEVERITIES if (name, s) in found]


def corrupt(image: Image.Image, corruption: Corruption, seed: int, video: str, frame: int) -> Image.Image:
    """Corrupts a picture.

    Args:
        image: the picture, in RGB.
        corruption: what is done to it.
        seed: with the video's name and the frame's number, determines what is drawn.
        video: name of the video.
        frame: number of the frame.
    """
    key = [seed, zlib.crc32(corruption.name.encode()), zlib.crc32(video.encode()), frame]
    pixels = np.asarray(image, np.float32) / 255
    changed = CORRUPTIONS[corruption.name](pixels, corruption.severity - 1, np.random.default_rng(key))
    return Image.fromarray((255 * np.clip(changed, 0, 1) + 0.5).astype(np.uint8))


def _smoke(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Whitish smoke of the diathermy: a haze with denser swathes, which hides what is behind it."""
    density = (0.5, 0.95, 1.5, 2.3, 3.5)[level]
    swathes = _clouds(pixels.shape, rng, coarsest=0.9, octaves=5)
    transmission = np.exp(-density * (0.1 + 1.1 * swathes**1.5))[..., None]
    light = (0.66 + 0.22 * _clouds(pixels.shape, rng, coarsest=1.2, octaves=4)) * _lit(pixels)
    return pixels * transmission + light[..., None] * np.array([0.97, 0.99, 1.0], np.float32) * (1 - transmission)


def _blood(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Blood on the lens and over the tissue: red smears that let little but red through, dark where they are thick."""
    depth, covered = ((1.0, 0.15), (1.4, 0.32), (1.8, 0.5), (2.3, 0.72), (3.0, 1.0))[level]
    field = _clouds(pixels.shape, rng, coarsest=0.9, octaves=6)
    edge = np.quantile(field, 1 - covered)
    smear = np.clip((field - edge) / 0.08, 0, 1)
    thickness = depth * (smear * (0.3 + np.clip(field - edge, 0, None) * 1.6) + 0.1)[..., None]
    absorbed = np.exp(-thickness * np.array([0.55, 2.7, 2.5], np.float32))
    # What the red cells scatter back is bright in a thin film and dark in a thick one.
    scattered = np.array([0.5, 0.035, 0.03], np.float32) * thickness * np.exp(-0.6 * thickness)
    return pixels * absorbed + scattered * _lit(pixels)[..., None]


def _blur(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Movement of camera or tissue: light is smeared along a line of a random direction."""
    half = (0.02, 0.04, 0.07, 0.11, 0.16)[level] * min(pixels.shape[:2]) / 2
    angle = rng.uniform(0, np.pi)
    rows, columns = _centred(2 * int(np.ceil(half)) + 3)
    along = np.abs(rows * np.sin(angle) + columns * np.cos(angle))
    across = np.abs(rows * np.cos(angle) - columns * np.sin(angle))
    return _spread_light(pixels, np.clip(half + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1))


def _defocus(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A lens out of focus: each point becomes a disk."""
    radius = (0.008, 0.015, 0.025, 0.04, 0.06)[level] * min(pixels.shape[:2])
    rows, columns = _centred(2 * int(np.ceil(radius)) + 3)
    return _spread_light(pixels, np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1))


def _noise(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Noise of a sensor with little light: grain in brightness and colour, stronger where the picture is bright."""
    strength = (0.06, 0.11, 0.18, 0.28, 0.42)[level]
    height, width = pixels.shape[:2]
    scale = min(1.0, 240 / min(height, width))  # grain of one pixel in 240 rows survives the reduction to 224 pixels
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    draw = rng.standard_normal((*grid, 3), np.float32) * 0.6 + rng.standard_normal((*grid, 1), np.float32) * 0.8
    grain = draw if grid == (height, width) else _resize(draw, height, width)
    return pixels + strength * np.sqrt(0.15 + 0.85 * pixels) * grain


def _brightness(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Overexposure, as when the scope comes close to tissue: bright parts lose their colour and their structure."""
    gain = (1.5, 2.1, 3.0, 4.5, 7.0)[level]
    light = pixels**2.2 * gain
    # A sensor's clipping is softened by the camera's knee; what exceeds it spills into the other channels.
    excess = np.maximum(light - 0.8, 0).mean(2, keepdims=True)
    return (np.where(light < 0.6, light, 1 - 0.4 * np.exp(-(light - 0.6) / 0.4)) + 0.35 * excess).clip(0, 1) ** (
        1 / 2.2
    )


def _jpeg(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Strong compression: blocks, banding, and colours that bleed."""
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=(25, 15, 10, 6, 3)[level])
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255


def _specular(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Reflections of the scope's light on wet tissue: small white spots with a glow, mostly where it is bright."""
    covered = (0.006, 0.015, 0.03, 0.055, 0.095)[level]
    short = min(pixels.shape[:2])
    spots = _clouds(pixels.shape, rng, coarsest=0.045, octaves=2)
    groups = _clouds(pixels.shape, rng, coarsest=0.5, octaves=2)
    bright = ndimage.gaussian_filter(pixels @ _LUMA, 0.03 * short)
    field = spots + 0.5 * groups + 0.9 * np.minimum(bright, 0.5)
    edge = np.quantile(field, 1 - covered)
    mask = ndimage.gaussian_filter(np.clip((field - edge) / 0.05, 0, 1), 0.0015 * short)
    glow = ndimage.gaussian_filter(mask, 0.015 * short)
    white = (np.clip(mask + 0.5 * glow, 0, 1) * _lit(pixels))[..., None]
    return pixels * (1 - white) + np.array([1.0, 0.99, 0.96], np.float32) * white


def _cut_corners(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """The round edge of the scope's picture: all outside a circle is black."""
    height, width = pixels.shape[:2]
    corner = np.hypot(height, width) / 2
    # From a cut of the corners alone to a circle that fits between the two nearer edges.
    radius = corner + (0.98 * min(height, width) / 2 - corner) * (0.35, 0.5, 0.67, 0.84, 1.0)[level]
    shift = rng.uniform(-0.02, 0.02, 2) * min(height, width)
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows - (height - 1) / 2 - shift[0], columns - (width - 1) / 2 - shift[1])
    inside = np.clip((radius - distance) / (0.015 * min(height, width)), 0, 1)[..., None]
    return pixels * inside.astype(np.float32)


CORRUPTIONS: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "smoke": _smoke,
    "blood": _blood,
    "blur": _blur,
    "defocus": _defocus,
    "noise": _noise,
    "brightness": _brightness,
    "jpeg": _jpeg,
    "specular": _specular,
    "cut_corners": _cut_corners,
}
"""By name, a function of the pixels, the severity less one, and what draws the random numbers."""


def _lit(pixels: Pixels) -> Pixels:
    """How much of the scope's light falls on a place, ``[H, W]``: 0 in the black around a round picture, 1 in it."""
    height, width = pixels.shape[:2]
    factor = min(1.0, 60 / min(height, width))
    small = Image.fromarray(pixels.max(2)).resize((max(1, round(width * factor)), max(1, round(height * factor))))
    light = ndimage.gaussian_filter(ndimage.grey_closing(np.asarray(small), 3), 1)
    lit = np.clip((light - 0.07) / 0.08, 0, 1)
    return np.asarray(Image.fromarray(lit).resize((width, height), Image.Resampling.BILINEAR))


def _clouds(shape: tuple[int, ...], rng: np.random.Generator, coarsest: float, octaves: int) -> Pixels:
    """Fractal noise ``[H, W]`` between 0 and 1: octaves of smooth noise, each half as coarse and half as strong.

    Args:
        shape: the picture's shape, height and width first.
        rng: draws the noise.
        coarsest: distance between the points of the coarsest noise, as a fraction of the short side.
        octaves: number of octaves.
    """
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(1.0, coarsest * min(height, width) / 2**octave)
        points = rng.standard_normal((int(np.ceil(height / step)) + 3, int(np.ceil(width / step)) + 3), np.float32)
        left, top = rng.uniform(1, 2, 2)
        box = (left, top, left + width / step, top + height / step)
        smooth = Image.fromarray(points).resize((width, height), Image.Resampling.BICUBIC, box=box)
        total += np.float32(0.5**octave) * np.asarray(smooth)
    low, high = np.quantile(total, (0.01, 0.99))
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _resize(values: Pixels, height: int, width: int) -> Pixels:
    """Resizes ``[h, w, 3]`` float32 to ``[height, width, 3]`` with bilinear interpolation."""
    channels = [
        np.asarray(Image.fromarray(values[..., c]).resize((width, height), Image.Resampling.BILINEAR))
        for c in range(values.shape[2])
    ]
    return np.stack(channels, axis=-1)


def _centred(size: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Row and column of each cell of a square kernel, counted from its centre: ``[size, 1]`` and ``[1, size]``."""
    line = np.arange(size) - (size - 1) / 2
    return line[:, None], line[None, :]


def _spread_light(pixels: Pixels, kernel: NDArray[np.floating]) -> Pixels:
    """Convolves linear light with a kernel of odd sides, normalised here; the picture is reflected at its edges."""
    margin = len(kernel) // 2
    light = np.pad(pixels**2.2, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    height, width = light.shape[:2]
    size = (fft.next_fast_len(height + 2 * margin, real=True), fft.next_fast_len(width + 2 * margin, real=True))
    spectrum = (
        fft.rfft2(light, size, axes=(0, 1)) * fft.rfft2((kernel / kernel.sum()).astype(np.float32), size)[..., None]
    )
    spread = fft.irfft2(spectrum, size, axes=(0, 1))
    spread = spread[2 * margin : height, 2 * margin : width]
    return np.clip(spread, 0, 1).astype(np.float32) ** np.float32(1 / 2.2)
