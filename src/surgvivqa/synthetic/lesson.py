"""A first lesson for the tiny preset: which component covers each patch, and the word for it.

Random frozen parts teach nothing, and questions alone teach a small model to look only after many hours. The renderer
knows what it drew, so its masks give what large-scale pretraining gives the published parts: patches that mean
something, in the space of the words that name them. Only training videos are used.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from surgvivqa.config import ModelConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import Frame, read_split
from surgvivqa.errors import InputError
from surgvivqa.model.configuration import tiny_config
from surgvivqa.model.loading import Bundle, frame_store, save_checkpoint, train_tokenizer
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.splits import load_splits
from surgvivqa.synthetic.scene import COMPONENTS, INSTRUMENTS

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class LessonConfig:
    """Teaches the tiny preset's video encoder from the masks of a synthetic set and leaves a base to start from."""

    synth_root: Path
    """A folder made by `surgvivqa synth` with masks."""
    out: Path
    """The checkpoint folder to write; give it to train with --pretrained-ckpt."""
    steps: int = 500
    """Optimiser steps."""
    batch_size: int = 32
    """Frames a step."""
    lr: float = 1e-3
    """Highest learning rate."""
    seed: int = 42
    """Weights and order follow from it."""


def teach(config: LessonConfig) -> int:
    """Runs the lesson and writes the checkpoint.

    Raises:
        InputError: the folder is no synthetic set with masks.
    """
    root = config.synth_root
    if not (root / "masks").is_dir():
        raise InputError(f"--synth-root {root} has no masks/; make it with `surgvivqa synth --out {root}`.")
    torch.manual_seed(config.seed)
    frames, _ = read_split(root / "ssg-qa", load_splits().train)
    tokenizer = train_tokenizer(q.question for f in frames for q in f.questions)
    model = SurgViVQAModel(tiny_config(len(tokenizer)))
    bundle = Bundle(model, tokenizer, ModelConfig(preset="tiny"), {"lesson": str(root)})
    store = frame_store(bundle, root / "frames")
    images, labels = load_lesson(frames, root / "masks", store, model.config.video_config.patch_size)
    words = word_ids(tokenizer)
    started = time.monotonic()
    accuracy = fit(model, images, labels, words, config)
    open_eyes(model)
    save_checkpoint(bundle, config.out)
    log.info(
        "Lesson: %.1f%% of patches with something in them named right, %.0f s; %s",
        100 * accuracy,
        time.monotonic() - started,
        config.out,
    )
    return 0


def load_lesson(frames: Sequence[Frame], masks: Path, store: FrameStore, patch: int) -> tuple[Tensor, Tensor]:
    """Frames ``[N, 3, H, W]`` and the label of each patch ``[N, patches]`` int64: 0 nothing, else component + 1."""
    images = torch.stack([store.image(f.video, f.frame) for f in frames])
    grid = store.size // patch
    labels = [patch_labels(masks / f.video / f"{f.frame:06d}.png", grid) for f in frames]
    return images, torch.from_numpy(np.stack(labels))


def patch_labels(path: Path, grid: int) -> np.ndarray[Any, Any]:
    """Labels ``[grid * grid]`` of one mask: a tool that covers a tenth of a patch, else what covers most of it."""
    cells = 8
    with Image.open(path) as image:
        mask = np.asarray(image.resize((grid * cells, grid * cells), Image.Resampling.NEAREST))
    patches = mask.reshape(grid, cells, grid, cells).transpose(0, 2, 1, 3).reshape(grid * grid, cells * cells)
    counts = np.stack([(patches == value).sum(1) for value in range(len(COMPONENTS) + 1)], axis=1)
    tools = np.zeros(len(COMPONENTS) + 1, dtype=bool)
    tools[[COMPONENTS.index(name) + 1 for name in INSTRUMENTS]] = True
    boosted = counts + np.where(tools & (counts >= cells * cells // 10), cells * cells, 0)
    return np.asarray(boosted.argmax(1), dtype=np.int64)


def word_ids(tokenizer: Any) -> Tensor:
    """Token id of each component's word, ``[components]``."""
    ids = [tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in COMPONENTS]
    return torch.tensor([i[-1] for i in ids])


def fit(model: SurgViVQAModel, images: Tensor, labels: Tensor, words: Tensor, config: LessonConfig) -> float:
    """Trains the video encoder and the component words so that each patch is nearest to its word.

    Returns:
        Accuracy on the patches that hold something, over the last tenth of the steps.
    """
    embedding = model.text_encoder.embeddings.word_embeddings
    nothing = nn.Parameter(torch.zeros(1, embedding.embedding_dim))
    parameters = [*model.visual_encoder.parameters(), embedding.weight, nothing]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(config.seed)
    frames = model.config.video_config.num_frames
    weight = 1.0 / torch.bincount(labels.flatten(), minlength=len(COMPONENTS) + 1).clamp(min=50).float().sqrt()
    right, seen = 0, 0
    model.train()
    for step in track(range(config.steps), "lesson", transient=True, disable=not os.isatty(2)):
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
        clip = images[chosen].unsqueeze(1).expand(-1, frames, -1, -1, -1)
        target = labels[chosen].flatten()
        # Several time slots (longer clips) share one mask.
        tokens = model.visual_encoder(pixel_values=clip).last_hidden_state
        tokens = tokens.unflatten(1, (-1, labels.shape[1])).mean(1).flatten(0, 1)
        targets = torch.cat([nothing, embedding.weight[words]])
        logits = tokens @ functional.normalize(targets, dim=-1).T
        loss = functional.cross_entropy(logits, target, weight=weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        if step >= config.steps * 9 // 10:
            found = target > 0
            right += int((logits.argmax(-1)[found] == target[found]).sum())
            seen += int(found.sum())
    with torch.no_grad():
        # The words keep the direction they learned, at the length of the other rows.
        others = embedding.weight.norm(dim=-1).median()
        embedding.weight[words] = functional.normalize(embedding.weight[words], dim=-1) * others
    return right / max(1, seen)


def open_eyes(model: SurgViVQAModel, sharpness: float = 1.5) -> None:
    """Starts cross-attention as a comparison: queries and keys near identity, so a word looks at patches like it."""
    with torch.no_grad():
        for layer in model.text_encoder.encoder.layer:
            attention = layer.crossattention.self
            identity = torch.eye(attention.query.weight.shape[0])
            attention.query.weight.add_(sharpness * identity)
            attention.key.weight.add_(sharpness * identity)
            attention.value.weight.add_(identity)
            layer.crossattention.output.dense.weight.add_(identity)
