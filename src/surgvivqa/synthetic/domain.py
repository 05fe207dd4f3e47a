"""How videos look: the *target* domain that the commands make, and the *source* domain that the base learns from.

In the target domain a component has one colour, as in SSG-QA. In the source domain a video draws its own palette,
light, camera and size of tools every few seconds, so that a colour has to be seen and cannot be known from the
component.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from surgvivqa.synthetic.scene import COLORS

Domain = Literal["target", "source"]
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """The look of a stretch of video: each component's colour as a word and as RGB (0 to 255), the tissue behind all,
    the light (tint, and how fast it falls off), the round view (radius and centre, px), and the size of tools."""

    colors: dict[str, str]
    rgb: dict[str, RGB]
    tissue: RGB = (132, 54, 50)
    tint: RGB = (1.0, 1.0, 1.0)
    falloff: float = 1.5
    view: float = 208.0
    centre: tuple[float, float] = (215.0, 120.0)
    tool_size: float = 1.0


TARGET = Look(
    COLORS,
    {
        "abdominal_wall_cavity": (206, 92, 96),
        "liver": (116, 52, 38),
        "gut": (222, 170, 128),
        "omentum": (226, 184, 74),
        "gallbladder": (196, 206, 186),
        "cystic_plate": (172, 28, 36),
        "cystic_duct": (226, 214, 196),
        "grasper": (168, 172, 178),
        "hook": (238, 238, 232),
        "bipolar": (52, 96, 190),
        "scissors": (150, 152, 156),
        "clipper": (44, 120, 208),
        "irrigator": (186, 190, 196),
        "specimenbag": (232, 236, 240),
    },
)

_SHADES: dict[str, RGB] = {
    "red": (190, 52, 56),
    "brown": (120, 62, 40),
    "yellow": (224, 182, 84),
    "white": (226, 224, 212),
    "silver": (166, 170, 176),
    "blue": (54, 104, 198),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "abdominal_wall_cavity": ("red", "brown"),
    "liver": ("brown", "red"),
    "gut": ("yellow", "white", "red"),
    "omentum": ("yellow", "white"),
    "gallbladder": ("white", "yellow", "blue"),
    "cystic_plate": ("red", "brown"),
    "cystic_duct": ("white", "yellow"),
    "grasper": ("silver", "white", "blue"),
    "hook": ("white", "silver"),
    "bipolar": ("blue", "silver"),
    "scissors": ("silver", "blue"),
    "clipper": ("blue", "silver", "white"),
    "irrigator": ("silver", "white"),
    "specimenbag": ("white", "yellow", "blue"),
}


BURST: dict[Domain, int] = {"target": 4, "source": 2}  # seconds that show the same objects
_STRETCH = 6  # seconds of a source video with one look


def look_of(domain: Domain, seed: int, video: int, second: int) -> Look:
    """The look of a second of a video: the one of the target domain, or one drawn for the source domain."""
    if domain == "target":
        return TARGET
    rng = np.random.default_rng([seed, video, second // _STRETCH, 7])
    # Half the time the colour that the target has too, so that no component is a stranger there.
    colors = {
        name: COLORS[name] if rng.random() < 0.5 else str(rng.choice(choices)) for name, choices in _CHOICES.items()
    }
    rgb = {}
    for name, color in colors.items():
        own = np.array(TARGET.rgb[name] if color == COLORS[name] else _SHADES[color])
        shade = 0.5 * own + 0.5 * np.array(_SHADES[color])
        rgb[name] = _rgb(shade * (1 + 0.08 * rng.standard_normal() + 0.03 * rng.standard_normal(3)))
    return Look(
        colors,
        rgb,
        tissue=_rgb(np.array([132, 54, 50]) * rng.uniform(0.7, 1.2) * (1 + 0.1 * rng.standard_normal(3))),
        tint=_rgb(1 + 0.03 * rng.standard_normal(3)),
        falloff=float(rng.uniform(1.0, 2.2)),
        view=float(rng.uniform(196, 250)),
        centre=(float(215 + rng.uniform(-14, 14)), float(120 + rng.uniform(-8, 8))),
        tool_size=float(rng.uniform(0.85, 1.2)),
    )


def _rgb(values: np.ndarray) -> RGB:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
