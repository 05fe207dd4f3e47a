"""Makes the small base that the package brings, from nothing: source set, lesson, questions, package files.

``OUT`` then holds::

    source/             the source domain's set (frames, masks, scene graphs, questions)
    lesson.safetensors, questions.safetensors
                        weights and optimiser of each stage, now and then, so that a stopped build goes on
    log.jsonl           losses and figures by stage and step
    tokenizer/          made once, of the words of both domains
    check/              a small target-domain set, on which the base is scored as it is
    base/               what the package brings: model.safetensors (fp16), tokenizer, configuration, model card
"""

import dataclasses
import functools
import itertools
import json
import logging
import math
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from surgvivqa.data.splits import load_splits
from surgvivqa.model.configuration import tiny_config
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.base_files import SOURCE_SEED, export, size_of, write_card, zero_shot
from surgvivqa.synthetic.lesson import SourceFrame, SourceSet, read_source
from surgvivqa.synthetic.questions import candidates
from surgvivqa.synthetic.source_questions import SPEAKERS, Speaker, source_questions
from surgvivqa.synthetic.stages import LessonStage, QuestionStage, Stage
from surgvivqa.synthetic.tokenizer import train_tokenizer
from surgvivqa.synthetic.write import SynthConfig, complete, write_synthetic
from surgvivqa.training.run_log import progress_bar
from surgvivqa.utils.atomic_files import write_file, write_text
from surgvivqa.utils.errors import InputError, RunError
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class BaseConfig:
    """Makes the tiny preset's base from nothing; run again, it goes on where it was stopped."""

    out: Path
    """Folder to work in; the result is OUT/base."""
    frames_per_video: int = 200
    """Frames of each of the 45 source videos."""
    lesson_steps: int = 3000
    """Steps of the lesson on patches."""
    lesson_frames: int = 32
    """Frames a step of it."""
    question_steps: int = 5000
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
    for name, value in vars(config).items():
        least = {"out": None, "seed": 0, "gaze": 0, "lr": 0}.get(name, 1 if name == "save_every" else 2)
        if least is not None and not value >= least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {value}.")
    started = time.monotonic()
    _same_settings(config)
    source = config.out / "source"
    if not complete(source):
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
                return EXIT_STOPPED
    folder = config.out / "base"
    export(model, tokenizer, folder)
    write_card(folder, zero_shot(folder, config.out / "check"), config)
    log.info("%s: %.1f MB, %.0f s in this start", folder, size_of(folder) / 1e6, time.monotonic() - started)
    return 0


def _same_settings(config: BaseConfig) -> None:
    """Keeps the settings beside the state: one build, one set of them."""
    config.out.mkdir(parents=True, exist_ok=True)
    path, mine = config.out / "settings.json", dataclasses.asdict(config) | {"out": ""}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(mine, default=str)):
        raise InputError(f"--out {config.out} holds a build with other settings (settings.json); take another folder.")
    write_text(path, json.dumps(mine, default=str))


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
    kept = config.out / "tokenizer"
    if not (kept / "tokenizer.json").is_file():  # kept, so that weights and token ids belong together for good
        train_tokenizer(_sentences(frames["train"])).save_pretrained(kept)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(kept)
    model = SurgViVQAModel(tiny_config(len(tokenizer)))
    return model, tokenizer, SourceSet(frames["train"]), SourceSet(frames["val"])


def _sentences(frames: list[SourceFrame]) -> Iterator[str]:
    """Questions in the source's wordings with their answers, and in SSG-QA's: the tokenizer knows the words of both."""
    for number, frame in enumerate(frames[::3]):
        rng = np.random.default_rng([2, number])
        for q in source_questions(frame.scenery, Speaker(number % SPEAKERS), rng, 30):
            yield q.text
            yield f" {q.answer}"
        yield from (c.text for c in candidates(frame.scenery, rng, tries=10))


def _run(stage: Stage, config: BaseConfig, stop: StopSignals) -> bool:
    """A stage from where its saved state is to its end; False when a signal stopped it."""
    optimizer = torch.optim.AdamW(stage.trained, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    state = config.out / f"{stage.name}.safetensors"
    step = _restore(stage, optimizer, state)
    if step == stage.steps:
        return True
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
            advance(1)
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
    write_file(path, lambda temporary: save_file(tensors, temporary, {"step": str(step)}))


def _restore(stage: Stage, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """The stage's saved state, if there is one; the step to go on from."""
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    for name, module in stage.modules.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, moment = key.split(".")
            state[int(number)][moment] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(state)})
    return step
