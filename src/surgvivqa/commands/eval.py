"""``surgvivqa eval``: scores every label for every question of a split; each frame is encoded once."""

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from surgvivqa.checkpoints.loading import PACKAGED
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import (
    DataConfig,
    FeatureCacheConfig,
    OptionalModelConfig,
    ScoreNorm,
    check_ranges,
    flag,
)
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame, check_missing_frames
from surgvivqa.data.index import open_questions, question_counts, subsample
from surgvivqa.data.splits import load_splits, shared_videos
from surgvivqa.data.ssgqa import FrameQuestions, is_synthetic
from surgvivqa.evaluation.bootstrap import FIGURES, bootstrap_intervals
from surgvivqa.evaluation.inference import predict_frames
from surgvivqa.evaluation.metrics import grouped_metrics, mean_label_loss
from surgvivqa.features.video_tokens import VideoTokenSource, build_video_token_source
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.distributed import explain_lost_processes, raise_on_all_ranks, shard_and_gather, start_processes
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.loader_workers import explain_lost_workers

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class EvalConfig(FeatureCacheConfig, DataConfig):
    """Scores all labels for every question of a split and writes predictions.jsonl and metrics.json.

    A model flag is used for a checkpoint without settings of its own (a lone .pth). --prompt-mode, --mask and
    --max-length override those of any checkpoint.
    """

    checkpoint: Path = flag("A run folder, its best/, a .pth state dict, a hub name, or tiny: the packaged base.")
    output: Path | None = flag("Folder of the results. Default: eval-<split> in the run folder.", None)
    split: Literal["train", "val", "test"] = flag("Which videos.", "test")
    score_norm: ScoreNorm = flag(
        "A label's score: the sum of its tokens' log-probabilities, or their mean (the published way, which favours "
        "long labels).",
        "sum",
    )
    scores: bool = flag("Also write the log-probabilities of all labels for every question.", False)
    answer_only: bool = flag(
        "Skip the scores of labels that cannot win: the same answers, faster; probability and top5 are null.", False
    )
    batch_size: int = flag(
        "Questions in a pass; the questions of one frame share its encoding in any case. Raise it on a GPU.",
        40,
        least=1,
    )
    max_samples: int | None = flag("Score at most this many questions, spread over the videos.", None, least=1)
    bf16: bool = flag("Run in bfloat16, on a GPU.", False)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )


def prepare(
    config: EvalConfig, main: bool
) -> tuple[ModelBundle, Sequence[FrameQuestions], list[BadFrame], VideoTokenSource, Path, dict[str, int]]:
    """The model, the frames asked about, those that are missing, where they lie, the output folder (made by the main
    process), skipped lines.

    Raises:
        InputError: a checkpoint, root, split or output folder that cannot be used.
    """
    check_ranges(config)
    if config.answer_only and config.scores:
        raise InputError("--answer-only leaves scores out, so it cannot go with --scores; give one of them.")
    if config.answer_only and config.score_norm != "sum":
        raise InputError("--answer-only bounds sums; under --score-norm mean it would spare nothing, so leave it out.")
    bundle = load_model(config.checkpoint, config.model)
    settings, run = bundle.settings, bundle.run
    if settings.mask == "bidirectional" and config.answer_only:
        raise InputError("--answer-only needs labels that share a prompt; under --mask bidirectional none do.")
    questions_root = _root(config.ssgvqa_root, run.get("ssgvqa_root"), "--ssgvqa-root")
    image_root = _root(config.image_root, run.get("image_root"), "--image-root")
    splits_dir = config.splits_dir or (Path(run["splits_dir"]) if run.get("splits_dir") else None)
    videos = load_splits(splits_dir).videos(config.split)
    seen = shared_videos(videos, run.get("train_videos") or ()) if config.split != "train" else []
    if seen:
        raise InputError(
            f"The {config.split} split names {', '.join(seen)}, which {config.checkpoint} was trained on; its figures "
            f"would say nothing. Take such videos out (--splits-dir), or look at them with --split train."
        )
    asked, report = open_questions(questions_root, videos, strict=config.strict)
    frames = subsample(asked, config.max_samples)
    if not len(frames):
        raise InputError(f"The {config.split} split has no usable question under {questions_root}.")
    bundle.prompt_tokenizer().check_fits(frames)
    store = bundle.frame_store(image_root)
    missing = check_missing_frames(store, frames, allowed=_bad_frames(config, frames).limit)
    tokens = build_video_token_source(bundle, store, config.cache, config.cache_dtype)
    output = config.output or _default_output(config)
    try:
        if main:
            if output.is_symlink() and config.output is None:  # in a stranger's run folder it may lead anywhere
                raise InputError(f"{output} is a link, which is not written through; give the place with --output.")
            output.mkdir(parents=True, exist_ok=True)
            (output / ".probe").unlink(missing_ok=True)
            (output / ".probe").touch()
            (output / ".probe").unlink()
    except OSError as error:
        raise InputError(f"--output {output} cannot be written ({error.strerror}).") from None
    return bundle, frames, missing, tokens, output, report.to_dict()["skipped"]


@explain_lost_processes("run the same again")
@explain_lost_workers("run the same again")
def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Evaluates a checkpoint on a split; leaves ``predictions.jsonl`` and ``metrics.json`` in the output folder.

    Processes that torchrun started share the frames; the main one writes and prints.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: a checkpoint, root, split, output folder or frame that cannot be used.
    """
    state = start_processes()
    with raise_on_all_ranks():
        bundle, frames, missing, tokens, output, skipped = prepare(config, state.is_main_process)
    bad, met = _bad_frames(config, frames), list[BadFrame]()
    settings = bundle.settings
    if state.device.type == "cuda":
        bundle.model.to(state.device)
    with tokens, torch.autocast(next(bundle.model.parameters()).device.type, torch.bfloat16, enabled=config.bf16):
        score = functools.partial(
            predict_frames,
            bundle,
            tokens=tokens,
            score_norm=config.score_norm,
            batch_size=config.batch_size,
            answer_only=config.answer_only,
            workers=config.workers,
            keep_scores=config.scores,
            progress=state.is_main_process,
            bad=met,
            most_bad=bad.limit,
        )
        records = shard_and_gather(frames, score, lambda f: (f.video, f.frame), lambda r: (r["video"], r["frame"]))
    bad.gather([*missing, *met])
    with raise_on_all_ranks():
        bad.check()
        if not records:
            raise InputError(f"None of the {len(frames)} frames can be used.")
    figures = grouped_metrics(records)
    figures |= {
        "intervals": bootstrap_intervals(records),
        "loss": None if config.answer_only else mean_label_loss(records),
        "skipped": skipped,
        "skipped_frames": [frame._asdict() for frame in bad.to_list()],
        "checkpoint": str(config.checkpoint),
        "split": config.split,
        "max_samples": config.max_samples,
        "synthetic": is_synthetic(_root(config.ssgvqa_root, bundle.run.get("ssgvqa_root"), "--ssgvqa-root")),
        "mask": settings.mask,
        "prompt_mode": settings.prompt_mode,
        "score_norm": config.score_norm,
    }
    if not state.is_main_process:
        return figures
    (output / "metrics.json").unlink(missing_ok=True)  # a kill must not leave older figures beside new predictions
    write_text(output / "predictions.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    write_text(output / "metrics.json", json.dumps(figures, indent=2) + "\n")
    print(format_figures(figures))
    if len(bad):
        left = sum(question_counts(frames)) - len(records)
        print(f"LEFT OUT: {left} questions on {len(bad)} frames that cannot be used (skipped_frames in metrics.json)")
    print(f"written: {output / 'metrics.json'}, {output / 'predictions.jsonl'}")
    return figures


def _bad_frames(config: EvalConfig, frames: Sequence[FrameQuestions]) -> BadFrames:
    return BadFrames(config.on_bad_frame, config.max_bad_frames, len(frames))


def format_figures(figures: dict[str, Any]) -> str:
    """The figures in % as a table: overall with its intervals, by reasoning, by type."""
    lines = [f"{'':<18}{'n':>7}" + "".join(f"{name:>8}" for name in FIGURES)]
    intervals = figures.get("intervals")
    for name, row in [("all", figures), *figures["by_reasoning"].items(), *figures["by_type"].items()]:
        lines.append(f"{name:<18}{row['n']:>7}" + "".join(f"{100 * row[k]:>8.1f}" for k in FIGURES))
        if row is figures and intervals:
            for end, label in enumerate(("  95% low", "  95% high")):
                lines.append(f"{label:<25}" + "".join(f"{100 * intervals[k][end]:>8.1f}" for k in FIGURES))
    if intervals:
        lines.append(
            f"95% intervals: {intervals['method']}, {intervals['videos']} videos, {intervals['resamples']:,} resamples"
        )
    else:
        lines.append("no 95% intervals: they need at least two videos")
    return "\n".join(lines)


def _root(given: Path | None, saved: str | None, flag: str) -> Path:
    if given is not None:
        return given
    if saved:
        return Path(saved)
    variable = flag[2:].replace("-", "_").upper()
    raise InputError(f"{flag} is missing; give it, or set {variable} (the checkpoint does not say where its data was).")


def _default_output(config: EvalConfig) -> Path:
    if str(config.checkpoint) == PACKAGED:
        return Path("runs") / PACKAGED / f"eval-{config.split}"
    folder = config.checkpoint if config.checkpoint.is_dir() else config.checkpoint.parent
    return (folder.parent if folder.name == "best" else folder) / f"eval-{config.split}"
