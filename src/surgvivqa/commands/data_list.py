"""``surgvivqa data list``: the data sets that can be downloaded or asked for, with their places and licences."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from surgvivqa.config import flag
from surgvivqa.downloads.progress import format_bytes
from surgvivqa.downloads.sources import Source, find_source, load_sources


@dataclass(kw_only=True)
class DataListConfig:
    """Lists the data sets of the table: what they are, how they are had, and under which licence."""

    names: Annotated[list[str], tyro.conf.Positional] = flag(
        "Data sets to describe in full. Default: all, one line each.", default_factory=list
    )
    json: bool = flag("Print the table as JSON, with all addresses, sizes and checksums.", False)


def data_list(config: DataListConfig) -> int:
    """Prints the table.

    Raises:
        InputError: a name is unknown.
    """
    sources = [find_source(name) for name in config.names] or load_sources()
    if config.json:
        print(json.dumps([{**source.model_dump(), "access": source.access} for source in sources], indent=2))
    elif config.names:
        print("\n\n".join(describe(source) for source in sources))
    else:
        for source in sources:
            print(f"{source.name:<20} {source.access:<13} {_size(source):<9} {source.title} ({source.licence})")
        print(
            "\n`surgvivqa data list NAME` shows what a set is and where it is from;"
            "\n`surgvivqa data download NAME... --to DIR` downloads it, or says what to do by hand."
        )
    return 0


def describe(source: Source) -> str:
    """All that is known about a data set, in lines."""
    lines = [f"{source.name}: {source.title}", f"  {source.what}", f"  page: {source.page}"]
    lines.append(f"  licence: {source.licence} ({source.licence_page})")
    lines.append(f"  terms: {source.terms}")
    if source.note:
        lines.append(f"  note: {source.note}")
    if source.form:
        lines.append(f"  request form: {source.form}")
    if source.by_hand:
        lines.append(f"  by hand: {source.by_hand}")
    for file in source.files:
        size = "size unknown" if file.bytes is None else f"{file.bytes:,} bytes"
        lines.append(f"  file: {file.name}, {size}, SHA-256 {file.sha256 or 'unknown'}")
        if file.url:
            lines.append(f"    {file.url}")
        lines.append(f"    address from: {file.seen}")
        lines.append(f"    size and checksum published: {'yes' if file.verified else 'no'}")
    for count in source.counts:
        number = f"about {count.number:,}" if count.about else f"{count.number:,}"
        lines.append(f"  {number} {count.what} ({count.source})")
    return "\n".join(lines)


def _size(source: Source) -> str:
    known = [file.bytes for file in source.files if file.bytes is not None]
    return format_bytes(sum(known)) if known else "?"
