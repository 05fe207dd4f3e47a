"""Downloads one file of the hub: resumed after a stop, retried when the connection breaks, and verified."""

import hashlib
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from surgvivqa.checkpoints.checksums import hash_file
from surgvivqa.checkpoints.hub_errors import is_network
from surgvivqa.checkpoints.hub_files import RemoteFile
from surgvivqa.utils.errors import RunError

log = logging.getLogger("surgvivqa")
RETRIES = 5  # failures in a row without a new byte
PAUSE = 1.0  # seconds before the first retry; doubled for each further one
_SHA256, _GIT_BLOB = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def download(url: str, file: RemoteFile, path: Path, report: Callable[[int], None]) -> None:
    """Downloads a file to ``path``, unless it is there. Bytes that an earlier, stopped download left are kept.

    The file appears under its name only when its size and checksum are right. Several processes may call this for the
    same file; the later ones wait for the first.

    Args:
        url: where the hub serves it. The user's token is sent there, and not to another host that it redirects to.
        file: its size and checksum.
        path: where it goes, in a folder that exists.
        report: called with the number of bytes of each piece, negative when bytes are thrown away.

    Raises:
        RunError: what arrives is not the file that the hub describes.
        Exception: those of the hub's library and of its HTTP client.
    """
    part = path.with_name(f"{path.name}.partial")
    lock = path.with_name(f"{path.name}.lock")
    with FileLock(lock):
        if path.exists():  # another process was faster
            report(file.size)
            return
        for attempt in (1, 2):
            report(_size(part))
            _receive(url, file, part, report)
            if matches(part, file):
                break
            report(-_size(part))
            part.unlink()
            if attempt == 2:
                raise RunError(
                    f"{file.name} from the hub does not have the checksum that the hub gives for it, twice; nothing of "
                    f"it is kept. Try again later, or without the mirror in HF_ENDPOINT."
                )
            log.warning("%s arrived with a wrong checksum; it is fetched once more.", file.name)
        part.replace(path)
    lock.unlink(missing_ok=True)


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the size and the checksum that the hub gives for it.

    Large files have a SHA-256, small ones the SHA-1 of a git blob. A mirror that gives neither is trusted for the size.

    Raises:
        OSError: the file cannot be read.
    """
    if file.size >= 0 and path.stat().st_size != file.size:
        return False
    if _SHA256.fullmatch(file.etag):
        return hash_file(path) == file.etag
    if _GIT_BLOB.fullmatch(file.etag):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == file.etag
    return True


def _receive(url: str, file: RemoteFile, part: Path, report: Callable[[int], None], *, again: bool = False) -> None:
    """Appends to ``part`` until it has the file's size; breaks of the connection are waited for.

    Raises:
        RunError: the server sends too much, also the second time (``again``), or ends too early each time.
        Exception: those of the hub's library and of its HTTP client.
    """
    failures = 0
    if file.size == 0:
        part.touch()
    while (start := _size(part)) < file.size or file.size < 0:
        try:
            _request(url, file, part, start, report)
            if file.size < 0:
                return
        except Exception as error:  # the library raises many kinds; others are raised again
            if not is_network(error):
                raise
            failures = 1 if _size(part) > start else failures + 1
            if failures > RETRIES:
                raise
            time.sleep(PAUSE * 2 ** (failures - 1))
        else:
            failures = 0 if _size(part) > start else failures + 1
            if failures > RETRIES:
                raise RunError(f"The hub ends {file.name} after {start:,} of {file.size:,} bytes; try again later.")
    if _size(part) > file.size >= 0:  # of another version of the file, or of a server that repeats bytes
        report(-_size(part))
        part.unlink()
        if again:
            raise RunError(f"The hub sends more than the {file.size:,} bytes that {file.name} has; try again later.")
        _receive(url, file, part, report, again=True)


def _request(url: str, file: RemoteFile, part: Path, start: int, report: Callable[[int], None]) -> None:
    """One request for the bytes from ``start`` on."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # of compressed bytes no range can be asked for
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code == 416:
            report(-start)
            part.unlink()
            return
        hf_raise_for_status(response)
        resumed = start and response.status_code == 206 and _range_start(response.headers) == start
        if start and not resumed:  # the server sends the whole file again
            report(-start)
        with part.open("ab" if resumed else "wb") as out:
            for piece in response.iter_bytes():  # as they arrive: a buffer would be lost in a break
                out.write(piece)
                report(len(piece))
                if 0 <= file.size < out.tell():  # without this, a server could fill the disk
                    return


def _range_start(headers: object) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))  # type: ignore[attr-defined]
    return int(found[1]) if found else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
