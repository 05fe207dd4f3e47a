"""Where uploads live: one private temporary folder per server, from which nothing survives the server.

The folder is removed when the server stops. A killed server (SIGKILL, power failure) cannot do that; the next server
on the machine does, which recognises an abandoned folder by its lock.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout

from surgvivqa.utils.errors import RunError

PREFIX = "surgvivqa-demo-"
_LOCK = ".lock"
_YOUNG = 60.0  # seconds in which a folder without a lock may belong to a server that is starting
_SWEEP_EVERY = 5.0  # seconds
_ARRIVING = 120.0  # seconds after its last byte in which an upload is handed over

SessionT = TypeVar("SessionT")


class PrivateFolder:
    """A temporary folder that only this user can read, removed by ``close``.

    Attributes:
        path: the folder.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Makes the folder in ``parent``, by default the system's temporary folder, and removes abandoned ones there.

        Raises:
            RunError: the folder cannot be written.
        """
        parent = parent or Path(tempfile.gettempdir())
        remove_abandoned(parent)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()  # mkdtemp's mode is 0700
            self._lock = FileLock(self.path / _LOCK)
            self._lock.acquire(timeout=10)
        except OSError as error:
            raise RunError(f"{parent} cannot hold uploads ({error.strerror}); set TMPDIR to another folder.") from None

    def close(self) -> None:
        """Removes the folder and everything in it."""
        with contextlib.suppress(OSError):
            self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Removes this user's folders of servers that are not running any more."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            status = folder.lstat()
            is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if folder.is_symlink() or not folder.is_dir() or not is_ours or time.time() - status.st_mtime < _YOUNG:
                continue
            with FileLock(folder / _LOCK, timeout=0):
                pass
            shutil.rmtree(folder, ignore_errors=True)


class Sessions(Generic[SessionT]):
    """The sessions of a page's visitors, each with a folder, forgotten when the tab closes or after a time without use.

    Args:
        root: folder for the sessions' folders.
        arriving: folder in which uploads arrive; what nobody picks up there is removed, too.
        new: makes the value of a new session from its folder.
        close: releases what a session's value holds, such as open files.
        keep: seconds without use after which a session is forgotten.
    """

    def __init__(
        self,
        root: Path,
        arriving: Path,
        new: Callable[[Path], SessionT],
        close: Callable[[SessionT], None],
        keep: float,
    ) -> None:
        self.root, self.arriving, self.keep = root, arriving, keep
        for folder in (root, arriving):
            folder.mkdir(exist_ok=True)
        self._new, self._close = new, close
        self._sessions: dict[str, tuple[SessionT, Path, float]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_forever, daemon=True, name="surgvivqa-demo-sweeper")
        self._sweeper.start()

    def get(self, key: str) -> SessionT:
        """The session of a visitor, a new one at the first visit; its time without use starts again."""
        with self._lock:
            if key in self._sessions:
                session, folder, _ = self._sessions[key]
            else:
                self._count += 1
                folder = self.root / str(self._count)  # not the key, which a visitor chooses
                folder.mkdir()
                session = self._new(folder)
            self._sessions[key] = (session, folder, time.monotonic())
            return session

    def drop(self, key: str) -> None:
        """Forgets a visitor's session and removes its files."""
        with self._lock:
            found = self._sessions.pop(key, None)
        if found is not None:
            self._close(found[0])
            shutil.rmtree(found[1], ignore_errors=True)

    def sweep(self) -> None:
        """Forgets the sessions that were not used for ``keep`` seconds, and removes uploads that nobody picked up."""
        now = time.monotonic()
        with self._lock:
            old = [key for key, (_, _, used) in self._sessions.items() if now - used > self.keep]
        for key in old:
            self.drop(key)
        for path in sorted(self.arriving.rglob("*"), reverse=True):  # files before their folders
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _ARRIVING:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def close(self) -> None:
        """Forgets all sessions."""
        self._stopped.set()
        for key in list(self._sessions):
            self.drop(key)

    def _sweep_forever(self) -> None:
        while not self._stopped.wait(_SWEEP_EVERY):
            self.sweep()
