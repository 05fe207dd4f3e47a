"""Synthetic scenes as small data sets in the layouts of other data sets than SSG-QA.

Their questions and pictures are synthetic; names of files and fields are those of the data sets. A folder holds
``questions/``, ``frames/`` and ``splits/``.
"""

import contextlib
import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from rich.progress import track

from surgvivqa.data.splits import SPLIT_NAMES
from surgvivqa.data.vocabulary import ANATOMIES, COLORS, HEIGHT, INSTRUMENTS, WIDTH
from surgvivqa.synthetic.domain import TargetDomain
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import VERBS, GraphObject, generate_scene, scene_graph
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

CLIP = 8
"""Frames of a clip of REAL-Colon-VQA."""

_INSTRUCTION = (
    "<image>\nYou are an assistant with surgical expertise. Given a surgical scene, answer the question in 1-5 words. "
)
_STATES = {
    "grasp": "Grasping",
    "retract": "Retraction",
    "dissect": "Tissue_Manipulation",
    "coagulate": "Cauterization",
    "cut": "Cutting",
    "clip": "Clipping",
    "irrigate": "Idle",
    "aspirate": "Suction",
    "pack": "Tool_Manipulation",
}
_NUMBERS = ("zero", "one", "two", "three", "four")
_CSV_YAML = """\
name: my-set
title: My own questions
reader: table
files: questions.csv
# The columns of questions.csv are named like those of the table: video, frames, question, answer, type, split.
pictures: "{frame}"         # the column frames holds paths below --image-root
labels: from-train          # the different answers of the training questions
licence: mine
source: surgvivqa synth --layout csv
"""


@dataclass(frozen=True)
class Second:
    """One second of a synthetic video.

    Attributes:
        video: name of the video in the layout.
        split: its split.
        number: the second.
        frame: the frame, RGB.
        objects: the visible objects.
        triplets: tool, verb and target of each action.
    """

    video: str
    split: str
    number: int
    frame: Image.Image
    objects: Sequence[GraphObject]
    triplets: Sequence[tuple[str, str, str]]

    def tools(self) -> list[GraphObject]:
        """The visible tools."""
        return [item for item in self.objects if item["type"] == "instrument"]

    def only(self, kind: str) -> list[GraphObject]:
        """The objects of a type of which there is one of their component."""
        names = [item["component"] for item in self.objects]
        return [item for item in self.objects if item["type"] == kind and names.count(item["component"]) == 1]


@dataclass
class Written:
    """What a layout writes.

    Attributes:
        pictures: path below ``frames/`` to picture.
        lines: path below ``questions/`` to the lines that are added to the file.
    """

    pictures: dict[str, Image.Image] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, *lines: str) -> None:
        """Adds lines to a file."""
        self.lines.setdefault(path, []).extend(lines)


@dataclass(frozen=True)
class Layout:
    """A layout.

    Attributes:
        dataset: the value of ``--dataset``; a path is below ``questions/``.
        name_video: the name of a video, from its split and its index in the split.
        write: writes a video's seconds.
        heads: path of a file below ``questions/`` to its first lines.
    """

    dataset: str
    name_video: Callable[[str, int], str]
    write: Callable[[Sequence[Second], Written], None]
    heads: Mapping[str, Sequence[str]] = field(default_factory=dict)


def write_layout(
    out: Path, name: str, *, videos: int, seconds: int, seed: int, workers: int, show_progress: bool
) -> dict[str, Any]:
    """Writes a set; the files depend on the seed alone.

    Args:
        out: its folder.
        name: one of ``LAYOUTS``.
        videos: number of videos.
        seconds: number of seconds of each video.
        seed: seed of the scenes.
        workers: number of processes.
        show_progress: whether a progress bar is shown.

    Returns:
        Counts: ``videos``, ``frames``, ``lines``.

    Raises:
        InputError: a clip would be longer than a video.
    """
    if name == "real-colon-vqa" and seconds < CLIP:
        raise InputError(f"--frames-per-video {seconds} is too short for clips of {CLIP} frames; give at least {CLIP}.")
    layout = LAYOUTS[name]
    held_out = max(1, round(videos / 9))
    counts = {"train": videos - 2 * held_out, "val": held_out, "test": held_out}
    named = [(split, layout.name_video(split, index)) for split in SPLIT_NAMES for index in range(counts[split])]
    (out / "splits").mkdir(parents=True, exist_ok=True)
    for split in SPLIT_NAMES:
        names = [video for where, video in named if where == split]
        write_text(out / "splits" / f"{split}_videos.json", json.dumps(names) + "\n")
    texts: dict[str, list[str]] = {path: list(lines) for path, lines in layout.heads.items()}
    num_pictures = 0
    writer = _VideoWriter(out, name, seconds, seed)
    jobs = [(number, split, video) for number, (split, video) in enumerate(named)]
    found: Iterable[tuple[int, dict[str, list[str]]]]
    with contextlib.ExitStack() as stack:
        if workers == 1:
            found = map(writer, jobs)
        else:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            found = pool.imap(writer, jobs)
        for pictures, lines in track(found, "synth", len(jobs), transient=True, disable=not show_progress):
            num_pictures += pictures
            for path, added in lines.items():
                texts.setdefault(path, []).extend(added)
    for path, text in texts.items():
        (out / "questions" / path).parent.mkdir(parents=True, exist_ok=True)
        (out / "questions" / path).write_text("\n".join(text) + "\n", encoding="utf-8")
    return {"videos": videos, "frames": num_pictures, "lines": sum(map(len, texts.values()))}


@dataclass(frozen=True)
class _VideoWriter:
    """Draws and writes one video; pickled to the worker processes."""

    out: Path
    layout: str
    seconds: int
    seed: int

    def __call__(self, job: tuple[int, str, str]) -> tuple[int, dict[str, list[str]]]:
        """Writes a video's pictures; returns their number and the lines of the question files."""
        number, split, video = job
        written = Written()
        seconds = [self._draw(number, split, video, second) for second in range(self.seconds)]
        LAYOUTS[self.layout].write(seconds, written)
        for path, picture in written.pictures.items():
            target = self.out / "frames" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, **({"quality": 90} if target.suffix == ".jpg" else {"compress_level": 1}))
        return len(written.pictures), written.lines

    def _draw(self, number: int, split: str, video: str, second: int) -> Second:
        scene = generate_scene(self.seed, number, second, TargetDomain.shot_seconds)
        frame, _, boxes = render(scene)
        graph = scene_graph(scene, boxes, f"{video}_{second}")
        triplets = [tuple(text.split(",")) for text in graph["info"]["triplet"]]
        return Second(video, split, second, frame, graph["scenes"][0]["objects"], triplets)


def _write_surgcheck(seconds: Sequence[Second], written: Written) -> None:
    """Pairs of lines: one names the object, the other only points at it by a red box."""
    for second in seconds:
        frame = f"{second.video}_{second.number * 25}"
        written.pictures[f"{frame}.jpg"] = second.frame
        count = _NUMBERS[min(len(second.tools()), 4)]
        text = "How many tools are visible in this scene?"
        _add_pair(written, second, f"{frame}.jpg", (text, text), count, "Instrument_Count", "No_Cue")
        verbs = {tool: verb for tool, verb, _ in second.triplets}
        for item in second.objects:
            if item not in second.only(item["type"]):
                continue
            name, words = item["component"], item["component"].replace("_", " ")
            picture = f"{frame}_bbox_{name}.jpg"
            if item["type"] == "anatomy":
                asked = (f"Which {COLORS[name]} organ is in the red box?", "Which organ is in the red box?")
                answer, task = name, "anatomy"
            elif name in verbs:
                asked = (f"What is the {words} doing?", "What is the tool in the red box doing?")
                answer, task = verbs[name], "Action"
            else:
                continue
            written.pictures[picture] = _with_box(second.frame, item["bbox"])
            _add_pair(written, second, picture, asked, answer, task, "Box_Cue")


def _add_pair(
    written: Written, second: Second, picture: str, asked: tuple[str, str], answer: str, task: str, cue: str
) -> None:
    split = "test" if second.split == "test" else "train"
    for wording, question in zip(("original", "less_biased"), asked, strict=True):
        turns = [{"from": "human", "value": f"{_INSTRUCTION}{question}"}, {"from": "gpt", "value": answer}]
        base = "_".join(Path(picture).stem.split("_")[:2])
        line = {"image": picture, "conversations": turns, "ori_img_tag": f"{base}.jpg", "main_tag": "Visual_QA"}
        written.add(f"{split}_{wording}.jsonl", json.dumps(line | {"sub_sub_tag": task, "sub_tag": cue}))


def _with_box(frame: Image.Image, box: Sequence[int]) -> Image.Image:
    marked = frame.copy()
    ImageDraw.Draw(marked).rectangle(tuple(box), outline=(255, 0, 0), width=3)
    return marked


def _write_real_colon(seconds: Sequence[Second], written: Written) -> None:
    """Clips of eight frames, short and long answers, each question in two wordings."""
    for second in seconds:
        name = f"{second.video}_{_colon_number(second)}"
        written.pictures[f"{second.video}_frames/{name}.jpg"] = second.frame
    for end in range(CLIP - 1, len(seconds), CLIP // 2):
        clip, last = seconds[end - CLIP + 1 : end + 1], seconds[end]
        numbers = [_colon_number(second) for second in clip]
        head = {"video_id": last.video, "frames": [f"{last.video}_{n}" for n in numbers], "frame_numbers": numbers}
        for kind, asked, short, answer in _ask_about_clip(last):
            for wording, question in zip(("in_template", "out_template"), asked, strict=True):
                line: dict[str, Any] = {"id": f"qa_{last.video}_{numbers[-1]}_{kind}", **head, "question": question}
                line |= {"question_type": kind, "support_ratio": 1.0, "answer": answer, "short_answer": short}
                written.add(f"{wording}.jsonl", json.dumps(line))


def _ask_about_clip(last: Second) -> Iterator[tuple[str, tuple[str, str], str, str]]:
    """Type, question in two wordings, short and long answer."""
    present = {item["component"] for item in last.tools()}
    for tool in ("hook", "grasper"):
        asked = (f"Is a {tool} visible in this sequence?", f"Can you see a {tool} here?")
        answer = f"Yes, a {tool} is visible." if tool in present else f"No, there is no {tool}."
        yield f"{tool}_presence", asked, "yes" if tool in present else "no", answer
    count = _NUMBERS[min(len(last.tools()), 4)]
    asked = ("How many tools are visible in this sequence?", "What is the number of tools?")
    yield "tool_count", asked, count, f"There are {count} tools." if count != "one" else "There is one tool."
    for item in last.only("anatomy")[:1]:
        words = item["component"].replace("_", " ")
        asked = (f"Where is the {words}?", f"In which part of the picture is the {words}?")
        yield "position", asked, item["location"], f"The {words} is at the {item['location'].replace('-', ' ')}."


def _colon_number(second: Second) -> int:
    return 1000 + 4 * second.number


def _write_endovis(seconds: Sequence[Second], written: Written) -> None:
    """A file of lines with bars for each frame."""
    for second in seconds:
        frame = f"frame{second.number:03d}"
        written.pictures[f"{second.video}/left_frames/{frame}.png"] = second.frame
        lines = ["What organ is being operated?|kidney"]
        verbs = {tool: verb for tool, verb, _ in second.triplets}
        for item in second.only("instrument"):
            name, (x, y) = item["component"], item["center"]
            lines.append(f"What is the state of {name}?|{_STATES.get(verbs.get(name, ''), 'Idle')}")
            place = f"{'left' if x < WIDTH / 2 else 'right'}-{'top' if y < HEIGHT / 2 else 'bottom'}"
            lines.append(f"Where is {name} located?|{place}")
        written.add(f"{second.video}/vqa/Classification/{frame}_QA.txt", *lines)


def _write_csv(seconds: Sequence[Second], written: Written) -> None:
    """One table with a header."""
    for second in seconds:
        picture = f"{second.video}/frame_{second.number:04d}.jpg"
        written.pictures[picture] = second.frame
        rows = [("count", "How many tools are visible?", str(len(second.tools())))]
        present = {item["component"] for item in second.objects}
        for name in ("hook", "grasper", "gallbladder", "liver"):
            rows.append(("presence", f"Is the {name} visible?", "yes" if name in present else "no"))
        rows += [("action", f"What is the {tool} doing?", verb) for tool, verb, _ in second.triplets[:2]]
        for kind, question, answer in dict.fromkeys(rows):
            values = (second.video, picture, question, answer, kind, second.split)
            written.add("questions.csv", _csv_line(values))


def _csv_line(values: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _write_triplets(seconds: Sequence[Second], written: Written) -> None:
    """A file of triplets in CholecT50's format for each video."""
    verbs = sorted({verb for found in VERBS.values() for verb in found})
    targets, phases = sorted(ANATOMIES), ["first-half", "second-half"]
    names = {"instrument": list(INSTRUMENTS), "verb": verbs, "target": targets, "phase": phases}
    categories = {kind: {str(i): name for i, name in enumerate(found)} for kind, found in names.items()}
    annotations: dict[str, list[list[float]]] = {}
    for second in seconds:
        written.pictures[f"{second.video}/{second.number:06d}.png"] = second.frame
        phase = int(2 * second.number >= len(seconds))
        verb_of = {tool: (verb, target) for tool, verb, target in second.triplets}
        instances: list[list[float]] = []
        for item in second.tools():
            verb, target = verb_of.get(item["component"], ("", ""))
            tool = names["instrument"].index(item["component"])
            acts = [verbs.index(verb), targets.index(target)] if verb else [-1, -1]
            instances.append([-1, tool, 1, -1, -1, -1, -1, *acts, 1, -1, -1, -1, -1, phase])
        annotations[str(second.number)] = instances
    video = seconds[0].video
    content = {"video": video, "fps": 1, "categories": categories, "annotations": annotations}
    written.add(f"labels/{video}.json", json.dumps(content))


LAYOUTS: dict[str, Layout] = {
    "surgcheck": Layout(
        "surgcheck",
        lambda split, index: str({"train": 1, "val": 101, "test": 162}[split] + index),
        _write_surgcheck,
    ),
    "real-colon-vqa": Layout(
        "real-colon-vqa",
        lambda split, index: f"00{ {'train': 2, 'val': 3, 'test': 4}[split] }-{index + 1:03d}",
        _write_real_colon,
    ),
    "endovis18-vqa": Layout(
        "endovis18-vqa",
        lambda split, index: f"seq_{ {'train': 1, 'val': 41, 'test': 51}[split] + index }",
        _write_endovis,
    ),
    "cholect50-generated": Layout(
        "cholect50-generated",
        lambda split, index: f"VID{ {'train': 101, 'val': 141, 'test': 151}[split] + index }",
        _write_triplets,
    ),
    "csv": Layout(
        "dataset.yaml",
        lambda split, index: f"{split}-{index + 1}",
        _write_csv,
        {
            "questions.csv": ["video,frames,question,answer,type,split"],
            "dataset.yaml": _CSV_YAML.rstrip("\n").split("\n"),
        },
    ),
}
"""The layouts by the values of ``synth --layout``, apart from SSG-QA's."""
