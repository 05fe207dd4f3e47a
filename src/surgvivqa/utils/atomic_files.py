"""Atomic writes: files and folders are written under a temporary name and moved into place by a rename.

A process that is killed at any moment leaves the old version or the new one, never a partial one. A folder cannot be
replaced by one rename, so for a moment only the old folder exists, under another name; ``surviving_folder`` finds it.
Temporary names begin with a dot, so that they do not collide with the user's files.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from surgvivqa.utils.errors import RunError, first_line

REPLACED = ".replaced"
_TEMPORARY = ".writing"
_PYTORCH_WRITE_ERRORS = ("PytorchStreamWriter", "file write", "inline_container")


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yields a temporary path for the body to write, and renames it to ``path`` when the body succeeds.

    Args:
        path: the final path of the file.
        durable: flush the file to the disk before the rename and the folder after it, so that the new file survives a
            power failure. Otherwise a crash of the machine, but not of the process, may leave an empty file.
        shared: several processes may write ``path`` at the same time; each gets a unique temporary name
            (``.NAME.PID-RANDOM.tmp``), and the last rename wins.

    Raises:
        OSError: the file cannot be written. On any error the temporary file is removed and ``path`` is unchanged.
    """
    temporary = _hidden(path, f".{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp" if shared else _TEMPORARY)
    try:
        temporary.unlink(missing_ok=True)  # writing to an old link would write to its target
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable:
            _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Calls ``write`` with a temporary path and moves the result to ``path``; see ``atomic_path``.

    Raises:
        RunError: the disk is full or the file cannot be written; ``path`` is unchanged.
    """
    with _disk_errors(path), atomic_path(path, durable=durable) as temporary:
        write(temporary)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Writes ``text`` in UTF-8; see ``write_file``."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), durable=durable)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` with an empty temporary folder and moves it to ``folder``, replacing an existing folder.

    Raises:
        RunError: ``folder`` is a link, the disk is full, or the folder cannot be written; ``folder`` is unchanged.
    """
    if folder.is_symlink():  # a link in an untrusted folder may point anywhere, and its target would be replaced
        raise RunError(f"{folder} is a link, which is not written through; give the folder itself, or remove the link.")
    folder = folder.resolve()  # because "." has no name
    temporary, old = _hidden(folder, _TEMPORARY), _hidden(folder, REPLACED)
    with _disk_errors(folder):
        try:
            remove_folder(temporary)
            temporary.mkdir(parents=True)
            write(temporary)
            for path in (*temporary.rglob("*"), temporary):
                _flush(path)
            if folder.exists():
                remove_folder(old)
                folder.replace(old)
            temporary.replace(folder)
            _flush(folder.parent)
        except Exception:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder and its content if it exists; if it is a link, removes only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def surviving_folder(folder: Path) -> Path:
    """The folder, or its old version if a process was killed between the two renames of ``write_folder``."""
    old = _hidden(folder.resolve(), REPLACED)
    return old if not folder.exists() and old.is_dir() else folder


def _hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turns the body's errors about the disk into a ``RunError``."""
    try:
        yield
    except Exception as error:
        if (reason := _find_disk_fault(error)) is None:
            raise
        raise RunError(f"{path} cannot be written ({reason}); what was there before is kept.") from error


def _find_disk_fault(error: Exception) -> str | None:
    """The reason why the disk refused a write; None if ``error`` is another error.

    PyTorch, safetensors and tokenizers (a plain ``Exception``) report a full disk in different ways.
    """
    if isinstance(error, OSError | SafetensorError) or "(os error " in str(error):
        return first_line(error)
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _PYTORCH_WRITE_ERRORS):
        return f"PyTorch could not complete it, so the disk may be full: {first_line(error, 90)}"
    return None


def _flush(path: Path) -> None:
    """Flushes a file or folder to the disk, so that a rename never survives a crash without its content."""
    if path.is_symlink() or (os.name == "nt" and path.is_dir()):  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems cannot
            raise
    finally:
        os.close(handle)
