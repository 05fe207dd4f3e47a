"""Builds the small base in the package from random weights: source set, two stages, package files.

``OUT`` then holds::

    source/             the source set (frames, masks, scene graphs, questions)
    patches.safetensors, questions.safetensors
                        weights and optimizer of each stage, from which a stopped build resumes
    log.jsonl           losses and metrics by stage and step
    tokenizer/          trained on the words of both domains
    check/              a small target-domain set, on which the base is evaluated zero-shot
    base/               the package's files: model.safetensors (fp16), tokenizer, configuration, model card
"""

import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from experiments.build_base.config import BuildConfig
from experiments.build_base.package_files import evaluate_zero_shot, export, folder_size, write_card
from experiments.build_base.source_domain import SOURCE_SEED, SourceDomain
from experiments.build_base.source_frames import SourceFrame, SourceFrames, read_source_frames
from experiments.build_base.source_questions import WORDINGS, Wording, source_questions
from experiments.build_base.stage_training import run_stage
from experiments.build_base.stages import PatchStage, QuestionStage
from surgvivqa.config import check_ranges
from surgvivqa.data.splits import load_splits
from surgvivqa.model.configuration import tiny_config
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.questions import generate_candidates
from surgvivqa.synthetic.tokenizer import train_tokenizer
from surgvivqa.synthetic.write import SynthConfig, is_complete, write_synthetic
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals

log = logging.getLogger("surgvivqa")


def build_base(config: BuildConfig) -> int:
    """Runs or resumes the build.

    Returns:
        0 when done; 75 when a signal stopped it after its state was saved.

    Raises:
        InputError: a number is out of range, or the folder holds a build with other settings.
    """
    check_ranges(config)
    started = time.monotonic()
    _check_settings(config)
    source = config.out / "source"
    if not is_complete(source):
        synth = SynthConfig(out=source, seed=SOURCE_SEED, frames_per_video=config.frames_per_video)
        write_synthetic(synth, SourceDomain)
    model, tokenizer, train, val = _prepare(config, source)
    with StopSignals() as stop:
        for stage in (
            PatchStage(config, model, tokenizer, train, val),
            QuestionStage(config, model, tokenizer, train, val),
        ):
            if not run_stage(stage, config, stop):
                log.info("Stopped; the same command resumes the build.")
                return EXIT_STOPPED
    folder = config.out / "base"
    export(model, tokenizer, folder)
    write_card(folder, evaluate_zero_shot(folder, config.out / "check"), config)
    log.info("%s: %.1f MB, %.0f s since this start", folder, folder_size(folder) / 1e6, time.monotonic() - started)
    return 0


def _check_settings(config: BuildConfig) -> None:
    """Writes the settings on the first start; raises InputError if a later one has others."""
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "settings.json"
    settings = dataclasses.asdict(config) | {"out": ""}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise InputError(f"--out {config.out} holds a build with other settings (settings.json); use another folder.")
    write_text(path, json.dumps(settings))


def _prepare(config: BuildConfig, source: Path) -> tuple[SurgViVQAModel, Any, SourceFrames, SourceFrames]:
    """The random model, the tokenizer, and the frames of the training and the validation videos."""
    torch.manual_seed(config.seed)
    splits, shape = load_splits(), tiny_config(2048).video_config
    frames: dict[str, list[SourceFrame]] = {}
    read = functools.partial(
        read_source_frames, source, seed=SOURCE_SEED, size=shape.image_size, patch=shape.patch_size
    )
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for split, videos in (("train", splits.train), ("val", splits.val)):
            frames[split] = list(itertools.chain.from_iterable(pool.imap(read, videos)))
    folder = config.out / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        train_tokenizer(_sentences(frames["train"])).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = SurgViVQAModel(tiny_config(len(tokenizer)))
    return model, tokenizer, SourceFrames(frames["train"]), SourceFrames(frames["val"])


def _sentences(frames: list[SourceFrame]) -> Iterator[str]:
    """Questions and answers of the source domain, and questions in SSG-QA's wordings, to train the tokenizer on."""
    for number, frame in enumerate(frames[::3]):
        rng = np.random.default_rng([2, number])
        for q in source_questions(frame.scene_index, Wording(number % WORDINGS), rng, 30):
            yield q.text
            yield f" {q.answer}"
        yield from (c.text for c in generate_candidates(frame.scene_index, rng, tries=10))
