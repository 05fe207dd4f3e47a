"""Round trips of published checkpoints at full size, with random weights in the true shapes; needs no network.

    python tools/full_size_checkpoints.py [--out runs/full-size]      # about 4 minutes, 11 GB of disk

Writes the three published parts (VideoMAE-base, blip-vqa-base with a vision model of one layer, GPT-2) and three
published forms: the complete state dict with 50,257 word embeddings, nested and with the prefix ``module.``; the same
unnested, with BLIP's 30,524 word embeddings; and the trained tensors alone. ``surgvivqa convert`` reads each and writes
the complete published form again, the first through a sharded Hugging Face folder. Exits with 0 if every tensor is
bit-equal.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    GPT2Config,
    GPT2LMHeadModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
)

from surgvivqa.checkpoints.backbones import assemble
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.published import WORDS, published_name
from surgvivqa.config import ModelConfig

BLIP_ROWS = 30_524


def make_parts(out: Path) -> ModelConfig:
    """Writes the published parts, with the packaged base's tokenizer; returns the settings that name them."""
    blip = BlipConfig()
    blip.vision_config.num_hidden_layers = 1  # not part of SurgViVQA
    VideoMAEForPreTraining(VideoMAEConfig(use_mean_pooling=False)).save_pretrained(out / "video")
    BlipForQuestionAnswering(blip).save_pretrained(out / "text")
    GPT2LMHeadModel(GPT2Config()).save_pretrained(out / "gpt2")
    load_folder(PACKAGED_BASE).tokenizer.save_pretrained(out / "gpt2")
    return ModelConfig(video_model=str(out / "video"), text_model=str(out / "text"), decoder_model=str(out / "gpt2"))


def make_files(settings: ModelConfig, out: Path) -> dict[str, torch.Tensor]:
    """Writes the three files; returns the state dict that each round trip must reproduce."""
    model = assemble(settings, {"r": 8, "alpha": 32, "dropout": 0.1}).model
    noise = torch.Generator().manual_seed(1)
    state = {published_name(k, "transformers4"): v.detach().clone() for k, v in model.state_dict().items()}
    adapters = {k: torch.randn(v.shape, generator=noise) * 0.02 for k, v in state.items() if "lora_" in k}
    state |= adapters
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, out / "wrapped.pth")
    torch.save(state | {WORDS: state[WORDS][:BLIP_ROWS].clone()}, out / "blip-rows.pth")
    torch.save(adapters, out / "trained.pth")
    return state


def convert(settings: ModelConfig, read: Path, write: Path, *flags: str) -> None:
    """Runs ``surgvivqa convert``."""
    parts = [f"--model.{n.replace('_', '-')}={getattr(settings, n)}" for n in ("video_model", "text_model")]
    parts.append(f"--model.decoder-model={settings.decoder_model}")
    command = [sys.executable, "-m", "surgvivqa", "convert", f"--checkpoint={read}", f"--output={write}"]
    subprocess.run([*command, *parts, *flags], check=True)


def main() -> int:
    """Runs the round trips; returns 1 if a tensor differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/full-size"))
    out = parser.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    settings = make_parts(out)
    expected = make_files(settings, out)
    published = ("--to=published", "--tensors=all")
    convert(settings, out / "wrapped.pth", out / "hf", "--max-shard-size=500MB")
    convert(settings, out / "hf", out / "wrapped-again.pth", *published)
    convert(settings, out / "blip-rows.pth", out / "blip-rows-again.pth", *published)
    convert(settings, out / "trained.pth", out / "trained-again.pth", *published)
    good = True
    for name in ("wrapped", "blip-rows", "trained"):
        found = torch.load(out / f"{name}-again.pth", weights_only=True, mmap=True)
        other = [k for k in expected if k not in found or not torch.equal(expected[k], found[k])]
        other += [k for k in found if k not in expected]
        good &= not other
        size = sum(v.numel() for v in expected.values())
        print(f"{name}: {len(expected)} tensors, {size:,} numbers; {len(other)} differ {other[:3]}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
