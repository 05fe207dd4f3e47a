"""Small trees of questions and frames in the right layout, for tests that break them."""

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

VIDEOS = {"train": ["VID04", "VID05"], "val": ["VID01"], "test": ["VID02"]}
NUMBERS = (0, 1, 2, 7)
SUMMARIES = "Which anatomical structures are present?|liver\nWhich tools are present?|hook\n"


def write_tree(root: Path) -> Path:
    """Writes ``ssg-qa``, ``frames``, ``scene_graph`` and ``splits``: four videos of the same four seconds."""
    for video in itertools.chain(*VIDEOS.values()):
        (root / "ssg-qa" / video).mkdir(parents=True)
        (root / "frames" / video).mkdir(parents=True)
        (root / "scene_graph").mkdir(exist_ok=True)
        for number in NUMBERS:
            write_questions(root / "ssg-qa" / video / f"{number}.txt")
            write_picture(root / "frames" / video / f"{number:06d}.png", seed=hash_of(video, number))
            (root / "scene_graph" / f"{video}_{number}.json").write_text('{"scenes": [{}]}')
    (root / "splits").mkdir()
    for split, videos in VIDEOS.items():
        (root / "splits" / f"{split}_videos.json").write_text(json.dumps(videos))
    return root


def write_questions(path: Path) -> None:
    """Writes a question file with two usable questions."""
    path.write_text(f"{SUMMARIES}What is the action being performed on liver?|dissect\nHow many tools are there?|1\n")


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (64, 80)) -> None:
    """Writes a picture of noise, which depends on the seed, in the format of the path's ending."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def hash_of(video: str, number: int) -> int:
    """A number that differs for each frame."""
    return int(video[3:]) * 1000 + number
