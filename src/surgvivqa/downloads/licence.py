"""Shows licences, asks for consent, and records it beside the data."""

import datetime
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from surgvivqa import __version__
from surgvivqa.downloads.sources import Source
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

RECORD = "SOURCE.json"
Consent = Literal["--accept-licence", "typed"]


def describe_licence(source: Source) -> str:
    """The licence of a data set in a few lines."""
    lines = [f"{source.title}", f"  licence: {source.licence} ({source.licence_page})", f"  {source.terms}"]
    return "\n".join([*lines, f"  Note: {source.note}"] if source.note else lines)


def accept_licence(
    sources: Sequence[Source],
    accepted: bool,
    is_terminal: bool | None = None,
    ask: Callable[[str], str] = input,
) -> Consent:
    """Shows the licences of data sets and returns how the user accepted them.

    Args:
        sources: the data sets.
        accepted: whether ``--accept-licence`` was given.
        is_terminal: whether someone can be asked; None finds out.
        ask: asks a question.

    Raises:
        InputError: the licences are not accepted.
    """
    for source in sources:
        print(describe_licence(source), flush=True)
    if accepted:
        return "--accept-licence"
    if is_terminal is None:
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        try:
            answer = ask("Type 'accept' to accept these licences: ")
        except EOFError:
            answer = ""
        if answer.strip().strip("'").lower() == "accept":
            return "typed"
    names = " ".join(source.name for source in sources)
    raise InputError(
        f"The licences of {names} are not accepted, so nothing was downloaded; read them and add --accept-licence."
    )


def write_record(folder: Path, source: Source, consent: Consent, files: Sequence[dict[str, object]]) -> None:
    """Writes ``SOURCE.json``: where the data in a folder are from, under which licence, and who they are.

    Args:
        folder: the folder of the data.
        source: the data set.
        consent: how the licence was accepted.
        files: for each file its name, place, size, checksum, and what the checksum was compared with.

    Raises:
        RunError: the file cannot be written.
    """
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    record = {
        "name": source.name,
        "title": source.title,
        "page": source.page,
        "licence": source.licence,
        "licence_page": source.licence_page,
        "terms": source.terms,
        "accepted": consent,
        "date": now.isoformat(),
        "files": list(files),
        "surgvivqa": __version__,
    }
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
