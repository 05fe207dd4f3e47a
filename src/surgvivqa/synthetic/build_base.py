"""Makes the small base that the package brings, from nothing: source set, lesson, questions, package files.

``OUT`` then holds::

    source/             the source domain's set (frames, masks, scene graphs, questions)
    state.safetensors   weights and optimiser of the stage at hand, now and then, so that a stopped build goes on
    log.jsonl           losses and figures by stage and step
    check/              a small target-domain set, on which the base is scored as it is
    base/               what the package brings: model.safetensors (fp16), tokenizer, configuration, model card
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from surgvivqa.config import EvalConfig, ModelConfig
from surgvivqa.errors import InputError, RunError
from surgvivqa.evaluation import evaluate
from surgvivqa.model.attention import VideoMemory
from surgvivqa.model.configuration import tiny_config
from surgvivqa.model.loading import Bundle, save_checkpoint, train_tokenizer
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.run_log import StopSignals, progress_bar
from surgvivqa.splits import load_splits
from surgvivqa.synthetic.lesson import Lesson, SourceFrame, SourceSet, open_eyes, read_source, set_words, word_groups
from surgvivqa.synthetic.pretraining import Gaze, SourceBatch, source_batch
from surgvivqa.synthetic.questions import candidates
from surgvivqa.synthetic.source_questions import SPEAKERS, Speaker, source_questions
from surgvivqa.synthetic.write import SynthConfig, write_synthetic

log = logging.getLogger("surgvivqa")
SOURCE_SEED = 1000  # far from the quickstart's, so that no scene is shared
CHECK_SEED = 77


@dataclass(kw_only=True)
class BaseConfig:
    """Makes the tiny preset's base from nothing; run again, it goes on where it was stopped."""

    out: Path
    """Folder to work in; the result is OUT/base."""
    frames_per_video: int = 90
    """Frames of each of the 45 source videos."""
    lesson_steps: int = 1500
    """Steps of the lesson on patches."""
    lesson_frames: int = 32
    """Frames a step of it."""
    question_steps: int = 9000
    """Steps of the lesson on questions."""
    question_frames: int = 8
    """Frames a step of it."""
    questions_per_frame: int = 12
    """Questions of each of them."""
    lr: float = 1e-3
    """Highest learning rate of both."""
    gaze: float = 0.5
    """Weight of the loss that draws cross-attention to what words mean."""
    seed: int = 1
    """Weights and order follow from it."""
    save_every: int = 250
    """Steps between two saved states."""


def build_base(config: BaseConfig) -> int:
    """Runs or goes on with the build.

    Returns:
        0 when done, 75 when a signal stopped it after its state was saved.

    Raises:
        InputError: numbers out of range, or the folder holds a build with other settings.
    """
    for name in ("frames_per_video", "lesson_steps", "question_steps"):
        if getattr(config, name) < 2:
            raise InputError(f"--{name.replace('_', '-')} must be at least 2.")
    started = time.monotonic()
    _same_settings(config)
    source = config.out / "source"
    if not _complete(source):
        synth = SynthConfig(out=source, domain="source", seed=SOURCE_SEED, frames_per_video=config.frames_per_video)
        write_synthetic(synth)
    model, tokenizer, data, val = _materials(config, source)
    with StopSignals() as stop:
        for stage in (
            LessonStage(config, model, tokenizer, data, val),
            QuestionStage(config, model, tokenizer, data, val),
        ):
            if not _run(stage, config, stop):
                log.info("Stopped; the same command goes on.")
                return 75
    folder = config.out / "base"
    export(model, tokenizer, folder)
    write_card(folder, zero_shot(folder, config.out / "check"), config)
    log.info("%s: %.1f MB, %.0f s in this start", folder, _size(folder) / 1e6, time.monotonic() - started)
    return 0


def _same_settings(config: BaseConfig) -> None:
    """Keeps the settings beside the state: one build, one set of them."""
    config.out.mkdir(parents=True, exist_ok=True)
    path, mine = config.out / "settings.json", dataclasses.asdict(config) | {"out": ""}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(mine, default=str)):
        raise InputError(f"--out {config.out} holds a build with other settings (settings.json); take another folder.")
    path.write_text(json.dumps(mine, default=str), encoding="utf-8")


def _complete(folder: Path) -> bool:
    mark = folder / "synthetic.json"
    return mark.is_file() and json.loads(mark.read_text(encoding="utf-8"))["complete"]


def _materials(config: BaseConfig, source: Path) -> tuple[SurgViVQAModel, Any, SourceSet, SourceSet]:
    torch.manual_seed(config.seed)
    splits, shape = load_splits(), tiny_config(2048).video_config
    frames: dict[str, list[SourceFrame]] = {}
    read = functools.partial(
        read_source, source, domain="source", seed=SOURCE_SEED, size=shape.image_size, patch=shape.patch_size
    )
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for split, videos in (("train", splits.train), ("val", splits.val)):
            frames[split] = list(itertools.chain.from_iterable(pool.imap(read, videos)))
    tokenizer = train_tokenizer(_sentences(frames["train"]))
    model = SurgViVQAModel(tiny_config(len(tokenizer)))
    return model, tokenizer, SourceSet(frames["train"]), SourceSet(frames["val"][::4])


def _sentences(frames: list[SourceFrame]) -> Iterator[str]:
    """Questions in the source's wordings with their answers, and in SSG-QA's: the tokenizer knows the words of both."""
    for number, frame in enumerate(frames[::3]):
        rng = np.random.default_rng([2, number])
        for q in source_questions(frame.scenery, Speaker(number % SPEAKERS), rng, 30):
            yield q.text
            yield f" {q.answer}"
        yield from (c.text for c in candidates(frame.scenery, rng, tries=10))


class Stage:
    """A stage of the build: a module to train, its steps, and what it does when they are done."""

    name: str
    steps: int
    trained: list[nn.Parameter]
    modules: dict[str, nn.Module]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, which is a function of the seed and the step alone, and figures for the log."""
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        """Figures on validation videos."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called once after the last step."""


class LessonStage(Stage):
    """Patches and words (``lesson.py``)."""

    name = "lesson"

    def __init__(
        self, config: BaseConfig, model: SurgViVQAModel, tokenizer: Any, data: SourceSet, val: SourceSet
    ) -> None:
        self.config, self.model, self.data, self.val, self.steps = config, model, data, val, config.lesson_steps
        self.groups = word_groups(tokenizer)
        self.heads = Lesson(model, self.groups)
        words = model.text_encoder.embeddings.word_embeddings
        self.modules = {"model": model, "heads": self.heads}
        self.trained = [*model.visual_encoder.parameters(), *words.parameters(), *self.heads.parameters()]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.config.seed, 1, step])
        count = min(self.config.lesson_frames, len(self.data.frames))
        chosen = torch.from_numpy(rng.choice(len(self.data.frames), count, replace=False))
        past = torch.from_numpy(rng.random(count) < 0.5) & self.data.moves[chosen]
        loss, right = self._of(self.data, chosen, past)
        return loss, {"component": float(right.mean())}

    def _of(self, data: SourceSet, chosen: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        clips = data.clips(chosen, past, self.model.config.video_config.num_frames)
        tokens = self.model.visual_encoder(pixel_values=clips).last_hidden_state
        loss, right = self.heads(self.model, tokens, data.classes[chosen], data.offsets[chosen], past)
        return loss, right

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        every = torch.arange(len(self.val.frames))
        right = [self._of(self.val, part, torch.zeros(len(part), dtype=torch.bool))[1] for part in every.split(64)]
        return {"val_component": float(torch.cat(right).mean())}

    def finish(self) -> None:
        set_words(self.model, self.groups)
        open_eyes(self.model)


class QuestionStage(Stage):
    """Questions with drawn cross-attention (``pretraining.py``), on the lesson's frozen video tokens."""

    name = "questions"

    def __init__(
        self, config: BaseConfig, model: SurgViVQAModel, tokenizer: Any, data: SourceSet, val: SourceSet
    ) -> None:
        self.config, self.model, self.tokenizer, self.data, self.val = config, model, tokenizer, data, val
        self.steps, self.modules = config.question_steps, {"model": model}
        parts = (*model.text_encoder.named_parameters(), *model.llm.named_parameters())
        self.trained = [p for name, p in parts if not name.startswith("pooler.")]
        self.tokens: dict[str, tuple[Tensor, Tensor]] = {}
        self.gaze = Gaze(model)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.config.seed, 2, step])
        # BLIP learns to read both ways and forwards alone, so that neither mask is a stranger to it.
        mask = "prefix" if rng.random() < 0.6 else "causal"
        batch = self._batch(self.data, rng, mask)
        memory = self._memory("train", self.data, batch)
        answers = self.model.question_losses(batch.packed, memory).mean()
        away, _ = self.gaze.loss(batch.pointers, memory)
        return answers + self.config.gaze * away, {"answers": answers.item(), "gaze": away.item()}

    def _batch(self, data: SourceSet, rng: np.random.Generator, mask: str) -> SourceBatch:
        frames = min(self.config.question_frames, len(data.frames))
        layers = self.model.config.text_config.num_hidden_layers
        return source_batch(data, self.tokenizer, rng, frames, self.config.questions_per_frame, mask, layers)

    def _memory(self, name: str, data: SourceSet, batch: SourceBatch) -> VideoMemory:
        if name not in self.tokens:  # the video encoder is frozen here: each frame is encoded once, still and moving
            self.tokens[name] = (self._encode(data, torch.zeros_like(data.moves)), self._encode(data, data.moves))
        still, moving = self.tokens[name]
        tokens = torch.where(batch.past[:, None, None], moving[batch.chosen], still[batch.chosen])
        return VideoMemory(tokens.float(), reuse=True)

    @torch.no_grad()
    def _encode(self, data: SourceSet, past: Tensor) -> Tensor:
        length = self.model.config.video_config.num_frames
        parts = torch.arange(len(data.frames)).split(64)
        return torch.cat([self.model.encode_video(data.clips(p, past[p], length)).half() for p in parts])

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        hits: dict[str, list[bool]] = defaultdict(list)
        seen = []
        for number in range(20):
            batch = self._batch(self.val, np.random.default_rng([3, number]), "prefix")
            memory = self._memory("val", self.val, batch)
            hidden = self.model.hidden_states(batch.packed, memory)
            seen.append(self.gaze.loss(batch.pointers, memory)[1])
            places, targets = batch.packed.target_positions, batch.packed.target_ids
            right = self.model.decoder.lm_head(hidden[places]).argmax(-1) == targets
            for n, question in enumerate(batch.questions):  # an answer is right if each of its tokens is the likeliest
                hits[question.kind].append(bool(right[batch.packed.target_question == n].all()))
        shares = {f"gaze_{n}": float(v) for n, v in enumerate(torch.stack(seen).mean(0))}
        by_kind = {f"val_{kind}": float(np.mean(v)) for kind, v in sorted(hits.items())}
        return by_kind | {"val_all": float(np.mean(list(itertools.chain(*hits.values()))))} | shares


def _run(stage: Stage, config: BaseConfig, stop: StopSignals) -> bool:
    """A stage from where its saved state is to its end; False when a signal stopped it."""
    optimizer = torch.optim.AdamW(stage.trained, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    state = config.out / "state.safetensors"
    step = _restore(stage, optimizer, state)
    if step is None:
        return True  # the state is of a later stage: this one is done
    began, sums, counted = time.monotonic(), defaultdict[str, float](float), 0
    for module in stage.modules.values():
        module.train()
    stage.modules["model"].requires_grad_(False)
    for parameter in stage.trained:
        parameter.requires_grad_(True)
    with progress_bar(stage.steps - step, True) as advance:
        while step < stage.steps:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _rate(step, stage.steps)
            loss, figures = stage.loss(step)
            value = loss.item()
            if not math.isfinite(value):
                raise RunError(f"The loss of step {step + 1} of the {stage.name} stage is {value}; take a lower --lr.")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(stage.trained, 1.0)
            optimizer.step()
            step, counted = step + 1, counted + 1
            advance()
            for name, figure in (figures | {"loss": value}).items():
                sums[name] += figure
            if step % config.save_every == 0 or step == stage.steps or stop.caught:
                means = {name: round(value / counted, 5) for name, value in sums.items()}
                if step % (4 * config.save_every) == 0 or step == stage.steps:
                    means |= {name: round(value, 4) for name, value in stage.figures().items()}
                line = {"stage": stage.name, "step": step, **means, "seconds": round(time.monotonic() - began, 1)}
                with (config.out / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                log.info("%s", json.dumps(line))
                sums, counted = defaultdict(float), 0
                if step < stage.steps:
                    _save(stage, optimizer, state, step)
            if stop.caught and step < stage.steps:
                return False
    stage.finish()
    _save(stage, None, state, step)
    return True


def _rate(step: int, total: int) -> float:
    """Part of the highest rate: a twentieth of the steps up, then a cosine down."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _save(stage: Stage, optimizer: torch.optim.Optimizer | None, path: Path, step: int) -> None:
    """Weights, and in mid-stage the optimiser's moments, by rename."""
    tensors = {
        f"{m}.{k}": v.contiguous() for m, module in stage.modules.items() for k, v in module.state_dict().items()
    }
    tensors = {k: v.clone() for k, v in tensors.items()}  # tied weights share memory, which safetensors refuses
    if optimizer is not None:
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v.clone() for k, v in moments.items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, {"stage": stage.name, "step": str(step), "done": str(optimizer is None)})
    temporary.replace(path)


def _restore(stage: Stage, optimizer: torch.optim.Optimizer, path: Path) -> int | None:
    """The step to go on from; None where this stage is done already."""
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        about = file.metadata()
    order = (LessonStage.name, QuestionStage.name)
    done = about["done"] == "True"
    if order.index(about["stage"]) < order.index(stage.name) and not done:
        raise InputError(f"{path} is of an unfinished earlier stage.")
    if about["stage"] != stage.name and order.index(about["stage"]) > order.index(stage.name):
        return None
    tensors = load_file(path)
    for name, module in stage.modules.items():
        mine = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        if mine:
            module.load_state_dict(mine)
    if about["stage"] != stage.name:
        return 0
    if done:
        return None
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, moment = key.split(".")
            state[int(number)][moment] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict(whole | {"state": dict(state)})
    return int(about["step"])


def export(model: SurgViVQAModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The package's files: an ordinary checkpoint folder with its tensors in fp16, and the model card."""
    model.requires_grad_(False)
    save_checkpoint(Bundle(model, tokenizer, ModelConfig(preset="tiny")), folder)
    weights = folder / "model.safetensors"
    half = {k: v.half() for k, v in load_file(weights).items()}
    save_file(half, weights, {"format": "pt"})
    weights.chmod(0o644)


def zero_shot(checkpoint: Path, work: Path) -> dict[str, float]:
    """Accuracy of a checkpoint on target-domain questions that nothing was trained on: in all, ``n``, and by type."""
    data = work / "data"
    if not _complete(data):
        write_synthetic(SynthConfig(out=data, videos=9, frames_per_video=6, seed=CHECK_SEED, masks=False))
    roots = {"ssgvqa_root": data / "ssg-qa", "image_root": data / "frames"}
    # The seven videos of the "train" split: all of them are new to the base.
    evaluate(EvalConfig(checkpoint=checkpoint, output=work / "eval", split="train", workers=0, **roots))
    metrics = json.loads((work / "eval" / "metrics.json").read_text(encoding="utf-8"))
    kinds = {kind: figures["acc"] for kind, figures in metrics["by_type"].items()}
    return {"n": metrics["n"], "acc": metrics["acc"], **kinds}


def write_card(folder: Path, figures: dict[str, float], config: BaseConfig) -> None:
    """The model card: what it is, what it has learned from, its figure as it is, its licence and its hash."""
    kinds = ", ".join(f"{k} {100 * figures[k]:.1f}" for k in ("exist", "count", "query_color", "query_component"))
    flags = " ".join(
        f"--{name.replace('_', '-')} {getattr(config, name)}"
        for name in vars(config)
        if name not in ("out", "save_every")
    )
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: surgvivqa
tags: [visual-question-answering, surgical, synthetic]
---
# surgvivqa-tiny-base

The frozen base of surgvivqa's `tiny` preset: a VideoMAE, a BLIP text encoder and a GPT-2 of four layers of width 128
each, for trying the pipeline on a laptop. It has seen drawn scenes alone, no real frame and no patient, and is of no
use on real surgery.

- **Learned from**: the synthetic source domain (`surgvivqa synth --domain source --seed {SOURCE_SEED}`): palettes, light
  and wordings of its own, none of SSG-QA's sentences. First what each patch shows, then questions, with a part of
  cross-attention drawn to what the words mean.
- **Made by**: `surgvivqa build-base --out DIR {flags}`
- **As it is, on the target domain** (seven synthetic videos of seed {CHECK_SEED}, {figures["n"]:.0f} questions): accuracy
  {100 * figures["acc"]:.1f}; by type {kinds}.
- **Licence**: Apache-2.0, weights and tokenizer.
- **SHA-256 of model.safetensors**: `{weights_hash(folder)}`
""",
        encoding="utf-8",
    )


def weights_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint folder's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in _files(folder))


def _files(folder: Path) -> Iterable[Path]:
    return (p for p in folder.rglob("*") if p.is_file())
