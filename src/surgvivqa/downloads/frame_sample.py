"""Opens frames wherever they lie, with the checks of ``data.frame_checks``, over several threads."""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from surgvivqa.data.frame_checks import Inspection, inspect_frames
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.downloads.progress import CountProgress
from surgvivqa.utils.cores import usable_cores

_BLOCK = 32  # frames per task


@dataclass(frozen=True)
class FoundFrames(FrameStore):
    """Frames that may lie elsewhere than ``FrameStore`` looks for them.

    Attributes:
        paths: the path of each frame, by video and number.
    """

    paths: Mapping[tuple[str, int], Path] = field(default_factory=dict)

    def path(self, video: str, frame: int) -> Path:
        """The path of a frame."""
        return self.paths[video, frame]


def choose_sample(numbers: Mapping[str, Sequence[int]], size: int) -> dict[str, list[int]]:
    """Chooses about ``size`` frames, spread over the videos in proportion and evenly within each; 0 chooses all."""
    total = sum(map(len, numbers.values()))
    if not size or total <= size:
        return {video: list(of_video) for video, of_video in numbers.items()}
    sample = {}
    for video, of_video in numbers.items():
        wanted = max(1, round(size * len(of_video) / total)) if of_video else 0
        sample[video] = [of_video[i * len(of_video) // wanted] for i in range(wanted)]
    return sample


def open_frames(paths: Mapping[tuple[str, int], Path], sample: Mapping[str, Sequence[int]]) -> dict[str, Inspection]:
    """Opens the frames of a sample; returns what was found by video."""
    store = FoundFrames(Path(), paths=paths)
    blocks = [
        [FrameQuestions(video, number, ()) for number in numbers[start : start + _BLOCK]]
        for video, numbers in sample.items()
        for start in range(0, len(numbers), _BLOCK)
    ]
    results = {video: Inspection() for video in sample}
    pool = ThreadPoolExecutor(usable_cores())
    try:
        # ``open_image`` sets warning filters, which threads share; they are put back when all are done.
        with warnings.catch_warnings(), CountProgress("opening frames", sum(map(len, blocks))) as progress:
            for block, inspection in zip(blocks, pool.map(lambda b: inspect_frames(store, b), blocks), strict=True):
                results[block[0].video].add(inspection)
                progress.add(len(block))
    finally:
        pool.shutdown(cancel_futures=True)
    return results
