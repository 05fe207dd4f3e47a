"""The project's model, as the stages of one process share it, with one frame of 39 questions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.models import build_model, make_clip
from benchmarks.questions import FRAME_QUESTIONS, Questions, make_questions
from benchmarks.timing import time_call, training_step
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.model.attention import CrossAttentionCache, build_layouts
from surgvivqa.model.modeling import SurgViVQAModel, sum_answer_losses

MASK = "prefix"
REPEATS = 2  # timed passes in one process, after one that is not timed


class ProjectModel:
    """The project's model with one frame of 39 questions."""

    def __init__(self, size: str, device: str) -> None:
        self.device = device
        self.model: SurgViVQAModel = build_model(size, device)
        self.config = self.model.config
        self.clip = make_clip(self.config).to(device)
        self.questions = make_questions(FRAME_QUESTIONS)
        self.packed = self.pack(self.questions)

    def pack(self, questions: Questions) -> PackedStream:
        """The packed stream of one frame with its true answers."""
        return pack_training([questions.prompts], [questions.answers], MASK).to(self.device)

    def encode_video(self) -> Tensor:
        """Video tokens ``[1, V, hidden]`` float16, as a cache holds them."""
        with torch.no_grad():
            return self.model.encode_video(self.clip).half()

    def text_states(self, packed: PackedStream, video: Tensor) -> Tensor:
        """BLIP's output ``[N, hidden]`` float16, as a cache holds it."""
        with torch.no_grad():
            return self.model.text_states(
                packed, CrossAttentionCache(video.float()), build_layouts(packed, torch.float32)[0]
            ).half()

    def losses_of_text_states(self, packed: PackedStream, text: Tensor) -> Tensor:
        """Losses ``[Q]`` from BLIP's output: GPT-2 alone."""
        states = self.model.decoder_states(packed, text.float(), build_layouts(packed, torch.float32)[1])
        return sum_answer_losses(packed, self.model.log_probs_at(packed, states))

    def time_steps(self, loss: Callable[[], Tensor]) -> list[float]:
        """Seconds of training steps, after one that is not timed."""
        step = training_step(self.model, loss)
        step()
        return [time_call(self.device, step) for _ in range(REPEATS)]


@dataclass(frozen=True)
class Options:
    """Options of a stage.

    Attributes:
        size: of the models, ``full`` or ``small``.
        device: ``cpu`` or ``cuda``.
        work: a folder that stages share.
        round: number of this round, from 1.
        built: the model, once it is built.
    """

    size: str
    device: str
    work: Path
    round: int = 1
    built: list[ProjectModel] = field(default_factory=list)

    def project_model(self) -> ProjectModel:
        """The project's model, which the stages of one process share."""
        if not self.built:
            self.built.append(ProjectModel(self.size, self.device))
        return self.built[0]
