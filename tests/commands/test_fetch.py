"""``surgvivqa fetch`` against a hub on this machine: what it prints, keeps and pins, and what then works offline."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from surgvivqa.checkpoints.public_settings import hub_name
from surgvivqa.checkpoints.saving import save_checkpoint
from surgvivqa.cli import main
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig, TrainConfig, read_yaml, save_yaml
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.pinned_parts import pin_parts
from tests.helpers.fake_hub import GOOD_TOKEN, FakeHub, serve_hub
from tests.helpers.parts import config, make_parts

NAMES = {"video": "lab/video", "text": "lab/text", "decoder": "gpt2"}
FLAGS = [f"--{kind}-model={name}" for kind, name in NAMES.items()]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: Path) -> Iterator[FakeHub]:
    """A hub with the three parts."""
    with serve_hub(monkeypatch, tmp_path / "home") as found:
        for kind, name in NAMES.items():
            found.add(name, parts / ("gpt2" if kind == "decoder" else kind))
        yield found


def commit_of(fake_hub: FakeHub, name: str) -> str:
    return list(fake_hub.repositories[name].commits)[-1]


def go_offline(monkeypatch: pytest.MonkeyPatch, fake_hub: FakeHub) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fake_hub.asked.clear()


def test_a_dry_run_tells_the_sizes_and_fetches_nothing(fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", *FLAGS, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"video      lab/video at commit {commit_of(fake_hub, 'lab/video')}, 505 kB" in out
    assert "model.safetensors" in out and "1.41 MB to fetch into" in out and "tf_model" not in out
    assert not fake_hub.files_asked()


def test_fetched_parts_are_found_by_name_without_a_network(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", *FLAGS]) == 0
    assert f"--decoder-model gpt2@{commit_of(fake_hub, 'gpt2')}" in capsys.readouterr().out
    go_offline(monkeypatch, fake_hub)
    names = {f"{kind}_model": name for kind, name in NAMES.items()}
    bundle = build_for_training(TrainConfig(**names, num_frames=4))  # type: ignore[arg-type]
    assert not fake_hub.asked
    noted = [c._name_or_path for c in (bundle.model.config.video_config, bundle.model.config.decoder_config)]
    assert noted == ["lab/video", "gpt2"]  # and not a folder of this machine


@pytest.mark.slow
def test_a_check_passes_offline_after_a_fetch(fake_hub: FakeHub, data_flags: list[str]) -> None:
    assert main(["fetch", *FLAGS, "--no-trial-load"]) == 0
    fake_hub.asked.clear()
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    check = [
        sys.executable,
        "-m",
        "surgvivqa",
        "check",
        *FLAGS,
        *data_flags,
        "--num-frames=4",
        "--batch-size=4",
        "--frames-to-open=1",
    ]
    done = subprocess.run(check, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout and not fake_hub.asked


def test_without_hub_and_weights_a_command_names_fetch(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    go_offline(monkeypatch, fake_hub)
    assert main(["check", *FLAGS, *data_flags, "--frames-to-open=1"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1 and "`surgvivqa fetch --video-model lab/video`" in failed[0]
    assert "HF_HUB_OFFLINE keeps this process off the network" in failed[0]


def test_a_folder_holds_each_part_and_its_record_and_a_second_call_fetches_nothing(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured_log: object
) -> None:
    to = tmp_path / "to"
    assert main(["fetch", *FLAGS, f"--to={to}"]) == 0
    assert {path.name for path in (to / "video").iterdir()} == {"config.json", "model.safetensors", "fetched.json"}
    record = json.loads((to / "video" / "fetched.json").read_text())
    assert (record["model"], record["commit"]) == ("lab/video", commit_of(fake_hub, "lab/video"))
    assert set(record["sha256"]) == {"config.json", "model.safetensors"} and record["complete"] is True
    fake_hub.asked.clear()
    assert main(["fetch", *FLAGS, f"--to={to}"]) == 0
    assert not fake_hub.files_asked()
    go_offline(monkeypatch, fake_hub)
    folders = {f"{kind}_model": str(to / kind) for kind in NAMES}
    build_for_training(TrainConfig(**folders, num_frames=4))  # type: ignore[arg-type]
    assert not fake_hub.asked
    pinned = f"lab/video@{record['commit']}"
    assert pinned in captured_log() and hub_name(str(to / "video")) == pinned  # type: ignore[operator]


def test_damaged_files_are_fetched_again(fake_hub: FakeHub, tmp_path: Path, parts: Path) -> None:
    assert main(["fetch", *FLAGS, f"--to={tmp_path / 'to'}"]) == 0
    file = tmp_path / "to" / "video" / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    fake_hub.asked.clear()
    assert main(["fetch", *FLAGS, f"--to={tmp_path / 'to'}"]) == 0
    assert fake_hub.files_asked() == ["model.safetensors"]
    assert file.read_bytes() == (parts / "video" / "model.safetensors").read_bytes()


def test_an_unfinished_folder_is_refused_and_completed_by_the_same_command(
    fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgvivqa.checkpoints.transfer.PAUSE", 0.0)
    to = tmp_path / "to"
    fake_hub.cut_after = [100_000] + [0] * 30
    assert main(["fetch", *FLAGS, f"--to={to}"]) == 2
    capsys.readouterr()
    fake_hub.cut_after = []
    assert main(["fetch", f"--video-model={to / 'video'}", *FLAGS[1:], "--dry-run"]) == 0
    assert main(["fetch", f"--video-model={to / 'video'}", *FLAGS[1:]]) == 2
    assert "holds only a part of lab/video" in capsys.readouterr().err
    fake_hub.asked.clear()
    assert main(["fetch", *FLAGS, f"--to={to}"]) == 0
    assert any("model.safetensors bytes=100000-" in path for path in fake_hub.asked)


def test_a_folder_with_other_content_is_left_alone(
    fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: Path
) -> None:
    (tmp_path / "to" / "video").mkdir(parents=True)
    (tmp_path / "to" / "video" / "notes.txt").write_text("mine")
    assert main(["fetch", *FLAGS, f"--to={tmp_path / 'to'}"]) == 2
    assert "holds other files" in capsys.readouterr().err
    (tmp_path / "to" / "video" / "notes.txt").unlink()
    assert main(["fetch", *FLAGS, f"--to={tmp_path / 'to'}", "--no-trial-load"]) == 0
    fake_hub.add("lab/video", parts / "video")
    assert main(["fetch", *FLAGS, f"--to={tmp_path / 'to'}"]) == 2
    assert "the same commit with --revision" in capsys.readouterr().err


def test_a_revision_is_pinned(
    fake_hub: FakeHub, parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = commit_of(fake_hub, "lab/video")
    new = fake_hub.add("lab/video", parts / "video", foreign=False)
    assert main(["fetch", *FLAGS, "--revision", f"video={old}", "--no-trial-load"]) == 0
    assert f"--video-model lab/video@{old}" in capsys.readouterr().out
    go_offline(monkeypatch, fake_hub)
    pinned = pin_parts(TrainConfig(video_model="lab/video", text_model="lab/text"))
    assert pinned.video_model == f"lab/video@{old}"  # the only one in the cache
    assert main(["fetch", f"--video-model=lab/video@{new}", "--revision", f"video={old}"]) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--revision", "video"], "is not of the form PART=REVISION"),
        (["--revision", "vidoe=1"], "the nearest one is 'video'"),
        (["--revision", "checkpoint=1"], "nothing is to be fetched for it"),
        (["--video-model=a/b/c"], "--video-model a/b/c is not a model name on the hub"),
        (["--checkpoint=runs/absent/x"], "is neither a checkpoint folder here"),
        (["--video-model=lab/absent"], "--video-model lab/absent cannot be fetched from the hub: the hub has no such"),
        ([f"--video-model={GOOD_TOKEN}"], "holds what looks like a token"),
    ],
)
def test_wrong_flags_are_one_sentence(
    fake_hub: FakeHub, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", *FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and GOOD_TOKEN not in error


def test_a_runs_config_names_the_models(fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {f"{kind}_model": name for kind, name in NAMES.items()}
    save_yaml(TrainConfig(**names, lr=1e-3), tmp_path / "run.yaml")  # type: ignore[arg-type]
    assert main(["fetch", f"--config={tmp_path / 'run.yaml'}", "--dry-run"]) == 0
    assert "lab/video at commit" in capsys.readouterr().out
    assert main(["fetch", "--config=configs/tiny.yaml"]) == 0
    assert "Nothing is to be fetched" in capsys.readouterr().out


def test_a_trained_checkpoint_is_fetched_with_the_parts_that_it_needs(
    fake_hub: FakeHub, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"{kind}_model": name for kind, name in NAMES.items()}
    trained = pin_parts(TrainConfig(**names, num_frames=4))  # type: ignore[arg-type]
    save_checkpoint(build_for_training(trained), tmp_path / "best")
    commit = fake_hub.add("lab/trained", tmp_path / "best")
    fake_hub.add("lab/video", parts / "video", foreign=False)  # newer than the checkpoint
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    assert main(["fetch", "--checkpoint=lab/trained"]) == 0
    go_offline(monkeypatch, fake_hub)
    bundle = load_model(Path(f"lab/trained@{commit}"), OptionalModelConfig())
    assert bundle.settings.video_model == trained.video_model and "@" in trained.video_model
    assert not fake_hub.asked
    assert main(["fetch", f"--checkpoint={tmp_path / 'best'}", "--dry-run"]) == 2  # its parts are asked for


# ------------------------------------------------------------------------------------------------------------- pinning


def test_a_run_is_pinned_and_keeps_its_commits(fake_hub: FakeHub, parts: Path, tmp_path: Path) -> None:
    names = {f"{kind}_model": name for kind, name in NAMES.items()}
    run = TrainConfig(**names, checkpoint_dir=tmp_path)  # type: ignore[arg-type]
    first = pin_parts(run)
    assert first.decoder_model == f"gpt2@{commit_of(fake_hub, 'gpt2')}"
    save_yaml(first, tmp_path / "config.yaml")
    newer = fake_hub.add("gpt2", parts / "gpt2")
    assert pin_parts(run) == first
    assert (
        pin_parts(TrainConfig(**read_yaml(tmp_path / "config.yaml", TrainConfig))).decoder_model == first.decoder_model
    )
    run.overwrite = True
    assert pin_parts(run).decoder_model == f"gpt2@{newer}"


def test_a_run_that_was_not_pinned_resumes_as_it_began(fake_hub: FakeHub, tmp_path: Path) -> None:
    run = TrainConfig(decoder_model="gpt2", checkpoint_dir=tmp_path)
    save_yaml(run, tmp_path / "config.yaml")
    assert pin_parts(run).decoder_model == "gpt2"


def test_folders_and_other_starts_are_not_pinned(fake_hub: FakeHub, parts: Path) -> None:
    assert pin_parts(config(parts)) == config(parts)
    for start in (TrainConfig(preset="tiny"), TrainConfig(pretrained_ckpt=Path("x"))):
        assert pin_parts(start) == start
    assert not fake_hub.asked
