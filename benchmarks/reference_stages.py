"""Timed stages of the reference implementation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.allocator import keep_freed_memory
from benchmarks.models import make_clip, make_config
from benchmarks.project_model import MASK, Options
from benchmarks.questions import FRAME_QUESTIONS, LABEL_IDS, Questions, make_questions
from benchmarks.timing import time_call, time_spent_in, training_step


def train(o: Options) -> dict[str, Any]:
    """A training step of eight questions about one frame, each with its own clip."""
    model = reference.build_reference(o.size, o.device)
    questions = make_questions(FRAME_QUESTIONS).first(reference.TRAIN_BATCH)
    clip = make_clip(make_config(o.size)).to(o.device)

    def loss(some: Questions) -> Tensor:
        clips = clip.repeat(len(some.prompts), 1, 1, 1, 1)
        return reference.losses(model, some.prompts, some.answers, model.encode_video(clips), MASK)

    result: dict[str, Any] = {"questions": reference.TRAIN_BATCH}
    if o.round == 1:  # in one round only: all rounds start from the same weights
        model.eval()
        with torch.no_grad():
            result["losses"] = loss(questions).tolist()
        model.set_modes()
    else:
        training_step(model, lambda: loss(questions.first(1)))()
    result["seconds"] = [time_call(o.device, training_step(model, lambda: loss(questions)))]
    return result


def train_with_memory_kept(o: Options) -> dict[str, Any]:
    """The same with an allocator that keeps freed memory (``allocator.py``)."""
    keep_freed_memory()
    return train(o)


def score(o: Options) -> dict[str, Any]:
    """Scores the 51 labels of one question, another question each round."""
    model = reference.build_reference(o.size, o.device)
    model.eval()
    questions = make_questions(FRAME_QUESTIONS).part(o.round - 1, reference.SCORE_BATCH)
    clip = make_clip(make_config(o.size)).to(o.device)
    found: list[Tensor] = []

    def score(some: Questions, labels: Sequence[Sequence[int]]) -> None:
        video = model.encode_video(clip.repeat(len(some.prompts), 1, 1, 1, 1))
        found.append(reference.scores(model, some.prompts, labels, video, MASK))

    score(questions, LABEL_IDS[:1])
    spent = time_spent_in(model.llm.base_model.model.lm_head, o.device)
    seconds = time_call(o.device, lambda: score(questions, LABEL_IDS))
    return {
        "seconds": [seconds],
        "questions": reference.SCORE_BATCH,
        "scores": found[-1].tolist(),
        "output_layer_seconds": sum(spent),
    }
