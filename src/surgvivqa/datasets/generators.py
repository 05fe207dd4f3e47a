"""Generates questions from labels: CholecT50's action triplets, and boxes in COCO's format such as Endoscapes'."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgvivqa.datasets.records import Faults, FoundFile, Record

# The places in the 15 numbers of a triplet instance (CAMMA-public/cholect50, docs/README-Format.md).
_TOOL, _VERB, _TARGET, _PHASE, _LENGTH = 1, 7, 8, 14, 15
_FIVE_DIGITS = re.compile(r"(\d+)_(\d+)")


def generate_from_triplets(file: FoundFile, content: Any, faults: Faults) -> Iterator[Record]:
    """Questions about each frame of a file in CholecT50's format, as ``VID01.json``.

    They ask for the phase, whether each tool is there, how many tools there are, what a tool does and to what. Where a
    question has several answers, because two tools of a kind do different things, it is left out.

    Args:
        file: the file, whose name is the video's.
        content: its JSON: ``categories`` names ids, ``annotations`` maps a frame to its instances of 15 numbers.
        faults: gets what is malformed.
    """
    video = file.values.get("video") or file.path.stem
    try:
        names = {kind: _names(content["categories"][kind]) for kind in ("instrument", "verb", "target", "phase")}
        annotations = dict(content["annotations"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is not a file of triplets ({type(error).__name__}: {error})"
        faults.add("malformed", str(file.path), what, file.entry.split)
        return
    tools = list(names["instrument"].values())
    for number, frame in enumerate(sorted(annotations, key=_as_number), 1):
        where = f"{file.path}, frame {frame},"
        try:
            instances = [[int(value) for value in _checked(instance)] for instance in annotations[frame]]
            found = [
                {
                    "tool": names["instrument"].get(instance[_TOOL]),
                    "verb": names["verb"].get(instance[_VERB]),
                    "target": names["target"].get(instance[_TARGET]),
                    "phase": names["phase"].get(instance[_PHASE]),
                }
                for instance in instances
            ]
        except (TypeError, ValueError, OverflowError) as error:
            faults.add("malformed", where, f"is not a list of triplets ({error})", file.entry.split)
            continue
        for kind, question, answer in _ask_about_triplets(found, tools):
            values = {"video": video, "frames": str(frame), "question": question, "answer": answer, "type": kind}
            yield Record(values, where, file.entry, number)


def _ask_about_triplets(
    found: Sequence[Mapping[str, str | None]], tools: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Type, question and answer of each question about a frame's triplets."""
    phases = {instance["phase"] for instance in found if instance["phase"]}
    if len(phases) == 1:
        yield "phase", "What is the phase of the operation?", str(phases.pop())
    present = [instance["tool"] for instance in found if instance["tool"]]
    yield "count", "How many tools are visible?", str(len(present))
    for tool in tools:
        yield "exist", f"Is a {tool} visible?", "yes" if tool in present else "no"
    for tool in dict.fromkeys(present):
        same = [instance for instance in found if instance["tool"] == tool]
        for kind, part, question in (
            ("action", "verb", f"What is the {tool} doing?"),
            ("target", "target", f"What does the {tool} act on?"),
        ):
            answers = {instance[part] for instance in same}
            answer = answers.pop() if len(answers) == 1 else None
            if answer is not None and not answer.startswith("null"):
                yield kind, question, answer


def generate_from_boxes(file: FoundFile, content: Any, faults: Faults) -> Iterator[Record]:
    """Questions about each picture of a file in COCO's format, such as Endoscapes' ``annotation_coco.json``.

    They ask whether each category is there, how many of it there are, and, where there is one, in which part of the
    picture its centre is.

    Args:
        file: the file; pictures are named as in ``file_name``, and the digits before the first ``_`` are the video.
        content: its JSON: ``images``, ``categories``, and ``annotations`` with ``bbox [x, y, width, height]``.
        faults: gets what is malformed.
    """
    try:
        categories = {int(item["id"]): str(item["name"]) for item in content["categories"]}
        boxes: dict[int, list[tuple[str, list[float]]]] = {}
        for item in content["annotations"]:
            corners = [float(value) for value in item["bbox"]]
            boxes.setdefault(int(item["image_id"]), []).append((categories[int(item["category_id"])], corners))
        images = list(content["images"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is not a COCO file ({type(error).__name__}: {error})"
        faults.add("malformed", str(file.path), what, file.entry.split)
        return
    folder = f"{file.entry.path.rpartition('/')[0]}/".lstrip("/")
    for number, image in enumerate(images, 1):
        where = f"{file.path}, image {number},"
        try:
            name, width, height = str(image["file_name"]), float(image["width"]), float(image["height"])
            video = str(image.get("video_id") or _video_of(name))
            here = boxes.get(int(image["id"]), [])
            questions = list(_ask_about_boxes(here, list(categories.values()), width, height))
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
            faults.add("malformed", where, f"is not a COCO image ({error})", file.entry.split)
            continue
        for kind, question, answer, box in questions:
            values = {"video": video, "frames": f"{folder}{name}", "question": question, "answer": answer}
            yield Record({**values, "type": kind, "box": box}, where, file.entry, number)


def _ask_about_boxes(
    boxes: Sequence[tuple[str, Sequence[float]]], categories: Sequence[str], width: float, height: float
) -> Iterator[tuple[str, str, str, str]]:
    """Type, question, answer and box (``x1, y1, x2, y2``; empty if there is not one) of each question."""
    for category in categories:
        here = [box for name, box in boxes if name == category]
        words = category.replace("_", " ")
        yield "exist", f"Is the {words} visible?", "yes" if here else "no", ""
        if len(here) == 1:
            x, y, box_width, box_height = here[0]
            column = ("left", "middle", "right")[max(0, min(2, int(3 * (x + box_width / 2) / width)))]
            row = ("top", "bottom")[max(0, min(1, int(2 * (y + box_height / 2) / height)))]
            corners = ", ".join(f"{value:g}" for value in (x, y, x + box_width, y + box_height))
            yield "location", f"Where is the {words}?", f"{row}-{column}", corners
    tools = [name for name, _ in boxes if name.startswith("tool")]
    if any(category.startswith("tool") for category in categories):
        yield "count", "How many tools are visible?", str(len(tools)), ""


def _video_of(name: str) -> str:
    found = _FIVE_DIGITS.search(name)
    if found is None:
        raise ValueError(f"{name!r} does not begin with a video's number")
    return found[1]


def _names(category: Mapping[str, str]) -> dict[int, str]:
    return {int(index): str(name) for index, name in category.items()}


def _checked(instance: Sequence[float]) -> Sequence[float]:
    if len(instance) != _LENGTH:
        raise ValueError(f"an instance has {len(instance)} numbers, not {_LENGTH}")
    return instance


def _as_number(frame: str) -> tuple[int, str]:
    return (int(frame), "") if str(frame).isdecimal() else (0, str(frame))
