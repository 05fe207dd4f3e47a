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
from surgvivqa.synthetic.scene import COLORS, COMPONENTS, INSTRUMENTS

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class LessonConfig:
    """Teaches the tiny preset's video encoder from the masks of a synthetic set and leaves a base to start from."""

    synth_root: Path
    """A folder made by `surgvivqa synth` with masks."""
    out: Path
    """The checkpoint folder to write; give it to train with --pretrained-ckpt."""
    splits_dir: Path | None = None
    """Folder of the split files; only training videos are used (default: SSG-VQA-Net's split)."""
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
    if config.steps < 20 or config.batch_size < 1:
        raise InputError("--steps must be at least 20 and --batch-size at least 1.")
    root = config.synth_root
    if not (root / "masks").is_dir():
        raise InputError(f"--synth-root {root} has no masks/; make it with `surgvivqa synth --out {root}`.")
    torch.manual_seed(config.seed)
    frames, _ = read_split(root / "ssg-qa", load_splits(config.splits_dir).train)
    tokenizer = train_tokenizer(q.question for f in frames for q in f.questions)
    model = SurgViVQAModel(tiny_config(len(tokenizer)))
    bundle = Bundle(model, tokenizer, ModelConfig(preset="tiny"), {"lesson": str(root)})
    store = frame_store(bundle, root / "frames")
    images, labels = load_lesson(frames, root / "masks", store, model.config.video_config.patch_size)
    groups = word_groups(tokenizer, labels, store.size // model.config.video_config.patch_size)
    started = time.monotonic()
    accuracy = fit(model, images, groups, config)
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


@dataclass(frozen=True)
class WordGroup:
    """Words of which each patch has one (or none): token ids ``[K]`` of the words in all their forms, which class each
    belongs to ``[K]``, and every patch's class ``[N, patches]`` (0 is none; classes count from 1)."""

    tokens: Tensor
    classes: Tensor
    labels: Tensor


def word_groups(tokenizer: Any, labels: Tensor, grid: int) -> list[WordGroup]:
    """What the lesson names in each patch: its component, colour and kind, and the row and column of the frame."""
    component = [{f" {name}", f" {name}s"} for name in COMPONENTS]
    colors = sorted(set(COLORS.values()))
    color_of = torch.tensor([0, *(colors.index(COLORS[c]) + 1 for c in COMPONENTS)])
    kind_of = torch.tensor([0, *(2 if c in INSTRUMENTS else 1 for c in COMPONENTS)])
    rows = 1 + (torch.arange(grid) * 2 + 1 >= grid).long()
    columns = 1 + ((torch.arange(grid) + 0.5) * 3 / grid).long()
    everywhere = torch.ones_like(labels)
    return [
        _group(tokenizer, component, labels),
        _group(tokenizer, [{f" {c}"} for c in colors], color_of[labels]),
        _group(tokenizer, [{" anatomy", " anatomys"}, {" instrument", " instruments"}], kind_of[labels]),
        _group(tokenizer, [{" top"}, {" bottom"}], everywhere * rows.repeat_interleave(grid)),
        _group(tokenizer, [{"left", " left"}, {"mid", " mid"}, {"right", " right"}], everywhere * columns.repeat(grid)),
    ]


def _group(tokenizer: Any, words: Sequence[set[str]], labels: Tensor) -> WordGroup:
    tokens, classes = [], []
    for number, forms in enumerate(words, 1):
        for form in sorted(forms):
            ids = tokenizer(form, add_special_tokens=False)["input_ids"]
            if len(ids) == 1:
                tokens.append(ids[0])
                classes.append(number)
    return WordGroup(torch.tensor(tokens), torch.tensor(classes), labels)


def fit(model: SurgViVQAModel, images: Tensor, groups: Sequence[WordGroup], config: LessonConfig) -> float:
    """Trains the video encoder and the words so that each patch is near the words that name it.

    Returns:
        Accuracy of the component on the patches that hold one, over the last tenth of the steps.
    """
    embedding = model.text_encoder.embeddings.word_embeddings
    nothing = nn.Parameter(torch.zeros(len(groups), embedding.embedding_dim))
    parameters = [*model.visual_encoder.parameters(), embedding.weight, nothing]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(config.seed)
    frames = model.config.video_config.num_frames
    patches = groups[0].labels.shape[1]
    counts = [torch.bincount(g.labels.flatten(), minlength=int(g.classes.max()) + 1) for g in groups]
    weights = [1.0 / c.clamp(min=50).float().sqrt() for c in counts]
    right, seen = 0, 0
    model.train()
    for step in track(range(config.steps), "lesson", transient=True, disable=not os.isatty(2)):
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
        clip = images[chosen].unsqueeze(1).expand(-1, frames, -1, -1, -1)
        # Several time slots (longer clips) share one mask.
        tokens = model.visual_encoder(pixel_values=clip).last_hidden_state
        tokens = tokens.unflatten(1, (-1, patches)).mean(1).flatten(0, 1)
        loss = tokens.new_zeros(())
        for number, group in enumerate(groups):
            words = functional.normalize(embedding.weight[group.tokens], dim=-1)
            near = torch.cat([tokens @ nothing[number : number + 1].T, tokens @ words.T], dim=1)
            target = group.labels[chosen].flatten()
            # All forms of a word are taught: the chance of a class is shared by its forms.
            logp = near.log_softmax(-1)
            forms = torch.cat([torch.zeros(1, dtype=torch.long), group.classes])
            same = forms[None, :] == target[:, None]
            share = (logp * same).sum(1) / same.sum(1)
            weight = weights[number][target]
            loss = loss - (share * weight).sum() / weight.sum()
            if number == 0 and step >= config.steps * 9 // 10:
                found = target > 0
                right += int((forms[near.argmax(-1)][found] == target[found]).sum())
                seen += int(found.sum())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
    with torch.no_grad():
        # Words keep the direction they learned at twice the length of the others, so that positions do not drown them.
        others = embedding.weight.norm(dim=-1).median()
        taught = torch.cat([g.tokens for g in groups])
        embedding.weight[taught] = functional.normalize(embedding.weight[taught], dim=-1) * 2 * others
        # The decoder answers in the same space: what is seen can be said.
        words = functional.normalize(embedding.weight, dim=-1)
        output = model.llm.transformer.wte.weight
        output[taught] = words[taught] * output.norm(dim=-1).median() * 2
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
