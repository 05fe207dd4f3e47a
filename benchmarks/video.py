"""Questions about every second of a video: ``SurgViVQA.answer`` beside the plain way, in one run.

    python -m benchmarks.video --out runs/bench-video [--repeats 3]

The plain way opens the file for each moment and each question, seeks, and encodes the frame for that question alone.
The video is drawn: 60 s, 25 frames per second, 854 x 480, H.264 with x264's defaults. The model is the packaged base.
Times are CPU seconds of the process with all its threads.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from surgvivqa.auto import Answer, SurgViVQA
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene
from surgvivqa.video.pyav import load_av
from surgvivqa.video.video_file import VideoFile

SECONDS, RATE, SIZE = 60, 25, (854, 480)


def draw_video(path: Path, seconds: int = SECONDS, size: tuple[int, int] = SIZE) -> None:
    """Writes the video; each drawn second is shown with a slow pan, so that its frames differ."""
    av = load_av()
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for second in range(seconds):
            picture = render(generate_scene(0, 1, second))[0].resize((size[0] + RATE, size[1] + RATE))
            for step in range(RATE):
                shown = picture.crop((step, step, size[0] + step, size[1] + step))
                file.mux(stream.encode(av.VideoFrame.from_image(shown)))
        file.mux(stream.encode())


def answer_plainly(model: SurgViVQA, path: Path, questions: list[str], seconds: int) -> list[Answer]:
    """The plain way: a file, a seek and an encoding for each question about each second."""
    asked = [(second, question) for second in range(seconds) for question in questions]
    return [model.answer(read_plainly(path, second), question)[0] for second, question in asked]


def read_plainly(path: Path, second: int) -> Image.Image:
    """The frame of one second by a seek in a newly opened file, as a short program with PyAV does it."""
    with load_av().open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        file.seek(int(second / stream.time_base), stream=stream)
        picture: Image.Image = next(f for f in file.decode(stream) if f.time >= second).to_image()
        return picture


def read_in_one_pass(path: Path, seconds: int) -> None:
    """The frames of all seconds, as ``SurgViVQA.answer`` reads them."""
    with VideoFile(path) as video:
        for second in range(seconds):
            video.clip(float(second))


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process in a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(path: Path, seconds: int, repeats: int) -> dict[str, dict[str, float]]:
    """CPU seconds of both ways and their ratio, medians of repeats in turns, by row."""
    model = SurgViVQA.from_pretrained("tiny", "cpu")
    questions = [question for kind in model.suggest_questions().values() for question in kind][:8]
    rows: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "reading the frames alone": (
            lambda: [read_plainly(path, second) for second in range(seconds)],
            lambda: read_in_one_pass(path, seconds),
        )
    }
    for count in (1, 8):
        asked = questions[:count]
        rows[f"{count} question{'s' if count > 1 else ''} about each second"] = (
            partial(answer_plainly, model, path, asked, seconds),
            partial(model.answer, path, asked, every=1),
        )
    figures = {}
    for name, (plain, ours) in rows.items():
        ours()  # warm up
        times = [(cpu_seconds(plain), cpu_seconds(ours)) for _ in range(repeats)]
        figures[name] = {
            "plain": statistics.median(p for p, _ in times),
            "surgvivqa": statistics.median(o for _, o in times),
            "ratio": statistics.median(p / o for p, o in times),
        }
    return figures


def main() -> None:
    """Draws the video, measures, prints a table and writes ``video.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / "video.mp4"
    if not path.is_file():
        draw_video(path)
    figures = measure(path, SECONDS, flags.repeats)
    print("| work | plain, s | surgvivqa, s | ratio |\n| --- | --- | --- | --- |")
    for name, row in figures.items():
        print(f"| {name} | {row['plain']:.2f} | {row['surgvivqa']:.2f} | {row['ratio']:.1f} |")
    (flags.out / "video.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
