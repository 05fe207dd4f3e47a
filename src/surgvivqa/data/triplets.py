"""Reads the action triplets that people labelled in CholecT50 and CholecT45 (Nwoye et al., Med. Image Analysis 2022).

CholecT50 has a JSON file for each video, ``labels/VID02.json``: ``annotations`` maps a frame's number to a list of
instances of 15 numbers (docs/README-Format.md and the loader of its repository). 0 is the triplet, 1 the instrument, 2
to 6 its score and box, 7 the verb, 8 the target, 9 to 13 its score and box, 14 the phase; -1 is no value.
``categories`` names them.

CholecT45 has a text file for each video, ``triplet/VID02.txt``: a row for each frame, its number and then 100 times 0
or 1, the triplets of ``dict/triplet.txt``, which has rows such as ``17:grasper,retract,gallbladder``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgvivqa.data.splits import base_video
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import check_regular_file, read_json

# The instruments of CholecT50. SSG-QA's seventh tool, the specimen bag, is only a target there.
LABELLED_TOOLS = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator")
LABELLED_TARGETS = (
    *("gallbladder", "cystic_plate", "cystic_duct", "cystic_artery", "cystic_pedicle", "blood_vessel", "fluid"),
    *("abdominal_wall_cavity", "liver", "adhesion", "omentum", "peritoneum", "gut", "specimen_bag"),
)
_INSTANCE = 15  # numbers of an instance
_TOOL, _VERB, _TARGET = 1, 7, 8
_TRIPLETS = 100
_KINDS = ("instrument", "verb", "target")


@dataclass(frozen=True, slots=True)
class Triplet:
    """What one instrument does in a frame.

    Attributes:
        tool: the instrument.
        verb: what it does; None if nothing that is labelled (CholecT50's ``null_verb``).
        target: what it does that to; None if it acts on nothing.
    """

    tool: str
    verb: str | None
    target: str | None

    def __str__(self) -> str:
        return ",".join((self.tool, self.verb or "-", self.target or "-"))


# The triplets of each frame of a video that was labelled; a frame without instruments has none.
VideoTriplets = Mapping[int, Sequence[Triplet]]


def find_label_files(folder: Path) -> dict[str, Path]:
    """The label files of a folder, by the video's usual name such as ``VID02``.

    Args:
        folder: the folder of CholecT50 or CholecT45, or its ``labels`` or ``triplet`` folder.

    Raises:
        InputError: there is no label file.
    """
    if not folder.is_dir():
        raise InputError(f"--cholect50-labels {folder} is not a folder; it must hold VIDxx.json or VIDxx.txt files.")
    for place in (folder, folder / "labels", folder / "triplet"):
        for suffix in (".json", ".txt"):
            files = {
                base_video(path.stem): path
                for path in sorted(place.glob(f"*{suffix}"))
                if re.fullmatch(r"VID\d+", base_video(path.stem)) and not path.name.startswith(".")
            }
            if files:
                return files
    raise InputError(
        f"--cholect50-labels {folder} has no labels: neither CholecT50's labels/VIDxx.json nor CholecT45's "
        f"triplet/VIDxx.txt; give the folder that holds them."
    )


def read_triplets(path: Path) -> VideoTriplets:
    """Reads the triplets of a video from a file of ``find_label_files``.

    Raises:
        InputError: the file cannot be read, or is not such a file.
    """
    return _read_json(path) if path.suffix == ".json" else _read_text(path)


def _read_json(path: Path) -> VideoTriplets:
    try:
        content = read_json(path)
        names = _read_categories(content["categories"])
        annotations = content["annotations"]
        if not isinstance(annotations, Mapping):
            raise ValueError("its annotations are not a mapping")
        return {int(frame): _parse_instances(rows, names) for frame, rows in annotations.items()}
    except OSError as error:
        raise InputError(f"The labels {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} is not a label file of CholecT50 ({type(error).__name__}: {str(error)[:120]}); it must have "
            f"categories and annotations with {_INSTANCE} numbers for an instance."
        ) from None


def _read_categories(categories: Any) -> dict[str, dict[int, str]]:
    """The names of instruments, verbs and targets by number; from a mapping or from a list of mappings."""
    parts = categories if isinstance(categories, list) else [categories]
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= part
    return {kind: {int(number): str(name) for number, name in merged[kind].items()} for kind in _KINDS}


def _parse_instances(rows: Sequence[Sequence[float]], names: Mapping[str, Mapping[int, str]]) -> list[Triplet]:
    triplets = []
    for row in rows:
        if len(row) != _INSTANCE:
            raise ValueError(f"an instance has {len(row)} numbers, not {_INSTANCE}")
        tool = int(row[_TOOL])
        if tool < 0:  # a frame without instruments has such a row, which only names the phase
            continue
        verb, target = (int(row[index]) for index in (_VERB, _TARGET))
        triplets.append(
            Triplet(
                names["instrument"][tool],
                _name(names["verb"], verb),
                _name(names["target"], target),
            )
        )
    return triplets


def _name(names: Mapping[int, str], number: int) -> str | None:
    """The name of a verb or a target; None for no value and for the null classes."""
    name = names[number] if number >= 0 else "null"
    return None if name.startswith("null") else name


def _read_text(path: Path) -> VideoTriplets:
    table = path.parent.parent / "dict" / "triplet.txt"
    triplets = _read_triplet_names(table)
    frames: dict[int, list[Triplet]] = {}
    for number, line in _read_lines(path):
        try:
            frame, *present = (int(cell) for cell in line.replace(",", " ").split())
            if len(present) != _TRIPLETS or not set(present) <= {0, 1}:
                raise ValueError(f"it has {len(present)} columns after the frame, not {_TRIPLETS} of 0 and 1")
        except ValueError as error:
            raise InputError(f"{path}:{number} is not a row of CholecT45's triplet labels ({error}).") from None
        frames[frame] = [triplets[index] for index, is_present in enumerate(present) if is_present]
    return frames


def _read_triplet_names(path: Path) -> list[Triplet]:
    """The 100 triplets of ``dict/triplet.txt``, in their order."""
    names: dict[int, Triplet] = {}
    for number, line in _read_lines(path):
        if line.startswith("-"):  # -1, no triplet
            continue
        found = re.fullmatch(r"(\d+)\s*[:,\s]\s*([a-z_]+)\s*,\s*([a-z_]+)\s*,\s*([a-z_]+)", line)
        if found is None:
            raise InputError(f"{path}:{number} is not a triplet such as 17:grasper,retract,gallbladder: {line[:80]!r}.")
        tool, verb, target = found[2], found[3], found[4]
        names[int(found[1])] = Triplet(
            tool, None if verb.startswith("null") else verb, None if target.startswith("null") else target
        )
    if sorted(names) != list(range(_TRIPLETS)):
        raise InputError(f"{path} does not name the triplets 0 to {_TRIPLETS - 1}.")
    return [names[number] for number in range(_TRIPLETS)]


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers."""
    try:
        check_regular_file(path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"The labels {path} cannot be read ({str(error)[:120]}).") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
