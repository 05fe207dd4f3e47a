"""Puts a data set into its folder: takes its files from their places, unpacks them, and records where they are from."""

import logging
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from surgvivqa.downloads.archives import Archive, ArchiveError, LinkPolicy
from surgvivqa.downloads.licence import RECORD, Consent, write_record
from surgvivqa.downloads.places import Mirrors, Place
from surgvivqa.downloads.progress import ByteProgress, format_bytes
from surgvivqa.downloads.sources import Source, SourceFile, UnpackLimits
from surgvivqa.downloads.transfer import (
    Downloaded,
    Expected,
    check_content,
    check_space,
    checksum_file,
    download,
    hash_file,
    lock_file,
    read_checksum,
    record_checksum,
)
from surgvivqa.downloads.web import WebLimits
from surgvivqa.utils.atomic_files import remove_folder
from surgvivqa.utils.errors import InputError, RunError, first_line
from surgvivqa.utils.safe_json import read_json

log = logging.getLogger("surgvivqa")
ARCHIVES = "downloads"  # the folder of the archives, in --to
_CLUSTER = 4096  # bytes that a small file takes on a disk


@dataclass(frozen=True)
class InstallOptions:
    """How data sets are installed.

    Attributes:
        to: the folder that gets a folder of each data set.
        mirrors: places to use instead of the public ones.
        sha256: the checksum that the one file must have, instead of the table's; None for the table's.
        overwrite: whether the folder of an earlier download is replaced.
        keep_archives: whether archives are kept after they are unpacked.
        limits: time limits and retries.
    """

    to: Path
    mirrors: Mirrors
    sha256: str | None = None
    overwrite: bool = False
    keep_archives: bool = False
    limits: WebLimits = WebLimits()


def is_installed(source: Source, options: InstallOptions) -> bool:
    """Whether a data set is in its folder already, and stays.

    Raises:
        InputError: the folder exists, but this command did not make it.
    """
    folder = options.to / source.folder
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        record = None
    is_ours = isinstance(record, dict) and record.get("name") == source.name
    if folder.is_symlink() or (folder.exists() and not is_ours and (not folder.is_dir() or any(folder.iterdir()))):
        raise InputError(
            f"{folder} exists, and was not made by this command for {source.name}; move it away, or choose another "
            f"folder with --to."
        )
    return is_ours and not options.overwrite


def install(source: Source, consent: Consent, options: InstallOptions) -> Path:
    """Downloads a data set and unpacks it.

    Returns:
        Its folder, with ``SOURCE.json``.

    Raises:
        InputError: a place has no such file.
        RunError: a file cannot be had, fails a check, or cannot be unpacked.
    """
    (file,) = source.files  # every set of the table is one archive
    place = options.mirrors.find(source, file)
    archives = options.to / ARCHIVES
    try:
        archives.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to {options.to} cannot be written ({first_line(error)}); choose another folder.") from None
    folder = options.to / source.folder
    target = archives / (file.name if place.path is None else place.path.name)
    with lock_file(folder):
        if is_installed(source, options):  # another process may have done it meanwhile
            return folder
        found = _fetch(place, target, file, options)
        try:
            unpack(found.path, folder, source, consent, file, found, place)
        except ArchiveError as error:
            if place.path is not None or found.compared_with is not None:
                raise
            # Such as one whose connection ended early, which the server did not let us notice.
            target.unlink()
            checksum_file(target).unlink(missing_ok=True)
            raise RunError(f"{error} What came is removed, so that the same command downloads it anew.") from None
        if place.path is None and not options.keep_archives:
            target.unlink()
    return folder


def _fetch(place: Place, target: Path, file: SourceFile, options: InstallOptions) -> Downloaded:
    """The file, downloaded or where it lies."""
    expected = Expected(file.bytes, options.sha256 or file.sha256, file.at_most)
    if options.sha256:
        expected = replace(expected, bytes=None, whose="--sha256")
    if place.path is None:
        assert place.url is not None
        is_http = place.is_mirror and urllib.parse.urlsplit(place.url).scheme == "http"
        return download(place.url, target, expected, replace(options.limits, allow_http=is_http))
    size = place.path.stat().st_size
    if size > file.at_most:
        raise InputError(
            f"{place.path} has {format_bytes(size)}, more than the {format_bytes(file.at_most)} that {file.name} may "
            f"have; give the right file."
        )
    with ByteProgress(f"checksum of {place.path.name}", size) as progress:
        sha256 = hash_file(place.path, progress.add)
    known, kept = expected.sha256, read_checksum(target) or read_checksum(place.path)
    wanted = known or kept
    if wanted is not None and sha256 != wanted:
        whose = expected.whose if known else f"that of an earlier download, beside it or in {target.parent}"
        raise RunError(
            f"{place.path} has the SHA-256 checksum {sha256}, not {wanted} ({whose}); get it again, or give --sha256."
        )
    check_content(place.path, place.path.name, str(place.path))
    record_checksum(target, sha256)
    compared = expected.whose if known else "the checksum of an earlier download" if kept else None
    return Downloaded(place.path, size, sha256, compared)


def unpack(
    archive: Path, folder: Path, source: Source, consent: Consent, file: SourceFile, found: Downloaded, place: Place
) -> None:
    """Unpacks an archive next to ``folder`` and renames the result to it, so that ``folder`` is whole or not there.

    Raises:
        RunError: the archive fails a check, the disk is full, or the archive holds something else.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    remove_folder(temporary)  # of a process that was killed
    try:
        temporary.mkdir()
        links = _unpack_members(archive, temporary, source.links, file.unpacked or UnpackLimits(bytes=0, files=0))
        inner = find_root(temporary, source.root)
        if inner is None:
            entries = ", ".join(sorted(path.name for path in temporary.iterdir())[:5]) or "nothing"
            raise RunError(
                f"{archive} does not hold what is expected of {source.name} (an entry like {source.root}; found: "
                f"{entries}); give the right archive, or unpack it by hand."
            )
        _check_links(inner)
        beside = _count_files(temporary) - _count_files(inner)
        if beside:
            log.info("%s: %d files of the archive lie beside its folder of data and are left out.", source.name, beside)
        if links:
            log.info("%s: %d links of the archive are left out, since this disk has no links.", source.name, links)
        write_record(
            inner,
            source,
            consent,
            [
                {
                    "name": file.name,
                    "from": str(place),
                    "bytes": found.bytes,
                    "sha256": found.sha256,
                    "compared_with": found.compared_with,
                }
            ],
        )
        old = folder.with_name(f".{folder.name}.replaced")
        remove_folder(old)
        if folder.exists():
            folder.replace(old)
        inner.replace(folder)
        remove_folder(old)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written ({first_line(error)}); make room, and run the command again."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_members(path: Path, folder: Path, links: LinkPolicy, limits: UnpackLimits) -> int:
    """Unpacks an archive into a folder; returns the number of links that this file system cannot hold."""
    with Archive(path) as archive:
        members = archive.members(links, limits)
        needed = sum(member.size + _CLUSTER for member in members)
        check_space(folder, needed, f"Unpacking {path.name}")
        total = sum(member.size for member in members)
        with ByteProgress(f"unpacking {path.name}", total) as progress:
            return archive.unpack(members, folder, progress.add)


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def find_root(folder: Path, pattern: str) -> Path | None:
    """The folder nearest to the top that has an entry whose name matches ``pattern``; None if there is none."""
    for candidate in _folders_from_top(folder):
        if any(re.fullmatch(pattern, path.name) for path in candidate.iterdir()):
            return candidate
    return None


def _folders_from_top(folder: Path) -> Iterator[Path]:
    """A folder and all folders below, those nearer to the top first; links are not followed."""
    level = [folder]
    while level:
        yield from level
        level = sorted(path for parent in level for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _check_links(folder: Path) -> None:
    """Checks that no link in a folder leads out of it.

    Raises:
        RunError: one does.
    """
    root = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise RunError(
                    f"The archive's link {path.relative_to(folder)} leads out of its folder, so it is not used."
                )
