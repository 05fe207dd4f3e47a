"""The package files of the base: weights in fp16, model card, zero-shot accuracy."""

import dataclasses
import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from experiments.build_base.config import BuildConfig
from experiments.build_base.source_domain import SOURCE_SEED
from surgvivqa.checkpoints.folders import update_settings
from surgvivqa.checkpoints.saving import save_checkpoint
from surgvivqa.commands.eval import evaluate
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.config import ModelConfig
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.write import SynthConfig, is_complete, select_videos, write_synthetic

CHECK_SEED = 77


def export(model: SurgViVQAModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a checkpoint folder with its tensors in fp16."""
    model.requires_grad_(False)
    save_checkpoint(ModelBundle(model, tokenizer, ModelConfig(preset="tiny")), folder)
    weights = folder / "model.safetensors"
    half = {k: v.half() for k, v in load_file(weights).items()}
    save_file(half, weights, {"format": "pt"})
    weights.chmod(0o644)
    update_settings(folder)


def evaluate_zero_shot(checkpoint: Path, work: Path) -> dict[str, float]:
    """Evaluates a checkpoint on unseen target-domain videos; returns ``acc``, ``n``, and accuracy by type."""
    data = work / "data"
    if not is_complete(data):
        write_synthetic(SynthConfig(out=data, videos=9, frames_per_video=6, seed=CHECK_SEED, masks=False))
    # The base has seen none of the nine videos: seven are the test split, the others fill the other splits.
    train, val, *test = select_videos(9)
    for name, videos in (("train", [train]), ("val", [val]), ("test", test)):
        (work / f"{name}_videos.json").write_text(json.dumps(videos), encoding="utf-8")
    config = EvalConfig(checkpoint=checkpoint, output=work / "eval", splits_dir=work, workers=0, check_samples=0)
    evaluate(dataclasses.replace(config, ssgvqa_root=data / "ssg-qa", image_root=data / "frames"))
    metrics = json.loads((work / "eval" / "metrics.json").read_text(encoding="utf-8"))
    kinds = {kind: figures["acc"] for kind, figures in metrics["by_type"].items()}
    return {"n": metrics["n"], "acc": metrics["acc"], **kinds}


def write_card(folder: Path, figures: dict[str, float], config: BuildConfig) -> None:
    """Writes the model card: origin, training data, zero-shot accuracy, licence and hash."""
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

The frozen base of surgvivqa's `tiny` preset: a VideoMAE, a BLIP text encoder and a GPT-2 with four layers of width 128
each, for trying the pipeline on a laptop. It was trained on drawn scenes only, without real frames or patient data,
and is not suitable for real surgery.

- **Training data**: the synthetic source domain, 45 videos of {config.frames_per_video} frames, seed {SOURCE_SEED},
  with its own palettes, light and wordings. The weights were trained on none of SSG-QA's sentences; the tokenizer was
  trained on their words too.
- **Training procedure**: classification of patches, then questions with partly supervised cross-attention
  (`docs/base.md`).
- **Command**: `python -m experiments.build_base --out DIR {flags}`
- **Zero-shot accuracy on the target domain** (seven synthetic videos, seed {CHECK_SEED},
  {figures["n"]:.0f} questions): accuracy {100 * figures["acc"]:.1f}; by type {kinds}.
- **Licence**: Apache-2.0, weights and tokenizer.
- **SHA-256 of model.safetensors**: `{weights_sha256(folder)}`
""",
        encoding="utf-8",
    )


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint folder's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def folder_size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
