"""Downloads one file: it resumes, retries, bounds the size, and keeps a checksum beside the file.

Beside a file ``NAME`` there are, while it is incomplete, ``.NAME.part`` with the bytes so far and ``.NAME.part.json``
with what they belong to; afterwards ``NAME.sha256`` in the format of ``sha256sum``. The lock is ``.NAME.lock``.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from surgvivqa.downloads.progress import ByteProgress, format_bytes
from surgvivqa.downloads.web import RangeNotSatisfiableError, TemporaryError, WebLimits, open_url
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError, RunError, first_line
from surgvivqa.utils.safe_json import read_json

log = logging.getLogger("surgvivqa")
_CHUNK = 1 << 18
_PROGRESS_BYTES = 1 << 20  # an attempt that brings so many bytes is no failure
_RESERVE = 200_000_000  # bytes of the disk that a download leaves free
_MAGIC = {".zip": (b"PK\x03\x04", b"PK\x05\x06"), ".gz": (b"\x1f\x8b",), ".tgz": (b"\x1f\x8b",)}


@dataclass(frozen=True)
class Expected:
    """What is known about a file.

    Attributes:
        bytes: its size; None if unknown.
        sha256: its checksum; None if unknown.
        at_most: size that it must not exceed.
        whose: where the checksum is from, for messages.
    """

    bytes: int | None
    sha256: str | None
    at_most: int
    whose: str = "the published checksum"


@dataclass(frozen=True)
class Downloaded:
    """A complete file.

    Attributes:
        path: the file.
        bytes: its size.
        sha256: its checksum.
        compared_with: what the checksum was compared with; None if it is the first one seen.
    """

    path: Path
    bytes: int
    sha256: str
    compared_with: str | None


class _ChangedError(Exception):
    """The bytes so far belong to another version of the file; the download starts again."""


@contextlib.contextmanager
def lock_file(target: Path) -> Iterator[None]:
    """Locks a path against other processes; the body may write it.

    Raises:
        RunError: another process has the lock.
    """
    lock = FileLock(target.with_name(f".{target.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"Another process is working on {target}; wait until it is done, then run the command again."
        ) from None
    except OSError as error:
        raise RunError(f"{target} cannot be locked ({first_line(error)}); choose a folder on another disk.") from None
    try:
        yield
    finally:
        lock.release(force=True)


def download(
    url: str,
    target: Path,
    expected: Expected,
    limits: WebLimits,
    sleep: Callable[[float], object] = time.sleep,
) -> Downloaded:
    """Downloads ``url`` to ``target``, or continues a download that was stopped.

    The caller holds ``lock_file(target)``. A file that is there already is not downloaded again, but its
    checksum is compared.

    Args:
        url: the address.
        target: the file; its folder exists.
        expected: what is known about the file.
        limits: time limits and retries.
        sleep: waits between attempts.

    Raises:
        RunError: the file cannot be had, is too large, has another size or checksum than expected, or the disk is full.
            The bytes so far are kept unless they are wrong.
    """
    known = _known_checksum(target, expected)
    if target.is_file():
        return _verify(target, expected, known, existing=True)
    part = _Part(target, url)
    resumed = part.size > 0
    while True:
        _receive(url, part, expected, limits, known is not None, sleep)
        try:
            result = _verify(part.path, expected, known, existing=False)
            break
        except _ChangedError as error:
            part.remove()
            if not resumed:
                raise RunError(str(error)) from None
            log.warning("%s The download was resumed, so it starts again at its beginning, once.", error)
            resumed = False
    check_content(part.path, target.name, url, part.remove)
    with _disk_faults(target):
        part.path.replace(target)
    part.remove()
    record_checksum(target, result.sha256)
    return Downloaded(target, result.bytes, result.sha256, result.compared_with)


def checksum_file(target: Path) -> Path:
    """Where the checksum of a file is kept."""
    return target.with_name(f"{target.name}.sha256")


def read_checksum(target: Path) -> str | None:
    """The checksum kept beside a file by an earlier download; None if there is none.

    Raises:
        InputError: its file is damaged.
    """
    path = checksum_file(target)
    try:
        if path.stat().st_size > 10_000:
            raise InputError(f"{path} is not a checksum file; remove it to accept any content.")
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}).") from None
    found = re.match(r"([0-9a-fA-F]{64})\b", text)
    if found is None:
        raise InputError(f"{path} does not begin with a SHA-256 checksum; remove it to accept any content.")
    return found[1].lower()


def record_checksum(target: Path, sha256: str) -> None:
    """Keeps a file's checksum for later downloads."""
    write_text(checksum_file(target), f"{sha256}  {target.name}\n")


def hash_file(path: Path, show: Callable[[int], object] = lambda count: None) -> str:
    """The SHA-256 checksum of a file; ``show`` gets the number of bytes after each block."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            show(len(block))
    return digest.hexdigest()


def check_content(path: Path, name: str, place: str, remove: Callable[[], object] = lambda: None) -> None:
    """Checks that an archive begins like one; ``remove`` is called before the error.

    Raises:
        RunError: it is something else, such as a web page.
    """
    wanted = next((magic for ending, magic in _MAGIC.items() if name.lower().endswith(ending)), None)
    with path.open("rb") as stream:
        head = stream.read(512)
    if wanted is None or head.startswith(wanted):
        return
    remove()
    is_page = re.match(rb"\s*<(!doctype|html|\?xml|head|script)", head, re.IGNORECASE)
    what = (
        "a web page"
        if is_page
        else "a Git LFS pointer"
        if head.startswith(b"version https://git-lfs")
        else "no archive"
    )
    raise RunError(
        f"What came from {place} is {what}, not {name}; look at it in a browser, and give the file with --mirror "
        f"NAME=FILE."
    )


def check_space(folder: Path, needed: int, what: str) -> None:
    """Checks that a disk has room.

    Raises:
        RunError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE:
        raise RunError(
            f"{what} needs {format_bytes(needed)}, but the disk of {folder} has {format_bytes(free)} free; make room, "
            f"or choose another folder with --to."
        )


class _Part:
    """The bytes of an incomplete download, and what they belong to."""

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self.state_path = target.with_name(f".{target.name}.part.json")
        self.target, self.url = target, url
        self.state = self._read_state()
        if self.path.is_symlink() or not self.state:
            self.remove()

    def _read_state(self) -> dict[str, Any]:
        try:
            state = read_json(self.state_path)
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("url") == self.url else {}

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` compares: a strong ETag, else the date of the last change."""
        etag, modified = self.state.get("etag"), self.state.get("modified")
        if isinstance(etag, str) and etag.startswith('"'):
            return etag
        return modified if isinstance(modified, str) else None

    def begin(self, response: Any, length: int | None) -> None:
        """Starts at the beginning with the version that a response is about."""
        headers = response.headers
        self.state = {
            "url": self.url,
            "etag": headers.get("ETag"),
            "modified": headers.get("Last-Modified"),
            "bytes": length,
        }
        write_text(self.state_path, json.dumps(self.state) + "\n")
        self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)
        self.state = {}


def _receive(
    url: str,
    part: _Part,
    expected: Expected,
    limits: WebLimits,
    has_checksum: bool,
    sleep: Callable[[float], object],
) -> None:
    """Brings the part to its full length, over as many connections as it takes."""
    if part.size and part.size == part.state.get("bytes"):  # stopped between the last byte and the rename
        return
    failures = 0
    with ByteProgress(part.target.name, expected.bytes) as progress:
        while True:
            before = part.size
            try:
                _receive_once(url, part, expected, limits, has_checksum, progress)
                return
            except _ChangedError as error:
                log.info("%s: %s; the download starts again at its beginning.", part.target.name, error)
                part.remove()
                failures += 1
                fault = str(error)
                wait = 0.0
            except TemporaryError as error:
                failures = 1 if part.size >= before + _PROGRESS_BYTES else failures + 1
                fault, wait = str(error), limits.wait(failures) if error.wait is None else error.wait
            if failures >= limits.attempts:
                raise RunError(
                    f"{url} could not be downloaded in {failures} attempts (last: {fault}); {_kept(part)}try again "
                    f"later, or give another place with --mirror."
                )
            if wait:
                log.info(
                    "%s: %s; attempt %d of %d in %.0f s.",
                    *(part.target.name, fault, failures + 1, limits.attempts, wait),
                )
                sleep(wait)


def _kept(part: _Part) -> str:
    return f"{format_bytes(part.size)} are kept, so that the same command goes on; " if part.size else ""


def _receive_once(
    url: str, part: _Part, expected: Expected, limits: WebLimits, has_checksum: bool, progress: ByteProgress
) -> None:
    """Makes one request and appends what comes to the part.

    Raises:
        TemporaryError: the connection failed or ended early.
        _ChangedError: the server's file is another one than the part's.
        RunError: the file is too large, or not what is expected.
    """
    start, headers = part.size, {}
    if start and (part.validator or has_checksum):  # without either, nothing would show that the file has changed
        headers["Range"] = f"bytes={start}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        response = open_url(url, headers, limits)
    except RangeNotSatisfiableError:
        if start and start == part.state.get("bytes"):
            return
        if not start:
            raise RunError(f"{url} answers with status 416 to a request for the whole file.") from None
        raise _ChangedError("the server has fewer bytes than were downloaded") from None
    with response:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise RunError(f"{url} is sent with the encoding {encoding[:40]}, which was not asked for; use --mirror.")
        length = _length(response)
        if response.status == 206:
            length = _check_range(response, start, part)
        elif start:
            if headers:
                log.info("%s: the server sends the whole file again.", part.target.name)
            start = 0
        _check_length(url, length, expected)
        check_space(part.path.parent, (length or 0) - start, part.target.name)
        if not start:
            part.begin(response, length)
        progress.restart(start, length)
        _append(url, response, part, start, length, expected, progress)


def _append(
    url: str, response: Any, part: _Part, start: int, length: int | None, expected: Expected, progress: ByteProgress
) -> None:
    """Writes a response's body behind the first ``start`` bytes of the part."""
    size, most = start, expected.at_most if length is None else length
    with _disk_faults(part.target), part.path.open("ab", buffering=0) as stream:
        while True:
            try:
                block = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = "no byte came for too long" if isinstance(error, TimeoutError) else first_line(error)
                raise TemporaryError(f"the connection failed after {format_bytes(size)} ({why})") from None
            if not block:
                break
            size += len(block)
            if size > most:
                part.remove()
                raise RunError(
                    f"{url} sends more than {format_bytes(most)}, the most that {part.target.name} may have; look at "
                    f"it in a browser, or give another place with --mirror."
                )
            stream.write(block)
            progress.add(len(block))
    if length is not None and size < length:
        raise TemporaryError(f"the connection ended after {format_bytes(size)} of {format_bytes(length)}")


def _length(response: Any) -> int | None:
    """The length of a response's body; None if the server does not say or says nonsense."""
    if response.headers.get("Transfer-Encoding") is not None:  # then the other header does not count (RFC 9112, 6.3)
        return None
    value = response.headers.get("Content-Length")
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,19}", value) else None


def _check_length(url: str, length: int | None, expected: Expected) -> None:
    """Compares the length that a server announces with what is known.

    Raises:
        RunError: it is another one, or too large.
    """
    if length is None:
        return
    if expected.bytes is not None and length != expected.bytes:
        raise RunError(
            f"{url} has {length:,} bytes instead of the {expected.bytes:,} published, so it is another file; give "
            f"another place with --mirror."
        )
    if length > expected.at_most:
        raise RunError(
            f"{url} has {format_bytes(length)}, more than the {format_bytes(expected.at_most)} that the table allows; "
            f"look at it in a browser, or give another place with --mirror."
        )


def _check_range(response: Any, start: int, part: _Part) -> int:
    """The full length by a 206 response, whose range must begin where the part ends.

    Raises:
        _ChangedError: it begins elsewhere, or is about another version of the file.
    """
    found = re.fullmatch(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start or int(found[2]) != int(found[3]) - 1:
        raise _ChangedError("the server sends another range than was asked for")
    etag, total = response.headers.get("ETag"), int(found[3])
    if part.state.get("etag") and etag and etag != part.state["etag"]:
        raise _ChangedError("the file has changed on the server")
    if part.state.get("bytes") not in (None, total):
        raise _ChangedError("the file has another length on the server now")
    return total


def _known_checksum(target: Path, expected: Expected) -> tuple[str, str] | None:
    """The checksum that the file must have, and where it is from; None if none is known."""
    if expected.sha256 is not None:
        return expected.sha256, expected.whose
    kept = read_checksum(target)
    return None if kept is None else (kept, f"the checksum of an earlier download, in {checksum_file(target)}")


def _verify(path: Path, expected: Expected, known: tuple[str, str] | None, existing: bool) -> Downloaded:
    """Compares a complete file's size and checksum.

    Raises:
        RunError: a file that was there before differs.
        _ChangedError: a file that was downloaded differs; the message is a sentence.
    """
    size = path.stat().st_size
    with ByteProgress(f"checksum of {path.name.removeprefix('.').removesuffix('.part')}", size) as progress:
        sha256 = hash_file(path, progress.add)
    if known is not None and sha256 != known[0]:
        if existing:
            raise RunError(
                f"{path} has the SHA-256 checksum {sha256}, not {known[0]} ({known[1]}), so it is damaged or another "
                f"version; remove it to download it again."
            )
        raise _ChangedError(
            f"What was downloaded has the SHA-256 checksum {sha256}, not {known[0]} ({known[1]}), and was removed; if "
            f"the data set has a new version, remove the old checksum or give the new one with --sha256."
        )
    if expected.bytes is not None and size != expected.bytes:
        raise RunError(f"{path} has {size:,} bytes instead of {expected.bytes:,}; remove it to download it again.")
    return Downloaded(path, size, sha256, None if known is None else known[1])


@contextlib.contextmanager
def _disk_faults(target: Path) -> Iterator[None]:
    """Turns the body's errors about the disk into a ``RunError``."""
    try:
        yield
    except OSError as error:
        advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another folder with --to"
        raise RunError(
            f"{target} cannot be written ({first_line(error)}); what was downloaded so far is kept: {advice}, and run "
            f"the command again."
        ) from None
