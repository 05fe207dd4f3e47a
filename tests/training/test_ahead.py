"""Encoding ahead and late figures change nothing but the speed, nor does padding but for the numbers of dropout."""

import dataclasses
import functools
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.questions import make_questions
from surgvivqa.data.packing import PromptTree, StreamShape, bucket_shape, build_answer_chain, pack_stream
from surgvivqa.features.cache_file import CacheFile
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.training import trainer
from surgvivqa.training.graphs import buffers_of, fixed_stream
from surgvivqa.training.run_log import TIMINGS
from surgvivqa.training.step_records import StepBatches, StepResult
from surgvivqa.training.update import StepFigures
from surgvivqa.utils.errors import InputError
from tests.helpers.runs import assert_equal_runs, train
from tests.helpers.small_models import LABEL_IDS, small_model

MASKS = ["prefix", "causal", "bidirectional"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


@pytest.fixture
def proportional_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps each update a multiple of its gradient.

    AdamW divides a gradient by its own size: where one is nearly zero, its rounding alone (frames encoded seven batches
    at a time, not one) moves a weight by a share of the learning rate. A large eps undoes the division.
    """
    monkeypatch.setattr(torch.optim, "AdamW", functools.partial(torch.optim.AdamW, eps=1e-3))


def assert_close_runs(one: Path, other: Path, bound: float = 1e-5) -> None:
    assert len(metrics(one)) == len(metrics(other)) > 1
    for first, second in zip(metrics(one), metrics(other), strict=True):
        assert second == pytest.approx(first, abs=bound, rel=bound)
    weights, others = (load_file(folder / "best" / "model.safetensors") for folder in (one, other))
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, atol=bound, rtol=0, msg=name)


@pytest.mark.usefixtures("proportional_updates")
@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--max-steps=200", "--max-train-samples=400", "--eval-every-steps=100", "--log-interval=10"],
        ["--gradient-accumulation-steps=3", "--mask=bidirectional"],
        ["--unfreeze-blip-last-n=1", "--mask=causal"],  # video tokens alone run ahead
        ["--batch-size=2", "--shuffle-frames=2"],
    ],
)
def test_encoding_ahead_changes_neither_losses_nor_weights(
    flags: list[str], data_flags: list[str], tmp_path: Path
) -> None:
    assert train(tmp_path / "one", data_flags, *flags, "--encode-ahead=1") == 0
    assert train(tmp_path / "ahead", data_flags, *flags, "--encode-ahead=7") == 0
    assert_close_runs(tmp_path / "one", tmp_path / "ahead")
    assert "run ahead, for up to 7 batches" in (tmp_path / "ahead" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--cache=CACHE"], ["--cache=CACHE", "--cache-text"]])
def test_a_run_resumes_exactly_at_any_step_of_a_window(
    flags: list[str], data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [flag.replace("CACHE", str(tmp_path / "cache")) for flag in flags]
    flags += ["--encode-ahead=4", "--shuffle-frames=3", "--save-every-steps=1", "--keep-checkpoints=20"]
    assert train(tmp_path / "whole", data_flags, *flags) == 0
    checkpoints = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    assert len(checkpoints) == 14
    for step in (3, 6, 9):
        run = tmp_path / f"from-{step}"
        shutil.copytree(checkpoints[step - 1], run / "checkpoints" / checkpoints[step - 1].name)
        for name in ("config.yaml", "metrics.jsonl"):
            shutil.copy(tmp_path / "whole" / name, run / name)
        assert train(run, data_flags, *flags) == 0
        assert metrics(run) == metrics(tmp_path / "whole")
        assert f"Resuming after step {step}" in (run / "train.log").read_text()
        first, second = (
            load_file(folder / "checkpoints" / "step-0000014" / "model.safetensors")
            for folder in (run, tmp_path / "whole")
        )
        assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads a step's figures while later ones are made, as on a GPU."""
    prepare = trainer.Trainer._prepare_steps

    def with_pending(self: trainer.Trainer) -> None:
        prepare(self)
        self.max_pending = 2

    monkeypatch.setattr(trainer.Trainer, "_prepare_steps", with_pending)


@pytest.mark.slow
def test_figures_that_are_read_late_change_nothing(
    data_flags: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert train(tmp_path / "at-once", data_flags) == 0
    request.getfixturevalue("late")
    assert train(tmp_path / "late", data_flags) == 0
    assert_equal_runs(tmp_path / "at-once", tmp_path / "late")


class Replays:
    """A recorder that makes the work again, in place of a CUDA graph; as a graph, it only sees its own tensors."""

    def __init__(self) -> None:
        self.num_recorded = 0

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.num_recorded += 1
        result = work().clone()
        return lambda: (result.copy_(work()), None)[1], result


@pytest.mark.usefixtures("proportional_updates")
@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--lora-dropout=0"], ["--gradient-accumulation-steps=2"]])
def test_recorded_steps_equal_those_that_are_not(
    flags: list[str], data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path / "plain", data_flags, *flags) == 0
    monkeypatch.setattr(trainer, "why_no_graphs", lambda *_: "")
    recorder = Replays()
    monkeypatch.setattr(trainer, "CudaRecorder", lambda: recorder)
    assert train(tmp_path / "recorded", data_flags, *flags) == 0
    assert 0 < recorder.num_recorded < 14
    if "--lora-dropout=0" in flags:  # dropout draws other numbers for padding tokens
        assert_close_runs(tmp_path / "plain", tmp_path / "recorded")
    monkeypatch.setattr("surgvivqa.training.graphs.DecoderGraphs.run", lambda *_: None)
    assert train(tmp_path / "padded", data_flags, *flags) == 0
    assert_equal_runs(tmp_path / "padded", tmp_path / "recorded")


@pytest.mark.usefixtures("proportional_updates")
def test_a_step_that_cannot_be_recorded_is_made_without(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(work: Callable[[], torch.Tensor]) -> None:
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    assert train(tmp_path / "off", data_flags, "--cuda-graphs=off", "--max-steps=3", "--lora-dropout=0") == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "why_no_graphs", lambda *_: "")
        patch.setattr(trainer, "CudaRecorder", lambda: record)
        assert train(tmp_path / "run", data_flags, "--max-steps=3", "--lora-dropout=0") == 0
        assert "not permitted" in (tmp_path / "run" / "train.log").read_text()
        assert train(tmp_path / "on", data_flags, "--cuda-graphs=on") == 1
        assert "--cuda-graphs on: a step cannot be recorded (operation not" in capsys.readouterr().err
    assert_close_runs(tmp_path / "off", tmp_path / "run")
    assert train(tmp_path / "no", data_flags, "--cuda-graphs=on") == 2
    assert "because there is no GPU" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("text", [[], ["--cache-text"]])
def test_cached_tokens_that_workers_leave_are_the_same(
    text: list[str], data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [f"--cache={tmp_path / 'cache'}", "--encode-ahead=4", *text]
    assert train(tmp_path / "fills", data_flags, *flags) == 0
    assert train(tmp_path / "reads", data_flags, *flags) == 0
    monkeypatch.setattr(
        trainer,
        "build_video_token_source",
        lambda *args, leave_cached: build_video_token_source(*args, leave_cached=True),
    )
    assert train(tmp_path / "left", data_flags, *flags) == 0
    assert train(tmp_path / "left-with-workers", data_flags, *flags, "--workers=2") == 0
    for name in ("reads", "left", "left-with-workers"):
        assert_equal_runs(tmp_path / "fills", tmp_path / name)


@pytest.mark.usefixtures("late")
def test_a_loss_that_is_not_finite_stops_all_later_updates(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, seen = trainer.Trainer.train_step, []

    def train_step(self: trainer.Trainer, step: int, step_batches: StepBatches) -> StepResult:
        parameter = self.updater.bucket.parameters[0]
        if step == 5:
            self.updater.bucket.figures[0] += torch.nan
        result = make(self, step, step_batches)
        seen.append((step, parameter.detach().clone()))
        return result

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert train(tmp_path / "run", data_flags, "--save-every-steps=2", "--log-interval=50") == 1
    assert "The loss of step 5 is nan" in capsys.readouterr().err
    steps = dict(seen)
    assert max(steps) >= 6  # later steps had been made
    assert torch.equal(steps[4], steps[5]) and torch.equal(steps[5], steps[6])
    assert not torch.equal(steps[3], steps[4])


@pytest.mark.usefixtures("late")
def test_bad_frames_of_several_steps_count_before_they_are_recorded(
    synthetic_set: Path,
    data_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One bad frame is allowed, and two steps have one each: the second makes no update."""
    make, seen = trainer.Trainer.train_step, {}

    def train_step(self: trainer.Trainer, step: int, step_batches: StepBatches) -> StepResult:
        result = make(self, step, step_batches)
        seen[step] = self.updater.bucket.parameters[0].detach().clone()
        return result

    add = StepFigures

    def figures(*values: float, **others: float) -> StepFigures:
        counted = add(*values, **others)
        # The values of a step that is given to the device, which is the next one after those that were seen.
        return dataclasses.replace(counted, new_bad=1) if values and len(seen) in (2, 3) else counted

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    monkeypatch.setattr(trainer, "StepFigures", figures)
    monkeypatch.setattr(trainer.Trainer, "_restore", with_one_bad_frame_allowed(trainer.Trainer._restore))
    monkeypatch.setattr(trainer.Trainer, "record_unusable", lambda *_: stop())
    assert train(tmp_path / "run", data_flags, "--log-interval=50", "--eval-every-steps=0") == 2
    assert "stopped here" in capsys.readouterr().err
    assert not torch.equal(seen[2], seen[3])
    assert torch.equal(seen[3], seen[4])


def with_one_bad_frame_allowed(restore: Callable[..., None]) -> Callable[..., None]:
    def wrapped(self: trainer.Trainer, *arguments: Any) -> None:
        restore(self, *arguments)
        self.state.bad_frames.limit = 1

    return wrapped


def stop() -> None:
    raise InputError("stopped here")


@pytest.mark.slow
def test_workers_that_start_while_a_thread_reads_the_cache_are_not_locked_out(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation starts workers by a fork, while the thread that reads cached tokens holds the cache's lock."""
    view = CacheFile.view

    def slow(self: CacheFile, key: Any) -> Any:
        time.sleep(0.02)  # a checksum of the 2.4 MB of a frame at full size
        return view(self, key)

    monkeypatch.setattr(
        trainer,
        "build_video_token_source",
        lambda *args, leave_cached: build_video_token_source(*args, leave_cached=True),
    )
    monkeypatch.setattr(CacheFile, "view", slow)
    flags = [f"--cache={tmp_path / 'cache'}", "--encode-ahead=1", "--workers=2", "--eval-every-steps=2"]
    assert train(tmp_path / "run", data_flags, *flags, "--val-max-samples=160") == 0


def trees(count: int, mask: str, seed: int = 0) -> list[PromptTree]:
    rng = random.Random(seed)
    return [
        build_answer_chain([rng.randrange(20) for _ in range(rng.randrange(2, 9))], rng.choice(LABEL_IDS), n, mask)
        for n in range(count)
    ]


@pytest.mark.parametrize("mask", MASKS)
def test_a_padded_stream_has_the_same_losses_and_gradients(mask: str) -> None:
    model = small_model(lora=True)
    chains = trees(7, mask)
    plain = pack_stream([chains], mask, 7)
    padded = pack_stream([chains], mask, 7, shape=bucket_shape(chains, 7))
    assert len(padded.input_ids) > len(plain.input_ids) and padded.question_slots > 7
    states = torch.randn(len(plain.input_ids), 32, generator=torch.Generator().manual_seed(1))
    found = []
    for stream in (plain, padded):
        filled = torch.cat([states, states[:1].expand(len(stream.input_ids) - len(states), -1)])
        losses = model(stream, text_states=filled)
        model.zero_grad()
        losses.mean().backward()
        found.append((losses.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_streams_of_a_shape_can_be_copied_into_one_another() -> None:
    """As a CUDA graph is replayed on another stream's values."""
    model = small_model(lora=True)
    by_shape: dict[StreamShape, list[Any]] = {}
    for seed in range(60):
        chains = trees(7, "prefix", seed)
        stream = pack_stream([chains], "prefix", 7, shape=bucket_shape(chains, 7))
        by_shape.setdefault(stream.shape, []).append(stream)
    first, second, *_ = max(by_shape.values(), key=len)
    fixed, buffers = fixed_stream(first)
    for held, given in zip(buffers, buffers_of(second), strict=True):
        held.copy_(given)
    states = torch.randn(len(first.input_ids), 32)
    with torch.no_grad():
        expected, found = (model(stream, text_states=states) for stream in (second, fixed))
    assert torch.equal(found[:7], expected)
    assert not found[7:].any()


@pytest.mark.parametrize(("batch_size", "most_added"), [(8, 0.2), (39, 0.15), (312, 0.1)])
def test_an_epoch_has_few_shapes(batch_size: int, most_added: float) -> None:
    questions = make_questions(39 * 200)  # with the token counts of GPT-2's tokenizer
    chains = [
        build_answer_chain(prompt, answer, 0, "prefix")
        for prompt, answer in zip(questions.prompts, questions.answers, strict=True)
    ]
    random.Random(0).shuffle(chains)
    parts = [chains[n : n + batch_size] for n in range(0, len(chains) - batch_size + 1, batch_size)]
    shapes = [bucket_shape(part, batch_size) for part in parts]
    real = sum(len(tree.prompt) + len(tree.tokens) for part in parts for tree in part)
    assert len(set(shapes)) <= 24
    assert sum(shape.num_tokens for shape in shapes) <= real * (1 + most_added)
