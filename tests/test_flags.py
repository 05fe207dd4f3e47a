"""A flag is one field: its help, bounds, behaviour on resume and place in published files follow from it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import BlipTextConfig, GPT2Config, MistralConfig

from surgvivqa.checkpoints.model_card import METRIC_NAMES
from surgvivqa.checkpoints.public_settings import public_run
from surgvivqa.cli import COMMANDS, main, parse
from surgvivqa.commands.check import CheckConfig
from surgvivqa.commands.convert import ConvertConfig
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.commands.load_model import load_model
from surgvivqa.commands.predict import PredictConfig
from surgvivqa.config import (
    BestMetric,
    OptionalModelConfig,
    TrainConfig,
    changed_flags,
    check_ranges,
    flag,
    flag_names,
    flags_of,
    given_flags,
    plain_values,
    read_yaml,
    save_yaml,
    yaml_arguments,
)
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.model.configuration import max_tokens
from surgvivqa.training.machine_defaults import choose_batches_ahead, resolve_machine_defaults
from surgvivqa.utils.errors import InputError


@dataclass(kw_only=True)
class WiderConfig(TrainConfig):
    """Train's flags and three more."""

    warp: float = flag("How much the frames are warped.", 0.5, least=0, below=2, in_card=True)
    notes: Path | None = flag("A file of notes.", None, on_resume="free")
    helpers: int = flag("Helpers of the run.", 1, least=1, most=4, on_resume="free")


def test_help_shows_a_flags_text_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("train", WiderConfig, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--warp FLOAT" in text and "How much the frames are warped. (default: 0.5)" in text


def test_yaml_keeps_a_flag(tmp_path: Path) -> None:
    config = WiderConfig(warp=1.25, notes=Path("/n"), helpers=3)
    save_yaml(config, tmp_path / "c.yaml")
    assert WiderConfig(**read_yaml(tmp_path / "c.yaml", WiderConfig)) == config
    assert parse("train", WiderConfig, ["--config", str(tmp_path / "c.yaml")]) == config


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"warp": -0.1}, "--warp must be at least 0, not -0.1."),
        ({"warp": 2.0}, "--warp must be below 2, not 2.0."),
        ({"warp": float("nan")}, "--warp must be at least 0, not nan."),
        ({"helpers": 5}, "--helpers must be at most 4, not 5."),
    ],
)
def test_bounds_follow_from_the_field(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        check_ranges(WiderConfig(**values))
    assert str(raised.value) == sentence


def test_resume_compares_a_flag_unless_it_is_free() -> None:
    saved = plain_values(WiderConfig())
    assert changed_flags(WiderConfig, saved, WiderConfig(notes=Path("/n"), helpers=2)) == {}
    assert changed_flags(WiderConfig, saved, WiderConfig(warp=1.0)) == {"warp": (0.5, 1.0)}
    del saved["warp"]  # of a run older than the flag
    assert changed_flags(WiderConfig, saved, WiderConfig()) == {}


def test_a_cache_may_move_but_not_come_or_go() -> None:
    saved = plain_values(TrainConfig(cache=Path("/a")))
    assert changed_flags(TrainConfig, saved, TrainConfig(cache=Path("/b"))) == {}
    assert changed_flags(TrainConfig, saved, TrainConfig()) == {"cache": (True, False)}


def test_a_run_started_with_a_maximum_length_resumes_without_one() -> None:
    assert changed_flags(TrainConfig, plain_values(TrainConfig(max_length=128)), TrainConfig()) == {}


def test_the_card_and_published_files_follow_from_the_field() -> None:
    assert "warp" in flag_names(WiderConfig, lambda found: found.in_card)
    assert "helpers" not in flag_names(WiderConfig, lambda found: found.in_card)
    assert flags_of(WiderConfig)["notes"].is_path and not flags_of(WiderConfig)["warp"].is_path
    published = public_run(plain_values(TrainConfig(ssgvqa_root=Path("/home/me/q"), checkpoint_dir=Path("/home/me/r"))))
    assert not {"ssgvqa_root", "checkpoint_dir", "log_file", "cache"} & published.keys() and published["lr"] == 5e-4


def test_a_described_data_set_is_published_by_the_name_of_its_file() -> None:
    published = public_run(plain_values(TrainConfig(dataset="/home/me/sets/mine.yaml")))
    assert published["dataset"] == "mine.yaml"
    assert public_run(plain_values(TrainConfig(dataset="sets/mine.yaml")))["dataset"] == "mine.yaml"
    assert public_run(plain_values(TrainConfig(dataset="surgcheck")))["dataset"] == "surgcheck"


def test_the_root_of_questions_has_two_names() -> None:
    for name in ("--ssgvqa-root", "--question-root"):
        assert parse("train", TrainConfig, [name, "/q"]).ssgvqa_root == Path("/q")
        assert parse("eval", EvalConfig, ["--checkpoint=x", f"{name}=/q"]).ssgvqa_root == Path("/q")


def test_every_metric_can_select_the_best_and_has_its_names_in_the_card() -> None:
    assert get_args(BestMetric) == (*METRICS, "loss")
    assert set(METRIC_NAMES) == set(METRICS)


def test_every_flag_has_help() -> None:
    for cls in (CheckConfig, EvalConfig, PredictConfig, ConvertConfig):
        for field in dataclasses.fields(cls):
            assert field.name == "model" or field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize("spelling", ["--frame-fit", "--model.frame-fit"])
def test_model_flags_have_one_name_in_every_command(spelling: str) -> None:
    config = parse("eval", EvalConfig, ["--checkpoint", "x", spelling, "crop"])
    assert given_flags(config.model) == {"frame_fit": "crop"}
    asked = ["--checkpoint", "x", "--image", "a.png", "--question", "q", spelling, "crop"]
    assert given_flags(parse("predict", PredictConfig, asked).model) == {"frame_fit": "crop"}


def test_a_nested_yaml_group_is_read_as_plain_flags(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("split: val\nmodel: {preset: tiny, lora_dropout: 0.2}\n")
    assert yaml_arguments(tmp_path / "c.yaml", EvalConfig) == (
        ["--split", "val", "--preset", "tiny", "--lora-dropout", "0.2"]
    )


def test_a_flag_that_contradicts_a_checkpoint_is_an_error() -> None:
    with pytest.raises(InputError, match="--frame-fit crop contradicts tiny, which has squash"):
        load_model(Path("tiny"), OptionalModelConfig(frame_fit="crop"))


def test_prompt_mask_and_length_override_a_checkpoint(captured_log: Any) -> None:
    flags = OptionalModelConfig(mask="causal", prompt_mode="choices", max_length=300)
    bundle = load_model(Path("tiny"), flags)
    assert (bundle.settings.mask, bundle.settings.prompt_mode, bundle.settings.max_length) == ("causal", "choices", 300)
    assert bundle.model.config.mask == "causal"
    assert "was trained with --mask prefix, not causal" in captured_log()


def test_choices_prompts_fit_without_a_maximum_length(
    data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--preset=tiny", "--prompt-mode=choices", "--frames-to-open=1", *data_flags]) == 0
    assert "of 512 tokens" in capsys.readouterr().out


def _with_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr("surgvivqa.training.machine_defaults.gpu_memory", lambda: 80 * 10**9)


def test_bfloat16_is_the_default_on_gpus_that_support_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_machine_defaults(TrainConfig()).bf16 is False
    _with_gpu(monkeypatch, bf16=True)
    assert resolve_machine_defaults(TrainConfig()).bf16 is True
    assert resolve_machine_defaults(TrainConfig(fp16=True)).bf16 is False
    assert resolve_machine_defaults(parse("train", TrainConfig, ["--no-bf16"])).bf16 is False
    _with_gpu(monkeypatch, bf16=False)
    assert resolve_machine_defaults(TrainConfig()).bf16 is False
    assert resolve_machine_defaults(parse("train", TrainConfig, ["--bf16"])).bf16 is True


def test_a_run_keeps_the_precision_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_yaml(TrainConfig(bf16=False), tmp_path / "config.yaml")
    _with_gpu(monkeypatch, bf16=True)
    assert resolve_machine_defaults(TrainConfig(checkpoint_dir=tmp_path)).bf16 is False
    assert resolve_machine_defaults(TrainConfig(checkpoint_dir=tmp_path, overwrite=True)).bf16 is True


def test_a_run_keeps_the_number_of_batches_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_yaml(TrainConfig(encode_ahead=5), tmp_path / "config.yaml")
    assert resolve_machine_defaults(TrainConfig(checkpoint_dir=tmp_path)).encode_ahead == 5
    assert resolve_machine_defaults(TrainConfig(checkpoint_dir=tmp_path, encode_ahead=7)).encode_ahead == 7
    assert resolve_machine_defaults(TrainConfig(checkpoint_dir=tmp_path, overwrite=True)).encode_ahead == 1
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")  # of a version without the flag
    assert resolve_machine_defaults(TrainConfig(checkpoint_dir=tmp_path)).encode_ahead is None


@pytest.mark.parametrize(
    ("flags", "memory", "expected"),
    [
        ({}, None, 1),
        ({"shuffle_frames": 4}, None, 30),
        ({"shuffle_frames": 4}, 80 * 10**9, 30),
        ({}, 80 * 10**9, 64),
        ({"batch_size": 312, "questions_per_frame": 39}, 80 * 10**9, 8),
        ({"batch_size": 312, "questions_per_frame": 8}, 80 * 10**9, 1),
        ({"train_video": "full"}, 80 * 10**9, 1),
        ({"batch_size": 39, "questions_per_frame": 39, "prompt_mode": "choices"}, 8 * 10**9, 9),
    ],
)
def test_a_window_has_a_bounded_number_of_frames_and_of_bytes(
    flags: dict[str, Any], memory: int | None, expected: int
) -> None:
    assert choose_batches_ahead(TrainConfig(**flags), memory) == expected


def test_the_models_limit_is_the_smallest_of_its_parts() -> None:
    text, window = BlipTextConfig(max_position_embeddings=64), MistralConfig(sliding_window=32)
    assert max_tokens(text, GPT2Config(n_positions=128)) == 64
    assert max_tokens(text, GPT2Config(n_positions=48)) == 48
    assert max_tokens(text, window) == 32


def test_the_flags_of_every_command_are_these() -> None:
    listed = Path(__file__).with_name("flags.txt").read_text()
    lines = []
    for name, command in COMMANDS.items():
        module, _, cls = command.config.partition(":")
        config = getattr(__import__(module, fromlist=[cls]), cls)
        for field, default in _defaults(config):
            lines.append(f"{name} --{field.replace('_', '-')} {default}")
    assert "\n".join(lines) + "\n" == listed, "a flag was added, removed or has another default: update tests/flags.txt"


def _defaults(config: Any) -> list[tuple[str, str]]:
    found = []
    for field in dataclasses.fields(config):
        if field.name == "model":
            found += [(inner.name, "None") for inner in dataclasses.fields(OptionalModelConfig)]
        elif field.default_factory is list:
            found.append((field.name, "[]"))
        elif field.default_factory is not dataclasses.MISSING:
            found.append((field.name, "(environment)"))
        else:
            found.append((field.name, "(required)" if field.default is dataclasses.MISSING else str(field.default)))
    return found


def test_a_tilde_is_the_home_folder_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSGVQA_ROOT", "~/ssg-qa")
    (tmp_path / "flags.yaml").write_text("image_root: ~/frames\ncache: ~/cache\n")
    given = ["--config=~/flags.yaml", "--checkpoint-dir=~/run", "--decoder-model=~/gpt2", "--log-file=x~y"]
    config = parse("train", TrainConfig, given)
    assert (config.ssgvqa_root, config.image_root) == (tmp_path / "ssg-qa", tmp_path / "frames")
    assert (config.cache, config.checkpoint_dir) == (tmp_path / "cache", tmp_path / "run")
    assert (config.decoder_model, config.log_file) == (str(tmp_path / "gpt2"), Path("x~y"))
    config = parse("eval", EvalConfig, ["--checkpoint=~/run", "--text-model=~/blip"])
    assert (config.checkpoint, config.model.text_model) == (tmp_path / "run", str(tmp_path / "blip"))
