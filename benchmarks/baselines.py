"""The baselines without frames at SSG-QA's size: time, and what the limit of the question-only one costs.

    python -m benchmarks.baselines --out runs/bench-baselines [--train 723000] [--test 90000]

The questions are those of drawn scenes, without their pictures. They are written to ``--out`` once, about five minutes
on two cores for 813,000; a file of the same size is used again. Times are CPU seconds of one process.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from surgvivqa.data.labels import LABEL_INDEX, LABELS
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.data.vocabulary import HEIGHT, WIDTH
from surgvivqa.evaluation import baselines
from surgvivqa.evaluation.baseline_rows import build_baseline
from surgvivqa.evaluation.baselines import LabelledQuestions, predict_baselines, predict_from_text
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.synthetic.domain import count_answers
from surgvivqa.synthetic.questions import AnswerBalance, question_lines
from surgvivqa.synthetic.scene import generate_scene, scene_graph

SEED, FRAMES_PER_VIDEO, TEST_VIDEOS = 0, 460, 5
_balance: AnswerBalance | None = None


def write_questions(path: Path, wanted: int) -> None:
    """Writes at least ``wanted`` lines: video, frame and a line of a question file, separated by tabs."""
    temporary, count = path.with_suffix(".part"), 0
    with multiprocessing.Pool() as pool, temporary.open("w", encoding="utf-8") as file:
        for lines in pool.imap(_question_lines, range(10**6), chunksize=50):
            file.write("".join(f"{line}\n" for line in lines))
            count += len(lines)
            if count >= wanted:
                break
    temporary.rename(path)


def _question_lines(number: int) -> list[str]:
    """The usable question lines of a frame of a drawn scene; boxes are those of the objects, hidden parts included."""
    global _balance
    _balance = _balance or count_answers(SEED)
    video, second = divmod(number, FRAMES_PER_VIDEO)
    scene = generate_scene(SEED, video, second)
    boxes: list[tuple[int, int, int, int] | None] = [
        (
            max(0, int(item.x - item.rx)),
            max(0, int(item.y - item.ry)),
            min(WIDTH - 1, int(item.x + item.rx)),
            min(HEIGHT - 1, int(item.y + item.ry)),
        )
        for item in scene.objects
    ]
    rng = np.random.default_rng([SEED, 30_000 + video, second])
    lines = question_lines(scene_graph(scene, boxes, "graph"), _balance, rng)[2:]
    return [f"{video}\t{second}\t{line}" for line in lines if line.split("|")[1] in LABEL_INDEX]


def read_frames(path: Path) -> Iterator[FrameQuestions]:
    """The frames of a file of ``write_questions``."""
    questions: list[Question] = []
    with path.open(encoding="utf-8") as file:
        for row in file:
            video, second, line = row.rstrip("\n").split("\t")
            name, frame, fields = f"VID{int(video):03d}", int(second), line.split("|")
            if questions and (questions[0].video, questions[0].frame) != (name, frame):
                yield FrameQuestions(questions[0].video, questions[0].frame, tuple(questions))
                questions = []
            reasoning, kind = (fields[2].removesuffix(".json"), fields[3]) if len(fields) == 5 else (None, None)
            label = LABEL_INDEX[fields[1]]
            questions.append(Question(name, frame, fields[0], LABELS[label], label, reasoning, kind, len(questions)))
    if questions:
        yield FrameQuestions(questions[0].video, questions[0].frame, tuple(questions))


def measure(path: Path, num_train: int, num_test: int) -> dict[str, float]:
    """Fits all baselines on the first questions and builds their rows for the last ones."""
    train: list[FrameQuestions] = []
    test: list[Prediction] = []
    count = 0
    for frame in read_frames(path):
        if count < num_train:
            train.append(frame)
            count += len(frame.questions)
        elif len(test) < num_test:
            # Five test videos, whatever number of frames the questions need.
            video = f"VID{len(test) * TEST_VIDEOS // num_test:02d}"
            test += [Prediction(video, frame.frame, q.question, q.label, q.label, type=q.type) for q in frame.questions]
    started = time.process_time()
    questions = LabelledQuestions.of_frames(train)
    collected = time.process_time()
    found = predict_baselines(questions, test)
    fitted = time.process_time()
    for name, predictions in found.items():
        build_baseline(name, name, test, predictions)
    done = time.process_time()
    truth = np.array([p.answer for p in test])
    figures = {
        "training questions": float(len(questions.text)),
        "distinct ones": float(len(questions.texts)),
        "questions to answer": float(len(test)),
        "seconds, collect": collected - started,
        "seconds, fit and answer": fitted - collected,
        "seconds, rows": done - fitted,
        "seconds, all": done - started,
        "accuracy, question only": float(np.mean([p.correct for p in found["question_only"]])),
    }
    baselines.MAX_FITTED = len(questions.text)
    started = time.process_time()
    labels = predict_from_text(questions, [p.question for p in test])
    figures["seconds, question only on all questions"] = time.process_time() - started
    figures["accuracy, question only on all questions"] = float(np.mean(labels == truth))
    return figures


def main() -> None:
    """Makes the questions, measures, prints and writes ``baselines.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=723_000)
    parser.add_argument("--test", type=int, default=90_000)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    wanted = flags.train + flags.test + 200
    path = flags.out / f"questions-{wanted}.tsv"
    if not path.is_file():
        write_questions(path, wanted)
    figures = measure(path, flags.train, flags.test)
    for name, value in figures.items():
        print(f"{name:<42}{value:>12,.3f}" if value < 1000 else f"{name:<42}{value:>12,.0f}")
    (flags.out / "baselines.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
