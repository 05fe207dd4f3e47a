"""The base's package files: weights in fp16, the model card, and the base's figure as it is."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from surgvivqa.checkpoints.loading import save_checkpoint
from surgvivqa.commands.eval import evaluate
from surgvivqa.config import EvalConfig, ModelConfig
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.write import SynthConfig, chosen_videos, complete, write_synthetic

if TYPE_CHECKING:
    from surgvivqa.synthetic.build_base import BaseConfig

SOURCE_SEED = 1000  # far from the quickstart's, so that no scene is shared
CHECK_SEED = 77


def export(model: SurgViVQAModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The package's files: an ordinary checkpoint folder with its tensors in fp16, and the model card."""
    model.requires_grad_(False)
    save_checkpoint(ModelBundle(model, tokenizer, ModelConfig(preset="tiny")), folder)
    weights = folder / "model.safetensors"
    half = {k: v.half() for k, v in load_file(weights).items()}
    save_file(half, weights, {"format": "pt"})
    weights.chmod(0o644)


def zero_shot(checkpoint: Path, work: Path) -> dict[str, float]:
    """Accuracy of a checkpoint on target-domain questions that nothing was trained on: in all, ``n``, and by type."""
    data = work / "data"
    if not complete(data):
        write_synthetic(SynthConfig(out=data, videos=9, frames_per_video=6, seed=CHECK_SEED, masks=False))
    # None of the nine videos is known to the base: seven are asked about, two fill the other splits.
    train, val, *test = chosen_videos(9)
    for name, videos in (("train", [train]), ("val", [val]), ("test", test)):
        (work / f"{name}_videos.json").write_text(json.dumps(videos), encoding="utf-8")
    config = EvalConfig(checkpoint=checkpoint, output=work / "eval", splits_dir=work, workers=0)
    evaluate(dataclasses.replace(config, ssgvqa_root=data / "ssg-qa", image_root=data / "frames"))
    metrics = json.loads((work / "eval" / "metrics.json").read_text(encoding="utf-8"))
    kinds = {kind: figures["acc"] for kind, figures in metrics["by_type"].items()}
    return {"n": metrics["n"], "acc": metrics["acc"], **kinds}


def write_card(folder: Path, figures: dict[str, float], config: "BaseConfig") -> None:
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

- **Learned from**: the synthetic source domain (`surgvivqa synth --domain source --seed {SOURCE_SEED}
  --frames-per-video {config.frames_per_video}`): palettes, light and wordings of its own. Its weights have seen none of
  SSG-QA's sentences; its tokenizer knows their words. First what each patch shows, then questions, a part of
  cross-attention being drawn to what the words mean.
- **Made by**: `surgvivqa build-base --out DIR {flags}`
- **As it is, on the target domain** (seven synthetic videos of seed {CHECK_SEED}, {figures["n"]:.0f} questions):
  accuracy {100 * figures["acc"]:.1f}; by type {kinds}.
- **Licence**: Apache-2.0, weights and tokenizer.
- **SHA-256 of model.safetensors**: `{weights_hash(folder)}`
""",
        encoding="utf-8",
    )


def weights_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint folder's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
