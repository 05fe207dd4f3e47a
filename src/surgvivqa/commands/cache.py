"""``surgvivqa cache``: encodes frames (and questions) before training and evaluation."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from surgvivqa.checkpoints.backbones import load_video_encoder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.commands.fill_cache import CacheItem, FeatureJob, check_disk_space, fill, report_size, verify
from surgvivqa.config import (
    MODEL_FLAGS,
    CacheDtype,
    DataConfig,
    ModelConfig,
    TrainConfig,
    check_ranges,
    clip_length,
    flag,
)
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame, check_missing_frames
from surgvivqa.data.picture_files import PictureFiles
from surgvivqa.data.splits import SPLIT_NAMES
from surgvivqa.data.ssgqa import FrameQuestions, warn_of_faults
from surgvivqa.datasets.opening import Dataset
from surgvivqa.features.frame_reader import FrameReader
from surgvivqa.features.text_states import TextStateSource, build_text_state_source
from surgvivqa.features.video_tokens import VideoTokenSource, build_encoder_token_source, build_video_token_source
from surgvivqa.model.bundle import ModelBundle, build_frame_store
from surgvivqa.model.pooling import pool_tokens, token_count
from surgvivqa.training.data import open_run_dataset
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import FrameError, InputError
from surgvivqa.utils.loader_workers import explain_lost_workers
from surgvivqa.utils.signals import EXIT_STOPPED

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class CacheConfig(DataConfig, ModelConfig):
    """Fills the feature cache of train and eval. After a stop the same command continues."""

    cache: Path = flag("Folder of the cache, with a subfolder for each combination of weights and settings.")
    checkpoint: Path | None = flag("Checkpoint whose weights and settings are used, as in eval --checkpoint.", None)
    pretrained_ckpt: Path | None = flag(
        "Checkpoint whose weights are used, with the settings of the flags, as in train --pretrained-ckpt.", None
    )
    splits: str = flag("Splits to cache, separated by commas.", "train,val,test")
    cache_dtype: CacheDtype = flag(
        "Precision of the cached features; fp16 and bf16 take half the space of fp32.", "fp16"
    )
    cache_text: bool = flag("Also cache the text states of the training questions, as train --cache-text does.", False)
    shard: int | None = flag(
        "Index of this task, from 0, if several tasks share the videos. Default: that of the SLURM array task and "
        "torchrun process.",
        None,
    )
    num_shards: int | None = flag(
        "Number of tasks that share the videos. Default: that of the SLURM array and torchrun's processes.", None
    )
    verify: bool = flag("At the end, read all features back and verify their checksums.", False)


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
    dataset = open_run_dataset(config)
    videos = read_frames(config, dataset)
    bad = BadFrames(config.on_bad_frame, config.max_bad_frames, sum(map(len, videos.values())))
    if config.cache_text:
        text, tokens_per_frame = build_text_source(config, dataset)
        videos = existing_frames(text.video_source.reader, videos, bad)
        jobs = [
            build_video_job(text.video_source, tokens_per_frame, videos),
            build_text_job(text, training_frames(videos, config, dataset)),
        ]
    else:
        source, tokens_per_frame = build_encoder_source(config, dataset.picture_files)
        videos = existing_frames(source.reader, videos, bad)
        jobs = [build_video_job(source, tokens_per_frame, videos)]
    check_disk_space(config.cache, sum(map(report_size, jobs)))
    for job in jobs:
        if not fill(job, config.workers, bad):
            return EXIT_STOPPED
    if config.verify:
        for job in jobs:
            verify(job.store)
    if len(bad):
        log.warning("%d frames cannot be used and are not in the cache.", len(bad))
    return 0


def existing_frames(
    reader: FrameReader, videos: Mapping[str, list[FrameQuestions]], bad: BadFrames
) -> dict[str, list[FrameQuestions]]:
    """Selects the frames whose images exist, and records the others in ``bad``.

    Raises:
        InputError: more are missing than ``--on-bad-frame`` allows.
    """
    missing = check_missing_frames(reader.store, *videos.values(), allowed=bad.limit)
    names = {(b.video, b.frame) for b in missing}
    for frame in (f for frames in videos.values() for f in frames if (f.video, f.frame) not in names):
        try:
            reader.cache_key(frame.video, frame.frame)
        except FrameError as error:  # a broken link, or another frame of the clip is missing
            missing.append(BadFrame(frame.video, frame.frame, error.sentence))
    bad.add(missing)
    bad.check()
    names = {(b.video, b.frame) for b in missing}
    return {video: [f for f in frames if (video, f.frame) not in names] for video, frames in videos.items()}


def build_video_job(
    source: VideoTokenSource, tokens_per_frame: int, videos: Mapping[str, Sequence[FrameQuestions]]
) -> FeatureJob:
    """The video tokens of frames whose images exist."""
    items = {
        video: [CacheItem(frame, source.reader.cache_key(video, frame.frame)[2], tokens_per_frame) for frame in frames]
        for video, frames in videos.items()
    }
    return FeatureJob(source, items)


def build_text_job(source: TextStateSource, videos: Mapping[str, Sequence[FrameQuestions]]) -> FeatureJob:
    """The text states of the frames' questions.

    Raises:
        InputError: a prompt does not fit in ``--max-length``.
    """
    source.reader.prompt_tokenizer.check_fits(*videos.values())
    items: dict[str, list[CacheItem]] = {video: [] for video in videos}
    for video, frames in videos.items():
        for frame in frames:
            trees = source.reader.prompt_trees(frame)
            num_rows = sum(len(tree.prompt) + len(tree.tokens) for tree in trees)
            items[video].append(CacheItem(frame, source.reader.cache_key(frame, trees)[2], num_rows))
    return FeatureJob(source, items)


def training_frames(
    videos: Mapping[str, list[FrameQuestions]], config: CacheConfig, dataset: Dataset
) -> dict[str, list[FrameQuestions]]:
    """The frames of the training split among those of ``videos``.

    Raises:
        InputError: ``--splits`` does not name the training split.
    """
    if "train" not in (s.strip() for s in config.splits.split(",")):
        raise InputError(f"--cache-text is for training, but --splits {config.splits} leaves out train; add it.")
    train = dataset.splits.train
    return {video: frames for video, frames in videos.items() if video in train}


def read_frames(config: CacheConfig, dataset: Dataset) -> dict[str, list[FrameQuestions]]:
    """The frames with questions of this task's videos, by video.

    Raises:
        InputError: a split is unknown, data are missing, or the shard does not exist.
    """
    splits, names = dataset.splits, [s.strip() for s in config.splits.split(",") if s.strip()]
    if not names or set(names) - set(SPLIT_NAMES):
        raise InputError(f"--splits {config.splits!r} must be some of {', '.join(SPLIT_NAMES)}, separated by commas.")
    shard, num_shards = task_shard(config, os.environ)
    task_videos = [video for name in SPLIT_NAMES if name in names for video in splits.videos(name)][shard::num_shards]
    frames: Sequence[FrameQuestions] = []
    if task_videos:
        frames, report = dataset.questions(task_videos, strict=config.strict)
        warn_of_faults(config.splits, report)
    videos: dict[str, list[FrameQuestions]] = {}
    for frame in frames:
        videos.setdefault(frame.video, []).append(frame)
    log.info("Task %d of %d: %d videos, %d frames", shard + 1, num_shards, len(videos), len(frames))
    return videos


def task_shard(config: CacheConfig, environment: Mapping[str, str]) -> tuple[int, int]:
    """The index of this task and the number of tasks.

    They come from the flags, or else from the SLURM array and torchrun's processes in ``environment``.

    Raises:
        InputError: one flag is given without the other, or a number is out of range.
    """
    if (config.shard is None) != (config.num_shards is None):
        raise InputError("--shard and --num-shards belong together; give both or neither.")
    if config.shard is not None and config.num_shards is not None:
        shard, num_shards = config.shard, config.num_shards
    else:
        try:
            first_id = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = max(1, int(environment.get("SLURM_ARRAY_TASK_STEP", "1")))
            task = (int(environment.get("SLURM_ARRAY_TASK_ID", first_id)) - first_id) // step
            rank, world_size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
            shard = task * world_size + rank
            num_shards = int(environment.get("SLURM_ARRAY_TASK_COUNT", "1")) * world_size
        except ValueError as error:
            raise InputError(f"The environment's SLURM or torchrun variables are not numbers ({error}).") from None
    if not 0 <= shard < num_shards:
        raise InputError(f"Shard {shard} of {num_shards} does not exist; shards count from 0.")
    return shard, num_shards


def build_encoder_source(config: CacheConfig, files: PictureFiles | None = None) -> tuple[VideoTokenSource, int]:
    """Builds the video encoder that train or eval would build from the same flags, on the GPU if there is one.

    Returns:
        The source of its tokens, and the number of tokens per frame.

    Raises:
        InputError: the weights cannot be loaded.
    """
    if config.checkpoint is not None and config.pretrained_ckpt is not None:
        raise InputError(
            "--checkpoint and --pretrained-ckpt exclude each other; give the flag that eval or train is given."
        )
    assert config.image_root is not None
    settings = ModelConfig(**{name: getattr(config, name) for name in MODEL_FLAGS})
    checkpoint = config.checkpoint or config.pretrained_ckpt or (Path(PACKAGED) if config.preset == "tiny" else None)
    if checkpoint is None:
        source = _build_published_source(config, settings, files)
    else:
        bundle = load_checkpoint(checkpoint, settings)
        if config.checkpoint is None:  # train takes the weights of --pretrained-ckpt and the settings of the flags
            bundle = ModelBundle(bundle.model, bundle.tokenizer, settings)
        settings, frames = bundle.settings, bundle.frame_store(config.image_root, files)
        source = build_video_token_source(bundle, frames, config.cache, config.cache_dtype, must_write=True)
    _freeze_and_place(source.encoder)
    return source, token_count(source.video_config, settings.video_pool)


def _build_published_source(config: CacheConfig, settings: ModelConfig, files: PictureFiles | None) -> VideoTokenSource:
    """The source of the published video encoder's tokens; the other parts of the model are not loaded."""
    assert config.image_root is not None
    encoder = load_video_encoder(settings.video_model, clip_length(settings))
    encoder.set_attn_implementation("sdpa")  # as in the whole model
    video = encoder.config

    def encode(pixel_values: Tensor) -> Tensor:
        return pool_tokens(encoder(pixel_values=pixel_values).last_hidden_state, video, settings.video_pool)

    frames = build_frame_store(settings, config.image_root, video.num_frames, video.image_size, files)
    return build_encoder_token_source(
        encode, encoder, video, settings, frames, config.cache, config.cache_dtype, must_write=True
    )


def build_text_source(config: CacheConfig, dataset: Dataset) -> tuple[TextStateSource, int]:
    """Builds the encoders that train would build from the same flags, on the GPU if there is one.

    Returns:
        The source of their text states, and the number of video tokens per frame.

    Raises:
        InputError: ``build_for_training`` fails, or ``--checkpoint`` is given.
    """
    if config.checkpoint is not None:
        raise InputError("--cache-text is for training, which takes --pretrained-ckpt; give that, not --checkpoint.")
    assert config.image_root is not None
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(config, f.name)}
    bundle = build_for_training(TrainConfig(**shared), dataset.label_set)
    _freeze_and_place(bundle.model)
    frames, target = bundle.frame_store(config.image_root, dataset.picture_files), (config.cache, config.cache_dtype)
    video = build_video_token_source(bundle, frames, *target, must_write=True)
    text = build_text_state_source(bundle, video, bundle.prompt_tokenizer(), *target, must_write=True)
    return text, token_count(video.video_config, bundle.settings.video_pool)


def _freeze_and_place(module: torch.nn.Module) -> None:
    """Freezes a module, sets it to eval mode, and moves it to this process's GPU if there is one."""
    module.requires_grad_(False).eval()
    if torch.cuda.is_available():
        module.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
