"""The engine alone, one training step or scoring pass at a time, beside the plain way (``reference.py``)."""

import copy
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import flops, reference
from benchmarks.gpu_rows import DTYPES, Case, Deadline, Row, autocast, measure_row
from benchmarks.models import build_model, make_clip, make_config
from benchmarks.project_model import MASK
from benchmarks.questions import FRAME_QUESTIONS, LABEL_IDS, Questions, make_questions
from benchmarks.timing import training_step
from surgvivqa.data.packing import PackedStream, PromptTree, pack_stream, pack_training
from surgvivqa.model.attention import CrossAttentionCache, build_layouts
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.precision import FrozenWeights
from surgvivqa.model.scoring import find_best_labels, score_labels

FROZEN_PARTS = ("visual_encoder", "text_encoder", "llm")
LIVE, TOKENS, TEXT = "live", "tokens cached", "text states cached"


class Models:
    """Both implementations with equal weights; one of them at a time is on the device.

    Args:
        size: ``full`` or ``small``.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, size: str, device: str) -> None:
        self.size, self.device, self.config = size, device, make_config(size)
        self.frame_questions = FRAME_QUESTIONS if size == "full" else 3
        self.trie = LabelTrie(LABEL_IDS)
        self._held: tuple[str, Any] = ("", None)

    @functools.cached_property
    def _our_weights(self) -> SurgViVQAModel:
        return build_model(self.size, "cpu")

    @functools.cached_property
    def _plain_weights(self) -> reference.ReferenceModel:
        return reference.build_reference(self.size, "cpu")

    def ours(self, precision: str) -> SurgViVQAModel:
        """The project's model, with frozen weights held in the dtype of the computation, as the commands hold them."""
        if self._held[0] != f"ours {precision}":
            self.release()
            model = copy.deepcopy(self._our_weights).to(self.device)
            if precision != "fp32":
                FrozenWeights(model, DTYPES[precision], parts=FROZEN_PARTS)
            self._held = (f"ours {precision}", model)
        return self._held[1]

    def plain(self) -> reference.ReferenceModel:
        """The reference implementation, in float32; autocast casts its weights in every pass."""
        if self._held[0] != "plain":
            self.release()
            self._held = ("plain", copy.deepcopy(self._plain_weights).to(self.device))
        return self._held[1]

    def release(self) -> None:
        """Frees the memory of the model on the device."""
        self._held = ("", None)
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def clips(self, frames: int) -> Tensor:
        """Clips ``[F, T, 3, H, W]`` float32 on the device."""
        return make_clip(self.config).to(self.device).repeat(frames, 1, 1, 1, 1)

    def questions(self, frames: int, each: int) -> list[Questions]:
        """Different questions for each frame."""
        every = make_questions(frames * each)
        return [every.part(number, each) for number in range(frames)]

    def training_stream(self, frames: int, each: int) -> PackedStream:
        """The stream of a training step, on the CPU."""
        asked = self.questions(frames, each)
        return pack_training([q.prompts for q in asked], [q.answers for q in asked], MASK)

    def scoring_stream(self, prompts: Sequence[Sequence[Sequence[int]]]) -> PackedStream:
        """The stream that ``score_labels`` builds, to count its operations."""
        trie, number = self.trie, iter(range(sum(map(len, prompts))))
        trees = [[PromptTree(p, trie.tokens, trie.parents, trie.edges, next(number)) for p in row] for row in prompts]
        return pack_stream(trees, MASK, sum(map(len, prompts)))


def make_step(model: Any, loss: Callable[[], Tensor], device: str, precision: str) -> Callable[[], Any]:
    """A training step of the adapters under autocast; in fp16 with loss scaling.

    Args:
        model: its parameters that need a gradient are trained.
        loss: returns the losses ``[Q]``.
        device: ``cuda`` or ``cpu``.
        precision: as in ``DTYPES``.
    """

    def losses() -> Tensor:
        with autocast(device, precision):
            return loss()

    if precision != "fp16":
        return training_step(model, losses)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler(device)

    def step() -> None:
        optimizer.zero_grad()
        scaler.scale(losses().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def plain_training(models: Models, precision: str) -> Callable[[], Any]:
    """The plain way's training step: eight questions, each with its own clip, padded to 128 tokens."""
    model, asked = models.plain(), make_questions(reference.TRAIN_BATCH)
    model.set_modes()
    clips = models.clips(reference.TRAIN_BATCH)

    def loss() -> Tensor:
        return reference.losses(model, asked.prompts, asked.answers, model.encode_video(clips), MASK)

    return make_step(model, loss, models.device, precision)


def our_training(models: Models, precision: str, frames: int, each: int, inputs: str) -> Callable[[], Any]:
    """The project's training step on some frames with ``each`` questions; inputs and stream are on the device.

    Args:
        models: the models.
        precision: as in ``DTYPES``.
        frames: number of frames.
        each: number of questions about each.
        inputs: ``LIVE``, or what is cached (float16, as in the feature cache): ``TOKENS`` or ``TEXT``.
    """
    model = models.ours(precision)
    set_modes(model)
    packed = models.training_stream(frames, each).to(models.device)
    clips = models.clips(frames)
    if inputs == LIVE:
        return make_step(model, lambda: model(packed, pixel_values=clips), models.device, precision)
    with torch.no_grad():
        with autocast(models.device, precision):
            tokens = torch.stack([model.encode_video(clip[None])[0].float() for clip in clips])
            if inputs == TEXT:
                layout = build_layouts(packed, torch.float32)[0]
                text = model.text_states(packed, CrossAttentionCache(tokens), layout).half()
        tokens = tokens.half()
    if inputs == TEXT:
        return make_step(model, lambda: model(packed, text_states=text.float()), models.device, precision)
    return make_step(model, lambda: model(packed, video_tokens=tokens.float()), models.device, precision)


def training_cases(models: Models) -> list[Case]:
    """The rows of a training step, ordered so that each model is built once."""
    many = models.frame_questions
    cases = [
        Case("plain way, batch 8", p, reference.TRAIN_BATCH, functools.partial(plain_training, models, p))
        for p in ("bf16", "fp32")
    ]

    def add(precision: str, frames: int, each: int, inputs: str = LIVE) -> None:
        stream = models.training_stream(frames, each)
        count = flops.breakdown(models.config, stream, video=inputs == LIVE, text=inputs != TEXT, train=True)
        build = functools.partial(our_training, models, precision, frames, each, inputs)
        name = f"ours, {inputs}, {frames} x {each}"
        cases.append(Case(name, precision, frames * each, build, sum(count.values()), precision == "bf16"))

    recipe = 8 if models.size == "full" else 2
    add("fp32", 1, recipe)
    add("fp32", 1, many)
    for frames, each in ((1, recipe), (1, many), (8, many), (16, many), (32, many)):
        add("bf16", frames, each)
    for inputs in (TOKENS, TEXT):
        for frames in (8, 16, 32):
            add("bf16", frames, many, inputs)
    add("fp16", 8, many)
    return cases


def plain_scoring(models: Models, precision: str) -> Callable[[], Any]:
    """The plain way's scores of the 51 labels of one question, ten sequences per pass."""
    model, asked, clips = models.plain().eval(), make_questions(1), models.clips(1)

    @torch.inference_mode()
    def score() -> None:
        with autocast(models.device, precision):
            reference.scores(model, asked.prompts, LABEL_IDS, model.encode_video(clips), MASK)

    return score


def our_scoring(models: Models, precision: str, frames: int, answer_only: bool) -> Callable[[], Any]:
    """The project's scores of the 51 labels, or the best label alone, with the frames encoded."""
    model, clips = models.ours(precision).eval(), models.clips(frames)
    prompts = [q.prompts for q in models.questions(frames, models.frame_questions)]
    search = find_best_labels if answer_only else score_labels

    @torch.inference_mode()
    def score() -> None:
        with autocast(models.device, precision):
            search(model, prompts, model.encode_video(clips), models.trie, MASK)

    return score


def scoring_cases(models: Models) -> list[Case]:
    """The rows of scoring."""
    many = models.frame_questions
    cases = [Case("plain way, 51 scores", p, 1, functools.partial(plain_scoring, models, p)) for p in ("bf16", "fp32")]
    wanted = [("fp32", 1, False), ("fp32", 1, True)]
    wanted += [("bf16", frames, False) for frames in (1, 8, 32)] + [("bf16", frames, True) for frames in (1, 8)]
    for precision, frames, answer_only in wanted:
        count = None  # the number of nodes that --answer-only runs depends on the weights
        if not answer_only:
            prompts = [q.prompts for q in models.questions(frames, many)]
            count = sum(flops.breakdown(models.config, models.scoring_stream(prompts)).values())
        name = f"ours, {'answer only' if answer_only else '51 scores'}, {frames} x {many}"
        build = functools.partial(our_scoring, models, precision, frames, answer_only)
        cases.append(Case(name, precision, frames * many, build, count, precision == "bf16"))
    return cases


def run_cases(
    cases: Sequence[Case], models: Models, deadline: Deadline, rates: dict[str, float], pattern: str = ""
) -> list[Row]:
    """Measures the cases whose "name, precision" matches a regular expression, and frees the last model."""
    wanted = [case for case in cases if re.search(pattern, f"{case.name}, {case.precision}")]
    rows = [measure_row(models.device, deadline, case, rates) for case in wanted]
    models.release()
    return rows
