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

from surgvivqa.data.splits import load_splits
from surgvivqa.synthetic.domain import BURST, Domain, look_of
from surgvivqa.synthetic.questions import Balance, Scenery, candidates, question_lines
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import make_scene, scene_graph
from surgvivqa.synthetic.source_questions import SPEAKERS, Speaker, source_questions
from surgvivqa.utils.atomic_files import write_file, write_text
from surgvivqa.utils.errors import InputError

_SURVEY = 150  # scenes, of a video number no video has


@dataclass(kw_only=True)
class SynthConfig:
    """Makes a synthetic set: drawn scenes, their scene graphs, questions in SSG-QA's format, and masks."""

    out: Path
    """Folder to make: ssg-qa/, frames/, scene_graph/ and masks/."""
    videos: int = 45
    """How many of the 45 videos; fewer keep the proportions of the three splits, at least one of each."""
    frames_per_video: int = 24
    """Frames of each video, one a second; every four seconds (two in the source domain) the view changes."""
    seed: int = 0
    """Everything follows from it."""
    domain: Domain = "target"
    """target: SSG-QA's wordings and one look; source: what the packaged base has learned from, in other wordings and
    many looks, questions as question|answer."""
    workers: int = 0
    """Processes; 0 for one a core."""
    masks: bool = True
    """Also write masks/, the component at each pixel (half size): what build-base learns from."""


def write_synthetic(config: SynthConfig) -> dict[str, Any]:
    """Writes the set; the same files for the same seed, whatever the number of workers.

    Returns:
        Counts: videos, frames, lines.

    Raises:
        InputError: a number out of range, a folder that holds something else, or one that cannot be written.
    """
    if not 3 <= config.videos <= 45 or config.frames_per_video < 1:
        raise InputError("--videos must lie between 3 and 45, and --frames-per-video must be at least 1.")
    out = config.out
    made = {k: getattr(config, k) for k in ("seed", "domain", "videos", "frames_per_video", "masks")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = [p.name for p in out.iterdir()]
        mark = out / "synthetic.json"
        if there and not mark.is_file():
            raise InputError(f"--out {out} holds other files ({there[0]}, ...); give an empty or new folder.")
        before = json.loads(mark.read_text(encoding="utf-8")) if there else {}
        if before.get("complete") and all(before.get(k) == v for k, v in made.items()):
            print(f"{out}: this set is there already")  # its files keep their times, by which caches know them
            return {k: before[k] for k in ("videos", "frames", "lines")}
        write_text(mark, json.dumps(made | {"complete": False}))
        for folder in ("ssg-qa", "frames", "scene_graph", "masks"):  # nothing of another set stays
            shutil.rmtree(out / folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}).") from None
    started = time.monotonic()
    balance = survey(config.seed) if config.domain == "target" else None
    work = functools.partial(_write_video, config, balance)
    videos = chosen_videos(config.videos)
    workers = min(config.workers or os.cpu_count() or 1, len(videos))
    shown = functools.partial(track, description="synth", total=len(videos), transient=True, disable=not os.isatty(2))
    if workers == 1:
        counts = list(shown(map(work, videos)))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            counts = list(shown(pool.imap(work, videos)))
    summary = {"videos": len(videos), "frames": len(videos) * config.frames_per_video, "lines": sum(counts)}
    done = {**made, "complete": True, **summary}
    write_text(out / "synthetic.json", json.dumps(done) + "\n")
    print(f"{out}: {summary['videos']} videos, {summary['frames']} frames, {summary['lines']} lines, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return summary


def complete(folder: Path) -> bool:
    """Whether a folder holds a set that was written to its end."""
    mark = folder / "synthetic.json"
    return mark.is_file() and bool(json.loads(mark.read_text(encoding="utf-8"))["complete"])


def chosen_videos(count: int) -> list[str]:
    """``count`` names with the three splits in proportion, at least one of each."""
    splits = load_splits()
    each = max(1, round(count / 9))
    return [*splits.train[: count - 2 * each], *splits.val[:each], *splits.test[:each]]


def survey(seed: int) -> Balance:
    """How often answers come up in scenes of no video, for balancing."""
    balance = Balance()
    for number in range(_SURVEY):
        scene = make_scene(seed, 10_000, number * 4)
        _, _, boxes = render(scene)
        graph = scene_graph(scene, boxes, "survey")
        balance.survey(candidates(Scenery(graph), np.random.default_rng([seed, 20_000, number])))
    return balance


def _write_video(config: SynthConfig, balance: Balance | None, video: str) -> int:
    number, out, lines = int(video[3:]), config.out, 0
    for folder in ("ssg-qa", "frames", *(("masks",) if config.masks else ())):
        (out / folder / video).mkdir(parents=True, exist_ok=True)
    (out / "scene_graph").mkdir(exist_ok=True)
    for second in range(config.frames_per_video):
        look = look_of(config.domain, config.seed, number, second)
        scene = make_scene(config.seed, number, second, BURST[config.domain], look.tool_size)
        frame, mask, boxes = render(scene, look)
        graph = scene_graph(scene, boxes, f"{video}_{second}")
        rng = np.random.default_rng([config.seed, 30_000 + number, second])
        if balance is None:
            asked = source_questions(Scenery(graph, look.colors), Speaker(number % SPEAKERS), rng, 24)
            text = [f"{q.text}|{q.answer}" for q in asked]
        else:
            text = question_lines(graph, balance, rng)
        _image(out / "frames" / video / f"{second:06d}.png", frame)
        if config.masks:
            _image(out / "masks" / video / f"{second:06d}.png", mask)
        write_text(out / "scene_graph" / f"{video}_{second}.json", json.dumps(graph), durable=False)
        write_text(out / "ssg-qa" / video / f"{second}.txt", "\n".join(text) + "\n", durable=False)
        lines += len(text)
    return lines


def _image(path: Path, image: Any) -> None:
    write_file(path, lambda temporary: image.save(temporary, format="PNG", compress_level=1), durable=False)
