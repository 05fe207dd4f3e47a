"""The table of data sets that can be downloaded, or must be asked for: ``sources.yaml``."""

import difflib
import functools
import re
from importlib import resources
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, model_validator

from surgvivqa.utils.errors import InputError


def _none_if_unknown(value: Any) -> Any:
    return None if value == "unknown" else value


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UnpackLimits(_Row):
    """What an archive may become when it is unpacked.

    Attributes:
        bytes: size of all files together.
        files: number of files and links.
        ratio: unpacked bytes for each byte of the archive.
    """

    bytes: int
    files: int
    ratio: int = 200


class SourceFile(_Row):
    """One file to download.

    Attributes:
        name: its name, also under ``--mirror``.
        url: its public address; None if it must be asked for.
        seen: where the address was found.
        verified: whether size and checksum are published, so that a download is compared with them.
        bytes: its published size; None if unknown.
        sha256: its published checksum, 64 hexadecimal digits; None if unknown.
        at_most: size in bytes that a download must not exceed.
        unpacked: limits of its content; None if it is not an archive.
    """

    name: str
    url: str | None
    seen: str
    verified: bool
    bytes: Annotated[int | None, BeforeValidator(_none_if_unknown)] = None
    sha256: Annotated[str | None, BeforeValidator(_none_if_unknown)] = None
    at_most: int
    unpacked: UnpackLimits | None = None

    @model_validator(mode="after")
    def _check(self) -> "SourceFile":
        if PurePosixPath(self.name).name != self.name or self.name.startswith("."):
            raise ValueError(f"{self.name!r} is not the name of a file")
        if self.url is not None and not self.url.startswith("https://"):
            raise ValueError(f"{self.url} does not begin with https://")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.sha256} is not a SHA-256 checksum")
        if self.verified and self.sha256 is None:
            raise ValueError(f"{self.name} is called verified, but has no checksum")
        return self


class KnownCount(_Row):
    """A published count of a data set.

    Attributes:
        what: what is counted.
        number: the count.
        about: whether the number is rounded.
        source: where it is published.
    """

    what: str
    number: int
    about: bool = False
    source: str


class Source(_Row):
    """A data set.

    Attributes:
        name: the name in commands.
        title: the name for people.
        what: one line about its content and layout.
        page: its home page.
        licence: name of the licence.
        licence_page: address of the licence.
        terms: the most important conditions, in a sentence.
        note: what else to know; None for nothing.
        folder: its folder under ``--to``.
        root: pattern of the names by which the archive's folder is found that becomes ``folder``.
        links: whether links in the archive are an error, or are kept if they stay inside.
        form: address of a request form; None if none is needed.
        by_hand: what to do by hand; None if the command does it all.
        files: what is downloaded.
        counts: published counts.
        flags: flags of other commands for the data; ``{folder}`` stands for its path.
    """

    name: str
    title: str
    what: str
    page: str
    licence: str
    licence_page: str
    terms: str
    note: str | None = None
    folder: str
    root: str = ".*"
    links: Literal["refuse", "inside"] = "refuse"
    form: str | None = None
    by_hand: str | None = None
    files: tuple[SourceFile, ...] = ()
    counts: tuple[KnownCount, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def access(self) -> str:
        """How the data are had: ``download``, ``request form`` or ``by hand``."""
        return "request form" if self.form else "by hand" if self.by_hand else "download"


@functools.cache
def load_sources() -> tuple[Source, ...]:
    """All data sets, in the order of the table."""
    text = (resources.files("surgvivqa.downloads") / "sources.yaml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Source, ...]).validate_python(yaml.safe_load(text))


def find_source(name: str) -> Source:
    """The data set of a name.

    Raises:
        InputError: there is none.
    """
    sources = {source.name: source for source in load_sources()}
    if name in sources:
        return sources[name]
    near = difflib.get_close_matches(name.lower(), sources, 1, 0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{name!r} is not a data set of the table; {hint}`surgvivqa data list` shows them.")
