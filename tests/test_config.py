"""Flags: the recipe's names are all there, files read the same names, the command line wins."""

import dataclasses
from pathlib import Path

import pytest

from surgvivqa.cli import parse
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.config import TrainConfig, read_yaml, save_yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPE_FLAGS = """ssgvqa_root image_root max_steps epochs batch_size lr fp16 bf16 prompt_mode eval_every_steps
    save_every_steps val_max_samples gradient_accumulation_steps max_grad_norm warmup_steps lora_r lora_alpha
    lora_dropout num_frames max_length full_finetune train_blip train_gpt2_full unfreeze_blip_last_n pretrained_ckpt
    workers seed
    log_interval debug max_train_samples checkpoint_dir log_file splits_dir""".split()


def test_every_flag_of_the_recipe_is_there() -> None:
    assert not set(RECIPE_FLAGS) - {f.name for f in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("name", ["lora", "full", "paper", "tiny"])
def test_the_shipped_configs_are_read(name: str) -> None:
    assert TrainConfig(**read_yaml(ROOT / "configs" / f"{name}.yaml", TrainConfig)).batch_size > 0


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lr: 1e-3\nbatch_size: 4\nfp16: true\n")
    config = parse("train", TrainConfig, ["--config", f"{tmp_path}/c.yaml", "--batch-size", "2"])
    assert (config.lr, config.batch_size, config.fp16) == (1e-3, 2, True)


def test_a_saved_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = TrainConfig(ssgvqa_root=Path("/q"), lr=3e-7, max_steps=5, mask="causal")
    save_yaml(config, tmp_path / "c.yaml")
    assert TrainConfig(**read_yaml(tmp_path / "c.yaml", TrainConfig)) == config


@pytest.mark.parametrize(
    "text", ["mask: foo", "batch_size: eight", "fp16: 'perhaps'", "lora_r: 2.5"], ids=["choice", "int", "bool", "whole"]
)
def test_a_file_is_typed_as_the_command_line_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        parse("train", TrainConfig, ["--config", f"{tmp_path}/c.yaml"])
    assert stop.value.code == 2


def test_the_command_line_completes_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("split: val\nmodel: {preset: tiny}\n")
    config = parse("eval", EvalConfig, ["--config", f"{tmp_path}/c.yaml", "--checkpoint", "x"])
    assert (config.split, config.model.preset, config.checkpoint) == ("val", "tiny", Path("x"))


def test_a_false_and_an_empty_value_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_ROOT", "/from/environment")
    (tmp_path / "c.yaml").write_text("fp16: false\nval_max_samples: null\nimage_root: null\nmax_steps: null\n")
    config = parse("train", TrainConfig, ["--config", f"{tmp_path}/c.yaml"])
    assert (config.fp16, config.val_max_samples, config.image_root) == (False, None, Path("/from/environment"))


@pytest.mark.parametrize(("text", "expected"), [("off", "off"), ("on", "on"), ("auto", "auto"), ("'off'", "off")])
def test_on_and_off_in_yaml_are_words_where_a_flag_has_them(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "flags.yaml"
    path.write_text(f"cuda_graphs: {text}\n")
    assert read_yaml(path, TrainConfig)["cuda_graphs"] == expected
