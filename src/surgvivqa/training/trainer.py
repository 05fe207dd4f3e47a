"""Fine-tuning. ``Trainer.run`` is the loop, ``Trainer.train_step`` makes one step."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor

from surgvivqa.config import TrainConfig, check_ranges, data_roots, plain_values
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame, check_missing_frames
from surgvivqa.data.index import draw_subsample, frame_names, open_questions, question_counts, subsample
from surgvivqa.data.labels import LABELS
from surgvivqa.data.overlaps import check_no_links
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import FrameQuestions, is_synthetic, warn_of_faults
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.evaluation.metrics import compute_metrics, mean_label_loss
from surgvivqa.features.batches import Batch, TrainingBatches, build_training_loader
from surgvivqa.features.source import FeatureSource
from surgvivqa.features.text_states import build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import RunRecord
from surgvivqa.model.freezing import format_trainable_table, set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.precision import resolve_precision
from surgvivqa.training.resume import Progress, compute_fingerprint, load_optimizer_state, load_weights, step_folders
from surgvivqa.training.run_folder import RunFolder, RunStart, without_overwrite_if_requeued
from surgvivqa.training.run_log import LossWindow, MetricsLog, progress_bar
from surgvivqa.training.schedule import (
    is_due,
    make_optimizer,
    rate_factor,
    seed_micro_batch,
    step_plans,
    steps_per_epoch,
)
from surgvivqa.utils.distributed import (
    any_rank,
    explain_lost_processes,
    raise_on_all_ranks,
    shard_and_gather,
    start_accelerator,
)
from surgvivqa.utils.errors import InputError, RunError, SurgViVQAError
from surgvivqa.utils.loader_workers import explain_lost_workers, start_workers
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals

CHANCE_LOSS = math.log(len(LABELS))
log = logging.getLogger("surgvivqa")


def train(config: TrainConfig) -> int:
    """Fine-tunes a model as ``config`` says and leaves the run folder.

    Returns:
        0 when done, 75 when a signal or the time limit stopped the run after a checkpoint was written.

    Raises:
        InputError: data, flags or folders cannot be used, found before the first step; or, later, more frames cannot be
            used than ``--on-bad-frame`` allows, after a checkpoint is written.
        RunError: the loss or the gradients are not finite, raised before the update, so that saved weights stay good;
            or another process of the run, or one that decodes frames, was killed.
    """
    config = without_overwrite_if_requeued(_debug_limits(config) if config.debug else config)
    check_ranges(config)
    automatic, config = config.bf16 is None, resolve_precision(config)
    advice = f"the same command resumes from the newest checkpoint in {config.checkpoint_dir}"
    with explain_lost_processes(advice), explain_lost_workers(advice):
        accelerator = start_accelerator(config.fp16, bool(config.bf16))
        if automatic and config.bf16:
            log.info("Training in bfloat16, which this GPU supports; --no-bf16 trains in float32.")
        set_seed(config.seed)
        with RunFolder(config.checkpoint_dir, accelerator.is_main_process) as folder:
            with raise_on_all_ranks():
                start = folder.open(config)
            start = broadcast_object_list([start])[0]
            if start.finished:
                log.info("The run in %s is finished; --overwrite starts it again.", folder.path)
                return 0
            return Trainer(config, accelerator, folder, start).run()


@dataclass
class TrainerState:
    """What changes from step to step.

    Attributes:
        step: number of steps made.
        best: best value of ``--best-metric`` so far (of the loss, its negative); None before the first validation.
        window: losses and questions since the last line of the log.
        bad_frames: the frames that could not be used.
        validated: False while a validation that is due is not complete.
    """

    step: int
    best: float | None
    window: LossWindow
    bad_frames: BadFrames
    validated: bool


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of one step.

    Attributes:
        epoch: the step's epoch, from 0.
        loss_weights: factor on the summed loss of each micro-batch (``schedule.step_plans``).
        loader: the epoch's micro-batches with their indices; a step takes the next ``len(loss_weights)``.
        dataset: describes questions for error messages.
    """

    epoch: int
    loss_weights: Sequence[float]
    loader: Iterator[tuple[int, Batch[Any]]]
    dataset: TrainingBatches[Any]


@dataclass
class StepTotals:
    """Sums over the micro-batches of one step, in one process or, after ``Trainer.reduce``, in all.

    Attributes:
        loss: this process's part of the mean loss per question, in nats; the mean after ``Trainer.reduce``.
        stopping: whether a signal or the time limit asks for a stop.
        signalled: whether a signal does.
        asked: number of questions planned.
        lost: number of those whose frame cannot be used.
        bad: the frames of this process that cannot be used.
        new_bad: how many of them are not recorded yet.
        culprit: a question of this process whose loss is not finite.
    """

    loss: float = 0.0
    stopping: bool = False
    signalled: bool = False
    asked: int = 0
    lost: int = 0
    bad: list[BadFrame] = field(default_factory=list)
    new_bad: int = 0
    culprit: str = ""


@dataclass(frozen=True)
class StepResult:
    """What a step reports: learning rate, gradient norm before clipping, and whether a stop is asked for."""

    epoch: int
    lr: float
    grad_norm: float
    stopping: bool
    signalled: bool


class Trainer:
    """One training run in this process.

    Args:
        config: the flags.
        accelerator: devices, precision and processes.
        folder: the run folder, open.
        start: the checkpoint that the run resumes from, if any.

    Raises:
        InputError: data, weights or flags cannot be used.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, folder: RunFolder, start: RunStart) -> None:
        self.config, self.accelerator, self.folder = config, accelerator, folder
        with raise_on_all_ranks():
            self.train_frames, self.val_frames = read_training_data(config)
            self._build_model(start.checkpoint)
            bad_frames, missing = self._open_frames(start.progress)
        bad_frames.gather(missing)
        with raise_on_all_ranks():
            bad_frames.check()
        log.info("\n%s", format_trainable_table(self.model))
        if not self.val_frames:
            log.warning("There are no validation questions, so best/ will hold the last weights.")
        if self.bundle.settings.mask == "bidirectional":
            log.warning(
                "--mask bidirectional lets the answer leak into its own prediction; use it to reproduce published runs."
            )
        self._prepare_steps()
        self._restore(start, bad_frames)
        self.metrics_log = MetricsLog(folder.path / "metrics.jsonl", accelerator.is_main_process)
        self.started = time.monotonic()
        self.stop = StopSignals(config.max_hours)

    def run(self) -> int:
        """Trains until the last step, or until a signal or the time limit stops the run.

        Returns:
            0 when done, 75 when stopped.
        """
        config, state = self.config, self.state
        set_modes(self.model)
        with self.stop, self.features, progress_bar(self.total_steps, self.folder.is_main) as advance:
            advance(state.step)
            if not state.validated:  # the run was stopped in a validation
                if not self.validate():
                    return self.report_stop()
                self.save()
            for batches in self.step_batches():
                result = self.train_step(batches)
                advance(1)
                last = state.step == self.total_steps
                if last or state.step % config.log_interval == 0:
                    self.log_losses(result)
                stopping = result.stopping and not last
                if self.val_frames and (last or is_due(state.step, config.eval_every_steps)):
                    state.validated = False
                    if result.signalled or not self.validate():  # after a signal the resumed run validates
                        stopping = True
                    if not last:  # validation may have taken a while
                        stopping = stopping or any_rank(self.stop.caught is not None, self.accelerator.device)
                # The last weights are saved too: best/ may hold earlier ones.
                if stopping or is_due(state.step, config.save_every_steps) or (last and config.save_every_steps):
                    self.save()
                if stopping:
                    return self.report_stop()
        self.finish()
        return 0

    def train_step(self, batches: StepBatches) -> StepResult:
        """Makes one step: forward and backward of each micro-batch, one all-reduce of the totals, the update.

        Gradients are reduced in the last micro-batch's backward pass.

        Raises:
            InputError: more frames cannot be used than ``--on-bad-frame`` allows; a checkpoint is written.
            RunError: the loss or the gradients are not finite; no update is made.
        """
        totals = StepTotals()
        for micro, weight in enumerate(batches.loss_weights):
            self.forward_backward(batches, weight, totals, is_last=micro == len(batches.loss_weights) - 1)
        totals = self.reduce(totals)
        if totals.new_bad:
            self.record_unusable(totals.bad)
        self.check_loss(totals)
        lr = self.config.lr * rate_factor(self.state.step, self.total_steps, self.config)
        grad_norm = self.update(totals, lr) if totals.asked > totals.lost else 0.0
        self.optimizer.zero_grad()
        self.state.step += 1
        return StepResult(batches.epoch, lr, grad_norm, totals.stopping, totals.signalled)

    def forward_backward(self, batches: StepBatches, weight: float, totals: StepTotals, is_last: bool) -> None:
        """Adds the gradients of the next micro-batch to the parameters' and its sums to ``totals``."""
        accelerator = self.accelerator
        index, batch = next(batches.loader)
        position = index * accelerator.num_processes + accelerator.process_index
        seed_micro_batch(self.config.seed, batches.epoch, position)
        if weight:
            totals.asked += batch.num_planned
            totals.lost += batch.num_unusable
        totals.bad += batch.bad
        packed = batch.packed.to(accelerator.device)
        sync = contextlib.nullcontext() if is_last else accelerator.no_sync(self.parallel_model)
        with accelerator.autocast(), sync:
            if batch.inputs is None:  # no frame of it can be used, but the other processes wait for this one
                losses, weight = self.parallel_model(packed, **self.video_source.blank_inputs()), 0.0
            else:
                losses = self.parallel_model(packed, **self.features.model_inputs(batch.inputs))
            loss = losses.sum() * weight
            accelerator.backward(loss)
        totals.loss += float(loss.detach()) / accelerator.num_processes
        finite: Tensor = losses.detach().isfinite()
        if batch.inputs is not None and not finite.all():
            totals.culprit = batches.dataset.describe_question(index, int((~finite).int().argmax()), batch.bad)

    def reduce(self, totals: StepTotals) -> StepTotals:
        """Sums ``totals`` over the processes, in the one exchange of a step, so that all of them act alike."""
        stops = [self.stop.caught is not None, self.stop.signal is not None]
        new_bad = len(self.state.bad_frames.filter_new(totals.bad))
        values = [totals.loss, *stops, totals.asked, totals.lost, new_bad]
        summed = self.accelerator.reduce(torch.tensor(values, device=self.accelerator.device), "sum").tolist()
        loss, stopping, signalled, *counts = summed
        asked, lost, new_bad = map(int, counts)
        return StepTotals(loss, bool(stopping), bool(signalled), asked, lost, totals.bad, new_bad, totals.culprit)

    def check_loss(self, totals: StepTotals) -> None:
        """Raises RunError, with a question at fault, where the loss of the step is not finite."""
        if math.isfinite(totals.loss):
            return
        with raise_on_all_ranks():
            culprit = next(filter(None, gather_object([totals.culprit])), "no single question")
            raise RunError(
                f"The loss of step {self.state.step + 1} is {totals.loss} ({culprit}); no update was made. "
                f"{self.describe_last_good_checkpoint()} {self._advice_for_divergence()}"
            )

    def describe_last_good_checkpoint(self) -> str:
        """A sentence that names the newest checkpoint whose scores are finite. Replaces the model's weights."""
        frames = subsample(self.val_frames or self.train_frames, 8)
        self.model.eval()
        for folder in [*step_folders(self.folder.checkpoints), self.folder.path / "best"]:
            try:
                load_weights(folder, self.model)
                predict_frames(
                    self.bundle, frames, self.video_source, InferenceOptions(), bad=[], max_bad_frames=len(frames)
                )
                return f"The newest checkpoint that scores finite numbers is {folder}."
            except (SurgViVQAError, OSError):
                continue
        return f"No checkpoint in {self.folder.path} scores finite numbers."

    def _advice_for_divergence(self) -> str:
        """What to change after a loss or gradients that are not finite; names only flags that are in use."""
        advice = ["lower --lr"]
        if self.config.max_grad_norm:
            advice.append("lower --max-grad-norm")
        if self.config.fp16:
            advice.append("leave out --fp16")
        text = ", or ".join(advice)
        return f"{text[0].upper()}{text[1:]}, and start again with --overwrite."

    def update(self, totals: StepTotals, lr: float) -> float:
        """Clips the gradients and updates the parameters; returns the norm before clipping."""
        loss = totals.loss
        if totals.lost:  # the mean over the questions that could be asked
            scale = totals.asked / (totals.asked - totals.lost)
            loss *= scale
            for parameter in self.trained_parameters:
                if parameter.grad is not None:
                    parameter.grad *= scale
        norm = float(self.accelerator.clip_grad_norm_(self.trained_parameters, self.config.max_grad_norm or math.inf))
        if not math.isfinite(norm) and not self.config.fp16:  # under fp16 the loss scaler skips such a step
            with raise_on_all_ranks():
                raise RunError(
                    f"The gradients of step {self.state.step + 1} are not finite; no update was made. "
                    f"{self.describe_last_good_checkpoint()} {self._advice_for_divergence()}"
                )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.state.window.add(loss, totals.asked - totals.lost)
        return norm

    def validate(self) -> bool:
        """Scores the validation questions, logs the figures, and saves the weights if they are the best so far.

        Returns:
            False where a signal interrupted it; the resumed run then validates again.

        Raises:
            InputError: none of the frames can be used, or too many cannot; a checkpoint is written.
        """
        state = self.state
        state.validated = False
        known = state.bad_frames.to_list()
        try:
            figures, bad = self.score_validation()
        except RunError as error:
            raised = RunError(f"{error} They are not saved as the best. {self._advice_for_divergence()}")
            raised.reported_elsewhere = error.reported_elsewhere
            raise raised from error
        if any_rank(self.stop.signal is not None, self.accelerator.device):
            return False
        self.record_unusable(bad)
        if not figures["n"]:
            self.save(bad_frames=known)
            with raise_on_all_ranks():
                raise InputError("None of the frames to validate on can be used.")
        self.metrics_log.write(step=state.step, **{f"val_{name}": value for name, value in figures.items()})
        score = -figures["loss"] if self.config.best_metric == "loss" else figures[self.config.best_metric]
        if state.best is None or score > state.best:
            state.best = score
            self.folder.save_best(self.bundle)
        set_modes(self.model)
        state.validated = True
        return True

    def score_validation(self) -> tuple[dict[str, float], list[BadFrame]]:
        """The closed-set figures and the mean loss per label (nats), and this process's frames that cannot be used.

        The processes share the frames. Scoring ends early on a signal, or with more bad frames than allowed.
        """
        self.model.eval()
        bad: list[BadFrame] = []
        predict = functools.partial(
            predict_frames,
            self.bundle,
            video_source=self.video_source,
            options=InferenceOptions(workers=self.config.workers),
            bad=bad,
            max_bad_frames=self.state.bad_frames.limit,
            stopped=lambda: self.stop.signal,
        )
        predictions = shard_and_gather(
            self.val_frames, predict, lambda f: (f.video, f.frame), lambda p: (p.video, p.frame)
        )
        metrics = compute_metrics([p.answer for p in predictions], [p.prediction for p in predictions])
        return metrics.to_json() | {"loss": mean_label_loss(predictions)}, bad

    def record_unusable(self, found: Sequence[BadFrame]) -> None:
        """Records frames that cannot be used, found by this process; all processes must call it.

        Raises:
            InputError: there are more than ``--on-bad-frame`` allows; a checkpoint is written, without the new ones, as
                they do not count once they are fixed.
        """
        state = self.state
        known = state.bad_frames.to_list()
        state.bad_frames.gather(found)
        if state.bad_frames.too_many and state.step:
            self.save(bad_frames=known)
        with raise_on_all_ranks():
            state.bad_frames.check(
                f"the same command resumes after step {state.step}" if state.step else "run the same command again"
            )

    def save(self, bad_frames: Sequence[BadFrame] | None = None) -> None:
        """Writes ``checkpoints/step-N``; ``bad_frames`` are written in place of the state's."""
        state, scaler = self.state, self.accelerator.scaler
        progress = Progress(
            step=state.step,
            best=state.best,
            losses=state.window.losses,
            questions=state.window.questions,
            scaler=scaler.state_dict() if scaler is not None else None,
            fingerprint=self.fingerprint,
            bad=list(state.bad_frames.to_list() if bad_frames is None else bad_frames),
            validated=state.validated,
        )
        self.folder.save_step(self.bundle, progress, self.optimizer.optimizer, self.config.keep_checkpoints)

    def log_losses(self, result: StepResult) -> None:
        """Writes the mean loss since the last line, and starts a new window."""
        self.metrics_log.write(
            step=self.state.step,
            epoch=result.epoch,
            loss=self.state.window.mean(),
            chance=CHANCE_LOSS,
            lr=result.lr,
            grad_norm=result.grad_norm,
            questions_per_second=self.state.window.rate(),
        )
        self.state.window = LossWindow()

    def report_stop(self) -> int:
        """Logs what stopped the run and returns the exit code for it."""
        cause = next(cause for cause in gather_object([self.stop.caught]) if cause)
        again = "the same command without --overwrite" if self.config.overwrite else "the same command"
        log.warning("Stopped by %s after step %d; %s resumes from checkpoints/.", cause, self.state.step, again)
        return EXIT_STOPPED

    def finish(self) -> None:
        """Marks the run as finished."""
        state, folder = self.state, self.folder
        if state.best is None:  # no validation questions: the last weights are the best known
            folder.save_best(self.bundle)
        folder.mark_finished(state.step, state.bad_frames)
        count = len(state.bad_frames)
        skipped = f"; the questions of {count} frames were skipped (finished.json)" if count else ""
        log.info("Done: %d steps in %.0f s; %s%s", state.step, time.monotonic() - self.started, folder.path, skipped)

    def step_batches(self) -> Iterator[StepBatches]:
        """Yields the batches of each step that is still to be made."""
        config, accelerator = self.config, self.accelerator
        plans = step_plans(self.counts, config, accelerator.num_processes, accelerator.process_index, self.total_steps)
        for plan, weights, epoch in plans:
            done = self.state.step - epoch * self.steps_per_epoch  # more than 0 only where a run resumes in an epoch
            if done >= len(weights):
                continue
            first = done * config.gradient_accumulation_steps
            dataset = TrainingBatches(
                self.train_frames, self.features.reader, self.prompt_tokenizer, self.bundle.settings.mask, plan
            )
            loader = build_training_loader(dataset, range(first, len(plan)), config.workers)
            numbered = enumerate(start_workers(loader), first)
            for step_weights in weights[done:]:
                yield StepBatches(epoch, step_weights, numbered, dataset)

    def _build_model(self, checkpoint: Path | None) -> None:
        """Sets ``bundle``, ``model`` and ``prompt_tokenizer``; loads the weights of ``checkpoint``, if any."""
        config = self.config
        self.bundle = build_for_training(config)
        self.model = self.bundle.model
        if checkpoint is not None:
            load_weights(checkpoint, self.model)
        assert config.ssgvqa_root is not None
        self.bundle.run = RunRecord(
            flags=plain_values(config),
            train_videos=tuple(load_splits(config.splits_dir).train),
            synthetic=is_synthetic(config.ssgvqa_root),
        )
        self.prompt_tokenizer = self.bundle.prompt_tokenizer()
        LabelTrie(self.prompt_tokenizer.label_ids)  # raises if the labels could not be scored
        self.prompt_tokenizer.check_fits(self.train_frames, self.val_frames)

    def _open_frames(self, progress: Progress) -> tuple[BadFrames, list[BadFrame]]:
        """Sets ``video_source`` and ``features``, the inputs of a step; returns the bad frames and the missing ones."""
        config = self.config
        assert config.image_root is not None
        store = self.bundle.frame_store(config.image_root)
        total = len(self.train_frames) + len(self.val_frames)
        bad_frames = BadFrames(config.on_bad_frame, config.max_bad_frames, total, progress.bad)
        missing = check_missing_frames(store, self.train_frames, self.val_frames, allowed=bad_frames.limit)
        if self.val_frames and set(frame_names(self.val_frames)) <= {(b.video, b.frame) for b in missing}:
            raise InputError(f"None of the {len(self.val_frames)} frames to validate on exists under {store.root}.")
        self.video_source = build_video_token_source(self.bundle, store, config.cache, config.cache_dtype)
        # Which source it is depends on the flags; each takes the inputs that its own reader gives.
        self.features: FeatureSource[Any] = self.video_source
        if config.cache_text:
            assert config.cache is not None
            self.features = build_text_state_source(
                self.bundle, self.video_source, self.prompt_tokenizer, config.cache, config.cache_dtype
            )
        return bad_frames, missing

    def _prepare_steps(self) -> None:
        """Sets the optimizer, the wrapped model and the number of steps."""
        config, accelerator = self.config, self.accelerator
        optimizer = make_optimizer(self.model, config)
        self.counts = question_counts(self.train_frames)
        self.steps_per_epoch = steps_per_epoch(self.counts, config, accelerator.num_processes)
        self.total_steps = config.max_steps if config.max_steps is not None else config.epochs * self.steps_per_epoch
        self.parallel_model, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.trained_parameters = [p for p in self.model.parameters() if p.requires_grad]
        micro_per_step = accelerator.num_processes * config.gradient_accumulation_steps
        self.fingerprint = compute_fingerprint(self.train_frames, self.val_frames, micro_per_step, self.total_steps)
        log.info(
            "%d questions on %d frames; %d steps of %d questions, %d per epoch",
            *(sum(self.counts), len(self.counts)),
            *(self.total_steps, config.batch_size * micro_per_step, self.steps_per_epoch),
        )

    def _restore(self, start: RunStart, bad_frames: BadFrames) -> None:
        """Sets the state: that of the checkpoint, or that of a run's beginning in a cleared folder."""
        progress = start.progress
        with raise_on_all_ranks():
            if start.checkpoint is None:
                self.folder.clear(self.config)
            else:
                self.folder.rewind(start, self.fingerprint)
                load_optimizer_state(start.checkpoint, self.model, self.optimizer.optimizer)
        if start.checkpoint is not None:
            if self.accelerator.scaler is not None and progress.scaler is not None:
                self.accelerator.scaler.load_state_dict(progress.scaler)
            log.info("Resuming after step %d, from %s", progress.step, start.checkpoint)
        window = LossWindow(progress.losses, progress.questions)
        self.state = TrainerState(progress.step, progress.best, window, bad_frames, progress.validated)


def read_training_data(config: TrainConfig) -> tuple[Sequence[FrameQuestions], Sequence[FrameQuestions]]:
    """The training frames, and validation frames with at most ``val_max_samples`` questions.

    Raises:
        InputError: a folder or a split cannot be used, or there is no question to train on.
    """
    roots = data_roots(config)
    questions_root, splits = roots[0], load_splits(config.splits_dir)
    check_no_links(roots, splits)
    frames: Sequence[FrameQuestions]
    frames, report = open_questions(questions_root, splits.train, strict=config.strict)
    log.info("Training lines: %s", json.dumps(report.to_dict()["skipped"] | {"questions": report.questions}))
    warn_of_faults("training", report)
    if not frames:
        raise InputError(f"--ssgvqa-root {questions_root} has no usable question in its training videos.")
    val: Sequence[FrameQuestions] = []
    if splits.val:
        val, report = open_questions(questions_root, splits.val, strict=config.strict)
        warn_of_faults("validation", report)
    if config.max_train_samples is not None:
        frames = draw_subsample(frames, config.max_train_samples, config.seed)
    return frames, subsample(val, config.val_max_samples)


def _debug_limits(config: TrainConfig) -> TrainConfig:
    """``config`` within the limits of ``--debug``: a few steps on a few questions, logged one by one."""
    return dataclasses.replace(
        config,
        max_steps=min(config.max_steps or 10, 10),
        max_train_samples=min(config.max_train_samples or 64, 64),
        val_max_samples=64,
        log_interval=1,
        workers=0,
    )
