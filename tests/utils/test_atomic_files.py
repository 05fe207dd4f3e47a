"""Atomic writes: the old version or the new one, whatever fails and whoever else writes."""

from pathlib import Path

import pytest

from surgvivqa.utils.atomic_files import atomic_path, write_folder, write_text
from surgvivqa.utils.errors import RunError


class OtherError(Exception):
    """An error that the disk does not raise."""


@pytest.mark.parametrize(
    ("error", "is_disk_error"),
    [
        (Exception("No space left on device (os error 28)"), True),  # tokenizers
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 10139072 vs 10138960"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OtherError("no"), False),
    ],
)
def test_a_full_disk_as_each_library_reports_it(tmp_path: Path, error: Exception, is_disk_error: bool) -> None:
    def fill(folder: Path) -> None:
        (folder / "large").write_text("x")
        raise error

    with pytest.raises(RunError if is_disk_error else type(error)) as raised:
        write_folder(tmp_path / "best", fill)
    assert not is_disk_error or "what was there before is kept" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shared", [False, True])
def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "file"
    write_text(path, "old", durable=False)
    with pytest.raises(KeyboardInterrupt), atomic_path(path, shared=shared) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path, shared=True) as first, atomic_path(path, shared=True) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last rename wins
    assert list(tmp_path.iterdir()) == [path]
