"""Fine-tuning. ``Trainer.run`` is the loop, ``Trainer.train_step`` makes one step."""

import dataclasses
import functools
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor

from surgvivqa.config import TrainConfig, check_ranges
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frame_views import show_black
from surgvivqa.data.frames import BadFrame, FrameStore, check_missing_frames
from surgvivqa.data.index import frame_names, question_counts, subsample
from surgvivqa.data.packing import PackedStream
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.ask_again import predict_in_all_processes
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.evaluation.metrics import compute_metrics, mean_label_loss
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.ahead import WindowEncoder, frozen_part
from surgvivqa.features.batches import Ahead, Batch, TrainingWindows, Window, build_training_loader, make_windows
from surgvivqa.features.frame_reader import FrameInputs
from surgvivqa.features.source import FeatureSource
from surgvivqa.features.text_states import build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.freezing import format_trainable_table, set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.precision import FrozenWeights
from surgvivqa.training.data import open_run_dataset, read_training_data, record_run
from surgvivqa.training.divergence import advise_after_divergence, describe_last_good_checkpoint, is_finite
from surgvivqa.training.graphs import CudaRecorder, DecoderGraphs, why_no_graphs
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.machine_defaults import (
    autocast_arguments,
    frames_per_pass,
    limit_for_debug,
    parts_in_16_bits,
    resolve_machine_defaults,
)
from surgvivqa.training.progress_bar import Pace, ProgressBar
from surgvivqa.training.resume import Progress, compute_fingerprint, load_optimizer_state, load_weights
from surgvivqa.training.run_folder import RunFolder, RunStart, without_overwrite_if_requeued
from surgvivqa.training.run_log import LossWindow, MetricsLog
from surgvivqa.training.schedule import is_due, rate_factor, seed_micro_batch, step_plans, steps_per_epoch
from surgvivqa.training.step_records import StepBatches, StepResult, TrainerState
from surgvivqa.training.trackers import RunTrackers, check_importable, parse_trackers
from surgvivqa.training.update import StepFigures, Updater
from surgvivqa.utils.device_feed import feed_device
from surgvivqa.utils.distributed import (
    any_rank,
    explain_lost_processes,
    raise_on_all_ranks,
    start_accelerator,
)
from surgvivqa.utils.errors import InputError, RunError
from surgvivqa.utils.loader_workers import explain_lost_workers, start_workers
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals
from surgvivqa.utils.tf32 import set_tf32
from surgvivqa.utils.threads import map_in_thread

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
    config = without_overwrite_if_requeued(limit_for_debug(config) if config.debug else config)
    check_ranges(config)
    if config.target == "long" and config.best_metric != "loss":
        raise InputError(
            f"--target long learns sentences, which --best-metric {config.best_metric}, a figure of labels, does not "
            f"judge; add --best-metric loss."
        )
    automatic, config = config.bf16 is None, resolve_machine_defaults(config)
    advice = f"the same command resumes from the newest checkpoint in {config.checkpoint_dir}"
    with explain_lost_processes(advice), explain_lost_workers(advice):
        accelerator = start_accelerator(config.fp16, bool(config.bf16))
        if automatic and config.bf16:
            log.info("Training in bfloat16, which this GPU supports; --no-bf16 trains in float32.")
        with raise_on_all_ranks():
            if accelerator.is_main_process:
                check_importable(parse_trackers(config.report_to))
        set_tf32(config.tf32)
        set_seed(config.seed)
        with RunFolder(config.checkpoint_dir, accelerator.is_main_process) as folder:
            with raise_on_all_ranks():
                start = folder.open(config)
            start = broadcast_object_list([start])[0]
            if start.finished:
                log.info("The run in %s is finished; --overwrite starts it again.", folder.path)
                return 0
            return Trainer(config, accelerator, folder, start).run()


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
            self.dataset = open_run_dataset(config)
            self.train_frames, self.val_frames = read_training_data(config, self.dataset)
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
        self.trackers = RunTrackers(accelerator, folder.path, config, start.progress)
        self.pace = Pace(self.total_steps)
        self.metrics_log = MetricsLog(
            folder.path / "metrics.jsonl", accelerator.is_main_process, self.trackers.report, self.pace.time_left
        )
        self.started = time.monotonic()
        self.stop = StopSignals(config.max_hours)

    def run(self) -> int:
        """Trains until the last step, or until a signal or the time limit stops the run.

        Returns:
            0 when done, 75 when stopped.
        """
        config, state = self.config, self.state
        set_modes(self.model)
        bar = ProgressBar(self.total_steps, self.folder.is_main)
        with self.stop, self.features, self.trackers, bar:
            if not state.validated:  # the run was stopped in a validation
                if not self.validate():
                    return self.report_stop()
                self.save()
            for step, batches in self.numbered_steps():
                self.pending.append(self.train_step(step, batches))
                last = step == self.total_steps
                to_log = last or step % config.log_interval == 0
                to_validate = bool(self.val_frames) and (last or is_due(step, config.eval_every_steps))
                to_save = is_due(step, config.save_every_steps)
                # The figures of a step are read while the device makes the next one, or at once where they are needed.
                result = self.read_figures(wait=to_log or to_validate or to_save)
                bar.show(state.step, self.pace.describe())
                if self.must_repeat:
                    continue
                if to_log:
                    self.log_losses(self.newest)
                stopping = bool(result.stopping) and not last
                if to_validate:
                    state.validated = False
                    if result.signalled or not self.validate():  # after a signal the resumed run validates
                        stopping = True
                    self.pace.restart()
                    if not last:  # validation may have taken a while
                        stopping = stopping or any_rank(self.stop.caught is not None, self.accelerator.device)
                # The last weights are saved too: best/ may hold earlier ones.
                if stopping or to_save or (last and config.save_every_steps):
                    self.save()
                if stopping:
                    return self.report_stop()
        self.finish()
        return 0

    def train_step(self, step: int, batches: StepBatches) -> StepResult:
        """Gives the device one step: forward and backward of each micro-batch, one all-reduce, the update.

        No update is made if the loss or the gradients are not finite; ``read_figures`` reports it.
        """
        lr = self.config.lr * rate_factor(step - 1, self.total_steps, self.config)
        result = StepResult(step, batches.epoch, lr, self.state.bad_frames.allowance, batches.windows)
        asked = lost = 0
        for weight in batches.loss_weights:
            index, batch, inputs = next(batches.loader)
            if not weight:  # an empty place at the end of an epoch
                continue
            asked += batch.num_planned
            lost += batch.num_unusable
            result.bad += batch.bad
            if batch.packed is not None:
                losses = self.forward_backward(batch.packed, inputs, weight, batches.epoch, index)
                result.losses.append((index, losses, batch.bad))
        new_bad = len(self.state.bad_frames.filter_new(result.bad))
        stops = (self.stop.caught is not None, self.stop.signal is not None)
        self.updater.bucket.add_figures(StepFigures(0.0, asked, lost, *stops, new_bad))
        result.late = self.updater.step(lr, result.max_new_bad)
        return result

    def forward_backward(
        self, packed: PackedStream, inputs: dict[str, Tensor], weight: float, epoch: int, index: int
    ) -> Tensor:
        """Adds a micro-batch's gradients and its loss to the bucket; returns its losses ``[Q]``.

        Dropout depends on the position of the micro-batch in its epoch alone.
        """
        accelerator = self.accelerator
        position = index * accelerator.num_processes + accelerator.process_index
        seed = functools.partial(seed_micro_batch, self.config.seed, epoch, position)
        if self.graphs is not None and not self.graphs.failed:
            losses = self.graphs.run(packed, inputs["text_states"], weight, seed)
            if losses is not None:
                return losses
        seed()
        return self._add_gradients(packed, inputs, weight)

    def _add_gradients(self, packed: PackedStream, inputs: dict[str, Tensor], weight: float | Tensor) -> Tensor:
        """Forward and backward of a micro-batch; reads nothing on the host, so that a CUDA graph can record it."""
        # Without autocast's cache of casts: a graph could not replay a cast that it did not record.
        with torch.autocast(**self.autocast):
            losses: Tensor = self.model(packed, **inputs)
            loss = losses.sum() * weight
        self.updater.bucket.add_gradients(self.updater.scale(loss))
        self.updater.bucket.figures[0] += loss.detach()
        return losses.detach()

    def read_figures(self, wait: bool) -> StepFigures:
        """Reads the figures of the steps that the device has made, in their order, and acts on them.

        Args:
            wait: read those of every step; otherwise those of the newest are left for later on a GPU. All are read as
                well if one of them says something else than that training goes on.

        Returns:
            The figures of the newest step that was read, with a stop that any of them asks for.

        Raises:
            InputError: more frames cannot be used than ``--on-bad-frame`` allows; a checkpoint is written.
            RunError: a loss or gradients are not finite; no update was made with them.
        """
        found: list[tuple[StepResult, StepFigures]] = []
        while len(self.pending) > (0 if wait else self.max_pending):
            result = self.pending.popleft()
            assert result.late is not None
            started = time.monotonic()
            found.append((result, result.late.read()))
            self.state.window.device_wait += time.monotonic() - started
            figures = found[-1][1]
            # The weights must be those after state.step where something is saved.
            wait = wait or bool(figures.stopping or figures.new_bad) or not is_finite(figures, self.config)
        for result, figures in found:
            self.check_finite(result, figures)
            if figures.halted:  # no update was made in this step and in later ones
                self.record_unusable(result.bad)
                # Not too many after all: several processes, or several steps, had the same frame.
                self.updater.resume()
                self.must_repeat = True
                break
            self.state.step = result.step
            asked = figures.asked - figures.lost
            if asked:
                loss = figures.loss * figures.asked / asked
                self.state.window.add(loss, int(asked))
                self.pace.add(result.step, int(asked), loss)
            self.newest = result, figures
            if figures.new_bad:
                self.record_unusable(result.bad)
        if any(figures.new_bad for _, figures in found) and not self.must_repeat:
            self.updater.resume()  # they are recorded, and all steps have been read
        stopping, signalled = (sum(getattr(f, name) for _, f in found) for name in ("stopping", "signalled"))
        return StepFigures(stopping=stopping, signalled=signalled)

    def check_finite(self, result: StepResult, figures: StepFigures) -> None:
        """Raises RunError, with a question at fault, if the loss or the gradients of a step are not finite."""
        if is_finite(figures, self.config):
            return
        with raise_on_all_ranks():
            what = f"The gradients of step {result.step} are not finite"
            if not math.isfinite(figures.loss):
                culprit = next(filter(None, gather_object([result.find_culprit()])), "no single question")
                what = f"The loss of step {result.step} is {figures.loss} ({culprit})"
            frames = subsample(self.val_frames or self.train_frames, 8)
            score = functools.partial(
                self._predict, frames, options=InferenceOptions(), bad=[], max_bad_frames=len(frames)
            )
            last_good = describe_last_good_checkpoint(self.folder, self.model, score)
            raise RunError(f"{what}; no update was made. {last_good} {advise_after_divergence(self.config)}")

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
            raised = RunError(f"{error} They are not saved as the best. {advise_after_divergence(self.config)}")
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
            with self.frozen_weights.originals():
                self.folder.save_best(self.bundle)
        set_modes(self.model)
        state.validated = True
        return True

    def score_validation(self) -> tuple[dict[str, float], list[BadFrame]]:
        """The closed-set figures, the mean loss per target (nats), and this process's frames that cannot be used.

        The processes share the frames. Scoring ends early on a signal, or with more bad frames than allowed.
        """
        self.model.eval()
        bad: list[BadFrame] = []
        predict = functools.partial(
            self._predict,
            options=InferenceOptions(workers=self.config.workers, long_losses=self.config.target == "long"),
            bad=bad,
            max_bad_frames=self.state.bad_frames.limit,
            stopped=lambda: self.stop.signal,
        )
        all_alike = self.video_source.reader.store.all_alike
        predictions = predict_in_all_processes(self.val_frames, predict, all_alike=all_alike)
        metrics = compute_metrics([p.answer for p in predictions], [p.prediction for p in predictions])
        return metrics.to_json() | {"loss": mean_label_loss(predictions)}, bad

    def _predict(self, frames: Sequence[FrameQuestions], **arguments: Any) -> list[Prediction]:
        """``predict_frames`` in the precision of the run."""
        with torch.autocast(**self.autocast):
            return predict_frames(self.bundle, frames, self.video_source, **arguments)

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
        with self.frozen_weights.originals():
            self.folder.save_step(self.bundle, progress, self.updater.optimizer, self.config.keep_checkpoints)

    def log_losses(self, newest: tuple[StepResult, StepFigures]) -> None:
        """Writes the mean loss since the last line, and starts a new window."""
        (result, figures), window = newest, self.state.window
        self.metrics_log.write(
            step=self.state.step,
            epoch=result.epoch,
            loss=window.mean(),
            chance=math.log(self.prompt_tokenizer.num_targets),
            lr=result.lr,
            grad_norm=figures.grad_norm,
            questions_per_second=window.rate(),
            **window.waits(),
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
            with self.frozen_weights.originals():
                folder.save_best(self.bundle)
        folder.mark_finished(state.step, state.bad_frames)
        count = len(state.bad_frames)
        skipped = f"; the questions of {count} frames were skipped (finished.json)" if count else ""
        log.info("Done: %d steps in %.0f s; %s%s", state.step, time.monotonic() - self.started, folder.path, skipped)

    def numbered_steps(self) -> Iterator[tuple[int, StepBatches]]:
        """Yields the steps that are still to be made, from 1, with their batches."""
        self.must_repeat = True
        while self.must_repeat:
            self.must_repeat = False
            for step, batches in enumerate(self.step_batches(), self.state.step + 1):
                yield step, batches
                if self.must_repeat:
                    break

    def step_batches(self) -> Iterator[StepBatches]:
        """Yields the batches of each step that is still to be made."""
        config, accelerator = self.config, self.accelerator
        made = self.state.step  # read once: it may lag behind the steps that the device is given
        plans = step_plans(self.counts, config, accelerator.num_processes, accelerator.process_index, self.total_steps)
        for plan, weights, epoch, window_starts in plans:
            done = max(0, made - epoch * self.steps_per_epoch)  # more than 0 only where a run resumes in an epoch
            if done >= len(weights):
                continue
            first = done * config.gradient_accumulation_steps
            windows = TrainingWindows(
                self.train_frames,
                self.features.reader,
                self.prompt_tokenizer,
                self.bundle.settings.mask,
                plan,
                self.ahead,
                make_windows(len(plan), window_starts, self.longest_window),
            )
            loader = self._micro_batches(windows, first)
            for step_weights in weights[done:]:
                yield StepBatches(epoch, step_weights, loader, windows)

    def _micro_batches(
        self, windows: TrainingWindows[Any], first: int
    ) -> Iterator[tuple[int, Batch, dict[str, Tensor]]]:
        """Yields an epoch's micro-batches from ``first`` on, with their indices and the arguments of ``forward``.

        The window of ``first`` is encoded as a whole, as in a run that was not stopped.
        """
        device = self.accelerator.device
        order = [n for n, window in enumerate(windows.windows) if window.stop > first]
        loader = build_training_loader(windows, order, self.config.workers, pin_memory=device.type == "cuda")
        loaded = start_workers(loader)
        if self.video_source.reader.leave_cached:
            loaded = map_in_thread(self._read_cached, loaded, ahead=2)
        for number, window in zip(order, self._timed(feed_device(loaded, device)), strict=True):
            # The encoders run while the first micro-batch is asked for, in the precision of the run.
            batches = enumerate(self.encoder.batches(window), windows.windows[number].start)
            while True:
                with torch.autocast(**self.autocast):
                    found = next(batches, None)
                if found is None:
                    break
                index, (batch, inputs) = found
                if index >= first:
                    yield index, batch, inputs

    def _read_cached(self, window: Window[Any]) -> Window[Any]:
        if not isinstance(window.inputs, FrameInputs):
            return window
        return dataclasses.replace(window, inputs=self.video_source.read_cached(window.inputs))

    def _timed(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items; the time until each arrives is noted for the log."""
        while True:
            started = time.monotonic()
            item = next(items, None)
            self.state.window.data_wait += time.monotonic() - started
            if item is None:
                return
            yield item

    def _build_model(self, checkpoint: Path | None) -> None:
        """Sets ``bundle``, ``model`` and ``prompt_tokenizer``; loads the weights of ``checkpoint``, if any."""
        config = self.config
        self.bundle = build_for_training(config, self.dataset.label_set)
        self.model = self.bundle.model
        if checkpoint is not None:
            load_weights(checkpoint, self.model)
        self.bundle.run = record_run(config, self.dataset, self.bundle.run.train_videos)
        self.prompt_tokenizer = self.bundle.prompt_tokenizer(config.target)
        LabelTrie(self.prompt_tokenizer.label_ids)  # raises if the labels could not be scored
        self.prompt_tokenizer.check_fits(self.train_frames, self.val_frames)

    def _open_frames(self, progress: Progress) -> tuple[BadFrames, list[BadFrame]]:
        """Sets ``video_source`` and ``features``, the inputs of a step; returns the bad frames and the missing ones."""
        config = self.config
        assert config.image_root is not None
        store: FrameStore = self.bundle.frame_store(config.image_root, self.dataset.picture_files)
        total = len(self.train_frames) + len(self.val_frames)
        bad_frames = BadFrames(config.on_bad_frame, config.max_bad_frames, total, progress.bad)
        missing = check_missing_frames(store, self.train_frames, self.val_frames, allowed=bad_frames.limit)
        if self.val_frames and set(frame_names(self.val_frames)) <= {(b.video, b.frame) for b in missing}:
            raise InputError(f"None of the {len(self.val_frames)} frames to validate on exists under {store.root}.")
        if config.blank_video:
            store = show_black(store)
            log.info("--blank-video: the model sees black pictures, so it learns from the questions alone.")
        on_gpu = self.accelerator.device.type == "cuda"
        self.video_source = build_video_token_source(
            self.bundle, store, config.cache, config.cache_dtype, leave_cached=on_gpu
        )
        # Which source it is depends on the flags; each takes the inputs that its own reader gives.
        self.features: FeatureSource[Any] = self.video_source
        if config.cache_text:
            assert config.cache is not None
            self.features = build_text_state_source(
                self.bundle, self.video_source, self.prompt_tokenizer, config.cache, config.cache_dtype
            )
        return bad_frames, missing

    def _prepare_steps(self) -> None:
        """Sets what makes the steps: encoder, updater, graphs; and the number of steps."""
        config, accelerator = self.config, self.accelerator
        device = accelerator.device
        self.model.to(device)
        part = frozen_part(self.model)
        no_graphs = why_no_graphs(config, part, device)
        if no_graphs and config.cuda_graphs == "on":
            raise InputError(f"--cuda-graphs on cannot be used, because {no_graphs}; leave the flag out.")
        self.longest_window = 1 if part == "none" else config.encode_ahead or 1
        # Streams are padded with --cuda-graphs off too: dropout draws numbers for padding, so runs would differ.
        self.ahead = Ahead(part, frames_per_pass(device), buckets=not no_graphs)
        self.encoder = WindowEncoder(self.model, self.video_source, self.features, part, self.ahead.frames_per_pass)
        self.autocast = autocast_arguments(config, device)
        parts = parts_in_16_bits(config) if self.autocast["enabled"] else []
        self.frozen_weights = FrozenWeights(self.model, self.autocast["dtype"], parts, keep_originals=True)
        self.updater = Updater(
            self.model, config.lr, config.weight_decay, config.max_grad_norm, self.accelerator.scaler
        )
        self.graphs: DecoderGraphs | None = None
        if not no_graphs and config.cuda_graphs != "off":
            required = config.cuda_graphs == "on"
            self.graphs = DecoderGraphs(self._add_gradients, self.updater.bucket, required, CudaRecorder())
        elif device.type == "cuda" and config.cuda_graphs != "off":
            log.info("CUDA graphs are not used, because %s.", no_graphs)
        # A GPU makes a step while the host reads the figures of the one before; on a CPU there is nothing to gain.
        self.pending: deque[StepResult] = deque()
        self.max_pending = 1 if device.type == "cuda" else 0
        self.counts = question_counts(self.train_frames)
        self.steps_per_epoch = steps_per_epoch(self.counts, config, accelerator.num_processes)
        self.total_steps = config.max_steps if config.max_steps is not None else config.epochs * self.steps_per_epoch
        micro_per_step = accelerator.num_processes * config.gradient_accumulation_steps
        self.fingerprint = compute_fingerprint(self.train_frames, self.val_frames, micro_per_step, self.total_steps)
        log.info(
            "%d questions on %d frames; %d steps of %d questions, %d per epoch",
            *(sum(self.counts), len(self.counts)),
            *(self.total_steps, config.batch_size * micro_per_step, self.steps_per_epoch),
        )
        if self.longest_window > 1:
            log.info("The frozen encoders run ahead, for up to %d batches at a time.", self.longest_window)

    def _restore(self, start: RunStart, bad_frames: BadFrames) -> None:
        """Sets the state: that of the checkpoint, or that of a run's beginning in a cleared folder."""
        progress = start.progress
        with raise_on_all_ranks():
            if start.checkpoint is None:
                self.folder.clear(self.config)
            else:
                self.folder.rewind(start, self.fingerprint)
                load_optimizer_state(start.checkpoint, self.model, self.updater.optimizer)
        if start.checkpoint is not None:
            if self.accelerator.scaler is not None and progress.scaler is not None:
                self.accelerator.scaler.load_state_dict(progress.scaler)
            log.info("Resuming after step %d, from %s", progress.step, start.checkpoint)
        self.updater.bucket.share_parameters()
        window = LossWindow(progress.losses, progress.questions)
        self.state = TrainerState(progress.step, progress.best, window, bad_frames, progress.validated)
