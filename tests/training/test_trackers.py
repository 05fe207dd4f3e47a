"""``--report-to``: what the trackers get, at which steps, and that none of them can stop or change a run."""

import errno
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from surgvivqa.config import TrainConfig
from surgvivqa.training import trainer
from surgvivqa.training.resume import Progress
from surgvivqa.training.step_records import StepBatches, StepResult
from surgvivqa.training.trackers import RunTrackers, parse_trackers, public_flags
from surgvivqa.utils.errors import InputError
from tests.conftest import CapturedLog
from tests.helpers.runs import assert_equal_runs, sentence, train

FLAGS = ["--log-interval=1", "--save-every-steps=2", "--max-steps=6", "--eval-every-steps=3"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        (["none"], ()),
        (["tensorboard"], ("tensorboard",)),
        (["tensorboard,trackio", "wandb"], ("tensorboard", "trackio", "wandb")),
        (["WandB", "wandb, tensorboard"], ("wandb", "tensorboard")),
    ],
)
def test_trackers_are_words_or_separated_by_commas(values: list[str], expected: tuple[str, ...]) -> None:
    assert parse_trackers(values) == expected


@pytest.mark.parametrize("values", [["mlflow"], ["tensorboard,wanb"], ["none", "wandb"], ["all"]])
def test_other_words_are_an_error(values: list[str]) -> None:
    with pytest.raises(InputError, match="--report-to"):
        parse_trackers(values)


def test_a_package_that_is_missing_or_broken_is_one_sentence_before_the_run(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package is installed, so that only an import shows that it is broken."""
    (tmp_path / "wandb.py").write_text("raise RuntimeError('built for another Python')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert train(tmp_path / "run", data_flags, "--report-to=wandb") == 2
    said = sentence(capsys)
    assert "--report-to wandb" in said and "built for another Python" in said
    assert 'pip install "surgvivqa[wandb]"' in said
    assert not (tmp_path / "run").exists()


class FakeRun:
    """What Accelerate uses of a run of Trackio or Weights & Biases."""

    def __init__(self, module: "FakeTracker", arguments: dict[str, Any]) -> None:
        self.module, self.arguments = module, arguments
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.step, self._next_step, self.finished = module.next_step, module.next_step, False

    def log(self, values: dict[str, float], step: int) -> None:
        if self.module.fails_in == "log":
            raise OSError(errno.ENOSPC, "No space left on device")
        self.logged.append((step, dict(values)))

    def finish(self) -> None:
        if self.module.fails_in == "finish":
            raise TimeoutError("no network")
        self.finished = True


class FakeTracker(types.ModuleType):
    """A module in place of ``trackio`` or ``wandb``."""

    class Settings:
        model_fields = dict.fromkeys(["console", "disable_git", "disable_code", "x_disable_meta", "finish_timeout"])

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: list[FakeRun] = []
        self.fails_in, self.next_step, self.config = "", 0, types.SimpleNamespace(update=self._update)
        self.flags: dict[str, Any] = {}

    def init(self, **arguments: Any) -> FakeRun:
        if self.fails_in == "init":
            raise ConnectionError("no network")
        self.runs.append(FakeRun(self, arguments))
        return self.runs[-1]

    def _update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self.flags |= values


@pytest.fixture(params=["trackio", "wandb"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    module = FakeTracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory, synthetic_set: Path) -> Path:
    """A run that reports to no tracker and is never stopped."""
    folder = tmp_path_factory.mktemp("without") / "run"
    roots = {"ssgvqa-root": "ssg-qa", "image-root": "frames", "splits-dir": "splits"}
    assert train(folder, [f"--{flag}={synthetic_set / name}" for flag, name in roots.items()], *FLAGS) == 0
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard shows: name to steps and values."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def curves_of_lines(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """The same from ``metrics.jsonl``."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for line in lines(folder):
        for name, value in line.items():
            if name not in ("step", "chance") and value is not None:
                tag = f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                found.setdefault(tag, []).append((line["step"], pytest.approx(value, rel=1e-5)))
    return found


def stop_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Makes the run end as if it was killed when it begins a step."""
    make = trainer.Trainer.train_step

    def train_step(self: trainer.Trainer, step: int, batches: StepBatches) -> StepResult:
        if step == number:
            raise KeyboardInterrupt
        return make(self, step, batches)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)


def test_tensorboard_has_each_figure_once_after_a_kill(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: Path
) -> None:
    """Steps 3 (with a validation) and 4 are made twice, as the newest checkpoint is that of step 2."""
    flags = [*FLAGS, "--report-to=tensorboard", "--keep-checkpoints=5"]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 5)
        assert train(tmp_path / "run", data_flags, *flags) == 130
    (tmp_path / "run" / "checkpoints" / "step-0000004" / "training.json").unlink()  # killed while it was written
    assert [e[0] for e in curves(tmp_path / "run")["train/loss"]] == [1, 2, 3, 4]
    assert train(tmp_path / "run", data_flags, *flags) == 0
    found = curves(tmp_path / "run")
    assert found == curves_of_lines(tmp_path / "run")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in found["val/acc"]] == [3, 6]
    assert_equal_runs(without, tmp_path / "run")
    # A new run in the folder is a new run in the trackers.
    assert train(tmp_path / "run", data_flags, *flags, "--overwrite", "--max-steps=1") == 0
    assert [step for step, _ in curves(tmp_path / "run")["train/loss"]] == [1]


@pytest.mark.parametrize("fails_in", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning_and_changes_nothing(
    fails_in: str,
    data_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    captured_log: CapturedLog,
    without: Path,
) -> None:
    module = FakeTracker("trackio")
    module.fails_in = fails_in
    monkeypatch.setitem(sys.modules, "trackio", module)
    assert train(tmp_path / "run", data_flags, *FLAGS, "--report-to", "trackio", "tensorboard") == 0
    text = captured_log()
    assert text.count("--report-to") == 1 and "--report-to trackio failed" in text
    assert_equal_runs(without, tmp_path / "run")
    assert curves(tmp_path / "run") == curves_of_lines(tmp_path / "run")  # the other tracker goes on


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that of TensorBoard's writer
def test_tensorboard_on_a_full_disk_is_one_warning(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured_log: CapturedLog
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    assert train(tmp_path / "run", data_flags, "--max-steps=3", "--log-interval=1", "--report-to=tensorboard") == 0
    assert captured_log().count("--report-to tensorboard failed") == 1


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    accelerator = Accelerator(cpu=True)
    yield accelerator
    accelerator.trackers.clear()


def report(accelerator: Accelerator, folder: Path, config: TrainConfig, progress: Progress, *steps: int) -> None:
    """One start of a run: it writes the figures of some steps as the trainer does."""
    folder.mkdir(exist_ok=True)
    accelerator.trackers.clear()
    with RunTrackers(accelerator, folder, config, progress) as trackers:
        for step in steps:
            values = {"step": step, "loss": step / 8, "chance": 3.9, "grad_norm": None}
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(values) + "\n")
            trackers.report(values)


def test_a_resumed_run_continues_the_trackers_run(fake: FakeTracker, accelerator: Accelerator, tmp_path: Path) -> None:
    config = TrainConfig(report_to=[fake.__name__], checkpoint_dir=tmp_path / "my run")
    folder = tmp_path / "my run"
    report(accelerator, folder, config, Progress(), 1, 2, 3, 4)
    fake.next_step = 5  # it has step 4, and the run was killed: the checkpoint is that of step 2
    (folder / "metrics.jsonl").write_text("".join((folder / "metrics.jsonl").read_text().splitlines(True)[:2]))
    report(accelerator, folder, config, Progress(step=2), 3, 4, 5, 6)
    first, second = fake.runs
    assert first.arguments["name"] == second.arguments["name"] and first.arguments["name"].startswith("my-run-")
    assert first.arguments["resume"] == second.arguments["resume"] == "allow"
    assert first.logged == [(step, {"train/loss": step / 8}) for step in (1, 2, 3, 4)]
    # Trackio takes a step twice, so the newest one, which a kill may have cut, is sent again; W&B takes none.
    again = [4] if fake.__name__ == "trackio" else []
    assert [step for step, _ in second.logged] == [*again, 5, 6]
    assert first.finished and second.finished


def test_a_tracker_that_joins_later_gets_the_earlier_figures(
    fake: FakeTracker, accelerator: Accelerator, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    report(accelerator, folder, TrainConfig(checkpoint_dir=folder), Progress(), 1, 2)
    report(accelerator, folder, TrainConfig(report_to=[fake.__name__], checkpoint_dir=folder), Progress(step=2), 3)
    assert [step for step, _ in fake.runs[0].logged] == [1, 2, 3]


def test_flags_are_sent_without_paths_and_secrets(fake: FakeTracker, accelerator: Accelerator, tmp_path: Path) -> None:
    secret = "hf_" + "Aa1" * 12
    config = TrainConfig(
        report_to=[fake.__name__],
        checkpoint_dir=tmp_path / "run",
        ssgvqa_root=Path("/home/me/data"),
        text_model="/home/me/models/blip",
        decoder_model=secret,
    )
    report(accelerator, tmp_path / "run", config, Progress())
    assert fake.flags == public_flags(config)
    assert fake.flags["lr"] == 5e-4 and fake.flags["text_model"] == "blip" and "ssgvqa_root" not in fake.flags
    sent = json.dumps([fake.flags, {k: v for k, v in fake.runs[0].arguments.items() if k != "dir"}])
    assert "/home/me" not in sent and str(tmp_path) not in sent and secret not in sent


def test_weights_and_biases_records_nothing_else(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would send the console, the command line, the host and the user; settings of other versions are left out."""
    module = FakeTracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = TrainConfig(report_to=["wandb"], checkpoint_dir=tmp_path / "run")
    report(accelerator, tmp_path / "run", config, Progress())
    settings = module.runs[0].arguments["settings"]
    assert settings["console"] == "off" and settings["x_disable_meta"] and settings["disable_git"]
    assert settings.keys() <= module.Settings.model_fields.keys()
    assert module.runs[0].arguments["dir"] == str(tmp_path / "run")


def test_only_the_main_process_reports(fake: FakeTracker, tmp_path: Path) -> None:
    other: Any = types.SimpleNamespace(is_main_process=False, trackers=[], log=lambda *_, **__: None)
    with RunTrackers(other, tmp_path, TrainConfig(report_to=[fake.__name__]), Progress()) as trackers:
        trackers.report({"step": 1, "loss": 1.0})
    assert not fake.runs and not list(tmp_path.iterdir())


def test_a_link_is_not_written_through(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    assert train(tmp_path / "run", data_flags, "--report-to=tensorboard") == 2
    assert "has the link tensorboard" in sentence(capsys)


@pytest.mark.slow
def test_trackio_itself(accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes to its local database, without a network; skipped where it is not installed (surgvivqa[trackio])."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    config = TrainConfig(report_to=["trackio"], checkpoint_dir=tmp_path / "run")
    report(accelerator, tmp_path / "run", config, Progress(), 1, 2, 3, 4)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    report(accelerator, tmp_path / "run", config, Progress(step=2), 3, 4, 5, 6)
    (run,) = trackio.Api().runs("surgvivqa")
    logs = trackio.SQLiteStorage.get_logs("surgvivqa", run.name, run_id=run.id)
    assert [(row["step"], row["train/loss"]) for row in logs] == [(s, s / 8) for s in (1, 2, 3, 4, 4, 5, 6)]
    assert run.config is not None and run.config["lr"] == 5e-4


@pytest.mark.slow
def test_weights_and_biases_itself(accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In offline mode; skipped where it is not installed (surgvivqa[wandb])."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip("wandb")
    config = TrainConfig(report_to=["wandb"], checkpoint_dir=tmp_path / "run", ssgvqa_root=tmp_path / "data")
    report(accelerator, tmp_path / "run", config, Progress(), 1, 2, 3)
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    until = time.monotonic() + 60
    while (content := record.read_bytes()).count(b"train/loss") < 3:  # another process writes it
        assert time.monotonic() < until
        time.sleep(0.1)
    assert b"lora_r" in content
    assert str(tmp_path).encode() not in content and str(Path.cwd()).encode() not in content
