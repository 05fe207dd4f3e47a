"""Explains one answer: where the model looks, by three methods, as arrays and as one picture.

::

    from surgvivqa.auto import SurgViVQAModel, SurgViVQAProcessor
    from surgvivqa.explanation.explain import explain_answer

    model, processor = SurgViVQAModel.from_pretrained("folder"), SurgViVQAProcessor.from_pretrained("folder")
    explanation = explain_answer(model, processor, "frame.png", "What color is the gallbladder?")
    explanation.draw().save("why.png")  # explanation.maps["occlusion"] is an array [h, w] over the frame
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from surgvivqa.data.frames import open_image
from surgvivqa.explanation.evidence import METHODS, compute_maps
from surgvivqa.explanation.frame_area import FrameArea, Map
from surgvivqa.explanation.map_checks import randomise_weights, rank_correlation
from surgvivqa.explanation.occlusion import Fill, LabelScorer
from surgvivqa.explanation.overlay import OverlayMap, Panel, draw_figure, draw_overlay
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.processing import Picture, SurgViVQAProcessor

_NOTES = {
    "attention": "cross-attention of the prompt's last token",
    "gradient_attention": "attention that raises the answer's score",
    "occlusion": "covering a window lowers log p by up to {most:.2f}",
}


@dataclass(frozen=True)
class Explanation:
    """Where a model looks for its answer to one question.

    Attributes:
        question: the question.
        answer: the label that is explained.
        probability: its probability among all labels.
        frame: the frame in question, the newest of a clip.
        maps: by method (``attention``, ``gradient_attention``, ``occlusion``), ``[h, w]`` float32 over the frame. The
            values of ``occlusion`` are drops of the answer's log-probability in nats.
        randomisation_correlation: by method, the rank correlation with the map of a model with random weights: a map
            near 1 does not depend on what the model has learned. None if a map is constant.
        is_clip: whether the model saw several frames; maps are then means over time.
    """

    question: str
    answer: str
    probability: float
    frame: Image.Image
    maps: Mapping[str, Map]
    randomisation_correlation: Mapping[str, float | None]
    is_clip: bool = False

    def draw(self) -> Image.Image:
        """One picture of the frame and the three maps, each with its name and its check."""
        shown = "the newest frame of the clip" if self.is_clip else "the frame in question"
        panels = [Panel(self.frame, "frame", (shown,))]
        for method, title in METHODS.items():
            values = self.maps[method]
            correlation = self.randomisation_correlation[method]
            check = "constant map" if correlation is None else f"rank correlation with this map {correlation:.2f}"
            note = _NOTES[method].format(most=max(0.0, float(values.max())))
            picture = draw_overlay(self.frame, OverlayMap.of_values(title, values))
            panels.append(Panel(picture, title, (note, f"random weights: {check}")))
        return draw_figure(
            panels,
            self.question,
            [f"{self.answer}   (probability {100 * self.probability:.1f} %)"],
            "A correlation near 1 means that the map does not depend on what the model has learned. Only occlusion "
            "shows what the answer depends on; attention shows where the model reads, which may not matter.",
        )


def explain_answer(
    model: SurgViVQAModel,
    processor: SurgViVQAProcessor,
    images: Picture | Sequence[Picture],
    question: str,
    answer: str | None = None,
    *,
    fill: Fill = "surround",
    score_norm: str = "sum",
    seed: int = 0,
) -> Explanation:
    """Explains a model's answer to one question about a frame or a clip.

    It encodes the clip about 100 times: for each window of the occlusion map, with the model and with its copy with
    random weights. The model must not be under ``torch.inference_mode``.

    Args:
        model: the model in eval mode.
        processor: its processor.
        images: the frame, or the frames of a clip from oldest to newest.
        question: the question.
        answer: the label to explain; None for the most probable one.
        fill: what covers the windows (``occlusion``).
        score_norm: how a label's score follows from its tokens (``scoring.normalise_scores``).
        seed: seed of the random weights.

    Raises:
        InputError: an image or the question cannot be used.
        ValueError: ``answer`` is not a label.
    """
    pictures = [images] if isinstance(images, Picture) else list(images)
    inputs = processor([pictures], question)
    clip, prompts = inputs["pixel_values"][0], inputs["prompts"][0]
    frame = _open(pictures[-1])
    trie = LabelTrie(inputs["label_ids"])
    scorer = LabelScorer(model, trie, model.config.mask, score_norm)
    random = LabelScorer(randomise_weights(model, seed), trie, model.config.mask, score_norm)
    log_probs = scorer.ask([clip], prompts)[0, 0]
    labels = processor.label_set.labels
    label = int(log_probs.argmax()) if answer is None else labels.index(answer)
    maps, random_maps = (compute_maps(s, clip, prompts, [label], fill) for s in (scorer, random))
    area = FrameArea.of_fit(processor.frame_fit, frame.width, frame.height, processor.image_size)
    return Explanation(
        question=question,
        answer=labels[label],
        probability=math.exp(float(log_probs[label])),
        frame=frame,
        maps={method: area.to_frame(maps[method][0]) for method in METHODS},
        randomisation_correlation={m: rank_correlation(maps[m][0], random_maps[m][0]) for m in METHODS},
        is_clip=len(pictures) > 1,
    )


def _open(picture: Picture) -> Image.Image:
    """The picture as RGB."""
    if isinstance(picture, str | Path):
        return open_image(Path(picture))
    return (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).convert("RGB")
