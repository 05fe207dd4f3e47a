"""How far losses and scores in bf16 and fp16 lie from those in fp32 with the same weights, in both implementations."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.gpu_engine import Models
from benchmarks.gpu_rows import Deadline, Row, autocast, one_line
from benchmarks.project_model import MASK
from benchmarks.questions import LABEL_IDS
from surgvivqa.data.packing import pack_training
from surgvivqa.model.scoring import score_labels

FRAMES = 8  # of the project's comparison; the plain way answers the first questions of the first frame
TOLERANCE = 1e-4  # in nats, between the implementations in fp32
Outputs = tuple[Tensor, Tensor]


@torch.inference_mode()
def our_outputs(models: Models, precision: str) -> Outputs:
    """The project's losses ``[Q]`` and scores ``[Q, 51]`` on the CPU, of all questions about all frames."""
    model, clips = models.ours(precision).eval(), models.clips(FRAMES)
    asked = models.questions(FRAMES, models.frame_questions)
    prompts = [q.prompts for q in asked]
    packed = pack_training(prompts, [q.answers for q in asked], MASK).to(models.device)
    with autocast(models.device, precision):
        video = model.encode_video(clips)
        losses, scores = model.question_losses(packed, video), score_labels(model, prompts, video, models.trie, MASK)
    return losses.float().cpu(), scores.float().cpu()


@torch.inference_mode()
def plain_outputs(models: Models, precision: str) -> Outputs:
    """The plain way's losses and scores on the CPU, of the first questions about the first frame."""
    model = models.plain().eval()
    asked = models.questions(FRAMES, models.frame_questions)[0].first(plain_count(models))
    with autocast(models.device, precision):
        video = model.encode_video(models.clips(1)).expand(len(asked.prompts), -1, -1)
        losses = reference.losses(model, asked.prompts, asked.answers, video, MASK)
        scores = reference.scores(model, asked.prompts, LABEL_IDS, video, MASK)
    return losses.float().cpu(), scores.float().cpu()


def plain_count(models: Models) -> int:
    """Number of questions that the plain way answers."""
    return 8 if models.size == "full" else 1


def compare_outputs(found: Outputs, expected: Outputs) -> Row:
    """Compares losses and scores.

    Args:
        found: losses ``[Q]`` and scores ``[Q, C]``.
        expected: the same, taken as exact.

    Returns:
        The largest and the mean absolute difference of both, in nats; ``decided``, the number of questions whose two
        best expected scores differ by more than twice the largest difference; and ``equal``, how many of them have
        the same best label. Differences are infinite where a value is not finite.
    """
    row: Row = {"questions": len(found[0])}
    for name, one, other in zip(("loss", "score"), found, expected, strict=True):
        difference = (one - other).abs().nan_to_num(nan=torch.inf)
        row |= {f"{name}_largest": float(difference.max()), f"{name}_mean": float(difference.mean())}
    best = expected[1].topk(2, dim=1)
    decided = best.values[:, 0] - best.values[:, 1] > 2 * row["score_largest"]
    equal = (found[1].argmax(dim=1) == best.indices[:, 0]) & decided
    return row | {"decided": int(decided.sum()), "equal": int(equal.sum())}


def run_accuracy(models: Models, deadline: Deadline, pattern: str = "") -> list[Row]:
    """Compares each precision with fp32 of the same implementation, and both implementations in fp32.

    Args:
        models: the models.
        deadline: outputs that do not fit are left out.
        pattern: a regular expression that the names of the rows must match.

    Returns:
        One row per comparison; a row whose outputs cannot be computed has ``error``.
    """
    outputs: dict[tuple[str, str], Any] = {}
    sides: dict[str, Callable[[Models, str], Outputs]] = {"ours": our_outputs, "plain way": plain_outputs}
    for side, compute in sides.items():
        for precision in ("fp32", "bf16", "fp16"):
            if deadline.passed:
                outputs[side, precision] = "left out: the section's time is used up"
                continue
            try:
                outputs[side, precision] = compute(models, precision)
            except Exception as error:  # as in ``measure_row``
                outputs[side, precision] = one_line(error)
    models.release()
    pairs = [((side, precision), (side, "fp32")) for side in sides for precision in ("bf16", "fp16")]
    rows = []
    for one, other in [(("ours", "fp32"), ("plain way", "fp32")), *pairs]:
        row: Row = {"name": f"{one[0]}, {one[1]}", "against": f"{other[0]}, {other[1]}"}
        if not re.search(pattern, row["name"]):
            continue
        failed = next((outputs[key] for key in (one, other) if isinstance(outputs[key], str)), None)
        if failed:
            rows.append(row | {"error": failed})
            continue
        found, expected = outputs[one], outputs[other]
        count = min(len(found[0]), len(expected[0]))
        row |= compare_outputs((found[0][:count], found[1][:count]), (expected[0][:count], expected[1][:count]))
        if one[0] != other[0]:
            row["within_tolerance"] = max(row["loss_largest"], row["score_largest"]) <= TOLERANCE
        rows.append(row)
    return rows
