"""The feature cache: items are read back bit for bit; stale, partial and damaged ones never are."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from surgvivqa.features import cache as cache_module
from surgvivqa.features.cache import FeatureCache, compute_tag, hash_weights
from surgvivqa.features.cache_file import DTYPES
from surgvivqa.utils.errors import InputError, RunError

WIDTH = 8
VALUES = {"weights_sha256": "00", "frame_fit": "squash"}


def get_item(store: FeatureCache, video: str, frame: int, tag: int = 0) -> Tensor:
    """Gets an item that must be in the cache."""
    item = store.get(video, frame, tag)
    assert item is not None
    return item


def open_cache(root: Path, dtype: str = "fp16", values: dict[str, str] = VALUES, **options: Any) -> FeatureCache:
    return FeatureCache(root, values, WIDTH, dtype, **options)


def make_item(seed: int, rows: int = 3) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def list_files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root).as_posix()).partition("/")[2] for p in root.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_an_item_is_read_back_as_put_returned_it(tmp_path: Path, dtype: str) -> None:
    store = open_cache(tmp_path, dtype)
    returned = {frame: store.put("VID01", frame, 5, make_item(frame, rows=frame)) for frame in (1, 4, 2)}
    assert all(rows.dtype == DTYPES[dtype] and len(rows) == frame for frame, rows in returned.items())
    for reader in (store, open_cache(tmp_path, dtype)):
        items = {frame: reader.get("VID01", frame, 5) for frame in returned}
        if reader is store:  # not on disk yet, so other processes do not see it
            assert open_cache(tmp_path, dtype).get("VID01", 1, 5) is None
            store.flush()
        assert all(rows is not None and torch.equal(rows, returned[frame]) for frame, rows in items.items())
    store.merge("VID01")
    merged = open_cache(tmp_path, dtype)
    assert all(torch.equal(get_item(merged, "VID01", frame, 5), rows) for frame, rows in returned.items())
    with safe_open(next(tmp_path.rglob("VID01.safetensors")), "pt") as file:  # any safetensors reader opens it
        assert torch.equal(file.get_slice("rows")[:], torch.cat([returned[1], returned[2], returned[4]]))


def test_changing_a_returned_item_does_not_change_the_store(tmp_path: Path) -> None:
    store = open_cache(tmp_path, "fp32")
    store.put("VID01", 0, 0, make_item(0)).zero_()
    get_item(store, "VID01", 0).zero_()
    assert torch.equal(get_item(store, "VID01", 0), make_item(0))
    store.flush()
    get_item(store, "VID01", 0).zero_()
    assert torch.equal(get_item(store, "VID01", 0), make_item(0))


@pytest.mark.parametrize(
    "other",
    [
        {"values": VALUES | {"weights_sha256": "01"}},
        {"values": VALUES | {"frame_fit": "crop"}},
        {"dtype": "bf16"},
    ],
)
def test_other_weights_settings_or_dtypes_are_a_miss(tmp_path: Path, other: dict[str, Any]) -> None:
    store = open_cache(tmp_path)
    store.put("VID01", 0, 0, make_item(0))
    store.flush()
    assert open_cache(tmp_path).get("VID01", 0, 0) is not None
    assert open_cache(tmp_path, **other).get("VID01", 0, 0) is None


def test_a_file_moved_from_a_folder_of_other_weights_is_not_read(tmp_path: Path) -> None:
    store, other = open_cache(tmp_path), open_cache(tmp_path, values=VALUES | {"weights_sha256": "01"})
    store.put("VID01", 0, 0, make_item(0))
    store.merge("VID01")
    (store.folder / "VID01.safetensors").rename(other.folder / "VID01.safetensors")
    assert other.get("VID01", 0, 0) is None


def test_an_item_under_another_tag_is_stale_and_a_new_frame_is_not(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put("VID01", 0, 1, make_item(0))
    store.flush()
    assert store.get("VID01", 0, 2) is None
    assert store.is_stale("VID01", 0, 2)
    assert not store.is_stale("VID01", 1, 2)


@given(st.lists(st.integers() | st.text() | st.lists(st.integers())), st.data())
@settings(max_examples=50)
def test_tags_are_int64_and_depend_on_the_values(values: list[Any], data: st.DataObject) -> None:
    assert -(2**63) <= compute_tag(*values) < 2**63
    assert compute_tag(*values) == compute_tag(*values)
    assert compute_tag(*values) != compute_tag(*values, data.draw(st.integers()))


def test_the_hash_of_weights_depends_on_values_names_shapes_and_dtypes() -> None:
    weight = torch.arange(6.0).view(2, 3)
    others = [{"a": weight + 1}, {"b": weight}, {"a": weight.view(3, 2)}, {"a": weight.view(torch.int32)}]
    assert hash_weights({"a": weight}) == hash_weights({"a": weight.clone()})
    assert len({hash_weights(s) for s in [{"a": weight}, *others]}) == 5


def test_items_are_flushed_before_memory_grows(tmp_path: Path) -> None:
    store = open_cache(tmp_path, flush_every=4)
    for frame in range(10):
        store.put("VID01", frame, 0, make_item(frame))
        assert len(store._pending) < 4
    assert len(list_files(tmp_path)) == 2


def test_merging_drops_stale_items_and_removes_empty_parts(tmp_path: Path) -> None:
    first, second = open_cache(tmp_path), open_cache(tmp_path)
    first.put("VID01", 0, 1, make_item(0))
    first.put("VID02", 0, 1, make_item(1))
    second.put("VID01", 0, 2, make_item(2))
    second.put("VID01", 9, 7, make_item(3))
    first.flush()
    second.flush()
    first.merge("VID01", {0: 2})
    assert [f for f in list_files(tmp_path) if "parts" not in f] == ["VID01.safetensors"]
    assert len(list_files(tmp_path)) == 2  # the part with VID02's item remains
    first.merge("VID02", {0: 1})
    assert list_files(tmp_path) == ["VID01.safetensors", "VID02.safetensors"]
    after = open_cache(tmp_path)
    assert after.get("VID01", 0, 1) is None
    for key, seed in ((("VID01", 0, 2), 2), (("VID01", 9, 7), 3), (("VID02", 0, 1), 1)):
        assert torch.equal(get_item(after, *key), make_item(seed).half())


@pytest.mark.parametrize("is_mapped", [True, False])
def test_a_reader_continues_while_another_process_merges(tmp_path: Path, is_mapped: bool) -> None:
    writer = open_cache(tmp_path, flush_every=1)
    writer.put("VID01", 0, 0, make_item(0))
    writer.merge("VID01")
    writer.put("VID01", 5, 0, make_item(5))
    reader = open_cache(tmp_path)
    if is_mapped:
        assert reader.get("VID01", 0, 0) is not None
    writer.put("VID01", -1, 0, make_item(1, rows=40))  # sorts first, so every other item moves
    writer.merge("VID01")
    for frame, seed in ((0, 0), (5, 5), (-1, 1)):
        rows = get_item(reader, "VID01", frame)
        assert torch.equal(rows[:3], make_item(seed, rows=40 if seed == 1 else 3).half()[:3])


def test_a_worker_process_reads_items_written_before_and_after_its_start(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put("VID01", 0, 0, make_item(0))
    store.flush()
    store.get("VID01", 0, 0)
    store.put("VID01", 1, 0, make_item(1))
    worker = pickle.loads(pickle.dumps(store))
    assert worker.get("VID01", 0, 0) is not None
    assert worker.get("VID01", 1, 0) is None
    store.flush()
    assert torch.equal(worker.get("VID01", 1, 0), make_item(1).half())


def test_any_flipped_bit_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    for frame in (0, 1):
        store.put("VID01", frame, 0, make_item(frame))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    content = path.read_bytes()
    for offset in range(len(content)):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
        with pytest.raises(InputError, match=r"VID01\.safetensors"):
            list(open_cache(tmp_path).verify())


def test_a_flipped_bit_damages_only_one_item(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    for frame in (0, 1):
        store.put("VID01", frame, 0, make_item(frame))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert torch.equal(get_item(open_cache(tmp_path), "VID01", 0), make_item(0).half())
    with pytest.raises(InputError, match=r"VID01\.safetensors is damaged: the checksum of VID01 frame 1"):
        open_cache(tmp_path).get("VID01", 1, 0)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_truncated_file_is_an_error_that_names_the_file(tmp_path: Path, size: int) -> None:
    store = open_cache(tmp_path)
    store.put("VID01", 0, 0, make_item(0))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"VID01\.safetensors is damaged"):
        open_cache(tmp_path)


def test_a_changed_header_is_an_error(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put("VID01", 0, 0, make_item(0))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert (8 + length) % 64 == 0
    index = content.index(b'[\\"VID01\\", 0, 0')
    path.write_bytes(content[: index + 13] + b"1" + content[index + 14 :])  # frame 0 becomes frame 1
    with pytest.raises(InputError, match="checksum of its header"):
        open_cache(tmp_path)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "NaN"), (1e5, "bf16")])
def test_values_that_are_not_finite_are_an_error_that_names_the_frame(tmp_path: Path, value: float, word: str) -> None:
    store = open_cache(tmp_path)
    with pytest.raises(RunError, match=rf"VID01 frame 7.*{word}"):
        store.put("VID01", 7, 0, torch.full((2, WIDTH), value))
    assert not store.has("VID01", 7, 0)


def test_an_item_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        open_cache(tmp_path).put("VID01", 0, 0, torch.zeros(3, WIDTH + 1))


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--cache .*file cannot be written"):
        open_cache(tmp_path / "file")


def test_a_read_only_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_cache(tmp_path)
    store.put("VID01", 0, 0, make_item(0))
    store.merge("VID01")

    def refuse_to_write(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse_to_write)
    reader = open_cache(tmp_path)
    assert reader.get("VID01", 0, 0) is not None
    assert torch.equal(reader.put("VID01", 1, 0, make_item(1)), make_item(1).half())
    reader.flush()
    assert reader.get("VID01", 1, 0) is None
    with pytest.raises(InputError, match="Read-only"):
        open_cache(tmp_path, must_write=True)


def test_a_video_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a valid name of a video"):
        open_cache(tmp_path).merge("../VID01")


def test_a_full_disk_stops_writing_but_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lenient, strict = open_cache(tmp_path, flush_every=1), open_cache(tmp_path, flush_every=1, must_write=True)
    lenient.put("VID01", 0, 0, make_item(0))
    monkeypatch.setattr(cache_module, "write_cache_file", raise_disk_full)
    assert torch.equal(lenient.put("VID01", 1, 0, make_item(1)), make_item(1).half())
    assert lenient.get("VID01", 1, 0) is None
    assert lenient.get("VID01", 0, 0) is not None
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        strict.put("VID01", 1, 0, make_item(1))


_FILL = f"""
import os, signal, sys
from pathlib import Path
import torch
from surgvivqa.features.cache import FeatureCache
root, first, last, kill = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = FeatureCache(root, {VALUES!r}, {WIDTH}, "fp16", flush_every=3)
for frame in range(first, last):
    if frame == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if store.get("VID01", frame, 0) is None:
        store.put("VID01", frame, 0, torch.randn(3, {WIDTH}, generator=torch.Generator().manual_seed(frame)))
store.merge("VID01")
"""


def start_filling(root: Path, first: int, last: int, kill: int = -1) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _FILL, str(root), str(first), str(last), str(kill)])


@pytest.mark.slow
def test_two_processes_can_fill_and_merge_at_the_same_time(tmp_path: Path) -> None:
    processes = [start_filling(tmp_path, 0, 40), start_filling(tmp_path, 20, 60)]
    assert [p.wait(600) for p in processes] == [0, 0]
    store = open_cache(tmp_path)
    for frame in range(60):
        rows = store.get("VID01", frame, 0)
        # A merge that started earlier may replace the file by one without the other process's last frames: a miss.
        assert rows is None or torch.equal(rows, make_item(frame).half())
    assert all(store.has("VID01", frame, 0) for frame in range(20, 40))


def test_a_killed_process_continues_from_its_last_flush(tmp_path: Path) -> None:
    assert start_filling(tmp_path, 0, 20, kill=11).wait(600) == -signal.SIGKILL
    store = open_cache(tmp_path)
    assert [frame for frame in range(20) if store.has("VID01", frame, 0)] == list(range(9))
    leftover = store.folder / "parts" / ".leftover.tmp"
    leftover.touch()
    os.utime(leftover, (time.time() - 7200,) * 2)
    assert start_filling(tmp_path, 0, 20).wait(600) == 0
    assert list_files(tmp_path) == ["VID01.safetensors"]
    assert not leftover.exists()
    final = open_cache(tmp_path)
    assert all(torch.equal(get_item(final, "VID01", frame), make_item(frame).half()) for frame in range(20))
