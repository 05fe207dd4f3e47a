"""``surgvivqa cache`` and the cache in train and eval: cached features are bit-identical to computed ones."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.cli import main
from surgvivqa.commands.cache import CacheConfig, task_shard
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.frame_reader import FrameInputs
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.run_log import TIMINGS
from surgvivqa.utils.errors import InputError, RunError
from tests.conftest import CapturedLog

TINY = ["--preset=tiny", "--workers=0", "--log-interval=1", "--num-frames=4"]
STEPS = ["--max-steps=4", "--batch-size=12", "--questions-per-frame=5", "--val-max-samples=12"]


@pytest.fixture(scope="module")
def base(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run to start from, so that its video encoder is frozen in the next."""
    folder = tmp_path_factory.mktemp("base") / "run"
    flags = [f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--image-root={synthetic_set / 'frames'}"]
    flags += [f"--splits-dir={synthetic_set / 'splits'}", f"--checkpoint-dir={folder}", "--max-steps=1"]
    assert main(["train", *TINY, *flags, "--val-max-samples=2", "--save-every-steps=0"]) == 0
    return folder


def train(base: Path, data_flags: list[str], folder: Path, *flags: str) -> list[dict[str, float]]:
    start = [f"--pretrained-ckpt={base}", f"--checkpoint-dir={folder}", "--save-every-steps=0"]
    assert main(["train", *TINY, *STEPS, *data_flags, *start, *flags]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def evaluate_scores(checkpoint: Path, data_flags: list[str], output: Path, *flags: str) -> list[list[float]]:
    command = ["eval", f"--checkpoint={checkpoint}", *data_flags, f"--output={output}", "--workers=0", "--scores"]
    assert main([*command, "--max-samples=30", *flags]) == 0
    return [json.loads(line)["scores"] for line in (output / "predictions.jsonl").read_text().splitlines()]


def count_encoded(log: Path) -> int:
    line = next(line for line in log.read_text().splitlines()[::-1] if " frames read, " in line)
    return int(line.split()[-2])


@pytest.mark.parametrize(
    "flags",
    [
        ["--cache-dtype=fp16"],
        ["--cache-dtype=bf16", "--clip-mode=past"],
        ["--cache-dtype=fp32", "--video-pool=temporal", "--train-blip"],
    ],
    ids=lambda flags: flags[0][14:],
)
def test_training_losses_are_equal_when_the_cache_is_filled_and_read(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str]
) -> None:
    cached = [*flags, f"--cache={tmp_path / 'cache'}"]
    filling = train(base, data_flags, tmp_path / "first", *cached)
    hitting = train(base, data_flags, tmp_path / "second", *cached)
    assert [line["loss"] for line in filling if "loss" in line]
    assert filling == hitting
    frames = count_encoded(tmp_path / "first" / "train.log")
    assert 4 <= frames <= 8  # each frame once, although its questions are in several batches
    assert count_encoded(tmp_path / "second" / "train.log") == 0


def test_losses_do_not_depend_on_workers_or_on_which_frames_are_cached(
    base: Path, data_flags: list[str], tmp_path: Path
) -> None:
    alone = train(base, data_flags, tmp_path / "alone", f"--cache={tmp_path / 'cache'}")
    # Remove half of the cache, so that batches have both cached and other frames.
    part = next((tmp_path / "cache").rglob("parts/*.safetensors"))
    part.unlink()
    store = build_video_token_source(*_bundle(base, data_flags), tmp_path / "cache", "fp16")
    frames = [FrameQuestions("VID04", int(p.stem), ()) for p in sorted((store.reader.store.root / "VID04").iterdir())]
    store(store.reader.read(frames[:2]))
    store.flush()
    mixed = store.reader.read(frames)
    assert mixed.cached == (True, True, False, False)
    assert train(base, data_flags, tmp_path / "again", f"--cache={tmp_path / 'cache'}", "--workers=2") == alone


def _bundle(base: Path, data_flags: list[str]) -> tuple[ModelBundle, FrameStore]:
    bundle = load_checkpoint(base, ModelConfig())
    return bundle, bundle.frame_store(Path(data_flags[1].partition("=")[2]))


def test_a_mixed_batch_has_each_frames_own_tokens(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    bundle, store = _bundle(base, data_flags)
    frames = [FrameQuestions("VID04", int(p.stem), ()) for p in sorted((store.root / "VID04").iterdir())]
    live, cached = build_video_token_source(bundle, store), build_video_token_source(bundle, store, tmp_path, "fp32")
    cached(cached.reader.read([frames[1], frames[3]]))
    inputs: FrameInputs = cached.reader.read(frames)
    assert inputs.cached == (False, True, False, True)
    assert inputs.clips is not None and inputs.clips.shape[:2] == (2, 1)
    with torch.no_grad():
        one_by_one = torch.cat([live(live.reader.read([f])) for f in frames])
    assert torch.equal(cached(inputs), one_by_one)
    assert (cached.hits, cached.misses) == (2, 4)


def test_evaluation_scores_do_not_depend_on_the_cache(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    live = evaluate_scores(base, data_flags, tmp_path / "live")
    exact_cache = [f"--cache={tmp_path / 'cache'}", "--cache-dtype=fp32"]
    assert evaluate_scores(base, data_flags, tmp_path / "fill", *exact_cache) == live
    assert evaluate_scores(base, data_flags, tmp_path / "hit", *exact_cache) == live
    rounded_cache = [f"--cache={tmp_path / 'cache'}"]
    filling = evaluate_scores(base, data_flags, tmp_path / "fill16", *rounded_cache)
    assert filling != live
    assert evaluate_scores(base, data_flags, tmp_path / "hit16", *rounded_cache) == filling


def run_cache(base: Path, data_flags: list[str], folder: Path, *flags: str) -> int:
    return main(["cache", f"--checkpoint={base}", *data_flags, f"--cache={folder}", "--workers=0", *flags])


def test_evaluation_and_training_read_what_the_command_cached(
    base: Path, data_flags: list[str], tmp_path: Path, captured_log: CapturedLog
) -> None:
    cache = tmp_path / "cache"
    live = evaluate_scores(base, data_flags, tmp_path / "live", f"--cache={tmp_path / 'other'}")
    assert run_cache(base, data_flags, cache, "--verify") == 0
    text = captured_log()
    assert "12 frames x 128 tokens x 128 x fp16 = 0.000 GB" in text
    assert "12 frames encoded" in text
    assert "Verified: 12 items, 393216 bytes" in text
    assert sorted(p.name for p in cache.rglob("*.safetensors")) == [f"VID0{n}.safetensors" for n in (1, 2, 4)]
    made_of = json.loads(next(cache.rglob("manifest.json")).read_text())["made_of"]
    assert (made_of["frame_fit"], made_of["num_frames"], made_of["dtype"]) == ("squash", 4, "fp16")

    assert run_cache(base, data_flags, cache) == 0
    assert "Done: 0 frames encoded" in captured_log()
    assert evaluate_scores(base, data_flags, tmp_path / "hit", f"--cache={cache}") == live
    assert "0 encoded" in captured_log()
    train(base, data_flags, tmp_path / "run", f"--cache={cache}")
    assert count_encoded(tmp_path / "run" / "train.log") == 0


def test_the_command_reads_what_training_from_the_same_checkpoint_cached(
    base: Path, data_flags: list[str], tmp_path: Path, captured_log: CapturedLog
) -> None:
    pooled = ["--video-pool=temporal", f"--cache={tmp_path / 'cache'}", "--frame-fit=pad"]
    train(base, data_flags, tmp_path / "run", *pooled)
    start = ["--preset=tiny", f"--pretrained-ckpt={base}", *data_flags, "--workers=0"]
    assert main(["cache", *start, *pooled, "--splits=train"]) == 0
    assert "4 frames x 64 tokens" in captured_log()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert evaluate_scores(tmp_path / "run", data_flags, tmp_path / "live") != []  # the pooling is in the checkpoint
    assert load_checkpoint(tmp_path / "run", ModelConfig()).settings.video_pool == "temporal"


def test_pooled_training_is_equal_with_and_without_a_cache_up_to_rounding(
    base: Path, data_flags: list[str], tmp_path: Path
) -> None:
    live = train(base, data_flags, tmp_path / "live", "--video-pool=temporal")
    cached = train(
        base,
        data_flags,
        tmp_path / "cached",
        "--video-pool=temporal",
        f"--cache={tmp_path / 'c'}",
        "--cache-dtype=fp32",
    )
    whole = train(base, data_flags, tmp_path / "whole")
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (live, cached, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] != pytest.approx(losses[2], abs=1e-5)


def test_a_changed_image_is_encoded_again(
    base: Path, data_flags: list[str], synthetic_set: Path, tmp_path: Path, captured_log: CapturedLog
) -> None:
    images = tmp_path / "frames"
    shutil.copytree(synthetic_set / "frames", images)
    flags = [data_flags[0], f"--image-root={images}", data_flags[2]]
    assert run_cache(base, flags, tmp_path / "cache") == 0
    shutil.copy(images / "VID02" / "000000.png", next((images / "VID04").iterdir()))
    captured_log()
    assert run_cache(base, flags, tmp_path / "cache", "--verify") == 0
    text = captured_log()
    assert "VID04: 4 frames, 1 of them encoded" in text
    assert "another size or modification time" in text
    assert "Verified: 12 items" in text  # the old one is dropped


def test_shards_share_the_videos(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    names = []
    for shard in range(2):
        assert run_cache(base, data_flags, tmp_path, f"--shard={shard}", "--num-shards=2") == 0
        names.append({p.name for p in tmp_path.rglob("*.safetensors")})
    assert [len(n) for n in names] == [2, 3]


@pytest.mark.parametrize(
    ("flags", "environment", "shard"),
    [
        ({}, {}, (0, 1)),
        ({"shard": 2, "num_shards": 5}, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}, (2, 5)),
        ({}, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}, (1, 3)),
        (
            {},
            {f"SLURM_ARRAY_TASK_{k}": v for k, v in {"ID": "9", "COUNT": "3", "MIN": "5", "STEP": "2"}.items()},
            (2, 3),
        ),
        ({}, {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({}, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "RANK": "1", "WORLD_SIZE": "4"}, (5, 8)),
    ],
)
def test_the_shard_of_a_task(flags: dict[str, Any], environment: dict[str, str], shard: tuple[int, int]) -> None:
    assert task_shard(CacheConfig(cache=Path("c"), **flags), environment) == shard


@pytest.mark.parametrize("flags", [{"shard": 0}, {"shard": 3, "num_shards": 3}, {"shard": -1, "num_shards": 3}])
def test_a_shard_that_does_not_exist_is_an_error(flags: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"shard|Shard"):
        task_shard(CacheConfig(cache=Path("c"), **flags), {})


_KILLED = """
import os, signal, sys
from surgvivqa.features.cache import FeatureCache
put, count = FeatureCache.put, 0
def killing(self, *arguments):
    global count
    self.flush_every, count = 2, count + 1
    if count == 8:
        os.kill(os.getpid(), signal.{signal})
    return put(self, *arguments)
FeatureCache.put = killing
from surgvivqa.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("name", "code", "left"),
    [("SIGKILL", -signal.SIGKILL, 6), pytest.param("SIGTERM", 75, 4, marks=pytest.mark.slow)],
)
def test_a_stopped_command_continues(
    base: Path,
    data_flags: list[str],
    tmp_path: Path,
    name: str,
    code: int,
    left: int,
    captured_log: CapturedLog,
) -> None:
    flags = ["cache", f"--checkpoint={base}", *data_flags, f"--cache={tmp_path}", "--workers=0"]
    script = _KILLED.replace("{signal}", name)
    assert subprocess.run([sys.executable, "-c", script, *flags], timeout=600).returncode == code
    assert main([*flags, "--verify"]) == 0
    text = captured_log()
    assert f"Done: {left} frames encoded" in text
    assert "Verified: 12 items" in text
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train-video=full"], "--train-video full"),
        (["--train-video=patch-embed"], "frozen video encoder"),
    ],
)
def test_a_trained_video_encoder_is_refused(
    base: Path,
    data_flags: list[str],
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [
        "train",
        *TINY,
        *data_flags,
        f"--pretrained-ckpt={base}",
        *flags,
        f"--cache={tmp_path / 'c'}",
        f"--checkpoint-dir={tmp_path}/r",
    ]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--splits=train,tset"], "--splits 'train,tset' must be some of"),
        (["--splits="], "must be some of"),
        (["--shard=1"], "belong together"),
        (["--pretrained-ckpt=x"], "exclude each other"),
        (["--image-root=/nowhere"], "--image-root /nowhere is not a folder"),
    ],
)
def test_wrong_flags_are_reported_in_one_sentence(
    base: Path,
    data_flags: list[str],
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cache(base, data_flags, tmp_path / "c", *flags) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len([line for line in errors.splitlines() if line.startswith("surgvivqa:")]) == 1


def test_too_little_disk_space_is_an_error_before_the_first_frame(
    base: Path,
    data_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    assert run_cache(base, data_flags, tmp_path) == 2
    assert "0.0 GB free and" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_cache_folder_that_is_a_file_is_an_error(
    base: Path, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for command in (
        lambda: run_cache(base, data_flags, tmp_path / "file"),
        lambda: main(["eval", f"--checkpoint={base}", f"--cache={tmp_path / 'file'}", f"--output={tmp_path / 'o'}"]),
    ):
        assert command() == 2
        assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_cache_file_is_named(
    base: Path, data_flags: list[str], tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert run_cache(base, data_flags, cache) == 0
    path = next(cache.rglob("VID02.safetensors"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0x40
    path.write_bytes(raw)
    command = ["eval", f"--checkpoint={base}", *data_flags, f"--cache={cache}", f"--output={tmp_path / 'o'}"]
    assert main([*command, f"--workers={workers}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"surgvivqa: Cache file {path} is damaged")
    assert run_cache(base, data_flags, cache, "--verify") == 2


def test_features_that_are_not_finite_are_not_cached(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    bundle, store = _bundle(base, data_flags)
    next(bundle.model.visual_encoder.parameters()).data.fill_(float("nan"))
    tokens = build_video_token_source(bundle, store, tmp_path)
    first = int(min((store.root / "VID04").iterdir()).stem)
    with pytest.raises(RunError, match=f"VID04 frame {first} are not finite"):
        tokens(tokens.reader.read([FrameQuestions("VID04", first, ())]))


def test_training_and_evaluation_models_make_the_same_tokens(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    bundle, store = _bundle(base, data_flags)
    tuned = build_for_training(TrainConfig(preset="tiny", pretrained_ckpt=base, num_frames=4))
    frames = [FrameQuestions("VID04", int(p.stem), ()) for p in sorted((store.root / "VID04").iterdir())]
    made = []
    for number, model in enumerate((bundle, tuned)):
        tokens = build_video_token_source(model, store, tmp_path / str(number), "fp32")
        made.append(tokens(tokens.reader.read(frames)))
    assert torch.equal(*made)
    assert [p.name for p in (tmp_path / "0").iterdir()] == [p.name for p in (tmp_path / "1").iterdir()]


def test_the_fingerprint_depends_on_every_setting_that_changes_the_tokens(
    base: Path, data_flags: list[str], tmp_path: Path
) -> None:
    def fingerprint(**changed: object) -> str:
        bundle, _ = _bundle(base, data_flags)
        for name, value in changed.items():
            setattr(bundle.settings, name, value)
        tokens = build_video_token_source(bundle, bundle.frame_store(Path(data_flags[1].partition("=")[2])), tmp_path)
        assert tokens.cache is not None
        return tokens.cache.fingerprint

    def other_weights() -> str:
        bundle, store = _bundle(base, data_flags)
        bundle.model.visual_encoder.encoder.layer[0].layernorm_before.bias.data[0] += 1e-6
        tokens = build_video_token_source(bundle, store, tmp_path)
        assert tokens.cache is not None
        return tokens.cache.fingerprint

    def other_heads() -> str:
        bundle, store = _bundle(base, data_flags)
        bundle.model.config.video_config.num_attention_heads = 2  # does not change the shape of a tensor
        tokens = build_video_token_source(bundle, store, tmp_path)
        assert tokens.cache is not None
        return tokens.cache.fingerprint

    plain = fingerprint()
    assert plain == fingerprint(clip_stride=3)  # no effect on a clip of one repeated frame
    assert plain == fingerprint(mask="causal", prompt_mode="choices", max_length=192)
    past = fingerprint(clip_mode="past")
    others = [past, fingerprint(clip_mode="past", clip_stride=3), fingerprint(frame_fit="crop")]
    others += [fingerprint(video_pool="temporal"), other_weights(), other_heads()]
    assert len({plain, *others}) == 7
