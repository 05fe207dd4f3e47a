"""Uploads are removed when a visitor leaves, stays away, or the server ends, however it ends."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgvivqa.demo.uploads import PREFIX, PrivateFolder, Sessions, remove_abandoned


class Held:
    """A session that remembers whether it was closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.closed = folder, False

    def close(self) -> None:
        self.closed = True


def make_sessions(root: Path, keep: float = 60.0) -> Sessions[Held]:
    return Sessions(root / "visits", root / "arriving", Held, Held.close, keep)


def test_the_folder_is_private_and_goes_with_its_content(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "a").mkdir()
    (folder.path / "a" / "b.mp4").write_bytes(b"x")
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_servers_folder_is_removed_by_the_next_one(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from surgvivqa.demo.uploads import PrivateFolder
folder = PrivateFolder(Path({str(tmp_path)!r}))
(folder.path / "patient.mp4").write_bytes(b"x")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.glob(f"{PREFIX}*")
    assert (left / "patient.mp4").exists()
    os.utime(left, (time.time() - 3600,) * 2)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_running_server_and_folders_of_others_stay(tmp_path: Path) -> None:
    running = PrivateFolder(tmp_path)
    other, link = tmp_path / "other", tmp_path / f"{PREFIX}link"
    other.mkdir()
    link.symlink_to(other, target_is_directory=True)
    for path in (running.path, other):
        os.utime(path, (time.time() - 3600,) * 2)
    remove_abandoned(tmp_path)
    assert running.path.is_dir() and other.is_dir() and link.is_symlink()
    running.close()


def test_a_visitor_keeps_one_session_until_it_is_dropped(tmp_path: Path) -> None:
    sessions = make_sessions(tmp_path)
    first = sessions.get("a")
    (first.folder / "upload.mp4").write_bytes(b"x")
    assert sessions.get("a") is first and sessions.get("b") is not first
    sessions.drop("a")
    assert first.closed and not first.folder.exists() and sessions.get("a") is not first
    sessions.close()


def test_a_session_without_use_is_forgotten(tmp_path: Path) -> None:
    sessions = make_sessions(tmp_path, keep=0.0)
    held = sessions.get("a")
    time.sleep(0.01)
    sessions.sweep()
    assert held.closed and not held.folder.exists()
    sessions.close()


def test_a_visitor_cannot_choose_a_folder(tmp_path: Path) -> None:
    sessions = make_sessions(tmp_path)
    assert sessions.get("../../outside").folder.parent == tmp_path / "visits"
    sessions.close()


@pytest.mark.parametrize(("age", "stays"), [(10.0, True), (600.0, False)])
def test_what_nobody_picked_up_is_removed_when_it_is_old(tmp_path: Path, age: float, stays: bool) -> None:
    sessions = make_sessions(tmp_path)
    file = tmp_path / "arriving" / "hash" / "clip.mp4"
    file.parent.mkdir()
    file.write_bytes(b"x")
    for path in (file, file.parent):
        os.utime(path, (time.time() - age,) * 2)
    sessions.sweep()
    assert file.exists() == stays
    sessions.close()
