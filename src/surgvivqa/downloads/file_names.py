"""Reads the frame number from names of frames and question files, also where they are not named as they should be."""

import re
from pathlib import PurePath
from typing import NamedTuple

from surgvivqa.data.ssgqa import parse_frame_number
from surgvivqa.data.suggestions import PICTURE_SUFFIXES

_COPY = re.compile(r"(.+?)\s*(?:\(\d+\)|[-_ ]+copy(?:[ _]?\d+)?)", re.IGNORECASE)  # "000002 (1)", "000002 - Copy"
_MOST_DIGITS = 9

# What is wrong with a name, as a phrase for a number of files.
NAME_FAULTS = {
    "copy": "are second copies, such as '(1)'",
    "case": "have an ending in capitals",
    "format": "are other pictures than .png",
    "padding": "are not padded to six digits",
    "padded": "are padded with zeros",
    "other": "have another name around the number",
}


class NumberedName(NamedTuple):
    """A file name with a frame number.

    Attributes:
        number: the number.
        faults: keys of ``NAME_FAULTS``; empty if the name is as it should be.
    """

    number: int
    faults: tuple[str, ...]


def parse_frame_name(name: str) -> NumberedName | None:
    """The number in the name of a picture, which should be ``NNNNNN.png``; None if it has none or is no picture."""
    path = PurePath(name.strip())
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        return None
    stem, faults = _split_copy(path.stem)
    number, rest = _last_number(stem)
    if number is None:
        return None
    if path.suffix.lower() != ".png":
        faults.append("format")
    elif path.suffix != ".png":
        faults.append("case")
    if rest or name != name.strip():
        faults.append("other")
    elif stem != f"{number:06d}":
        faults.append("padding")
    return NumberedName(number, tuple(faults))


def parse_question_name(name: str) -> NumberedName | None:
    """The number in the name of a question file, which should be ``N.txt``; None if it is another file."""
    if (number := parse_frame_number(name)) is not None:
        return NumberedName(number, ())
    stem = name.strip()
    faults = [] if stem == name else ["other"]
    endings = 0
    while stem.lower().endswith(".txt"):
        if not stem.endswith(".txt"):
            faults.append("case")
        stem, endings = stem[:-4], endings + 1
    if not endings:
        return None
    if endings > 1:
        faults.append("other")
    stem, copy = _split_copy(stem)
    faults += copy
    without_ending = re.sub(r"_QA$", "", stem, flags=re.IGNORECASE)
    number, rest = _last_number(without_ending)
    if number is None:
        return None
    if rest or without_ending != stem or not stem.isascii():
        faults.append("other")
    elif stem != str(number):
        faults.append("padded")
    return NumberedName(number, tuple(dict.fromkeys(faults)))


def _split_copy(stem: str) -> tuple[str, list[str]]:
    found = _COPY.fullmatch(stem)
    return (found[1], ["copy"]) if found else (stem, [])


def _last_number(stem: str) -> tuple[int | None, str]:
    """The number at the end of a stem, and what is before it; None for fractions and negative numbers."""
    found = re.fullmatch(r"(.*?)(\d+)", stem, re.DOTALL)
    if found is None or len(found[2]) > _MOST_DIGITS or found[1] == "-" or re.search(r"\d\.$", found[1]):
        return None, stem
    return int(found[2]), found[1]
