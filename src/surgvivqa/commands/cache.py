"""``surgvivqa cache``: encodes frames (and questions) ahead of training and evaluation, a video at a time."""

import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgvivqa.checkpoints.backbones import load_video_encoder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.config import (
    CacheDtype,
    DataConfig,
    ModelConfig,
    TrainConfig,
    check_ranges,
    clip_length,
    data_roots,
    flag,
)
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame, check_missing_frames
from surgvivqa.data.index import open_questions
from surgvivqa.data.splits import SPLIT_NAMES, load_splits
from surgvivqa.data.ssgqa import FrameQuestions, warn_of_faults
from surgvivqa.features.cache import FeatureCache
from surgvivqa.features.cache_file import DTYPES
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.features.source import FeatureReader, read_good_frames
from surgvivqa.features.text_reader import TextInputs
from surgvivqa.features.text_states import TextStateSource, build_text_state_source
from surgvivqa.features.video_tokens import VideoTokenSource, build_encoder_token_source, build_video_token_source
from surgvivqa.model.bundle import ModelBundle, build_frame_store
from surgvivqa.model.pooling import pool_tokens, token_count
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.run_log import progress_bar
from surgvivqa.utils.errors import FrameError, InputError
from surgvivqa.utils.loader_workers import explain_lost_workers, ignore_signals, limit_workers, start_workers
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class CacheConfig(DataConfig, ModelConfig):
    """Fills a cache of video tokens for train and eval. After a stop the same command continues."""

    cache: Path = flag("Folder of the cache; features of other weights or settings are in other subfolders of it.")
    checkpoint: Path | None = flag(
        "Fill it for eval --checkpoint, with the weights and settings of this run folder, best/ or .pth.", None
    )
    pretrained_ckpt: Path | None = flag(
        "Fill it for train --pretrained-ckpt, with the weights of this checkpoint and the settings of the flags.", None
    )
    splits: str = flag("Which videos: splits separated by commas.", "train,val,test")
    cache_dtype: CacheDtype = flag(
        "Precision of the cached features; fp16 and bf16 take half the space of fp32.", "fp16"
    )
    cache_text: bool = flag(
        "Also cache the text states of the training questions, for train --cache-text with the same flags.", False
    )
    shard: int | None = flag(
        "Number of this task, from 0, if several tasks share the videos. Default: from the SLURM array task and "
        "torchrun's rank.",
        None,
    )
    num_shards: int | None = flag(
        "How many tasks share the videos. Default: from the SLURM array and torchrun's world size.", None
    )
    verify: bool = flag("At the end, read everything back and compare the checksums.", False)


@dataclass(frozen=True)
class FeatureJob:
    """One kind of feature to cache.

    Attributes:
        source: computes the features and writes them to its cache.
        frames: the frames to cache, by video.
        items: tag and number of rows of each frame's cached item, by video and frame.
    """

    source: VideoTokenSource | TextStateSource
    frames: Mapping[str, Sequence[FrameQuestions]]
    items: Mapping[str, Mapping[int, tuple[int, int]]]

    @property
    def store(self) -> FeatureCache:
        """The cache that the features are written to."""
        assert self.source.cache is not None
        return self.source.cache

    def missing(self) -> dict[str, list[FrameQuestions]]:
        """The frames that are not cached yet, by video."""
        return {
            video: [f for f in frames if not self.store.has(video, f.frame, self.items[video][f.frame][0])]
            for video, frames in self.frames.items()
        }


class _FrameInputs(Dataset[Any]):
    """What the source needs to compute the features of each frame."""

    def __init__(self, frames: Sequence[FrameQuestions], reader: FeatureReader[Any]) -> None:
        self.frames, self.reader = frames, reader

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[FrameInputs | TextInputs | None, tuple[BadFrame, ...]]:
        inputs, _, bad = read_good_frames(self.reader, [(self.frames[index], ())])
        return inputs, bad


@explain_lost_workers("run the same command again; it continues where it stopped")
def cache(config: CacheConfig) -> int:
    """Caches the video tokens of every frame with a question, in one file per video.

    With ``--cache-text`` it also caches the text states of the training questions. Several tasks share the videos round
    robin (``--shard``, ``--num-shards``). A stop loses at most 64 frames of a task; the same command continues.

    Returns:
        0 when done, 75 when a signal stopped it.

    Raises:
        InputError: data, weights, flags or folders cannot be used, the disk is too small, or a cache file is damaged.
        RunError: an encoder returns a value that is not finite.
    """
    check_ranges(config)
    videos = read_frames(config)
    bad = BadFrames(config.on_bad_frame, config.max_bad_frames, sum(map(len, videos.values())))
    if config.cache_text:
        text, pool = build_text_source(config)
        videos = existing_frames(text.video.reader, videos, bad)
        jobs = [video_job(text.video, pool, videos), text_job(text, training_frames(videos, config))]
    else:
        source, pool = build_encoder_source(config)
        videos = existing_frames(source.reader, videos, bad)
        jobs = [video_job(source, pool, videos)]
    missing = [job.missing() for job in jobs]
    check_disk_space(config, sum(report_size(j.store, j.items, m) for j, m in zip(jobs, missing, strict=True)))
    for job, frames in zip(jobs, missing, strict=True):
        if not fill(job, frames, config.workers, bad):
            return EXIT_STOPPED
    for job in jobs if config.verify else ():
        verify(job.store)
    if len(bad):
        log.warning("%d frames cannot be used and are not in the cache.", len(bad))
    return 0


def existing_frames(
    reader: FrameReader, videos: Mapping[str, list[FrameQuestions]], bad: BadFrames
) -> dict[str, list[FrameQuestions]]:
    """The frames whose images exist; the others are recorded in ``bad``.

    Raises:
        InputError: more are missing than ``--on-bad-frame`` allows.
    """
    absent = check_missing_frames(reader.store, *videos.values(), allowed=bad.limit)
    names = {(b.video, b.frame) for b in absent}
    for frame in (f for frames in videos.values() for f in frames if (f.video, f.frame) not in names):
        try:
            reader.key(frame.video, frame.frame)
        except FrameError as error:  # a broken link, or another frame of the clip is missing
            absent.append(BadFrame(frame.video, frame.frame, error.sentence))
    bad.add(absent)
    bad.check()
    names = {(b.video, b.frame) for b in absent}
    return {video: [f for f in frames if (video, f.frame) not in names] for video, frames in videos.items()}


def fill(job: FeatureJob, missing: Mapping[str, Sequence[FrameQuestions]], workers: int, bad: BadFrames) -> bool:
    """Computes and caches the missing features, a video at a time.

    Returns:
        False if a signal stopped it.

    Raises:
        InputError: the folder cannot be written, a file in it is damaged, or more frames cannot be used than ``bad``
            allows; what was cached until then is kept.
        RunError: an encoder returns a value that is not finite.
    """
    started, store = time.monotonic(), job.store
    stop, written = StopSignals(), 0
    with stop, progress_bar(sum(map(len, missing.values())), True, "cache") as advance:
        for video, frames in missing.items():
            began = time.monotonic()
            # One frame per item, so that a worker decodes it while the one before it is encoded.
            loader: DataLoader[Any] = DataLoader(
                _FrameInputs(frames, job.source.reader),
                batch_size=None,
                num_workers=limit_workers(workers) if len(frames) > 1 else 0,
                worker_init_fn=ignore_signals,
            )
            for inputs, faults in start_workers(loader):
                bad.add(faults)
                if bad.too_many:
                    job.source.flush()
                    bad.check("run the same command again; it continues where it stopped")
                if inputs is not None:
                    job.source(inputs)
                advance(1)
                if stop.caught:
                    job.source.flush()
                    log.warning("Stopped by %s; what is encoded is kept; the same command continues.", stop.caught)
                    return False
            size = store.merge(video, {frame: tag for frame, (tag, _) in job.items[video].items()})
            written += size
            log.info(
                "%s: %d frames, %d of them encoded, %.1f MB, %.1f s",
                *(video, len(job.frames[video]), len(frames), size / 1e6, time.monotonic() - began),
            )
    seconds = time.monotonic() - started
    log.info("Done: %d frames encoded in %.0f s; %d bytes in %s", job.source.misses, seconds, written, store.folder)
    return True


def video_job(source: VideoTokenSource, pool: str, videos: Mapping[str, Sequence[FrameQuestions]]) -> FeatureJob:
    """The video tokens of frames whose images exist."""
    count = token_count(source.video_config, pool)
    items = {
        video: {f.frame: (source.reader.key(f.video, f.frame)[2], count) for f in frames}
        for video, frames in videos.items()
    }
    return FeatureJob(source, videos, items)


def text_job(text: TextStateSource, videos: Mapping[str, Sequence[FrameQuestions]]) -> FeatureJob:
    """The text states of the frames' questions.

    Raises:
        InputError: a prompt does not fit in ``--max-length``.
    """
    text.reader.prompt_tokenizer.check_fits(*videos.values())
    items: dict[str, dict[int, tuple[int, int]]] = {}
    for video, frames in videos.items():
        items[video] = {}
        for frame in frames:
            trees = text.reader.prompt_trees(frame)
            rows = sum(len(tree.prompt) + len(tree.tokens) for tree in trees)
            items[video][frame.frame] = (text.reader.key(frame, trees)[2], rows)
    return FeatureJob(text, videos, items)


def training_frames(videos: Mapping[str, list[FrameQuestions]], config: CacheConfig) -> dict[str, list[FrameQuestions]]:
    """The frames of the training split among those of ``videos``.

    Raises:
        InputError: ``--splits`` does not name the training split.
    """
    if "train" not in (s.strip() for s in config.splits.split(",")):
        raise InputError(f"--cache-text is for training, but --splits {config.splits} leaves out train; add it.")
    train = load_splits(config.splits_dir).train
    return {video: frames for video, frames in videos.items() if video in train}


def read_frames(config: CacheConfig) -> dict[str, list[FrameQuestions]]:
    """The frames with questions of this task's videos, by video.

    Raises:
        InputError: a split is unknown, data are missing, or the shard does not exist.
    """
    questions_root, _ = data_roots(config)
    splits, names = load_splits(config.splits_dir), [s.strip() for s in config.splits.split(",") if s.strip()]
    if not names or set(names) - set(SPLIT_NAMES):
        raise InputError(f"--splits {config.splits!r} must be some of {', '.join(SPLIT_NAMES)}, separated by commas.")
    shard, shards = task_share(config, os.environ)
    of_task = [video for name in SPLIT_NAMES if name in names for video in splits.videos(name)][shard::shards]
    frames: Sequence[FrameQuestions] = []
    if of_task:
        frames, report = open_questions(questions_root, of_task, strict=config.strict)
        warn_of_faults(config.splits, report)
    videos: dict[str, list[FrameQuestions]] = {}
    for frame in frames:
        videos.setdefault(frame.video, []).append(frame)
    log.info("Task %d of %d: %d videos, %d frames", shard + 1, shards, len(videos), len(frames))
    return videos


def task_share(config: CacheConfig, environment: Mapping[str, str]) -> tuple[int, int]:
    """This task's number and the number of tasks: from the flags, or from the SLURM array and torchrun's processes.

    Raises:
        InputError: one flag is given without the other, or a number is out of range.
    """
    if (config.shard is None) != (config.num_shards is None):
        raise InputError("--shard and --num-shards belong together; give both or neither.")
    if config.shard is not None and config.num_shards is not None:
        shard, shards = config.shard, config.num_shards
    else:
        try:
            first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{k}", d)) for k, d in (("MIN", "0"), ("STEP", "1")))
            task = (int(environment.get("SLURM_ARRAY_TASK_ID", first)) - first) // max(1, step)
            rank, world = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
            shard, shards = task * world + rank, int(environment.get("SLURM_ARRAY_TASK_COUNT", "1")) * world
        except ValueError as error:
            raise InputError(f"The environment's SLURM or torchrun variables are not numbers ({error}).") from None
    if not 0 <= shard < shards:
        raise InputError(f"Shard {shard} of {shards} does not exist; shards count from 0.")
    return shard, shards


def build_encoder_source(config: CacheConfig) -> tuple[VideoTokenSource, str]:
    """The video encoder that train or eval would build from the same flags, on the GPU if there is one.

    Returns:
        Its token source, and how the tokens are pooled (``--video-pool``).

    Raises:
        InputError: the weights cannot be loaded.
    """
    settings = ModelConfig(**{name: getattr(config, name) for name in vars(ModelConfig())})
    assert config.image_root is not None
    if config.checkpoint is not None and config.pretrained_ckpt is not None:
        raise InputError(
            "--checkpoint and --pretrained-ckpt exclude each other; give the flag that eval or train is given."
        )
    given = config.checkpoint or config.pretrained_ckpt or (Path(PACKAGED) if config.preset == "tiny" else None)
    if given is not None:
        bundle = load_checkpoint(given, settings)
        if config.checkpoint is None:
            bundle = ModelBundle(bundle.model, bundle.tokenizer, settings)
        settings, video = bundle.settings, bundle.model.config.video_config
        encoder, encode = bundle.model.visual_encoder, bundle.model.encode_video
    else:
        encoder = load_video_encoder(settings.video_model, clip_length(settings))
        encoder.set_attn_implementation("sdpa")  # as in the whole model
        video = encoder.config

        def encode(pixel_values: Tensor) -> Tensor:
            return pool_tokens(encoder(pixel_values=pixel_values).last_hidden_state, video, settings.video_pool)

    frames = build_frame_store(settings, config.image_root, video.num_frames, video.image_size)
    encoder.requires_grad_(False).eval()
    if torch.cuda.is_available():
        encoder.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    source = build_encoder_token_source(
        encode, encoder, video, settings, frames, config.cache, config.cache_dtype, must_write=True
    )
    return source, settings.video_pool


def build_text_source(config: CacheConfig) -> tuple[TextStateSource, str]:
    """The encoders that train would build from the same flags, on the GPU if there is one.

    Returns:
        The source of their text states, and how video tokens are pooled (``--video-pool``).

    Raises:
        InputError: ``build_for_training`` fails, or ``--checkpoint`` is given.
    """
    if config.checkpoint is not None:
        raise InputError("--cache-text is for training, which takes --pretrained-ckpt; give that, not --checkpoint.")
    assert config.image_root is not None
    # This command's --verify is about the cache.
    names = [f.name for f in dataclasses.fields(TrainConfig) if hasattr(config, f.name) and f.name != "verify"]
    shared = {name: getattr(config, name) for name in names}
    bundle = build_for_training(TrainConfig(**shared))
    bundle.model.requires_grad_(False).eval()
    if torch.cuda.is_available():
        bundle.model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    frames, where = bundle.frame_store(config.image_root), (config.cache, config.cache_dtype)
    video = build_video_token_source(bundle, frames, *where, must_write=True)
    text = build_text_state_source(bundle, video, bundle.prompt_tokenizer(), *where, must_write=True)
    return text, bundle.settings.video_pool


def report_size(
    store: FeatureCache,
    items: Mapping[str, Mapping[int, tuple[int, int]]],
    missing: Mapping[str, Sequence[FrameQuestions]],
) -> int:
    """Logs the size of one kind of feature in the cache, and returns the bytes of disk space that are still needed.

    Args:
        store: the cache of the features.
        items: tag and number of rows of each frame's item, by video and frame.
        missing: the frames that are not cached yet, by video.
    """
    row = store.width * torch.empty(0, dtype=DTYPES[store.dtype]).element_size()
    counts = [rows for of_video in items.values() for _, rows in of_video.values()]
    total = row * sum(counts)
    absent = {video: row * sum(items[video][f.frame][1] for f in frames) for video, frames in missing.items()}
    each = f"x {counts[0]} tokens" if len(set(counts)) == 1 else f"of {sum(counts)} tokens in all"
    log.info(
        "%s: %d frames %s x %d x %s = %.3f GB; %d frames (%.3f GB) are not cached yet",
        *(store.folder, len(counts), each, store.width, store.dtype, total / 1e9),
        *(sum(map(len, missing.values())), sum(absent.values()) / 1e9),
    )
    # While the parts of a video are merged, both the parts and the merged file take space.
    sizes = (row * sum(rows for _, rows in items[video].values()) for video, size in absent.items() if size)
    return sum(absent.values()) + max(sizes, default=0)


def check_disk_space(config: CacheConfig, need: int) -> None:
    """Raises InputError if the disk has less free space than ``need`` bytes."""
    free = shutil.disk_usage(config.cache).free
    if need and free < need:
        raise InputError(
            f"--cache {config.cache} has {free / 1e9:.1f} GB free and {need / 1e9:.1f} GB are needed; use a larger "
            f"disk, fewer --splits, --video-pool temporal, or --cache-dtype fp16."
        )


def verify(store: FeatureCache) -> None:
    """Reads every item back and compares its checksum.

    Raises:
        InputError: a checksum is wrong; the message names the file.
    """
    started, items, total = time.monotonic(), 0, 0
    for path, count, size in store.verify():
        items, total = items + count, total + size
        log.info("%s: %d items, %.1f MB, checksums correct", path.name, count, size / 1e6)
    log.info("Verified: %d items, %d bytes in %.0f s", items, total, time.monotonic() - started)
