"""Fine-tuning: data in, rows, loss, step, validate, save; in that order."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import nn

from surgvivqa.config import TrainConfig, check_ranges, data_roots
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame, refuse_missing
from surgvivqa.data.index import draw_subsample, frame_names, open_questions, question_counts, subsample
from surgvivqa.data.labels import LABEL_INDEX
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import ODD, FrameQuestions, is_synthetic
from surgvivqa.evaluation.inference import predict_frames
from surgvivqa.evaluation.metrics import compute_metrics, mean_label_loss
from surgvivqa.features.batches import TrainingBatches, micro_batches, training_loader
from surgvivqa.features.text_states import text_states
from surgvivqa.features.video_tokens import VideoTokens, video_tokens
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.freezing import format_trainable_table, set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.resume import Progress, fingerprint, load_moments, load_weights
from surgvivqa.training.run_folder import (
    clear_run_folder,
    finish,
    go_on,
    open_run_folder,
    own_run_kept,
    release_run_folder,
    save_best,
    save_step,
)
from surgvivqa.training.run_log import LossWindow, RunLog, progress_bar
from surgvivqa.training.schedule import is_due, make_optimizer, rate_factor, seed_micro_batch, step_plans
from surgvivqa.utils.distributed import explain_lost_processes, raise_on_all_ranks, shard_and_gather, start_accelerator
from surgvivqa.utils.errors import InputError, RunError
from surgvivqa.utils.loader_workers import explain_lost_workers, start_workers
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals

CHANCE = math.log(51)
log = logging.getLogger("surgvivqa")


def train(config: TrainConfig) -> int:
    """``train_run``, with a sentence where another process of the run, or one that decodes frames, has gone.

    Raises:
        InputError, RunError: as ``train_run``; or another process was killed.
    """
    advice = f"the same command goes on from the newest checkpoint in {config.checkpoint_dir}"
    try:
        with explain_lost_processes(advice), explain_lost_workers(advice):
            return train_run(config)
    finally:
        release_run_folder()


def train_run(config: TrainConfig) -> int:
    """Fine-tunes a model as ``config`` says and leaves the run folder.

    Returns:
        0 when done, 75 when a signal stopped the run after a checkpoint was written.

    Raises:
        InputError: data, flags or folders that cannot be used; found before the first step.
            Later, a frame that cannot be used, as ``--on-bad-frame`` has it; a checkpoint is written before.
        RunError: a non-finite loss; raised before the update, so that saved weights stay good.
    """
    config = own_run_kept(_debugged(config))
    check_ranges(config)
    accelerator = start_accelerator(config.fp16, config.bf16)
    set_seed(config.seed)
    with raise_on_all_ranks():
        start = open_run_folder(config, accelerator.is_main_process)
    start = broadcast_object_list([start])[0]
    folder = start.folder
    if start.finished:
        log.info("The run in %s is finished; --overwrite starts it anew.", folder)
        return 0

    # Data in.
    with raise_on_all_ranks():
        train_frames, val_frames = read_training_data(config)
        bundle = build_for_training(config)
        if start.checkpoint is not None:
            load_weights(start.checkpoint, bundle.model)
        assert config.ssgvqa_root is not None
        bundle.run = run_values(config) | {
            "train_videos": list(load_splits(config.splits_dir).train),
            "synthetic": is_synthetic(config.ssgvqa_root),
        }
        prompts = bundle.prompt_tokenizer()
        LabelTrie(prompts.label_ids)  # refuses labels that could not be scored
        prompts.check_fits(train_frames, val_frames)
        assert config.image_root is not None
        store = bundle.frame_store(config.image_root)
        bad = BadFrames(
            config.on_bad_frame, config.max_bad_frames, len(train_frames) + len(val_frames), start.progress.bad
        )
        missing = refuse_missing(store, train_frames, val_frames, allowed=bad.limit)
        if val_frames and set(frame_names(val_frames)) <= {(b.video, b.frame) for b in missing}:
            raise InputError(f"None of the {len(val_frames)} frames to validate on exists under {store.root}.")
        tokens = video_tokens(bundle, store, config.cache, config.cache_dtype)
        feed: Any = tokens  # what a step is given: clips, video tokens, or text states
        if config.cache_text:
            assert config.cache is not None
            feed = text_states(bundle, tokens, prompts, config.cache, config.cache_dtype)
    bad.share(missing)
    with raise_on_all_ranks():
        bad.refuse()
    log.info("\n%s", format_trainable_table(bundle.model))
    if bundle.settings.mask == "bidirectional":
        log.warning(
            "--mask bidirectional lets the answer leak into its own prediction; use it to reproduce published runs."
        )

    # The model, its optimiser, and the rate of every step.
    model = bundle.model
    optimizer = make_optimizer(model, config)
    counts = question_counts(train_frames)
    micro_per_step = accelerator.num_processes * config.gradient_accumulation_steps
    per_epoch = math.ceil(
        len(micro_batches(counts, config.batch_size, config.questions_per_frame, 0, 0)) / micro_per_step
    )
    total = config.max_steps if config.max_steps is not None else config.epochs * per_epoch
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    trained = [p for p in model.parameters() if p.requires_grad]
    log.info(
        "%d questions on %d frames; %d steps of %d questions, %d an epoch",
        sum(counts),
        len(counts),
        total,
        config.batch_size * micro_per_step,
        per_epoch,
    )

    progress = dataclasses.replace(start.progress, of=fingerprint(train_frames, val_frames, micro_per_step, total))
    if start.checkpoint is None:
        with raise_on_all_ranks():
            clear_run_folder(config, accelerator.is_main_process)
    else:
        with raise_on_all_ranks():
            go_on(start, progress.of, accelerator.is_main_process)
            load_moments(start.checkpoint, model, optimizer.optimizer)
        if accelerator.scaler is not None and progress.scaler is not None:
            accelerator.scaler.load_state_dict(progress.scaler)
        log.info("Going on after step %d, from %s", progress.step, start.checkpoint)
    tracker = RunLog(folder / "metrics.jsonl", accelerator.is_main_process)
    best, step = progress.best, progress.step
    window, started = LossWindow(progress.losses, progress.questions), time.monotonic()
    stop = StopSignals(config.max_hours)

    def save(**other: Any) -> None:
        """Writes checkpoints/step-N."""
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        now = Progress(step, best, window.losses, window.questions, scaler, progress.of, bad.to_list())
        now, main = dataclasses.replace(now, **other), accelerator.is_main_process
        save_step(bundle, folder, now, optimizer.optimizer, config.keep_checkpoints, main)

    def account(met: Sequence[BadFrame], **other: Any) -> None:
        """Takes the frames that could not be used; where they are too many, saves what is learned and says so."""
        before = bad.to_list()
        bad.share(met)
        if bad.too_many and step:
            save(bad=before, **other)  # once they are mended they count no more
        with raise_on_all_ranks():
            bad.refuse(f"the same command goes on after step {step}" if step else "run the same again")

    def anyone(flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        told = torch.tensor(float(flag), device=accelerator.device)
        return bool(accelerator.reduce(told, "sum").item())

    def look() -> bool:
        """Validates, and keeps the best; False where a signal came, which does not wait for the rest of it."""
        nonlocal best
        before = bad.to_list()
        figures, met = validate(bundle, val_frames, tokens, config, bad.limit, lambda: stop.signal)
        if anyone(stop.signal is not None):
            return False
        account(met, validated=False)
        if not figures["n"]:
            save(bad=before, validated=False)
            with raise_on_all_ranks():
                raise InputError("None of the frames to validate on can be used.")
        tracker.write(step=step, **{f"val_{k}": v for k, v in figures.items()})
        score = -figures["loss"] if config.best_metric == "loss" else figures[config.best_metric]
        if best is None or score > best:
            best = score
            save_best(bundle, folder, accelerator.is_main_process)
        set_modes(model)
        return True

    def stopped() -> int:
        """Says who stopped the run."""
        name = next(name for name in gather_object([stop.caught]) if name)
        again = "the same command without --overwrite" if config.overwrite else "the same command"
        log.warning("Stopped by %s after step %d; %s goes on from checkpoints/.", name, step, again)
        return EXIT_STOPPED

    set_modes(model)
    with stop, feed, progress_bar(total, accelerator.is_main_process) as advance:
        advance(step)
        if not progress.validated:
            if not look():
                return stopped()
            save()
        for plan, real, epoch in step_plans(
            counts, config, accelerator.num_processes, accelerator.process_index, total
        ):
            done = step - epoch * per_epoch  # 0 but in the epoch that a run goes on in
            if done >= len(real):
                continue
            first = done * config.gradient_accumulation_steps
            rows = TrainingBatches(train_frames, feed.reader, prompts, bundle.settings.mask, plan)
            batches = enumerate(start_workers(training_loader(rows, range(first, len(plan)), config.workers)), first)
            for questions_in_step in real[done:]:
                # One step: forward and backward for each micro-batch, then the update.
                step_loss, culprit = 0.0, ""
                asked, lost, met = 0, 0, list[BadFrame]()
                for micro in range(config.gradient_accumulation_steps):
                    weight = questions_in_step[micro]
                    index, batch = next(batches)
                    seed_micro_batch(config.seed, epoch, index * accelerator.num_processes + accelerator.process_index)
                    if weight:
                        asked, lost = asked + batch.asked, lost + batch.lost
                    met += batch.bad
                    packed = batch.packed.to(accelerator.device)
                    last = micro == config.gradient_accumulation_steps - 1
                    with accelerator.autocast(), _sync(accelerator, wrapped, last):
                        if (
                            batch.inputs is None
                        ):  # no frame of it can be used, but the other processes wait for this one
                            losses, weight = wrapped(packed, **tokens.blank_inputs()), 0.0
                        else:
                            losses = wrapped(packed, **feed.model_inputs(batch.inputs))
                        loss = losses.sum() * weight
                        accelerator.backward(loss)
                    step_loss += float(loss.detach()) / accelerator.num_processes
                    if batch.inputs is not None and not losses.detach().isfinite().all():
                        culprit = rows.describe(index, int((~losses.detach().isfinite()).int().argmax()), batch.bad)
                # One exchange a step, so that all processes do the same: the loss, whether a signal reached any of
                # them, and how many questions and frames could not be used.
                asks = [stop.caught is not None, stop.signal is not None]
                told = torch.tensor([step_loss, *asks, asked, lost, len(bad.new(met))], device=accelerator.device)
                step_loss, stopping, signalled, asked, lost, news = accelerator.reduce(told, "sum").tolist()
                if news:
                    account(met)
                if not math.isfinite(step_loss):
                    with raise_on_all_ranks():
                        culprit = next(filter(None, gather_object([culprit])), "no question alone")
                        raise RunError(
                            f"The loss of step {step + 1} is {step_loss} ({culprit}); no update was made, and the last "
                            f"checkpoint in {folder} is good. Lower --lr, or leave --fp16."
                        )
                norm, rate = 0.0, config.lr * rate_factor(step, total, config)
                if asked > lost:
                    if lost:  # still the mean over the questions that were asked
                        step_loss *= asked / (asked - lost)
                        for parameter in trained:
                            if parameter.grad is not None:
                                parameter.grad *= asked / (asked - lost)
                    norm = float(accelerator.clip_grad_norm_(trained, config.max_grad_norm or math.inf))
                    if not math.isfinite(norm) and not config.fp16:  # under fp16 the loss scaler skips such a step
                        with raise_on_all_ranks():
                            raise RunError(
                                f"The gradients of step {step + 1} are not finite; no update was made, and the last "
                                f"checkpoint in {folder} is good. Lower --lr or --max-grad-norm."
                            )
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.step()
                    window.add(step_loss, int(asked - lost))
                optimizer.zero_grad()
                step += 1
                stopping = stopping and step < total  # after the last step the run is done anyway
                advance(1)

                # Log, validate, save. A signal has validation wait for the next start.
                validated = True
                if step % config.log_interval == 0 or step == total:
                    tracker.write(
                        step=step,
                        epoch=epoch,
                        loss=window.mean(),
                        chance=CHANCE,
                        lr=rate,
                        grad_norm=norm,
                        questions_per_second=window.rate(),
                    )
                    window = LossWindow()
                if val_frames and (is_due(step, config.eval_every_steps) or step == total):
                    validated = not signalled and look()
                    stopping = stopping or not validated
                    if step < total:  # validation may have taken a while
                        stopping = stopping or anyone(stop.caught is not None)
                if is_due(step, config.save_every_steps) or stopping:
                    save(validated=validated)
                if stopping:
                    return stopped()
    if best is None:  # no validation questions: the last weights are the best known
        save_best(bundle, folder, accelerator.is_main_process)
    finish(folder, step, bad, accelerator.is_main_process)
    skipped = f"; the questions of {len(bad)} frames were skipped (finished.json)" if len(bad) else ""
    log.info("Done: %d steps in %.0f s; %s%s", step, time.monotonic() - started, folder, skipped)
    return 0


def read_training_data(config: TrainConfig) -> tuple[Sequence[FrameQuestions], Sequence[FrameQuestions]]:
    """The training frames, and validation frames with at most ``val_max_samples`` questions."""
    questions_root, _ = data_roots(config)
    splits = load_splits(config.splits_dir)
    frames: Sequence[FrameQuestions]
    frames, report = open_questions(questions_root, splits.train, strict=config.strict)
    log.info("Training lines: %s", json.dumps(report.to_dict()["skipped"] | {"questions": report.questions}))
    if not frames:
        raise InputError(f"--ssgvqa-root {questions_root} has no usable question in its training videos.")
    val: Sequence[FrameQuestions] = []
    if splits.val:
        val, report = open_questions(questions_root, splits.val, strict=config.strict)
        odd = {reason: report.skipped[reason] for reason in ODD if report.skipped[reason]}
        if odd:
            log.info("Validation lines left out: %s", json.dumps(odd))
    if config.max_train_samples is not None:
        frames = draw_subsample(frames, config.max_train_samples, config.seed)
    return frames, subsample(val, config.val_max_samples)


def run_values(config: TrainConfig) -> dict[str, Any]:
    """The flags of a run, as plain values, kept in its checkpoints."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}


def validate(
    bundle: ModelBundle,
    frames: Sequence[FrameQuestions],
    tokens: VideoTokens,
    config: TrainConfig,
    most_bad: int = 0,
    stopped: Callable[[], object] = lambda: None,
) -> tuple[dict[str, float], list[BadFrame]]:
    """Closed-set figures and the mean loss a label (nats) on the validation questions, shared by the processes; and the
    frames of this process's share that could not be used (with more than ``most_bad`` of them, or once ``stopped`` is
    true, the rest is left out)."""
    bundle.model.eval()
    bad: list[BadFrame] = []
    score = functools.partial(
        predict_frames, bundle, tokens=tokens, workers=config.workers, bad=bad, most_bad=most_bad, stopped=stopped
    )
    records = shard_and_gather(frames, score, lambda f: (f.video, f.frame), lambda r: (r["video"], r["frame"]))
    figures = compute_metrics([_label(r["answer"]) for r in records], [_label(r["prediction"]) for r in records])
    figures["loss"] = mean_label_loss(records)
    return figures, bad


def _sync(accelerator: Accelerator, model: nn.Module, last: bool) -> Any:
    return contextlib.nullcontext() if last else accelerator.no_sync(model)


def _label(text: str) -> int:
    return LABEL_INDEX[text]


def _debugged(config: TrainConfig) -> TrainConfig:
    if not config.debug:
        return config
    return dataclasses.replace(
        config,
        max_steps=min(config.max_steps or 10, 10),
        max_train_samples=min(config.max_train_samples or 64, 64),
        val_max_samples=64,
        log_interval=1,
        workers=0,
    )
