"""Unpacks zip and tar archives of strangers: every name, kind and size is checked before the first file is written.

Refused are absolute paths, ``..``, drive letters and backslashes, devices and pipes, hard links, names that occur twice
or differ only in case, files below links or files, encrypted files, and archives that hold more files or bytes than
allowed. Files of operating systems (``__MACOSX``, ``.DS_Store``) are left out. Permissions and owners are not kept.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import posixpath
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from surgvivqa.data.ssgqa import is_system_file
from surgvivqa.downloads.sources import UnpackLimits
from surgvivqa.utils.errors import RunError, first_line

_BLOCK = 1 << 20
_LONGEST_READ = 16 << 20  # tarfile reads the headers of long names at once, however long they claim to be
_LONGEST_NAME = 240  # bytes of one part of a path
_LONGEST_TARGET = 4096
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, IndexError, NotImplementedError),
)


class ArchiveError(RunError):
    """An archive is damaged, or not what may be unpacked."""


LinkPolicy = Literal["refuse", "inside"]


@dataclass(frozen=True)
class Member:
    """A file or link of an archive.

    Attributes:
        parts: its path.
        size: size of the file in bytes.
        target: where a symbolic link leads, relative to its own folder; None for a file.
        key: what ``Archive.open`` takes.
    """

    parts: tuple[str, ...]
    size: int
    target: str | None
    key: Any

    @property
    def name(self) -> str:
        """Its path with slashes."""
        return "/".join(self.parts)


class Archive:
    """A zip or tar archive, checked by its content and not by its name. A context manager.

    Raises:
        RunError: it is neither, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._stack = contextlib.ExitStack()
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        try:
            with self._faults():
                if self._head().startswith((b"PK\x03\x04", b"PK\x05\x06")):  # a tar may end with a zip file
                    self._zip = self._stack.enter_context(zipfile.ZipFile(path))
                else:
                    self._tar = self._stack.enter_context(self._open_tar())
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _head(self) -> bytes:
        with self.path.open("rb") as stream:
            return stream.read(6)

    def _open_tar(self) -> tarfile.TarFile:
        head = self._head()
        stream: Any = self._stack.enter_context(self.path.open("rb"))
        if head.startswith(b"\x1f\x8b"):
            stream = self._stack.enter_context(gzip.GzipFile(fileobj=stream))
        elif head.startswith(b"BZh"):
            stream = self._stack.enter_context(bz2.BZ2File(stream))
        elif head.startswith(b"\xfd7zXZ"):
            stream = self._stack.enter_context(lzma.open(stream))  # noqa: SIM115
        return tarfile.TarFile(fileobj=_BoundedReads(stream))  # type: ignore[arg-type]

    def members(self, links: LinkPolicy, limits: UnpackLimits) -> list[Member]:
        """The archive's files and links after all checks.

        Args:
            links: whether symbolic links are an error, or allowed if they stay inside.
            limits: what the archive may become.

        Raises:
            RunError: the archive is damaged, or a check fails.
        """
        members: list[Member] = []
        total = 0
        with self._faults():
            for member in self._list():
                if any(is_system_file(part) for part in member.parts):
                    continue
                if member.target is not None:
                    self._check_link(member, links)
                total += member.size
                members.append(member)
                if len(members) > limits.files:
                    raise self._refuse(f"holds more than {limits.files:,} files")
                if total > limits.bytes:
                    raise self._refuse(f"becomes more than {limits.bytes:,} bytes")
        if total > limits.ratio * max(self.size, 1_000_000):
            raise self._refuse(f"becomes {total:,} bytes, more than {limits.ratio} times its own size")
        self._check_names(members)
        return members

    def _list(self) -> Iterator[Member]:
        if self._zip is not None:
            for info in self._zip.infolist():
                mode = info.external_attr >> 16
                kind = stat.S_IFMT(mode) if info.create_system == 3 else 0
                parts = self._split(info.orig_filename if "\0" in info.orig_filename else info.filename)
                if not info.filename:
                    raise self._refuse("holds a file without a name")
                if info.is_dir() or kind == stat.S_IFDIR:
                    continue
                if info.flag_bits & 1:
                    raise self._refuse(f"holds the encrypted file {info.filename!r}")
                if kind == stat.S_IFLNK:
                    if info.file_size > _LONGEST_TARGET:
                        raise self._refuse(f"holds a link with a target of {info.file_size:,} bytes")
                    yield Member(parts, 0, self._zip.read(info).decode("utf-8", "surrogateescape"), info)
                elif kind in (0, stat.S_IFREG):
                    yield Member(parts, info.file_size, None, info)
                else:
                    raise self._refuse(f"holds {info.filename!r}, which is a device or a pipe")
            return
        assert self._tar is not None
        for entry in self._tar:
            if entry.size < 0:  # some versions of tarfile go back by it, and read the same entries for ever
                raise self._refuse(f"holds {entry.name!r} with a size below zero")
            if entry.isdir():
                self._split(entry.name)
            elif entry.issym():
                yield Member(self._split(entry.name), 0, entry.linkname, entry)
            elif entry.islnk():
                raise self._refuse(f"holds {entry.name!r}, which is a hard link")
            elif entry.isreg():
                yield Member(self._split(entry.name), entry.size, None, entry)
            else:
                raise self._refuse(f"holds {entry.name!r}, which is a device, a pipe or of an unknown kind")

    def _split(self, name: str) -> tuple[str, ...]:
        """The parts of a path, if it stays inside and can be written."""
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if name.startswith("/") or ".." in parts or "\\" in name or (parts and parts[0][1:2] == ":"):
            raise self._refuse(f"holds the path {name[:80]!r}, which leads out of its folder")
        if not name.isprintable() or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
            raise self._refuse(f"holds the name {name[:80]!r}, which cannot be used")
        if not parts and name.strip("/") not in ("", "."):
            raise self._refuse("holds a file without a name")
        return parts

    def _check_link(self, member: Member, links: LinkPolicy) -> None:
        target = member.target or ""
        if links == "refuse":
            raise self._refuse(f"holds {member.name!r}, which is a link")
        end = posixpath.normpath(posixpath.join("/".join(member.parts[:-1]), target))
        unsafe = target.startswith("/") or "\\" in target or target[1:2] == ":" or not target.isprintable()
        if not target or unsafe or len(target) > _LONGEST_TARGET or end.split("/")[0] == "..":
            raise self._refuse(f"holds {member.name!r}, a link that leads out of its folder")

    def _check_names(self, members: Sequence[Member]) -> None:
        """Checks that no two members share a name, whatever case and form, and that none lies below another."""
        seen: dict[tuple[str, ...], str] = {}
        for member in members:
            if not member.parts:
                raise self._refuse("holds a file without a name")
            key = _fold(member.parts)
            if key in seen:
                if seen[key] == member.name:
                    raise self._refuse(f"holds {member.name!r} twice")
                raise self._refuse(f"holds {seen[key]!r} and {member.name!r}, which differ only in case or form")
            seen[key] = member.name
        folders: dict[tuple[str, ...], tuple[str, ...]] = {}
        for member in members:
            key = _fold(member.parts)
            for length in range(1, len(key)):
                if key[:length] in seen:
                    raise self._refuse(f"holds {member.name!r} below {seen[key[:length]]!r}, which is no folder")
                first = folders.setdefault(key[:length], member.parts[:length])
                if first != member.parts[:length]:
                    names = " and ".join(repr("/".join(parts)) for parts in (first, member.parts[:length]))
                    raise self._refuse(f"holds the folders {names}, which differ only in case or form")

    def unpack(self, members: Sequence[Member], folder: Path, show: Callable[[int], object]) -> int:
        """Writes the checked members into an empty folder, links last, so that nothing is written through one.

        Args:
            members: what ``members`` returned.
            folder: the folder.
            show: gets the number of bytes after each block.

        Returns:
            The number of links that were left out because the file system has none.

        Raises:
            RunError: the archive is damaged, or a file has another size than announced.
            OSError: a file cannot be written.
        """
        folders: set[tuple[str, ...]] = set()
        for member in members:
            if member.parts[:-1] not in folders:
                folder.joinpath(*member.parts[:-1]).mkdir(parents=True, exist_ok=True)
                folders.add(member.parts[:-1])
            if member.target is None:
                with self._faults():
                    source = self._open(member)
                with source, folder.joinpath(*member.parts).open("xb") as stream:
                    self._copy(member, source, stream, show)
        left_out = 0
        for member in members:
            if member.target is not None:
                try:
                    folder.joinpath(*member.parts).symlink_to(member.target)
                except (PermissionError, NotImplementedError):
                    left_out += 1
        return left_out

    def _open(self, member: Member) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(member.key)
        assert self._tar is not None
        source = self._tar.extractfile(member.key)
        assert source is not None
        return source

    def _copy(self, member: Member, source: IO[bytes], stream: IO[bytes], show: Callable[[int], object]) -> None:
        size = 0
        while True:
            with self._faults():
                block = source.read(_BLOCK)
            if not block:
                break
            size += len(block)
            if size > member.size:
                break
            stream.write(block)
            show(len(block))
        if size != member.size:
            raise self._refuse(f"is damaged: {member.name!r} has another size than announced")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns the body's errors about a damaged archive into a ``RunError``."""
        try:
            yield
        except _DAMAGE as error:
            raise self._refuse(f"is damaged or of an unsupported kind ({first_line(error)})") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise self._refuse(f"cannot be read ({first_line(error)})") from None

    def _refuse(self, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self.path} {what}, so it is not unpacked; compare it with the data set's page, or download it again."
        )


class _BoundedReads:
    """A stream that refuses to read very much at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header has {size:,} bytes")
        return self._stream.read(size)


def _fold(parts: tuple[str, ...]) -> tuple[str, ...]:
    """A path as file systems compare it that know neither case nor forms of accents."""
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)
