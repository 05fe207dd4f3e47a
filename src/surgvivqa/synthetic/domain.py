"""Domains: the appearance of a synthetic set's videos, and the questions about them."""

from typing import ClassVar, Protocol

import numpy as np

from surgvivqa.synthetic.appearance import TARGET_APPEARANCE, Appearance
from surgvivqa.synthetic.questions import AnswerBalance, SceneIndex, generate_candidates, question_lines
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import SceneGraph, generate_scene, scene_graph

_BALANCE_SCENES = 150
_BALANCE_VIDEO = 10_000  # larger than the number of any video


class Domain(Protocol):
    """A domain of synthetic videos. An instance depends on the seed alone and can be pickled."""

    name: ClassVar[str]
    shot_seconds: ClassVar[int]  # seconds that show the same objects

    def __init__(self, seed: int) -> None: ...

    def appearance(self, video: int, second: int) -> Appearance:
        """The appearance of a second of a video."""
        ...

    def question_lines(
        self, graph: SceneGraph, appearance: Appearance, video: int, rng: np.random.Generator
    ) -> list[str]:
        """The lines of one frame's question file."""
        ...


class TargetDomain:
    """One appearance for all videos, and questions in SSG-QA's wording with answers balanced over scenes."""

    name: ClassVar[str] = "target"
    shot_seconds: ClassVar[int] = 4

    def __init__(self, seed: int) -> None:
        self.balance = count_answers(seed)

    def appearance(self, video: int, second: int) -> Appearance:
        """The same appearance for all videos."""
        return TARGET_APPEARANCE

    def question_lines(
        self, graph: SceneGraph, appearance: Appearance, video: int, rng: np.random.Generator
    ) -> list[str]:
        """The lines of one frame's question file."""
        return question_lines(graph, self.balance, rng)


def count_answers(seed: int) -> AnswerBalance:
    """Counts the answers in scenes that are in no video, for balancing."""
    balance = AnswerBalance()
    for number in range(_BALANCE_SCENES):
        scene = generate_scene(seed, _BALANCE_VIDEO, number * 4)
        _, _, boxes = render(scene)
        graph = scene_graph(scene, boxes, "survey")
        balance.add(generate_candidates(SceneIndex(graph), np.random.default_rng([seed, 20_000, number])))
    return balance
