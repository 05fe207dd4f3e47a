"""Where a file is taken from: its public address, a mirror, or a local folder or file."""

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.downloads.sources import Source, SourceFile, find_source
from surgvivqa.utils.errors import InputError

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Place:
    """Where a file is taken from.

    Attributes:
        url: a web address; None for a local file.
        path: a local file; None for a web address.
        is_mirror: whether the user has given the place.
    """

    url: str | None = None
    path: Path | None = None
    is_mirror: bool = False

    def __str__(self) -> str:
        return self.url or str(self.path)


@dataclass(frozen=True)
class Mirrors:
    """The mirrors of a command line.

    Attributes:
        of_all: a place that has the files of all data sets; None if there is none.
        of_one: the places of single data sets, by their names.
    """

    of_all: str | None
    of_one: dict[str, str]

    @classmethod
    def parse(cls, values: Sequence[str]) -> "Mirrors":
        """Parses the values of ``--mirror``: ``PLACE`` or ``NAME=PLACE``.

        Raises:
            InputError: a name is unknown, or a value repeats another one.
        """
        of_all: str | None = None
        of_one: dict[str, str] = {}
        for value in values:
            name, equals, place = value.partition("=")
            if not equals or "/" in name or ":" in name:  # an address or a path may hold "=" too
                if of_all is not None:
                    raise InputError(f"--mirror is given twice for all data sets ({of_all} and {value}); give it once.")
                of_all = value
            else:
                find_source(name)
                if name in of_one:
                    raise InputError(f"--mirror is given twice for {name}; give it once.")
                of_one[name] = place
        return cls(of_all, of_one)

    def find(self, source: Source, file: SourceFile) -> Place:
        """The place of a file. If a mirror is given for it, the public address is not used.

        A mirror is a folder that has the file by its name, or the file itself.

        Raises:
            InputError: the mirror has no such file or is no place, or the file has no public address.
        """
        mirror = self.of_one.get(source.name, self.of_all)
        if mirror is None:
            if file.url is None:
                raise InputError(explain_by_hand(source))
            return Place(url=file.url)
        if not mirror:
            raise InputError(f"--mirror {source.name}= names no place; give an address, a folder or a file after '='.")
        scheme = urllib.parse.urlsplit(mirror).scheme.lower()
        if scheme in ("http", "https"):
            return Place(url=_join_url(mirror, file.name), is_mirror=True)
        if scheme == "file":
            parts = urllib.parse.urlsplit(mirror)
            if parts.netloc not in ("", "localhost"):
                raise InputError(f"--mirror {mirror} names another machine; a file address begins with file:///.")
            path = Path(urllib.parse.unquote(parts.path))
        elif len(scheme) > 1:
            raise InputError(f"--mirror {mirror} is of the kind {scheme}; give an https or file address, or a folder.")
        else:
            path = Path(mirror).expanduser()
        if path.is_dir():
            path /= file.name
        if not path.is_file():
            what = f"; save what you got from {source.form} there" if source.form else ""
            raise InputError(
                f"--mirror: {path} is not a file{what}, or name the file with --mirror {source.name}=FILE."
            )
        return Place(path=path, is_mirror=True)


def explain_by_hand(source: Source) -> str:
    """What a user has to do to get a data set that cannot simply be downloaded."""
    place = f"request form {source.form}" if source.form else f"page {source.page}"
    return f"{source.name} cannot be downloaded without you ({place}). {source.by_hand or ''}".strip()


def _join_url(mirror: str, name: str) -> str:
    """The address of a file below a mirror, which may be the address of the file itself."""
    parts = urllib.parse.urlsplit(mirror)
    last = urllib.parse.unquote(parts.path.rpartition("/")[2])
    if last == name or last.lower().endswith(_ARCHIVES):
        return mirror
    return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(name)}"))
