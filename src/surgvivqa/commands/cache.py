"""Filling the cache: which frames are asked about, which are there, the others encoded; a video at a time."""

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
from surgvivqa.data.ssgqa import FrameQuestions
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
from surgvivqa.utils.loader_workers import explain_lost_workers, ignore_signals, start_workers
from surgvivqa.utils.signals import EXIT_STOPPED, StopSignals

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class CacheConfig(DataConfig, ModelConfig):
    """Fills a cache of video tokens for train and eval. Run again after a stop, it continues."""

    cache: Path = flag("Folder of the cache; features of other weights or settings stay in a subfolder of their own.")
    checkpoint: Path | None = flag(
        "Fill it for eval --checkpoint: weights and settings of this run folder, best/ or .pth.", None
    )
    pretrained_ckpt: Path | None = flag(
        "Fill it for train --pretrained-ckpt: weights of this checkpoint, settings of the flags.", None
    )
    splits: str = flag("Which videos: splits separated by commas.", "train,val,test")
    cache_dtype: CacheDtype = flag("How tokens are rounded; fp16 and bf16 take half the space of fp32.", "fp16")
    cache_text: bool = flag(
        "Also the text states of the training split's questions, for train --cache-text with the same flags.", False
    )
    shard: int | None = flag(
        "Number of this task, from 0, where several tasks share the videos. Default: the SLURM array task and "
        "torchrun's rank.",
        None,
    )
    num_shards: int | None = flag(
        "How many tasks share the videos. Default: the SLURM array tasks and torchrun's world size.", None
    )
    verify: bool = flag("Read everything back at the end and compare the checksums.", False)


@dataclass(frozen=True)
class Part:
    """One kind of feature to be filled: what makes it, and the frames that want it, by video.

    ``items`` has the tag and the number of rows of each frame's item, by video and frame.
    """

    maker: VideoTokenSource | TextStateSource
    frames: Mapping[str, Sequence[FrameQuestions]]
    items: Mapping[str, Mapping[int, tuple[int, int]]]

    @property
    def store(self) -> FeatureCache:
        """Where they are kept."""
        assert self.maker.cache is not None
        return self.maker.cache

    def missing(self) -> dict[str, list[FrameQuestions]]:
        """The frames whose item is not there, by video."""
        return {
            video: [f for f in frames if not self.store.has(video, f.frame, self.items[video][f.frame][0])]
            for video, frames in self.frames.items()
        }


class _Missing(Dataset[Any]):
    def __init__(self, frames: Sequence[FrameQuestions], reader: FeatureReader[Any]) -> None:
        self.frames, self.reader = frames, reader

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[FrameInputs | TextInputs | None, tuple[BadFrame, ...]]:
        inputs, _, bad = read_good_frames(self.reader, [(self.frames[index], ())])
        return inputs, bad


@explain_lost_workers("run the same command again; it continues where it stopped")
def cache(config: CacheConfig) -> int:
    """Puts the video tokens of every frame with a question into the cache, and leaves one file a video.

    With ``--cache-text`` then also the text states of the training split's questions. Several tasks share the videos
    round robin (``--shard``, ``--num-shards``). Stopped in any way, it has lost at most the last 64 frames of a task;
    run again, it makes what is not there.

    Returns:
        0 when done, 75 when a signal stopped it.

    Raises:
        InputError: data, weights, flags or folders that cannot be used, or a disk too small; a damaged cache file.
        RunError: an encoder gives a value that is not finite.
    """
    check_ranges(config)
    videos = asked_frames(config)
    bad = BadFrames(config.on_bad_frame, config.max_bad_frames, sum(map(len, videos.values())))
    if config.cache_text:
        text, pool = training_text(config)
        videos = there(text.video.reader, videos, bad)
        parts = [video_part(text.video, pool, videos), text_part(text, of_training(videos, config))]
    else:
        tokens, pool = encoder_tokens(config)
        videos = there(tokens.reader, videos, bad)
        parts = [video_part(tokens, pool, videos)]
    missing = [part.missing() for part in parts]
    refuse_small_disk(config, sum(announce(p.store, p.items, m) for p, m in zip(parts, missing, strict=True)))
    for part, absent in zip(parts, missing, strict=True):
        if not fill(part, absent, config.workers, bad):
            return EXIT_STOPPED
    for part in parts if config.verify else ():
        verify(part.store)
    if len(bad):
        log.warning("%d frames cannot be used and are not in the cache.", len(bad))
    return 0


def there(
    reader: FrameReader, videos: Mapping[str, list[FrameQuestions]], bad: BadFrames
) -> dict[str, list[FrameQuestions]]:
    """The frames whose images are there; the others are put to the account.

    Raises:
        InputError: more are missing than ``--on-bad-frame`` allows.
    """
    absent = check_missing_frames(reader.store, *videos.values(), allowed=bad.limit)
    names = {(b.video, b.frame) for b in absent}
    for frame in (f for frames in videos.values() for f in frames if (f.video, f.frame) not in names):
        try:
            reader.key(frame.video, frame.frame)
        except FrameError as error:  # a link to nowhere is in the listing; or an image of its clip is
            absent.append(BadFrame(frame.video, frame.frame, error.sentence))
    bad.add(absent)
    bad.check()
    names = {(b.video, b.frame) for b in absent}
    return {video: [f for f in frames if (video, f.frame) not in names] for video, frames in videos.items()}


def fill(part: Part, missing: Mapping[str, Sequence[FrameQuestions]], workers: int, bad: BadFrames) -> bool:
    """Makes what is missing, a video at a time, and leaves one file a video; False where a signal stopped it.

    Raises:
        InputError: the folder cannot be written, a file in it is damaged, or more frames cannot be used than ``bad``
            allows; what was made until then is kept.
        RunError: an encoder gives a value that is not finite.
    """
    started, store = time.monotonic(), part.store
    stop, written = StopSignals(), 0
    with stop, progress_bar(sum(map(len, missing.values())), True, "cache") as advance:
        for video, frames in missing.items():
            began = time.monotonic()
            # One frame an item: its decoding, in a worker, overlaps the encoding of the one before.
            loader: DataLoader[Any] = DataLoader(
                _Missing(frames, part.maker.reader),
                batch_size=None,
                num_workers=workers if len(frames) > 1 else 0,
                worker_init_fn=ignore_signals,
            )
            for inputs, faults in start_workers(loader):
                bad.add(faults)
                if bad.too_many:
                    part.maker.flush()
                    bad.check("run the same command again; it continues where it stopped")
                if inputs is not None:
                    part.maker(inputs)
                advance(1)
                if stop.caught:
                    part.maker.flush()
                    log.warning("Stopped by %s; what is encoded is kept: run the same again to go on.", stop.caught)
                    return False
            size = store.merge(video, {frame: tag for frame, (tag, _) in part.items[video].items()})
            written += size
            log.info(
                "%s: %d frames, %d of them encoded, %.1f MB, %.1f s",
                *(video, len(part.frames[video]), len(frames), size / 1e6, time.monotonic() - began),
            )
    seconds = time.monotonic() - started
    log.info("Done: %d frames encoded in %.0f s; %d bytes in %s", part.maker.misses, seconds, written, store.folder)
    return True


def video_part(tokens: VideoTokenSource, pool: str, videos: Mapping[str, Sequence[FrameQuestions]]) -> Part:
    """The video tokens of frames, whose images are there."""
    count = token_count(tokens.video_config, pool)
    items = {
        video: {f.frame: (tokens.reader.key(f.video, f.frame)[2], count) for f in frames}
        for video, frames in videos.items()
    }
    return Part(tokens, videos, items)


def text_part(text: TextStateSource, videos: Mapping[str, Sequence[FrameQuestions]]) -> Part:
    """The text states of frames with their questions.

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
    return Part(text, videos, items)


def of_training(videos: Mapping[str, list[FrameQuestions]], config: CacheConfig) -> dict[str, list[FrameQuestions]]:
    """Those of some videos that are in the training split.

    Raises:
        InputError: the training split is none of ``--splits``.
    """
    if "train" not in (s.strip() for s in config.splits.split(",")):
        raise InputError(f"--cache-text is for training, but --splits {config.splits} leaves out train; add it.")
    train = load_splits(config.splits_dir).train
    return {video: frames for video, frames in videos.items() if video in train}


def asked_frames(config: CacheConfig) -> dict[str, list[FrameQuestions]]:
    """This task's videos, each with its frames that have a question; the images are known to exist.

    Raises:
        InputError: an unknown split, missing data, or a shard that does not exist.
    """
    questions_root, _ = data_roots(config)
    splits, names = load_splits(config.splits_dir), [s.strip() for s in config.splits.split(",") if s.strip()]
    if not names or set(names) - set(SPLIT_NAMES):
        raise InputError(f"--splits {config.splits!r} must be some of {', '.join(SPLIT_NAMES)}, with commas between.")
    shard, shards = share(config, os.environ)
    mine = [video for name in SPLIT_NAMES if name in names for video in splits.videos(name)][shard::shards]
    frames = open_questions(questions_root, mine, strict=config.strict)[0] if mine else []
    videos: dict[str, list[FrameQuestions]] = {}
    for frame in frames:
        videos.setdefault(frame.video, []).append(frame)
    log.info("Task %d of %d: %d videos, %d frames", shard + 1, shards, len(videos), len(frames))
    return videos


def share(config: CacheConfig, environment: Mapping[str, str]) -> tuple[int, int]:
    """This task's number and how many there are: the flags', or SLURM's array times torchrun's processes.

    Raises:
        InputError: one of the flags without the other, or a number that is out of range.
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
            raise InputError(f"The environment's SLURM or torchrun variables are no numbers ({error}).") from None
    if not 0 <= shard < shards:
        raise InputError(f"Shard {shard} of {shards} does not exist; shards count from 0.")
    return shard, shards


def encoder_tokens(config: CacheConfig) -> tuple[VideoTokenSource, str]:
    """The video encoder that train or eval would build from the same flags, on the GPU if there is one.

    Returns:
        Its token source, and how the tokens are pooled.

    Raises:
        InputError: the weights cannot be had, or the video encoder would not be a frozen one.
    """
    settings = ModelConfig(**{name: getattr(config, name) for name in vars(ModelConfig())})
    assert config.image_root is not None
    if config.checkpoint is not None and config.pretrained_ckpt is not None:
        raise InputError(
            "--checkpoint and --pretrained-ckpt exclude each other; give the one that eval or train is given."
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
        encoder.set_attn_implementation("sdpa")  # as the whole model has it
        video = encoder.config

        def encode(pixel_values: Tensor) -> Tensor:
            return pool_tokens(encoder(pixel_values=pixel_values).last_hidden_state, video, settings.video_pool)

    frames = build_frame_store(settings, config.image_root, video.num_frames, video.image_size)
    encoder.requires_grad_(False).eval()
    if torch.cuda.is_available():
        encoder.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    tokens = build_encoder_token_source(
        encode, encoder, video, settings, frames, config.cache, config.cache_dtype, must_write=True
    )
    return tokens, settings.video_pool


def training_text(config: CacheConfig) -> tuple[TextStateSource, str]:
    """The text states of the model that train would build from the same flags, on the GPU if there is one.

    Returns:
        Their source, and how the video tokens are pooled.

    Raises:
        InputError: as ``build_for_training``; or ``--checkpoint`` is given.
    """
    if config.checkpoint is not None:
        raise InputError("--cache-text is for training, which takes --pretrained-ckpt; give that, not --checkpoint.")
    assert config.image_root is not None
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(config, f.name)}
    bundle = build_for_training(TrainConfig(**shared))
    bundle.model.requires_grad_(False).eval()
    if torch.cuda.is_available():
        bundle.model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    store, where = bundle.frame_store(config.image_root), (config.cache, config.cache_dtype)
    tokens = build_video_token_source(bundle, store, *where, must_write=True)
    return build_text_state_source(
        bundle, tokens, bundle.prompt_tokenizer(), *where, must_write=True
    ), bundle.settings.video_pool


def announce(
    store: FeatureCache,
    items: Mapping[str, Mapping[int, tuple[int, int]]],
    missing: Mapping[str, Sequence[FrameQuestions]],
) -> int:
    """Says what one kind of feature will take in the cache, and returns the bytes of disk that are still needed.

    Args:
        store: where it is kept.
        items: tag and number of rows of each frame's item, by video and frame.
        missing: the frames that are not there, by video.
    """
    row = store.width * torch.empty(0, dtype=DTYPES[store.dtype]).element_size()
    counts = [rows for of_video in items.values() for _, rows in of_video.values()]
    total = row * sum(counts)
    absent = {video: row * sum(items[video][f.frame][1] for f in frames) for video, frames in missing.items()}
    each = f"x {counts[0]} tokens" if len(set(counts)) == 1 else f"of {sum(counts)} tokens in all"
    log.info(
        "%s: %d frames %s x %d x %s = %.3f GB; %d frames (%.3f GB) are not there yet",
        *(store.folder, len(counts), each, store.width, store.dtype, total / 1e9),
        *(sum(map(len, missing.values())), sum(absent.values()) / 1e9),
    )
    # While a video's parts are being merged they and the merged file are there together.
    sizes = (row * sum(rows for _, rows in items[video].values()) for video, size in absent.items() if size)
    return sum(absent.values()) + max(sizes, default=0)


def refuse_small_disk(config: CacheConfig, need: int) -> None:
    """Raises InputError where the disk has less free space than ``need`` bytes."""
    free = shutil.disk_usage(config.cache).free
    if need and free < need:
        raise InputError(
            f"--cache {config.cache} has {free / 1e9:.1f} GB free and {need / 1e9:.1f} GB are needed; give a larger "
            f"disk, fewer --splits, --video-pool temporal, or --cache-dtype fp16."
        )


def verify(store: FeatureCache) -> None:
    """Reads every item back.

    Raises:
        InputError: a checksum is wrong; the message names the file.
    """
    started, items, total = time.monotonic(), 0, 0
    for path, count, size in store.verify():
        items, total = items + count, total + size
        log.info("%s: %d items, %.1f MB, checksums right", path.name, count, size / 1e6)
    log.info("Verified: %d items, %d bytes in %.0f s", items, total, time.monotonic() - started)
