"""The synthetic set on disk, in the layout of SSG-QA and CholecT45."""

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

from surgvivqa.config import check_ranges, flag
from surgvivqa.data.splits import load_splits
from surgvivqa.synthetic.domain import Domain, TargetDomain
from surgvivqa.synthetic.layouts import LAYOUTS, write_layout
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene, scene_graph
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

MANIFEST = "synthetic.json"
SynthLayout = Literal["ssg-qa", "surgcheck", "real-colon-vqa", "endovis18-vqa", "cholect50-generated", "csv"]
_FOLDERS = ("ssg-qa", "frames", "scene_graph", "masks", "questions", "splits")


@dataclass(kw_only=True)
class SynthConfig:
    """Writes a synthetic data set: frames and questions in the layout of SSG-QA or of another data set."""

    out: Path = flag("Folder for ssg-qa/, frames/, scene_graph/ and masks/; or for questions/, frames/ and splits/.")
    layout: SynthLayout = flag(
        "ssg-qa: SSG-QA's layout, with scene graphs. Another one: a small set in the layout of that data set, or with "
        "csv a table of one's own with its description.",
        "ssg-qa",
    )
    videos: int = flag(
        "Number of videos, of at most 45, divided among the three splits in SSG-VQA-Net's proportions.",
        45,
        least=3,
        most=45,
    )
    frames_per_video: int = flag(
        "Number of frames of each video, one per second; the scene changes every four seconds.", 24, least=1
    )
    seed: int = flag("Random seed.", 0, least=0)
    workers: int = flag("Number of processes; 0 starts one per core.", 0, least=0)
    masks: bool = flag(
        "Also write masks/, with the component at each pixel, at half the frame's size; in SSG-QA's layout only.", True
    )


def write_synthetic(config: SynthConfig, domain: type[Domain] = TargetDomain) -> dict[str, Any]:
    """Writes the set. The files depend on the seed alone, not on the number of workers.

    Args:
        config: the command's flags.
        domain: the appearance of the videos and the questions about them.

    Returns:
        Counts: ``videos``, ``frames``, ``lines``.

    Raises:
        InputError: a number is out of range, the folder holds other files, or it cannot be written.
    """
    check_ranges(config)
    out = config.out
    settings = {"seed": config.seed, "domain": domain.name}
    settings |= {k: getattr(config, k) for k in ("videos", "frames_per_video", "masks")}
    if config.layout != "ssg-qa":
        settings["layout"] = config.layout
    counts = _prepare_folder(out, settings)
    if counts is not None:
        print(f"{out}: this set exists already")
        return counts
    started = time.monotonic()
    if config.layout != "ssg-qa":
        counts = write_layout(
            out,
            config.layout,
            videos=config.videos,
            seconds=config.frames_per_video,
            seed=config.seed,
            workers=min(config.workers or os.cpu_count() or 1, config.videos),
            show_progress=os.isatty(2),
        )
        _finish(out, settings, counts, started)
        dataset = LAYOUTS[config.layout].dataset
        named = out / "questions" / dataset if dataset.endswith(".yaml") else dataset
        print(
            f"surgvivqa check --dataset {named} --question-root {out / 'questions'} --image-root {out / 'frames'} "
            f"--splits-dir {out / 'splits'} --preset tiny"
        )
        return counts
    videos = select_videos(config.videos)
    writer = _VideoWriter(config, domain(config.seed))
    workers = min(config.workers or os.cpu_count() or 1, len(videos))
    line_counts: Iterable[int]
    with contextlib.ExitStack() as stack:
        if workers == 1:
            line_counts = map(writer, videos)
        else:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            line_counts = pool.imap(writer, videos)
        progress = track(line_counts, "synth", len(videos), transient=True, disable=not os.isatty(2))
        num_lines = sum(progress)
    counts = {"videos": len(videos), "frames": len(videos) * config.frames_per_video, "lines": num_lines}
    _finish(out, settings, counts, started)
    return counts


def _finish(out: Path, settings: dict[str, Any], counts: dict[str, Any], started: float) -> None:
    """Marks a set complete, and prints its counts."""
    write_text(out / MANIFEST, json.dumps({**settings, "complete": True, **counts}) + "\n")
    seconds = time.monotonic() - started
    print(f"{out}: {counts['videos']} videos, {counts['frames']} frames, {counts['lines']} lines, {seconds:.0f} s")


def _prepare_folder(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Empties the folder and marks it incomplete; returns the counts if it holds a complete set of these settings."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = [p.name for p in out.iterdir()]
        manifest = out / MANIFEST
        if present and not manifest.is_file():
            raise InputError(f"--out {out} holds other files ({present[0]}, ...); give an empty or new folder.")
        saved = json.loads(manifest.read_text(encoding="utf-8")) if present else {}
        is_same = all(saved.get(k) == v for k, v in settings.items()) and saved.get("layout") == settings.get("layout")
        if saved.get("complete") and is_same:
            # Not written again, because caches depend on the files' modification times.
            return {k: saved[k] for k in ("videos", "frames", "lines")}
        write_text(manifest, json.dumps(settings | {"complete": False}))
        for folder in _FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}).") from None
    return None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a complete set."""
    manifest = folder / MANIFEST
    return manifest.is_file() and bool(json.loads(manifest.read_text(encoding="utf-8"))["complete"])


def select_videos(count: int) -> list[str]:
    """Names of ``count`` videos in the proportions of the three splits, with at least one of each."""
    splits = load_splits()
    held_out = max(1, round(count / 9))
    return [*splits.train[: count - 2 * held_out], *splits.val[:held_out], *splits.test[:held_out]]


@dataclass(frozen=True)
class _VideoWriter:
    """Writes one video's files; pickled to the worker processes."""

    config: SynthConfig
    domain: Domain

    def __call__(self, video: str) -> int:
        """Writes the files of a video (``VIDxx``); returns its number of question lines."""
        config, out = self.config, self.config.out
        for folder in ("ssg-qa", "frames", *(("masks",) if config.masks else ())):
            (out / folder / video).mkdir(parents=True, exist_ok=True)
        (out / "scene_graph").mkdir(exist_ok=True)
        return sum(self._write_second(video, second) for second in range(config.frames_per_video))

    def _write_second(self, video: str, second: int) -> int:
        config, domain, number = self.config, self.domain, int(video.removeprefix("VID"))
        appearance = domain.appearance(number, second)
        scene = generate_scene(config.seed, number, second, domain.shot_seconds, appearance.tool_scale)
        frame, mask, boxes = render(scene, appearance)
        graph = scene_graph(scene, boxes, f"{video}_{second}")
        rng = np.random.default_rng([config.seed, 30_000 + number, second])
        lines = domain.question_lines(graph, appearance, number, rng)
        frame.save(config.out / "frames" / video / f"{second:06d}.png", compress_level=1)
        if config.masks:
            mask.save(config.out / "masks" / video / f"{second:06d}.png", compress_level=1)
        (config.out / "scene_graph" / f"{video}_{second}.json").write_text(json.dumps(graph), encoding="utf-8")
        (config.out / "ssg-qa" / video / f"{second}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return len(lines)
