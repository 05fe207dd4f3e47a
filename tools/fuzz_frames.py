"""Spoils frames at random and reads them: each must be the picture it was, or a ``FrameError`` of one sentence.

Three in a hundred flipped bits of a PNG file decode into another picture without an error; the files' own checksums,
which ``open_image`` looks at, show them. What is spoilt: one bit, several bytes, the end cut off, a stretch of zeros
(a copy that broke off), two stretches exchanged.

    python tools/fuzz_frames.py --files 20000 --seed 0 [--frames DIR]

Without ``--frames`` it draws three synthetic frames. Prints a line of counts; exit code 1 if a picture was another one.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from surgvivqa.data.frames import open_image
from surgvivqa.synthetic.write import SynthConfig, write_synthetic
from surgvivqa.utils.errors import FrameError

WAYS = ("one bit", "bytes", "cut", "zeros", "exchanged")


def spoil(raw: bytes, way: str, rng: np.random.Generator) -> bytes:
    """A frame's file with one fault."""
    spoilt, size = bytearray(raw), len(raw)
    if way == "one bit":
        spoilt[int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    elif way == "bytes":
        for place in rng.integers(0, size, int(rng.integers(1, 20))):
            spoilt[place] = int(rng.integers(256))
    elif way == "cut":
        del spoilt[int(rng.integers(size)) :]
    else:
        length = int(rng.integers(1, size // 3))
        first = int(rng.integers(0, size - 2 * length))
        second = int(rng.integers(first + length, size - length + 1))
        if way == "exchanged":
            spoilt[first : first + length], spoilt[second : second + length] = (
                spoilt[second : second + length],
                spoilt[first : first + length],
            )
        else:
            spoilt[first : first + length] = bytes(length)
    return bytes(spoilt)


def run(frames: list[Path], files: int, seed: int, show: bool = False) -> Counter[str]:
    """Reads ``files`` spoilt copies of the frames; counts ``refused``, ``the same picture`` and ``another picture``."""
    rng, counts = np.random.default_rng(seed), Counter[str]()
    whole = [(frame.read_bytes(), np.asarray(open_image(frame))) for frame in frames]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000001.png"
        for number in track(range(files), "frames", disable=not show):
            raw, picture = whole[number % len(whole)]
            path.write_bytes(spoil(raw, WAYS[int(rng.integers(len(WAYS)))], rng))
            try:
                same = np.array_equal(np.asarray(open_image(path)), picture)
                counts["the same picture" if same else "another picture"] += 1
            except FrameError as error:
                counts["refused"] += 1
                if len(error.sentence.splitlines()) != 1:
                    raise
            # What plain decoding would have made of it.
            try:
                with Image.open(path) as image:
                    counts["another picture by Pillow alone"] += not np.array_equal(image.convert("RGB"), picture)
            except Exception:
                continue
    return counts


def main() -> int:
    """Runs the fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=Path, help="a folder of frames, <VIDxx>/<frame>.png")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = given.frames
        if root is None:
            write_synthetic(SynthConfig(out=Path(folder), videos=3, frames_per_video=1, workers=1))
            root = Path(folder) / "frames"
        frames = sorted(root.rglob("*.png"))[:20]
        counts = run(frames, given.files, given.seed, show=sys.stderr.isatty())
    seconds = time.monotonic() - started
    shown = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    print(f"{given.files} spoilt copies of {len(frames)} frames: {shown}; {seconds:.0f} s, seed {given.seed}")
    return 1 if counts["another picture"] else 0


if __name__ == "__main__":
    sys.exit(main())
