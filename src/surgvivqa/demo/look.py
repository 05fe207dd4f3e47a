"""Where a model looks for its answer, in steps that can be shown as they come and stopped at a deadline.

Attention costs about one encoding of the clip, occlusion one for each of its windows. ``explanation.explain`` has the
same maps with a check against random weights, in one piece.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from surgvivqa.explanation.attention_maps import compute_attention_maps
from surgvivqa.explanation.evidence import METHODS
from surgvivqa.explanation.frame_area import FrameArea, Map
from surgvivqa.explanation.occlusion import LabelScorer, cover_boxes, window_boxes, window_map
from surgvivqa.explanation.overlay import OverlayMap, draw_overlay
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.processing import SurgViVQAProcessor

_WINDOWS_PER_STEP = 7


@dataclass(frozen=True)
class Look:
    """One picture of where the model looks.

    Attributes:
        method: ``attention``, ``gradient_attention`` or ``occlusion``.
        title: the method's name in words.
        picture: the frame with the map over it.
        largest_drop: for ``occlusion``, how far covering a part lowers the answer's log-probability at most, in nats.
    """

    method: str
    title: str
    picture: Image.Image
    largest_drop: float = 0.0


@dataclass(frozen=True)
class Step:
    """Progress: ``done`` of ``total`` windows are covered."""

    done: int
    total: int


def look_by_attention(
    model: SurgViVQAModel, processor: SurgViVQAProcessor, clip: Sequence[Image.Image], question: str
) -> list[Look]:
    """The two attention maps of the most probable answer, over the newest frame of a clip.

    Args:
        model: the model in eval mode, not under ``torch.inference_mode``.
        processor: its processor.
        clip: the frames, oldest first.
        question: the question.
    """
    inputs = processor([list(clip)], question)
    prompts = inputs["prompts"][0]
    trie = LabelTrie(inputs["label_ids"])
    scorer = LabelScorer(model, trie, model.config.mask)
    video = scorer.encode(inputs["pixel_values"][:1])
    label = int(scorer.log_probabilities(video, prompts)[0, 0].argmax())
    maps = compute_attention_maps(model, video, prompts[0], trie.label_ids[label], model.config.mask)
    shown = {"attention": maps.attention.numpy(), "gradient_attention": maps.gradient_attention.numpy()}
    return [_draw(method, values, clip[-1], processor) for method, values in shown.items()]


def look_by_occlusion(
    model: SurgViVQAModel,
    processor: SurgViVQAProcessor,
    clip: Sequence[Image.Image],
    question: str,
    deadline: float = math.inf,
) -> Iterator[Step | Look | None]:
    """The occlusion map of the most probable answer, with its progress.

    Args:
        model: the model in eval mode.
        processor: its processor.
        clip: the frames, oldest first.
        question: the question.
        deadline: ``time.monotonic()`` at which to give up.

    Yields:
        ``Step`` after each few windows; last the map, or None if the deadline passed before it was complete.
    """
    inputs = processor([list(clip)], question)
    pixels, prompts = inputs["pixel_values"][0], inputs["prompts"][0]
    scorer = LabelScorer(model, LabelTrie(inputs["label_ids"]), model.config.mask)
    whole = scorer.ask([pixels], prompts)[0, 0]
    label = int(whole.argmax())
    boxes, drops = window_boxes(), list[float]()
    for start in range(0, len(boxes), _WINDOWS_PER_STEP):
        if time.monotonic() > deadline:
            yield None
            return
        covered = [cover_boxes(pixels, [box]) for box in boxes[start : start + _WINDOWS_PER_STEP]]
        drops += (whole[label] - scorer.ask(covered, prompts)[:, 0, label]).tolist()
        yield Step(len(drops), len(boxes))
    yield _draw("occlusion", window_map(drops), clip[-1], processor)


def _draw(method: str, values: Map, frame: Image.Image, processor: SurgViVQAProcessor) -> Look:
    area = FrameArea.of_fit(processor.frame_fit, frame.width, frame.height, processor.image_size)
    title = METHODS[method]
    picture = draw_overlay(frame, OverlayMap.of_values(title, area.to_frame(values)))
    return Look(method, title, picture, max(0.0, float(values.max())))
