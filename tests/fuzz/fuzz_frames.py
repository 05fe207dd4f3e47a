"""Fuzz test of reading frames: a damaged frame is read as the same image or raises a ``FrameError`` of one sentence.

    python -m tests.fuzz.fuzz_frames --files 20000 --seed 0 [--frames DIR]

Three in a hundred flipped bits of a PNG decode into another image without an error; the checksums of the file, which
``open_image`` verifies, reveal them. Damage: one bit, several bytes, truncation, a stretch of zeros (an interrupted
copy), two exchanged stretches. Without ``--frames``, three synthetic frames are used. Prints counts; exits with 1 if
another image was read.
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

KINDS = ("one bit", "bytes", "cut", "zeros", "exchanged")


def damage(raw: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """The bytes of a frame with one kind of damage."""
    damaged, size = bytearray(raw), len(raw)
    if kind == "one bit":
        damaged[int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        for place in rng.integers(0, size, int(rng.integers(1, 20))):
            damaged[place] = int(rng.integers(256))
    elif kind == "cut":
        del damaged[int(rng.integers(size)) :]
    else:
        length = int(rng.integers(1, size // 3))
        first = int(rng.integers(0, size - 2 * length))
        second = int(rng.integers(first + length, size - length + 1))
        if kind == "exchanged":
            damaged[first : first + length], damaged[second : second + length] = (
                damaged[second : second + length],
                damaged[first : first + length],
            )
        else:
            damaged[first : first + length] = bytes(length)
    return bytes(damaged)


def run(frames: list[Path], files: int, seed: int, show: bool = False) -> Counter[str]:
    """Reads ``files`` damaged copies of the frames; counts errors, same images and other images."""
    rng, counts = np.random.default_rng(seed), Counter[str]()
    whole = [(frame.read_bytes(), np.asarray(open_image(frame))) for frame in frames]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000001.png"
        for number in track(range(files), "frames", disable=not show):
            raw, picture = whole[number % len(whole)]
            path.write_bytes(damage(raw, KINDS[int(rng.integers(len(KINDS)))], rng))
            try:
                same = np.array_equal(np.asarray(open_image(path)), picture)
                counts["same image" if same else "other image"] += 1
            except FrameError as error:
                counts["error"] += 1
                if len(error.sentence.splitlines()) != 1:
                    raise
            # Decoding without verification, for comparison.
            try:
                with Image.open(path) as image:
                    counts["other image by Pillow alone"] += not np.array_equal(image.convert("RGB"), picture)
            except Exception:
                continue
    return counts


def main() -> int:
    """Runs the fuzz test; returns 1 if another image was read."""
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
    print(f"{given.files} damaged copies of {len(frames)} frames: {shown}; {seconds:.0f} s, seed {given.seed}")
    return 1 if counts["other image"] else 0


if __name__ == "__main__":
    sys.exit(main())
