"""The synthetic set on disk, in the layout of SSG-QA and CholecT45."""

import functools
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from surgvivqa.config import check_ranges, flag
from surgvivqa.data.splits import load_splits
from surgvivqa.synthetic.domain import Domain, TargetDomain
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene, scene_graph
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

MANIFEST = "synthetic.json"
_FOLDERS = ("ssg-qa", "frames", "scene_graph", "masks")


@dataclass(kw_only=True)
class SynthConfig:
    """Write a synthetic data set: drawn frames, scene graphs, questions in SSG-QA's format, and masks."""

    out: Path = flag("Folder to write to: ssg-qa/, frames/, scene_graph/ and masks/.")
    videos: int = flag(
        "Number of videos, of 45; fewer keep the proportions of the three splits, at least one video each.",
        45,
        least=3,
        most=45,
    )
    frames_per_video: int = flag(
        "Frames of each video, one per second; the scene changes every four seconds.", 24, least=1
    )
    seed: int = flag("Random seed of the set.", 0, least=0)
    workers: int = flag("Processes; 0 means one per core.", 0, least=0)
    masks: bool = flag("Also write masks/: the component at each pixel, at half size.", True)


def write_synthetic(config: SynthConfig, domain: type[Domain] = TargetDomain) -> dict[str, Any]:
    """Writes the set. The files depend on the seed alone, not on the number of workers.

    Args:
        config: the command's flags.
        domain: how the videos look and what is asked about them.

    Returns:
        Counts: ``videos``, ``frames``, ``lines``.

    Raises:
        InputError: a number is out of range, the folder holds other files, or it cannot be written.
    """
    check_ranges(config)
    out = config.out
    settings = {"seed": config.seed, "domain": domain.name}
    settings |= {k: getattr(config, k) for k in ("videos", "frames_per_video", "masks")}
    counts = _prepare_folder(out, settings)
    if counts is not None:
        print(f"{out}: this set exists already")
        return counts
    started = time.monotonic()
    videos = select_videos(config.videos)
    write_video = functools.partial(_write_video, config, domain(config.seed))
    workers = min(config.workers or os.cpu_count() or 1, len(videos))
    shown = functools.partial(track, description="synth", total=len(videos), transient=True, disable=not os.isatty(2))
    if workers == 1:
        lines = list(shown(map(write_video, videos)))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            lines = list(shown(pool.imap(write_video, videos)))
    counts = {"videos": len(videos), "frames": len(videos) * config.frames_per_video, "lines": sum(lines)}
    write_text(out / MANIFEST, json.dumps({**settings, "complete": True, **counts}) + "\n")
    print(f"{out}: {counts['videos']} videos, {counts['frames']} frames, {counts['lines']} lines, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return counts


def _prepare_folder(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Empties the folder and marks it incomplete; returns the counts if it holds a complete set of these settings."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = [p.name for p in out.iterdir()]
        manifest = out / MANIFEST
        if present and not manifest.is_file():
            raise InputError(f"--out {out} holds other files ({present[0]}, ...); give an empty or new folder.")
        found = json.loads(manifest.read_text(encoding="utf-8")) if present else {}
        if found.get("complete") and all(found.get(k) == v for k, v in settings.items()):
            return {k: found[k] for k in ("videos", "frames", "lines")}  # files keep their times: caches depend on them
        write_text(manifest, json.dumps(settings | {"complete": False}))
        for folder in _FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}).") from None
    return None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a set that was written to its end."""
    manifest = folder / MANIFEST
    return manifest.is_file() and bool(json.loads(manifest.read_text(encoding="utf-8"))["complete"])


def select_videos(count: int) -> list[str]:
    """Names of ``count`` videos with the three splits in proportion, at least one of each."""
    splits = load_splits()
    each = max(1, round(count / 9))
    return [*splits.train[: count - 2 * each], *splits.val[:each], *splits.test[:each]]


def _write_video(config: SynthConfig, domain: Domain, video: str) -> int:
    """Writes one video's files; returns its number of question lines."""
    number, out, count = int(video[3:]), config.out, 0
    for folder in ("ssg-qa", "frames", *(("masks",) if config.masks else ())):
        (out / folder / video).mkdir(parents=True, exist_ok=True)
    (out / "scene_graph").mkdir(exist_ok=True)
    for second in range(config.frames_per_video):
        appearance = domain.appearance(number, second)
        scene = generate_scene(config.seed, number, second, domain.shot_seconds, appearance.tool_scale)
        frame, mask, boxes = render(scene, appearance)
        graph = scene_graph(scene, boxes, f"{video}_{second}")
        rng = np.random.default_rng([config.seed, 30_000 + number, second])
        lines = domain.question_lines(graph, appearance, number, rng)
        frame.save(out / "frames" / video / f"{second:06d}.png", compress_level=1)
        if config.masks:
            mask.save(out / "masks" / video / f"{second:06d}.png", compress_level=1)
        (out / "scene_graph" / f"{video}_{second}.json").write_text(json.dumps(graph), encoding="utf-8")
        (out / "ssg-qa" / video / f"{second}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        count += len(lines)
    return count
