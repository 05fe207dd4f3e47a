"""Files and folders written aside, flushed to the disk, and put in place by a rename: whole or not at all.

A kill at any moment leaves the old one or the new one. A folder cannot be replaced by one rename, so for a moment the
old one has another name; ``in_place`` finds it there. These names begin with a dot, since ``hf.old`` beside ``hf`` may
be somebody's backup.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from surgvivqa.utils.errors import RunError, first_line

ASIDE, REPLACED = ".writing", ".replaced"
_PYTORCH = ("PytorchStreamWriter", "file write", "inline_container")


def beside(path: Path, ending: str) -> Path:
    """Where a file or folder is while it is being written, or replaced."""
    return path.with_name(f".{path.name}{ending}")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` make a file aside and puts it in the place of ``path``.

    Raises:
        RunError: the disk is full, or the file cannot be written; what was there stays.
    """
    aside = beside(path, ASIDE)
    with _kept(path, lambda: aside.unlink(missing_ok=True)):
        aside.unlink(missing_ok=True)  # a link left there would be written through
        write(aside)
        _flush(aside)
        aside.replace(path)
        _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """``write_file`` of a text."""
    write_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` fill a folder aside and puts it in the place of ``folder``.

    Raises:
        RunError: as ``write_file``.
    """
    if folder.is_symlink():  # of a stranger's folder it may lead anywhere, and what is there would be replaced
        raise RunError(f"{folder} is a link, which is not written through; give the folder itself, or remove the link.")
    folder = folder.resolve()  # "." has no name
    aside, old = beside(folder, ASIDE), beside(folder, REPLACED)
    with _kept(folder, lambda: shutil.rmtree(aside, ignore_errors=True)):
        remove(aside)
        aside.mkdir(parents=True)
        write(aside)
        for path in (*aside.rglob("*"), aside):
            _flush(path)
        if folder.exists():
            remove(old)
            folder.replace(old)
        aside.replace(folder)
        _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path) -> None:
    """Removes a folder; of a link the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def in_place(folder: Path) -> Path:
    """The folder, or where it was put when a kill fell between the two renames that replace it."""
    old = beside(folder.resolve(), REPLACED)
    return old if not folder.exists() and old.is_dir() else folder


@contextlib.contextmanager
def _kept(path: Path, clear: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError):
            clear()
        if (reason := _of_the_disk(error)) is None:
            raise
        raise RunError(f"{path} cannot be written ({reason}); what was there before is kept.") from error


def _of_the_disk(error: Exception) -> str | None:
    """Why the disk would not take it, or None where it is not the disk. PyTorch, safetensors and tokenizers (a plain
    ``Exception``) each tell a full one in a way of their own."""
    if isinstance(error, OSError | SafetensorError) or "(os error " in str(error):
        return first_line(error)
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _PYTORCH):
        return f"PyTorch could not write it to its end, so the disk may be full: {first_line(error, 90)}"
    return None


def _flush(path: Path) -> None:
    """To the disk itself, so that a rename is never there before what it names."""
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # what some network file systems cannot do
            raise
    finally:
        os.close(handle)
