"""The store of features: what is put is read back bit for bit, and nothing stale, half or damaged ever is."""

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
MADE_OF = {"weights_sha256": "00", "frame_fit": "squash"}


def present(item: Tensor | None) -> Tensor:
    """An item that must be in the cache."""
    assert item is not None
    return item


def opened(root: Path, dtype: str = "fp16", made_of: dict[str, str] = MADE_OF, **options: Any) -> FeatureCache:
    return FeatureCache(root, made_of, WIDTH, dtype, **options)


def item(seed: int, rows: int = 3) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root).as_posix()).partition("/")[2] for p in root.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_an_item_is_read_back_as_put_returned_it(tmp_path: Path, dtype: str) -> None:
    store = opened(tmp_path, dtype)
    used = {frame: store.put("VID01", frame, 5, item(frame, rows=frame)) for frame in (1, 4, 2)}
    assert all(u.dtype == DTYPES[dtype] and len(u) == frame for frame, u in used.items())
    for reader in (store, opened(tmp_path, dtype)):
        found = {frame: reader.get("VID01", frame, 5) for frame in used}
        if reader is store:  # not on disk yet, and no other process's business
            assert opened(tmp_path, dtype).get("VID01", 1, 5) is None
            store.flush()
        assert all(f is not None and torch.equal(f, used[frame]) for frame, f in found.items())
    store.merge("VID01")
    merged = opened(tmp_path, dtype)
    assert all(torch.equal(present(merged.get("VID01", frame, 5)), u) for frame, u in used.items())
    with safe_open(next(tmp_path.rglob("VID01.safetensors")), "pt") as file:  # any safetensors reader opens it
        assert torch.equal(file.get_slice("rows")[:], torch.cat([used[1], used[2], used[4]]))


def test_changing_a_returned_item_does_not_change_the_store(tmp_path: Path) -> None:
    store = opened(tmp_path, "fp32")
    store.put("VID01", 0, 0, item(0)).zero_()
    present(store.get("VID01", 0, 0)).zero_()
    assert torch.equal(present(store.get("VID01", 0, 0)), item(0))
    store.flush()
    present(store.get("VID01", 0, 0)).zero_()
    assert torch.equal(present(store.get("VID01", 0, 0)), item(0))


@pytest.mark.parametrize(
    "other",
    [
        {"made_of": MADE_OF | {"weights_sha256": "01"}},
        {"made_of": MADE_OF | {"frame_fit": "crop"}},
        {"dtype": "bf16"},
    ],
)
def test_other_weights_settings_or_dtypes_miss(tmp_path: Path, other: dict[str, Any]) -> None:
    store = opened(tmp_path)
    store.put("VID01", 0, 0, item(0))
    store.flush()
    assert opened(tmp_path).get("VID01", 0, 0) is not None
    assert opened(tmp_path, **other).get("VID01", 0, 0) is None


def test_a_file_moved_from_a_folder_of_other_weights_is_not_read(tmp_path: Path) -> None:
    store, other = opened(tmp_path), opened(tmp_path, made_of=MADE_OF | {"weights_sha256": "01"})
    store.put("VID01", 0, 0, item(0))
    store.merge("VID01")
    (store.folder / "VID01.safetensors").rename(other.folder / "VID01.safetensors")
    assert other.get("VID01", 0, 0) is None


def test_another_tag_is_a_miss_that_differs_from_a_new_frame(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put("VID01", 0, 1, item(0))
    store.flush()
    assert store.get("VID01", 0, 2) is None
    assert store.is_stale("VID01", 0, 2)
    assert not store.is_stale("VID01", 1, 2)


@given(st.lists(st.integers() | st.text() | st.lists(st.integers())), st.data())
@settings(max_examples=50)
def test_tags_are_int64_and_differ_where_values_do(values: list[Any], data: st.DataObject) -> None:
    assert -(2**63) <= compute_tag(*values) < 2**63
    assert compute_tag(*values) == compute_tag(*values)
    assert compute_tag(*values) != compute_tag(*values, data.draw(st.integers()))


def test_the_hash_of_weights_depends_on_values_names_shapes_and_dtypes() -> None:
    weight = torch.arange(6.0).view(2, 3)
    others = [{"a": weight + 1}, {"b": weight}, {"a": weight.view(3, 2)}, {"a": weight.view(torch.int32)}]
    assert hash_weights({"a": weight}) == hash_weights({"a": weight.clone()})
    assert len({hash_weights(s) for s in [{"a": weight}, *others]}) == 5


def test_memory_is_bounded_by_flushing(tmp_path: Path) -> None:
    store = opened(tmp_path, flush_every=4)
    for frame in range(10):
        store.put("VID01", frame, 0, item(frame))
        assert len(store._pending) < 4
    assert len(files(tmp_path)) == 2


def test_merging_drops_stale_items_and_removes_empty_parts(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    first.put("VID01", 0, 1, item(0))
    first.put("VID02", 0, 1, item(1))
    second.put("VID01", 0, 2, item(2))
    second.put("VID01", 9, 7, item(3))
    first.flush()
    second.flush()
    first.merge("VID01", {0: 2})
    assert [f for f in files(tmp_path) if "parts" not in f] == ["VID01.safetensors"]
    assert len(files(tmp_path)) == 2  # the part with VID02's item is left
    first.merge("VID02", {0: 1})
    assert files(tmp_path) == ["VID01.safetensors", "VID02.safetensors"]
    after = opened(tmp_path)
    assert after.get("VID01", 0, 1) is None
    for key, seed in ((("VID01", 0, 2), 2), (("VID01", 9, 7), 3), (("VID02", 0, 1), 1)):
        assert torch.equal(present(after.get(*key)), item(seed).half())


@pytest.mark.parametrize("mapped", [True, False])
def test_a_reader_continues_while_another_process_merges(tmp_path: Path, mapped: bool) -> None:
    writer = opened(tmp_path, flush_every=1)
    writer.put("VID01", 0, 0, item(0))
    writer.merge("VID01")
    writer.put("VID01", 5, 0, item(5))
    reader = opened(tmp_path)
    if mapped:
        assert reader.get("VID01", 0, 0) is not None
    writer.put("VID01", -1, 0, item(1, rows=40))  # sorts first, so every other item moves
    writer.merge("VID01")
    for frame, seed in ((0, 0), (5, 5), (-1, 1)):
        found = reader.get("VID01", frame, 0)
        assert found is not None
        assert torch.equal(found[:3], item(seed, rows=40 if seed == 1 else 3).half()[:3])


def test_a_worker_process_reads_items_written_before_and_after_its_start(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put("VID01", 0, 0, item(0))
    store.flush()
    store.get("VID01", 0, 0)
    store.put("VID01", 1, 0, item(1))
    worker = pickle.loads(pickle.dumps(store))
    assert worker.get("VID01", 0, 0) is not None
    assert worker.get("VID01", 1, 0) is None
    store.flush()
    assert torch.equal(worker.get("VID01", 1, 0), item(1).half())


def test_a_flipped_bit_anywhere_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for frame in (0, 1):
        store.put("VID01", frame, 0, item(frame))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"VID01\.safetensors"):
            list(opened(tmp_path).verify())


def test_a_flipped_byte_damages_only_its_own_item(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for frame in (0, 1):
        store.put("VID01", frame, 0, item(frame))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert torch.equal(present(opened(tmp_path).get("VID01", 0, 0)), item(0).half())
    with pytest.raises(InputError, match=r"VID01\.safetensors is damaged: the checksum of VID01 frame 1"):
        opened(tmp_path).get("VID01", 1, 0)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_file_cut_off_is_an_error_that_names_it(tmp_path: Path, size: int) -> None:
    store = opened(tmp_path)
    store.put("VID01", 0, 0, item(0))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"VID01\.safetensors is damaged"):
        opened(tmp_path)


def test_the_header_cannot_be_changed_unseen(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put("VID01", 0, 0, item(0))
    store.merge("VID01")
    path = store.folder / "VID01.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    assert (8 + length) % 64 == 0
    index = whole.index(b'[\\"VID01\\", 0, 0')
    path.write_bytes(whole[: index + 13] + b"1" + whole[index + 14 :])  # frame 0 becomes frame 1
    with pytest.raises(InputError, match="checksum of its header"):
        opened(tmp_path)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "NaN"), (1e5, "bf16")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float, word: str) -> None:
    store = opened(tmp_path)
    with pytest.raises(RunError, match=rf"VID01 frame 7.*{word}"):
        store.put("VID01", 7, 0, torch.full((2, WIDTH), value))
    assert not store.has("VID01", 7, 0)


def test_an_item_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        opened(tmp_path).put("VID01", 0, 0, torch.zeros(3, WIDTH + 1))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--cache .*file cannot be written"):
        opened(tmp_path / "file")


def test_a_folder_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    store.put("VID01", 0, 0, item(0))
    store.merge("VID01")

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refused)
    reader = opened(tmp_path)
    assert reader.get("VID01", 0, 0) is not None
    assert torch.equal(reader.put("VID01", 1, 0, item(1)), item(1).half())
    reader.flush()
    assert reader.get("VID01", 1, 0) is None
    with pytest.raises(InputError, match="Read-only"):
        opened(tmp_path, must_write=True)


def test_no_video_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a valid name of a video"):
        opened(tmp_path).merge("../VID01")


def test_a_full_disk_ends_the_filling_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lenient, strict = opened(tmp_path, flush_every=1), opened(tmp_path, flush_every=1, must_write=True)
    lenient.put("VID01", 0, 0, item(0))
    monkeypatch.setattr(cache_module, "write_cache_file", full)
    assert torch.equal(lenient.put("VID01", 1, 0, item(1)), item(1).half())
    assert lenient.get("VID01", 1, 0) is None
    assert lenient.get("VID01", 0, 0) is not None
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        strict.put("VID01", 1, 0, item(1))


_FILL = f"""
import os, signal, sys
from pathlib import Path
import torch
from surgvivqa.features.cache import FeatureCache
root, first, last, kill = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = FeatureCache(root, {MADE_OF!r}, {WIDTH}, "fp16", flush_every=3)
for frame in range(first, last):
    if frame == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if store.get("VID01", frame, 0) is None:
        store.put("VID01", frame, 0, torch.randn(3, {WIDTH}, generator=torch.Generator().manual_seed(frame)))
store.merge("VID01")
"""


def filler(root: Path, first: int, last: int, kill: int = -1) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _FILL, str(root), str(first), str(last), str(kill)])


@pytest.mark.slow
def test_processes_fill_and_merge_at_once(tmp_path: Path) -> None:
    both = [filler(tmp_path, 0, 40), filler(tmp_path, 20, 60)]
    assert [p.wait(600) for p in both] == [0, 0]
    store = opened(tmp_path)
    for frame in range(60):
        found = store.get("VID01", frame, 0)
        # A merge that began earlier may have put back a file without the other's last frames: a miss, never a mistake.
        assert found is None or torch.equal(found, item(frame).half())
    assert all(store.has("VID01", frame, 0) for frame in range(20, 40))


def test_a_killed_process_continues_from_its_last_flush(tmp_path: Path) -> None:
    assert filler(tmp_path, 0, 20, kill=11).wait(600) == -signal.SIGKILL
    store = opened(tmp_path)
    assert [frame for frame in range(20) if store.has("VID01", frame, 0)] == list(range(9))
    left = store.folder / "parts" / ".left.tmp"
    left.touch()
    os.utime(left, (time.time() - 7200,) * 2)
    assert filler(tmp_path, 0, 20).wait(600) == 0
    assert files(tmp_path) == ["VID01.safetensors"]
    assert not left.exists()
    assert all(torch.equal(present(opened(tmp_path).get("VID01", frame, 0)), item(frame).half()) for frame in range(20))
