"""The source domain: the synthetic videos that the packaged base learns from.

In the target domain of ``surgvivqa synth`` a component has one colour. In the source domain a video draws another
palette, light, camera and tool size every few seconds, so a colour has to be seen and cannot be derived from the
component. Its questions have other wordings.
"""

from typing import ClassVar

import numpy as np

from experiments.build_base.source_questions import WORDINGS, Wording, source_questions
from surgvivqa.data.vocabulary import COLORS
from surgvivqa.synthetic.appearance import RGB, TARGET_APPEARANCE, Appearance
from surgvivqa.synthetic.questions import SceneIndex
from surgvivqa.synthetic.scene import SceneGraph

SOURCE_SEED = 1000  # far from the quickstart's seed: no scene is shared
APPEARANCE_SECONDS = 6  # seconds of a source video with one appearance
QUESTIONS_PER_FRAME = 24

_SHADES: dict[str, RGB] = {
    "red": (190, 52, 56),
    "brown": (120, 62, 40),
    "yellow": (224, 182, 84),
    "white": (226, 224, 212),
    "silver": (166, 170, 176),
    "blue": (54, 104, 198),
}
_COLOR_CHOICES: dict[str, tuple[str, ...]] = {
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


class SourceDomain:
    """Drawn appearances, and questions with free-text answers as ``question|answer`` (``synthetic.domain.Domain``)."""

    name: ClassVar[str] = "source"
    shot_seconds: ClassVar[int] = 2

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def appearance(self, video: int, second: int) -> Appearance:
        """The appearance of a second of a video."""
        return source_appearance(self.seed, video, second)

    def question_lines(
        self, graph: SceneGraph, appearance: Appearance, video: int, rng: np.random.Generator
    ) -> list[str]:
        """The lines of one frame's file; a video has one wording."""
        scene_index = SceneIndex(graph, appearance.colors)
        asked = source_questions(scene_index, Wording(video % WORDINGS), rng, QUESTIONS_PER_FRAME)
        return [f"{q.text}|{q.answer}" for q in asked]


def source_appearance(seed: int, video: int, second: int) -> Appearance:
    """The appearance drawn for a second of a source video."""
    rng = np.random.default_rng([seed, video, second // APPEARANCE_SECONDS, 7])
    # Half of the time the target domain's colour, so that every target combination occurs.
    colors = {
        name: COLORS[name] if rng.random() < 0.5 else str(rng.choice(choices))
        for name, choices in _COLOR_CHOICES.items()
    }
    rgb = {}
    for name, color in colors.items():
        own = np.array(TARGET_APPEARANCE.rgb[name] if color == COLORS[name] else _SHADES[color])
        shade = 0.5 * own + 0.5 * np.array(_SHADES[color])
        rgb[name] = _rgb(shade * (1 + 0.08 * rng.standard_normal() + 0.03 * rng.standard_normal(3)))
    return Appearance(
        colors,
        rgb,
        tissue=_rgb(np.array([132, 54, 50]) * rng.uniform(0.7, 1.2) * (1 + 0.1 * rng.standard_normal(3))),
        tint=_rgb(1 + 0.03 * rng.standard_normal(3)),
        light_falloff=float(rng.uniform(1.0, 2.2)),
        view_radius=float(rng.uniform(196, 250)),
        view_center=(float(215 + rng.uniform(-14, 14)), float(120 + rng.uniform(-8, 8))),
        tool_scale=float(rng.uniform(0.85, 1.2)),
    )


def _rgb(values: np.ndarray) -> RGB:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
