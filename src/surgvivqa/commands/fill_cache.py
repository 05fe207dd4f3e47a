"""Fills the feature cache, one video at a time, for ``surgvivqa cache``."""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.cache import FeatureCache
from surgvivqa.features.cache_file import DTYPES
from surgvivqa.features.frame_reader import FrameInputs
from surgvivqa.features.source import FeatureReader, read_good_frames
from surgvivqa.features.text_reader import TextInputs
from surgvivqa.features.text_states import TextStateSource
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.training.progress_bar import Pace, ProgressBar
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.loader_workers import ignore_signals, limit_workers, start_workers
from surgvivqa.utils.signals import StopSignals

log = logging.getLogger("surgvivqa")


class CacheItem(NamedTuple):
    """The features of one frame in the cache.

    Attributes:
        frame: the frame with its questions.
        tag: the tag under which the features are cached.
        num_rows: number of feature rows.
    """

    frame: FrameQuestions
    tag: int
    num_rows: int


@dataclass(frozen=True)
class FeatureJob:
    """One kind of feature to cache.

    Attributes:
        source: computes the features and writes them to its cache.
        items: the items that the cache must hold, by video.
    """

    source: VideoTokenSource | TextStateSource
    items: Mapping[str, Sequence[CacheItem]]

    @property
    def store(self) -> FeatureCache:
        """The cache that the features are written to."""
        assert self.source.cache is not None
        return self.source.cache

    def missing(self) -> dict[str, list[CacheItem]]:
        """The items that are not cached yet, by video."""
        return {
            video: [item for item in items if not self.store.has(video, item.frame.frame, item.tag)]
            for video, items in self.items.items()
        }


class _FrameInputs(Dataset[Any]):
    """What the source needs to compute each item: the inputs of its frame, or why the frame cannot be used."""

    def __init__(self, items: Sequence[CacheItem], reader: FeatureReader[Any]) -> None:
        self.items, self.reader = items, reader

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[FrameInputs | TextInputs | None, tuple[BadFrame, ...]]:
        inputs, _, bad_frames = read_good_frames(self.reader, [(self.items[index].frame, ())])
        return inputs, bad_frames


def fill(job: FeatureJob, workers: int | None, bad: BadFrames) -> bool:
    """Computes and caches the missing features, and leaves one file per video.

    Returns:
        False if a signal stopped it.

    Raises:
        InputError: the folder cannot be written, a file in it is damaged, or there are more bad frames than ``bad``
            allows; what was cached until then is kept.
        RunError: an encoder returns a value that is not finite.
    """
    started, num_bytes, missing = time.monotonic(), 0, job.missing()
    done, total = 0, sum(map(len, missing.values()))
    pace = Pace(total, "frames")
    with StopSignals() as stop, ProgressBar(total, True, "cache") as bar:
        for video, items in missing.items():
            video_started = time.monotonic()
            for inputs, bad_frames in _load_inputs(job, items, workers):
                bad.add(bad_frames)
                if bad.too_many:
                    job.source.flush()
                    bad.check("run the same command again; it continues where it stopped")
                if inputs is not None:
                    job.source(inputs)
                done += 1
                pace.add(done, 1)
                bar.show(done, pace.describe())
                if stop.caught:
                    job.source.flush()
                    log.warning("Stopped by %s; what is encoded is kept; the same command continues.", stop.caught)
                    return False
            size = job.store.merge(video, {item.frame.frame: item.tag for item in job.items[video]})
            num_bytes += size
            log.info(
                "%s: %d frames, %d of them encoded, %.1f MB, %.1f s",
                *(video, len(job.items[video]), len(items), size / 1e6, time.monotonic() - video_started),
            )
    log.info(
        "Done: %d frames encoded in %.0f s; %d bytes in %s",
        *(job.source.misses, time.monotonic() - started, num_bytes, job.store.folder),
    )
    return True


def _load_inputs(job: FeatureJob, items: Sequence[CacheItem], workers: int | None) -> Iterable[Any]:
    """One item at a time, so that a worker decodes a frame while the one before it is encoded."""
    loader: DataLoader[Any] = DataLoader(
        _FrameInputs(items, job.source.reader),
        batch_size=None,
        num_workers=limit_workers(workers) if len(items) > 1 else 0,
        worker_init_fn=ignore_signals,
    )
    return start_workers(loader)


def report_size(job: FeatureJob) -> int:
    """Logs the size of a job's features, and returns the disk space in bytes that is still needed."""
    store, missing = job.store, job.missing()
    row_bytes = store.width * torch.empty(0, dtype=DTYPES[store.dtype]).element_size()
    row_counts = [item.num_rows for items in job.items.values() for item in items]
    missing_bytes = {video: row_bytes * sum(item.num_rows for item in items) for video, items in missing.items()}
    equal = len(set(row_counts)) == 1
    tokens = f"x {row_counts[0]} tokens" if equal else f"of {sum(row_counts)} tokens in all"
    log.info(
        "%s: %d frames %s x %d x %s = %.3f GB; %d frames (%.3f GB) are not cached yet",
        *(store.folder, len(row_counts), tokens, store.width, store.dtype, row_bytes * sum(row_counts) / 1e9),
        *(sum(map(len, missing.values())), sum(missing_bytes.values()) / 1e9),
    )
    # While the parts of a video are merged, both the parts and the merged file take space.
    merged = (row_bytes * sum(i.num_rows for i in job.items[video]) for video, size in missing_bytes.items() if size)
    return sum(missing_bytes.values()) + max(merged, default=0)


def check_disk_space(folder: Path, num_bytes: int) -> None:
    """Raises InputError if the disk of the cache folder has less free space than ``num_bytes``."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"--cache {folder} has {free / 1e9:.1f} GB free and {num_bytes / 1e9:.1f} GB are needed; use a larger "
            f"disk, fewer --splits, --video-pool temporal, or --cache-dtype fp16."
        )


def verify(store: FeatureCache) -> None:
    """Reads every item back and verifies its checksum.

    Raises:
        InputError: a checksum is wrong; the message names the file.
    """
    started, num_items, num_bytes = time.monotonic(), 0, 0
    for path, count, size in store.verify():
        num_items, num_bytes = num_items + count, num_bytes + size
        log.info("%s: %d items, %.1f MB, checksums correct", path.name, count, size / 1e6)
    log.info("Verified: %d items, %d bytes in %.0f s", num_items, num_bytes, time.monotonic() - started)
