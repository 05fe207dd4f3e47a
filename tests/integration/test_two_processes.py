"""Two real processes over gloo compared with one: training, evaluation, errors and signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from surgvivqa.cli import main
from surgvivqa.config import TrainConfig
from surgvivqa.data.index import draw_subsample, open_questions
from surgvivqa.features.batches import plan_micro_batches
from surgvivqa.training.run_log import TIMINGS
from surgvivqa.utils.distributed import explain_lost_processes, start_processes
from surgvivqa.utils.errors import InputError, RunError
from tests.helpers.processes import LIMIT, wait_until

# 18 questions are 5 micro-batches: the last is short, and an epoch is not a whole number of steps.
TRAIN = ["train", "--preset=tiny", "--workers=0", "--batch-size=4", "--max-train-samples=18", "--epochs=2"]
TRAIN += ["--lr=2e-4", "--max-grad-norm=1", "--log-interval=1", "--eval-every-steps=2", "--val-max-samples=90"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_alone(*arguments: str) -> None:
    """Runs a command in this process, on one thread as torchrun's processes have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([*arguments]) == 0
    finally:
        torch.set_num_threads(threads)


def run_as_two(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as two processes that torchrun starts."""
    command = [sys.executable, *TORCHRUN, "-m", "surgvivqa", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return done


class ProcessPair:
    """Two processes of one run without torchrun, which would stop one when the other has failed."""

    def __init__(self, arguments: list[str], second: dict[str, str] | None = None) -> None:
        # This process holds the store, as torchrun does: a port that is only probed could be taken by another program.
        self.store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self.store.port),
        }
        environment |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "surgvivqa", *arguments],
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | (second or {} if rank else {}),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def wait(self) -> tuple[list[int], list[str]]:
        """Waits for both processes; returns their exit codes and their standard errors."""
        try:
            errors = [process.communicate(timeout=LIMIT)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], errors


def error_sentences(stderr: str) -> list[str]:
    """The error sentences in ``stderr``."""
    assert "Traceback" not in stderr, stderr
    return [line for line in stderr.splitlines() if line.startswith("surgvivqa: ")]


def metrics_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without timings and without null values (the loss of no question)."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS and v is not None} for line in lines]


@pytest.fixture(scope="module")
def flags(synthetic_set: Path) -> list[str]:
    roots = {"ssgvqa-root": "ssg-qa", "image-root": "frames", "splits-dir": "splits"}
    return [f"--{flag}={synthetic_set / folder}" for flag, folder in roots.items()]


@pytest.fixture(scope="module")
def one_process(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    run_alone(*TRAIN, *flags, "--gradient-accumulation-steps=2", f"--checkpoint-dir={folder}")
    return folder


def assert_same_run(first: Path, second: Path, steps: int, validations: int = 2) -> None:
    one, two = metrics_lines(first), metrics_lines(second)
    assert [line["step"] for line in one if "lr" in line] == list(range(1, steps + 1))
    assert sum("val_loss" in line for line in one) >= validations
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5, rel=0)
    weights, others = (load_file(folder / "best" / "model.safetensors") for folder in (first, second))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_train_the_same_as_one_with_twice_the_accumulation(
    one_process: Path, flags: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = run_as_two(*TRAIN, *flags, f"--checkpoint-dir={folder}")
    assert_same_run(one_process, folder, steps=6)
    assert done.stderr.count("Done: 6 steps") == done.stderr.count("trainable") == 1
    assert (folder / "train.log").read_text().count("Done: 6 steps") == 1


@pytest.mark.slow
def test_two_processes_that_fill_a_text_cache_train_the_same_as_one_that_reads_it(
    one_process: Path, flags: list[str], tmp_path: Path
) -> None:
    arguments = [*TRAIN, *flags, f"--pretrained-ckpt={one_process}", f"--cache={tmp_path / 'cache'}", "--cache-text"]
    run_as_two(*arguments, f"--checkpoint-dir={tmp_path / 'two'}")
    run_alone(*arguments, "--gradient-accumulation-steps=2", f"--checkpoint-dir={tmp_path / 'one'}")
    assert "of 0 computed" in (tmp_path / "one" / "train.log").read_text()
    assert_same_run(tmp_path / "one", tmp_path / "two", 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "ahead"),
    [
        ("1e-3", []),
        # Other windows round the features otherwise. In its first steps Adam divides a gradient by its own size, so a
        # weight whose gradient nearly cancels out then moves by some percent of the rate more or less.
        ("1e-4", ["--shuffle-frames=2", "--encode-ahead=3"]),
    ],
    ids=["", "ahead"],
)
def test_adapters_with_dropout_and_accumulation_in_each_process_train_the_same(
    rate: str, ahead: list[str], flags: list[str], tmp_path: Path
) -> None:
    arguments = [
        *TRAIN,
        *flags,
        "--lora-dropout=0.3",
        f"--lr={rate}",
        "--save-every-steps=2",
        *ahead,
    ]
    run_alone(*arguments, "--gradient-accumulation-steps=4", f"--checkpoint-dir={tmp_path / 'one'}")
    run_as_two(*arguments, "--gradient-accumulation-steps=2", f"--checkpoint-dir={tmp_path / 'two'}")
    assert_same_run(tmp_path / "one", tmp_path / "two", steps=4)
    saved = [sorted(p.name for p in (tmp_path / run / "checkpoints").iterdir()) for run in ("one", "two")]
    assert saved[0] == saved[1] == ["step-0000002", "step-0000004"]


@pytest.mark.slow
def test_a_process_may_have_no_questions_and_no_frames(flags: list[str], tmp_path: Path) -> None:
    # One micro-batch per epoch, and one frame to validate on: the second process has neither.
    arguments = [*TRAIN, *flags, "--max-train-samples=3", "--val-max-samples=5", "--lora-dropout=0.3"]
    run_alone(*arguments, "--gradient-accumulation-steps=2", f"--checkpoint-dir={tmp_path / 'one'}")
    done = run_as_two(*arguments, f"--checkpoint-dir={tmp_path / 'two'}")
    assert "3 questions on 1 frames; 2 steps of 8 questions, 1 per epoch" in done.stderr
    assert_same_run(tmp_path / "one", tmp_path / "two", steps=2, validations=1)


def copy_with_damaged_frame(synthetic_set: Path, folder: Path) -> Path:
    """A copy of the frames with a truncated one in the training video."""
    frames = Path(shutil.copytree(synthetic_set / "frames", folder))
    (frames / "VID04" / "000001.png").write_bytes((frames / "VID04" / "000001.png").read_bytes()[:3000])
    return frames


@pytest.mark.slow
def test_a_bad_frame_is_skipped_by_all_processes(flags: list[str], synthetic_set: Path, tmp_path: Path) -> None:
    """Including steps in which one process has only that frame."""
    images = f"--image-root={copy_with_damaged_frame(synthetic_set, tmp_path / 'frames')}"
    small = ["--batch-size=2", "--questions-per-frame=2", "--max-train-samples=156", "--max-steps=10"]
    arguments = [*TRAIN, *flags, images, *small, "--on-bad-frame=skip", "--max-bad-frames=0.2"]
    found, _ = open_questions(synthetic_set / "ssg-qa", ["VID04"])
    drawn_frames = draw_subsample(found, 156, TrainConfig.seed)
    bad = [f.frame for f in drawn_frames].index(1)
    plan = plan_micro_batches([len(f.questions) for f in drawn_frames], 2, 2, TrainConfig.seed, 0)[:20]
    empty = [all(frame == bad for frame, _ in batch) for batch in plan]
    assert any(one != other for one, other in zip(empty[::2], empty[1::2], strict=True))
    run_alone(*arguments, "--gradient-accumulation-steps=2", f"--checkpoint-dir={tmp_path / 'one'}")
    run_as_two(*arguments, f"--checkpoint-dir={tmp_path / 'two'}")
    assert_same_run(tmp_path / "one", tmp_path / "two", steps=10)
    finished = [json.loads((tmp_path / name / "finished.json").read_text()) for name in ("one", "two")]
    assert finished[0] == finished[1]
    assert [frame[:2] for frame in finished[0]["skipped_frames"]] == [["VID04", 1]]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_bad_frame_stops_both_processes_and_is_reported_once(
    command: str, one_process: Path, flags: list[str], synthetic_set: Path, tmp_path: Path
) -> None:
    images = f"--image-root={copy_with_damaged_frame(synthetic_set, tmp_path / 'frames')}"
    if command == "train":
        arguments = [*TRAIN, "--max-train-samples=156", f"--checkpoint-dir={tmp_path / 'run'}"]
    else:
        arguments = [
            "eval",
            f"--checkpoint={one_process}",
            "--workers=0",
            "--split=train",
            f"--output={tmp_path / 'eval'}",
        ]
    codes, errors = ProcessPair([*arguments, *flags, images]).wait()
    assert codes == [2, 2]
    assert sum(len(error_sentences(error)) for error in errors) == 1
    assert "000001.png cannot be read" in "".join(errors) and "--on-bad-frame skip" in "".join(errors)


@pytest.mark.slow
@pytest.mark.parametrize(("questions", "frames"), [(126, 3), (20, 1)], ids=["uneven", "fewer frames than processes"])
def test_two_processes_predict_the_same_as_one(one_process: Path, tmp_path: Path, questions: int, frames: int) -> None:
    command = ["eval", f"--checkpoint={one_process}", "--workers=0", "--scores", f"--max-samples={questions}"]
    run_alone(*command, f"--output={tmp_path / 'one'}")
    done = run_as_two(*command, f"--output={tmp_path / 'two'}")
    name = "predictions.jsonl"
    assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    records = [json.loads(line) for line in (tmp_path / "two" / "predictions.jsonl").read_text().splitlines()]
    assert len({(r["video"], r["frame"]) for r in records}) == frames
    assert done.stdout.count("written:") == 1


def figures(output: Path) -> dict[str, Any]:
    """The content of ``metrics.json`` without the time and the number of processes."""
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    del content["environment"]
    return content


@pytest.mark.slow
def test_two_processes_ask_again_as_one(flags: list[str], tmp_path: Path) -> None:
    """On frames of other videos and on corrupted ones; black frames have fewer distinct questions than frames."""
    splits = tmp_path / "splits"
    splits.mkdir()
    for name, videos in (("train", []), ("val", []), ("test", ["VID01", "VID02", "VID04"])):
        (splits / f"{name}_videos.json").write_text(json.dumps(videos))
    command = [
        "eval",
        "--checkpoint=tiny",
        "--workers=0",
        "--max-samples=120",
        "--check-samples=60",
        "--corrupt=blur:4",
    ]
    command += [*flags, f"--splits-dir={splits}"]
    run_alone(*command, f"--output={tmp_path / 'one'}")
    done = run_as_two(*command, f"--output={tmp_path / 'two'}")
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    assert done.stdout.count("blur:4") == 1


@pytest.mark.slow
def test_another_run_in_the_folder_stops_both_processes_with_one_message(one_process: Path, flags: list[str]) -> None:
    before = (one_process / "metrics.jsonl").read_text()
    codes, errors = ProcessPair([*TRAIN, *flags, "--mask=causal", f"--checkpoint-dir={one_process}"]).wait()
    assert codes == [2, 2]
    assert error_sentences(errors[1]) == []
    assert len(error_sentences(errors[0])) == 1
    assert "holds a run with other flags (--mask was prefix, is causal)" in error_sentences(errors[0])[0]
    assert (one_process / "metrics.jsonl").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "eval"])
def test_wrong_input_in_one_process_stops_both(
    command: str, one_process: Path, flags: list[str], synthetic_set: Path, tmp_path: Path
) -> None:
    # The second process finds no frames, as on a node that does not mount them.
    roots = [flag for flag in flags if "image-root" not in flag]
    arguments = TRAIN if command == "train" else ["eval", f"--checkpoint={one_process}", "--workers=0"]
    output = f"--checkpoint-dir={tmp_path / 'run'}" if command == "train" else f"--output={tmp_path / 'eval'}"
    os.environ["IMAGE_ROOT"] = str(synthetic_set / "frames")
    try:
        codes, errors = ProcessPair([*arguments, *roots, output], second={"IMAGE_ROOT": str(tmp_path)}).wait()
    finally:
        del os.environ["IMAGE_ROOT"]
    assert codes == [2, 2]
    assert error_sentences(errors[0]) == []
    assert len(error_sentences(errors[1])) == 1
    assert "frames are missing" in error_sentences(errors[1])[0]


@pytest.mark.slow
def test_a_non_finite_loss_stops_both_processes_and_is_reported_once(flags: list[str], tmp_path: Path) -> None:
    wild = ["--lr=1e30", "--max-grad-norm=0", "--full-finetune", "--train-blip", f"--checkpoint-dir={tmp_path / 'run'}"]
    codes, errors = ProcessPair([*TRAIN, *flags, *wild]).wait()
    assert codes == [1, 1]
    assert error_sentences(errors[1]) == []
    assert len(error_sentences(errors[0])) == 1
    assert "The loss of step 2 is nan (VID04/" in error_sentences(errors[0])[0]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pair = ProcessPair([*TRAIN, *flags, "--max-steps=100000", "--eval-every-steps=0", f"--checkpoint-dir={folder}"])
    wait_until((folder / "metrics.jsonl").exists, pair.processes[0])
    pair.processes[1].send_signal(signal.SIGTERM)
    codes, errors = pair.wait()
    assert codes == [75, 75]
    last = metrics_lines(folder)[-1]["step"]
    assert f"Stopped by SIGTERM after step {last};" in errors[0]
    assert "Stopped" not in errors[1]
    assert [p.name for p in (folder / "checkpoints").iterdir()] == [f"step-{last:07d}"]


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_stopped_run_resumes_with_another_number_of_processes(
    first: int, one_process: Path, flags: list[str], tmp_path: Path
) -> None:
    """From two processes to twice the accumulation, or the reverse, after the first step."""
    folder = tmp_path / "run"
    arguments = [*TRAIN, *flags, f"--checkpoint-dir={folder}"]
    if first == 2:
        assert ProcessPair([*arguments, "--max-hours=0"]).wait()[0] == [75, 75]
        run_alone(*arguments, "--gradient-accumulation-steps=2")
    else:
        assert main([*arguments, "--gradient-accumulation-steps=2", "--max-hours=0"]) == 75
        run_as_two(*arguments)
    assert "Resuming after step 1" in (folder / "train.log").read_text()
    assert_same_run(one_process, folder, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_stops_the_other_and_the_run_resumes(killed: int, flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*TRAIN, *flags, "--max-steps=2000", "--save-every-steps=1", f"--checkpoint-dir={folder}"]
    pair = ProcessPair([*arguments, "--eval-every-steps=0"])
    wait_until(lambda: list(folder.glob("checkpoints/step-*[0-9]")), pair.processes[0])
    pair.processes[killed].send_signal(signal.SIGKILL)
    codes, errors = pair.wait()
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1, errors
    assert "Another process of this run has ended" in error_sentences(errors[1 - killed])[0]
    last = max(int(p.name[5:]) for p in folder.glob("checkpoints/step-*[0-9]"))
    assert ProcessPair([*arguments, "--eval-every-steps=0", "--max-hours=0"]).wait()[0] == [75, 75]
    assert max(int(p.name[5:]) for p in folder.glob("checkpoints/step-*[0-9]")) == last + 1


@pytest.mark.parametrize(
    "message",
    ["Timed out waiting 1800000ms for recv operation to complete", "[..] Connection closed by peer [127.0.0.1]"],
)
def test_a_lost_process_is_reported_only_if_there_are_others(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for world_size, error_type in (("2", RunError), ("1", RuntimeError)):
        monkeypatch.setenv("WORLD_SIZE", world_size)
        expected = "Another process of this run has ended" if world_size == "2" else None
        with pytest.raises(error_type, match=expected), explain_lost_processes("start it again"):
            raise RuntimeError(message)


def test_more_processes_than_gpus_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="4 processes were started on this machine but 2 GPUs"):
        start_processes()
