"""Measures evidence on a model: covers the asked objects of questions, and plays the pointing game with their maps.

::

    ground_frames    frames, spread over the videos, with the questions whose asked objects their scene graphs give
    EvidenceRun      answers with these objects covered and with equal areas elsewhere covered, the three maps of each
                     question, and those of a model with random weights
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgvivqa.data.frames import IMAGENET_MEAN, IMAGENET_STD, FrameStore, open_image
from surgvivqa.data.index import frame_names
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation.evidence import EvidenceRecord, MethodResult
from surgvivqa.explanation.attention_maps import compute_attention_maps
from surgvivqa.explanation.frame_area import FrameArea, Map
from surgvivqa.explanation.grounding import ground_question
from surgvivqa.explanation.map_checks import covered_share, points_into, randomise_weights, rank_correlation
from surgvivqa.explanation.occlusion import Fill, LabelScorer, cover_boxes, occlusion_drops
from surgvivqa.explanation.overlay import Overlay, OverlayMap
from surgvivqa.explanation.scene_graphs import Box, SceneGraph, read_scene_graph, scene_graph_path
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.utils.errors import InputError

METHODS = {
    "attention": "attention",
    "gradient_attention": "gradient-weighted attention",
    "occlusion": "occlusion",
}
CONTROLS = 4  # areas elsewhere for each question
PER_FRAME = 4  # questions of a frame: its windows are encoded once for all of them
_TRIES = 400  # draws of an area elsewhere
_DARK, _MOST_DARK = 0.1, 0.2  # brightness of the surroundings of the endoscope's view, and how much of it is accepted


@dataclass(frozen=True)
class GroundedQuestion:
    """A question whose asked objects are known; boxes are fractions of the frame.

    Attributes:
        question: the question.
        asked: what it asks (``grounding.Grounding.asked``).
        targets: the boxes of the asked objects.
        referents: the boxes of the other objects that the question depends on.
    """

    question: Question
    asked: str
    targets: tuple[Box, ...]
    referents: tuple[Box, ...]


def ground(question: Question, graph: SceneGraph) -> GroundedQuestion | str:
    """Grounds a question in its frame's graph; otherwise the reason why it is left out."""
    grounding = ground_question(question.question, graph)
    if grounding is None:
        return "not grounded"
    if not grounding.targets:
        return "asks about nothing that is there"
    if question.answer not in grounding.answers:
        return "the graph gives another answer"
    boxes = [tuple(graph.objects[i].box for i in part) for part in (grounding.targets, grounding.referents)]
    return GroundedQuestion(question, grounding.asked, *boxes)


@dataclass(frozen=True)
class GroundedFrame:
    """A frame with its grounded questions, in a drawn order, of which ``most`` at most are measured."""

    video: str
    frame: int
    questions: tuple[GroundedQuestion, ...]
    most: int


def ground_frames(
    frames: Sequence[FrameQuestions], root: Path, count: int, left_out: Counter[str], seed: int = 0
) -> list[GroundedFrame]:
    """Chooses frames, spread evenly over the videos and over each video, and grounds their questions.

    Args:
        frames: the frames with their questions.
        root: the folder of the scene graphs.
        count: number of questions wanted, of at most ``PER_FRAME`` per frame.
        left_out: receives the number of questions of these frames that cannot be used, by reason.
        seed: seed of the order of a frame's questions.

    Raises:
        InputError: a scene graph is damaged, or no frame has one.
    """
    by_video: dict[str, list[int]] = {}
    for index, (video, _) in enumerate(frame_names(frames)):
        by_video.setdefault(video, []).append(index)
    per_video = max(1, -(-count // (PER_FRAME * max(1, len(by_video)))))
    spread = [
        indices[position]
        for indices in by_video.values()
        for position in np.unique(np.linspace(0, len(indices) - 1, per_video).round().astype(int))
    ]
    shares = [count // len(spread) + (n < count % len(spread)) for n in range(len(spread))]
    grounded, missing = list[GroundedFrame](), Path()
    for index, share in zip(spread, shares, strict=True):
        frame = frames[index]
        path = scene_graph_path(root, frame.video, frame.frame)
        if not path.is_file():
            left_out["no scene graph"] += len(frame.questions)
            missing = path
            continue
        graph = read_scene_graph(path)
        order = np.random.default_rng([seed, frame.frame]).permutation(len(frame.questions))
        found = [ground(frame.questions[i], graph) for i in order]
        left_out.update(reason for reason in found if isinstance(reason, str))
        questions = tuple(item for item in found if isinstance(item, GroundedQuestion))
        grounded.append(GroundedFrame(frame.video, frame.frame, questions, min(PER_FRAME, share)))
    if not grounded:
        raise InputError(
            f"None of the {len(spread)} frames chosen for --evidence has a scene graph (one would be {missing}); give "
            f"the folder of SSG-QA's <VIDxx>_<frame>.json files with --scene-graph-root."
        )
    return grounded


def place_elsewhere(
    targets: Sequence[Box],
    avoid: Sequence[Box],
    visible: Box,
    dark: Map,
    rng: np.random.Generator,
    count: int = CONTROLS,
) -> list[list[Box]]:
    """Draws areas elsewhere: boxes of the targets' sizes that touch neither the targets nor other given boxes.

    Boxes that show mostly the dark around the endoscope's round view are not used: covering them changes nothing.

    Args:
        targets: boxes, as fractions of the input.
        avoid: further boxes to keep away from.
        visible: the part of the input that shows the frame.
        dark: ``[H, W]`` float32, 1 where the input is dark.
        rng: draws the places.
        count: number of areas.

    Returns:
        Up to ``count`` areas, each with one box per target; fewer if there is no room.
    """
    areas: list[list[Box]] = []
    for _ in range(count):
        placed: list[Box] = []
        for target in sorted(targets, key=lambda box: -box.area):
            size = (target.right - target.left, target.bottom - target.top)
            room = (visible.right - visible.left - size[0], visible.bottom - visible.top - size[1])
            if min(room) < 0:
                return areas
            for left, top in rng.uniform(size=(_TRIES, 2)) * room + (visible.left, visible.top):
                box = Box(float(left), float(top), float(left) + size[0], float(top) + size[1])
                if any(box.overlaps(other) for other in (*targets, *avoid, *placed)):
                    continue
                if _mean_inside(dark, box) <= _MOST_DARK:
                    placed.append(box)
                    break
            else:
                return areas
        areas.append(placed)
    return areas


class FrameEvidence(NamedTuple):
    """What was measured on one frame; plain values, since processes send it to one another.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        records: what was measured for each question.
        overlays: what a report shows of each question.
        left_out: number of questions that could not be used, by reason.
    """

    video: str
    frame: int
    records: list[EvidenceRecord]
    overlays: list[Overlay]
    left_out: Counter[str]


@dataclass
class EvidenceRun:
    """Measures questions on a model and on its copy with random weights.

    Attributes:
        bundle: the model in eval mode, with its tokenizer and settings.
        store: the frames on disk.
        score_norm: how a label's score follows from its tokens.
        fill: what covers boxes.
        seed: seed of the areas elsewhere and of the random weights.
    """

    bundle: ModelBundle
    store: FrameStore
    score_norm: str = "sum"
    fill: Fill = "surround"
    seed: int = 0

    def __post_init__(self) -> None:
        self.tokenizer = self.bundle.prompt_tokenizer()
        trie, mask = LabelTrie(self.tokenizer.label_ids), self.bundle.settings.mask
        self.scorer = LabelScorer(self.bundle.model, trie, mask, self.score_norm)
        self.random = LabelScorer(randomise_weights(self.bundle.model, self.seed), trie, mask, self.score_norm)

    def measure(self, frame: GroundedFrame) -> FrameEvidence:
        """Measures the first questions of a frame for which there is room for areas elsewhere.

        Raises:
            FrameError: the frame's image cannot be used.
        """
        result = FrameEvidence(frame.video, frame.frame, [], [], Counter())
        if not frame.most or not frame.questions:
            return result
        clip = self.store.clip(frame.video, frame.frame)
        width, height = open_image(self.store.path(frame.video, frame.frame)).size
        area = FrameArea.of_fit(self.store.fit, width, height, self.store.size)
        asked = self._place(frame, clip, area, result.left_out)
        if not asked:
            return result
        prompts = self.tokenizer.batch_prompt_ids([a.grounded.question.question for a in asked])
        answers = self._cover(clip, asked, prompts)
        labels = [answer.label for answer in answers]
        maps, random_maps = (
            compute_maps(scorer, clip, prompts, labels, self.fill) for scorer in (self.scorer, self.random)
        )
        for n, (question, answer) in enumerate(zip(asked, answers, strict=True)):
            methods = {name: self._compare(asked, n, maps[name], random_maps[name]) for name in METHODS}
            shown = {name: OverlayMap.of_values(METHODS[name], area.to_frame(maps[name][n])) for name in METHODS}
            grounded = question.grounded
            record = EvidenceRecord(
                video=frame.video,
                frame=frame.frame,
                question=grounded.question.question,
                asked=grounded.asked,
                label=answer.label,
                correct=answer.label == grounded.question.label,
                probability=float(np.exp(answer.log_probability)),
                changed_asked=answer.changed[0],
                changed_elsewhere=float(np.mean(answer.changed[1:])),
                drop_asked=answer.drops[0],
                drop_elsewhere=float(np.mean(answer.drops[1:])),
                chance=covered_share(question.targets, area.visible),
                centre_points=any(box.contains(0.5, 0.5) for box in question.targets),
                methods=methods,
            )
            result.records.append(record)
            result.overlays.append(
                Overlay(frame.video, frame.frame, record.question, shown, grounded.targets, grounded.referents)
            )
        return result

    def _place(
        self, frame: GroundedFrame, clip: Tensor, area: FrameArea, left_out: Counter[str]
    ) -> list["_AskedQuestion"]:
        """The first questions of a frame that have room for areas elsewhere."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        dark = ((clip[-1] * std + mean).amax(dim=0) < _DARK).float().numpy()
        rng = np.random.default_rng([self.seed, frame.frame, int(frame.video.encode().hex(), 16) % 2**32])
        asked: list[_AskedQuestion] = []
        for grounded in frame.questions:
            if len(asked) == frame.most:
                break
            targets = [box for box in map(area.to_input, grounded.targets) if box.area]
            if not targets:
                left_out["the input does not show the asked object"] += 1
                continue
            referents = [box for box in map(area.to_input, grounded.referents) if box.area]
            elsewhere = place_elsewhere(targets, referents, area.visible, dark, rng)
            if elsewhere:
                asked.append(_AskedQuestion(grounded, targets, elsewhere))
            else:
                left_out["no room for an equal area elsewhere"] += 1
        return asked

    def _cover(
        self, clip: Tensor, asked: Sequence["_AskedQuestion"], prompts: Sequence[Sequence[int]]
    ) -> list["_CoveredAnswer"]:
        """Each question's answer with its objects covered, and with areas elsewhere covered."""
        shown = [clip]
        owners: list[int] = []
        for n, question in enumerate(asked):
            for boxes in (question.targets, *question.elsewhere):
                shown.append(cover_boxes(clip, boxes, self.fill))
                owners.append(n)
        log_probs = self.scorer.ask(shown, prompts)
        labels = log_probs[0].argmax(dim=-1).tolist()
        answers = []
        for n, label in enumerate(labels):
            rows = [1 + i for i, owner in enumerate(owners) if owner == n]
            covered = log_probs[rows, n]
            own = float(log_probs[0, n, label])
            answers.append(
                _CoveredAnswer(
                    label,
                    own,
                    [best != label for best in covered.argmax(dim=-1).tolist()],
                    [own - value for value in covered[:, label].tolist()],
                )
            )
        return answers

    def _compare(
        self, asked: Sequence["_AskedQuestion"], n: int, maps: Sequence[Map], random_maps: Sequence[Map]
    ) -> MethodResult:
        targets = asked[n].targets
        others = [m for m, question in enumerate(asked) if set(question.targets).isdisjoint(targets)]
        return MethodResult(
            points_into(maps[n], targets),
            points_into(random_maps[n], targets),
            float(np.mean([points_into(maps[m], targets) for m in others])) if others else None,
            rank_correlation(maps[n], random_maps[n]),
        )


def compute_maps(
    scorer: LabelScorer, clip: Tensor, prompts: Sequence[Sequence[int]], labels: Sequence[int], fill: Fill
) -> dict[str, list[Map]]:
    """Computes the three maps over the input of questions about one clip, by method (``METHODS``).

    Args:
        scorer: the model with its labels.
        clip: ``[T, 3, H, W]`` float, normalised.
        prompts: token ids of each question's prompt.
        labels: the label of each question whose score is explained.
        fill: what covers the windows of the occlusion map.
    """
    video = scorer.encode(clip.unsqueeze(0))
    answers = [scorer.trie.label_ids[label] for label in labels]
    explained = [
        compute_attention_maps(scorer.model, video, prompt, answer, scorer.mask)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return {
        "attention": [maps.attention.numpy() for maps in explained],
        "gradient_attention": [maps.gradient_attention.numpy() for maps in explained],
        "occlusion": occlusion_drops(scorer, clip, prompts, labels, fill),
    }


@dataclass(frozen=True)
class _AskedQuestion:
    """A question with its targets and the areas elsewhere, as fractions of the input."""

    grounded: GroundedQuestion
    targets: list[Box]
    elsewhere: list[list[Box]]


@dataclass(frozen=True)
class _CoveredAnswer:
    """The predicted label with its log-probability, and for the covered clips whether the answer changes and its drop.

    The first of the covered clips hides the asked objects, the others hide areas elsewhere.
    """

    label: int
    log_probability: float
    changed: list[bool]
    drops: list[float]


def _mean_inside(values: Map, box: Box) -> float:
    height, width = values.shape
    rows = slice(int(box.top * height), max(int(box.top * height) + 1, round(box.bottom * height)))
    columns = slice(int(box.left * width), max(int(box.left * width) + 1, round(box.right * width)))
    return float(values[rows, columns].mean())
