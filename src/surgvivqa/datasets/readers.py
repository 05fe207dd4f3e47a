"""Reads the files of questions: lines with bars between their fields, JSON lines, JSON, CSV."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from surgvivqa.datasets.description import DatasetDescription
from surgvivqa.datasets.generators import generate_from_boxes, generate_from_triplets
from surgvivqa.datasets.records import Faults, FoundFile, Record, find_files, read_text
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import parse_json

_LISTS = ("data", "questions", "annotations", "samples", "items")  # names under which a JSON file may hold its list


def read_records(
    description: DatasetDescription, root: Path, faults: Faults, videos: Collection[str] | None = None
) -> Iterator[Record]:
    """Reads the records of a data set's files.

    Args:
        description: the data set.
        root: the folder of the questions, or its only file.
        faults: gets the lines and files that cannot be used.
        videos: names of the videos, for sets with files by video; None reads all.

    Raises:
        InputError: a file does not exist or cannot be opened; under ``faults.strict`` also where one is malformed.
    """
    csv.field_size_limit(10_000_000)
    for file in find_files(description, root, videos):
        text = read_text(file, faults)
        if text is None:
            continue
        if description.reader == "pipe":
            yield from _read_pipe(description, file, text, faults)
        elif description.reader == "table":
            yield from _read_table(description, file, text, faults)
        else:
            generate = generate_from_triplets if description.reader == "cholect50" else generate_from_boxes
            try:
                content = parse_json(text)
            except ValueError as error:
                faults.add("malformed", str(file.path), f"is not JSON ({error})", file.entry.split)
                continue
            yield from generate(file, content, faults)


def _read_pipe(description: DatasetDescription, file: FoundFile, text: str, faults: Faults) -> Iterator[Record]:
    """The records of lines with bars between their fields; fields beyond the described ones are left out."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        faults.add("empty_file", str(file.path), "is empty", file.entry.split)
    names = description.columns
    least = names.index("answer") + 1 if "answer" in names else len(names)
    for number, line in lines[description.skip_lines :]:
        values = [value.strip() for value in line.split("|")]
        where = f"{file.path}:{number}"
        if len(values) < least:
            reason = "no_pipe" if len(values) < 2 else "malformed"
            what = f"has {len(values)} fields, not {' | '.join(names)}: {line.strip()[:80]}"
            faults.add(reason, where, what, file.entry.split)
            continue
        fields = {name: value for name, value in zip(names, values, strict=False) if name != "-"}
        yield Record({**file.values, **fields}, where, file.entry, number)


def _read_table(description: DatasetDescription, file: FoundFile, text: str, faults: Faults) -> Iterator[Record]:
    """The records of a CSV, a TSV, JSON lines, or a JSON list, by the file's suffix."""
    suffix = file.path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _read_csv(description, file, text, faults, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".jsonl", ".ndjson"):
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        for number, line in lines[description.skip_lines :]:
            where = f"{file.path}:{number}"
            try:
                content = parse_json(line)
            except ValueError as error:
                faults.add("malformed", where, f"is not JSON ({error})", file.entry.split)
                continue
            yield from _of_object(file, content, where, number, faults)
    elif suffix == ".json":
        try:
            content = parse_json(text)
        except ValueError as error:
            faults.add("malformed", str(file.path), f"is not JSON ({error})", file.entry.split)
            return
        for index, item in enumerate(_find_list(content)[description.skip_lines :], 1):
            yield from _of_object(file, item, f"{file.path}, item {index},", index, faults)
    else:
        raise InputError(
            f"{file.path} cannot be read as a table; give a .csv, .tsv, .jsonl or .json file, or reader: pipe."
        )


def _read_csv(
    description: DatasetDescription, file: FoundFile, text: str, faults: Faults, delimiter: str
) -> Iterator[Record]:
    # With the ends of the lines, because a quoted field may have several lines.
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    skipped = 0
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            # A quote that is not closed takes in all lines to the end of the file; each of them counts.
            for number in range(first, reader.line_num + 1):
                faults.add("malformed", f"{file.path}:{number}", f"is not CSV ({error})", file.entry.split)
            continue
        if values is None:
            return
        values = [" ".join(value.split("\n")) for value in values]
        if not any(value.strip() for value in values):
            continue
        if header is None:
            header = [name.strip() for name in values]
            if twice := next((name for name in header if name and header.count(name) > 1), None):
                raise InputError(f"{file.path} has the column {twice!r} more than once; rename or remove one of them.")
            if len(header) == 1 and (found := next((c for c in ";\t," if c in header[0]), None)):
                raise InputError(
                    f"{file.path} has one column, {header[0][:60]!r}; its fields are separated by {found!r}, so "
                    f"{'rename it to .tsv' if found == chr(9) else f'write them separated by {delimiter!r}'}."
                )
            continue
        if skipped < description.skip_lines:
            skipped += 1
            continue
        where = f"{file.path}:{reader.line_num}"
        if len(values) != len(header):
            what = f"has {len(values)} fields, but the header {len(header)}"
            faults.add("malformed", where, what, file.entry.split)
            continue
        record = {**file.values, **dict(zip(header, values, strict=True))}
        yield Record(record, where, file.entry, reader.line_num)


def _of_object(file: FoundFile, content: Any, where: str, number: int, faults: Faults) -> Iterator[Record]:
    if isinstance(content, Mapping):
        yield Record({**file.values, **content}, where, file.entry, number)
    else:
        faults.add("malformed", where, f"is not a JSON object: {json.dumps(content)[:80]}", file.entry.split)


def _find_list(content: Any) -> list[Any]:
    """The list of a JSON file: the file itself, or under one of the usual names."""
    if isinstance(content, list):
        return content
    if isinstance(content, Mapping):
        for name in _LISTS:
            if isinstance(content.get(name), list):
                return list(content[name])
        return [content]
    return [content]
