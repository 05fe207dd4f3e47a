"""The question index: the same frames as the text, whatever the text, the file and its folder are like."""

import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgvivqa.data import columns, index
from surgvivqa.data.index import (
    IndexedFrames,
    distinct_questions,
    draw_subsample,
    frame_names,
    open_questions,
    question_counts,
    subsample,
)
from surgvivqa.data.ssgqa import read_split
from surgvivqa.features.batches import plan_micro_batches
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.warn_once import warn_once

VIDEOS = ["VID04", "VID01"]
HEAD = "Which anatomical structures are present?|liver, gut\nWhich tools are present?|hook\n"
LINES = [
    "Which tool is operating on gallbladder|grasper",
    "What is at the top ?|cystic_plate|[157.0, 60.0]",
    "How many?|1|zero_hop.json|count|NA",
    "There is a thing?; what is it?|omentum|single_and.json|query_component|NA",
    "ärgerlich \u2028 \x0c?| yes |one_hop.json|exist|relate_spatial",
    "d?|TRUE|two_hop.json|odd|NA",
    "a?|retract, grasp",
    "b?|big liver",
    "no pipe here",
    "c?|liver|x|y",
    "|liver",
    "",
]
TEXTS = st.lists(st.sampled_from(LINES) | st.text(max_size=12), max_size=12).map(
    lambda lines: (HEAD + "\n".join(lines)).encode("utf-8", "replace")
)
FILES = TEXTS | st.binary(max_size=40) | st.sampled_from([b"", b"\n \n", b"\0", b"\xef\xbb\xbf" + HEAD.encode()])
NAMES = st.integers(0, 12).map(lambda n: f"{n}.txt") | st.sampled_from(
    ["007.txt", "notes.txt", ".txt", "1.TXT", "9" * 30 + ".txt", "²³.txt", "3.txt.txt"]
)
TREES = st.fixed_dictionaries({video: st.dictionaries(NAMES, FILES, max_size=5) for video in VIDEOS})


def plant(root: Path, tree: dict[str, dict[str, bytes]]) -> Path:
    for video, files in tree.items():
        (root / video).mkdir(parents=True, exist_ok=True)
        for name, raw in files.items():
            (root / video / name).write_bytes(raw)
    return root


def small(root: Path) -> Path:
    text = (HEAD + "\n".join(LINES)).encode()
    return plant(root, {v: {"2.txt": text, "10.txt": text.replace(b"many", v.encode())} for v in VIDEOS})


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once, so that what a test has just written is not read twice."""
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**12))


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """To be called where from now on nothing may be parsed."""

    def forbidden(*_: Any) -> None:
        raise AssertionError("parsed")

    return lambda: monkeypatch.setattr(index, "parse_video", forbidden)


def outcome(read: Callable[[], Any]) -> Any:
    try:
        frames, report = read()
    except InputError as error:
        return str(error)
    return list(frames), report


@pytest.mark.parametrize("strict", [False, True])
@settings(deadline=None, max_examples=60)
@given(tree=TREES)
def test_the_index_equals_the_parsed_text(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, dict[str, bytes]], strict: bool
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    root = plant(folder / "ssg", tree)
    expected = outcome(lambda: read_split(root, VIDEOS, strict=strict))
    for _ in range(2):  # parsed, then from the file or, as it is so young, parsed again
        assert outcome(lambda: open_questions(root, VIDEOS, strict=strict, index_dir=folder / "index")) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_SETTLED_NS", -(10**12))
        for _ in range(2):
            assert outcome(lambda: open_questions(root, VIDEOS, strict=strict, index_dir=folder / "index")) == expected
    shutil.rmtree(folder)


@pytest.mark.usefixtures("no_wait")
def test_an_unchanged_tree_is_not_parsed_again(tmp_path: Path, no_parser: Callable[[], None]) -> None:
    root = small(tmp_path / "ssg")
    built, _ = open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    no_parser()
    again, report = open_questions(root, VIDEOS[::-1], index_dir=tmp_path / "index")  # one file for any split of it
    frames, expected = read_split(root, VIDEOS[::-1])
    assert list(again) == frames and report == expected
    assert list(built) == read_split(root, VIDEOS)[0]
    assert len(list((tmp_path / "index").iterdir())) == 1


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize("change", ["edit", "edit keeping size and time", "add", "remove", "rename"])
def test_a_changed_tree_is_noticed(tmp_path: Path, change: str) -> None:
    root = small(tmp_path / "ssg")
    open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    path = root / "VID01" / "2.txt"
    if change == "edit":
        path.write_text(path.read_text() + "\nx?|2")
    elif change == "add":
        (root / "VID01" / "3.txt").write_text(HEAD + "x?|2")
    elif change == "remove":
        path.unlink()
    elif change == "rename":
        path.rename(path.with_name("4.txt"))
    else:
        status = path.stat()
        while path.stat().st_ctime_ns == status.st_ctime_ns:  # no_wait has switched off what guards one clock tick
            path.write_text(path.read_text().replace("|grasper", "|bipolar"))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
    frames, report = open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    expected, expected_report = read_split(root, VIDEOS)
    assert list(frames) == expected and report == expected_report


def test_a_file_just_written_is_read_again(tmp_path: Path, no_parser: Callable[[], None]) -> None:
    root = small(tmp_path / "ssg")
    open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    no_parser()
    with pytest.raises(AssertionError, match="parsed"):
        open_questions(root, VIDEOS, index_dir=tmp_path / "index")


@pytest.mark.usefixtures("no_wait")
def test_only_the_named_videos_are_read(tmp_path: Path) -> None:
    root = small(tmp_path / "ssg")
    (root / "VID01" / "2.txt").unlink()
    (root / "VID01" / "2.txt").symlink_to(tmp_path / "nowhere")
    frames, _ = open_questions(root, ["VID04"], index_dir=tmp_path / "index")
    assert {f.video for f in frames} == {"VID04"}
    with pytest.raises(InputError, match=r"VID01/2\.txt cannot be read"):
        open_questions(root, VIDEOS, index_dir=tmp_path / "index")


@pytest.mark.usefixtures("no_wait")
def test_a_damaged_file_is_rebuilt(tmp_path: Path) -> None:
    root = small(tmp_path / "ssg")
    open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    (path,) = (tmp_path / "index").iterdir()
    whole, expected = path.read_bytes(), read_split(root, VIDEOS)
    rng = random.Random(0)
    damaged = [b"", b"ARROW1", whole[:-1], whole[: len(whole) // 2], rng.randbytes(len(whole))]
    for _ in range(300):
        changed = bytearray(whole)
        for at in rng.choices(range(len(changed)), k=rng.choice([1, 1, 4, 64])):
            changed[at] = rng.randrange(256)
        damaged.append(bytes(changed))
    for raw in damaged:
        path.unlink()  # earlier Frames still map it
        path.write_bytes(raw)
        frames, report = open_questions(root, VIDEOS, index_dir=tmp_path / "index")
        assert (list(frames), report) == expected
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("no_wait")
def test_another_parser_s_file_is_rebuilt(
    tmp_path: Path, no_parser: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small(tmp_path / "ssg")
    open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    other = columns.schema().with_metadata({b"surgvivqa": b"another"})
    monkeypatch.setattr(index, "schema", lambda: other)
    no_parser()
    with pytest.raises(AssertionError, match="parsed"):
        open_questions(root, VIDEOS, index_dir=tmp_path / "index")


def test_without_a_writable_folder_the_text_is_parsed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = small(tmp_path / "ssg")
    (tmp_path / "file").write_text("")
    warn_once.cache_clear()
    for _ in range(2):
        frames, report = open_questions(root, VIDEOS, index_dir=tmp_path / "file" / "index")
        assert (list(frames), report) == read_split(root, VIDEOS)
    assert [r.message[:37] for r in caplog.records] == ["The question index cannot be written "]
    assert list(pickle.loads(pickle.dumps(frames))) == list(frames)


@pytest.mark.usefixtures("no_wait")
def test_the_lazy_sequence_answers_as_the_list_does(tmp_path: Path) -> None:
    root = small(tmp_path / "ssg")
    frames, _ = open_questions(root, VIDEOS, index_dir=tmp_path / "index")
    plain, _ = read_split(root, VIDEOS)
    joined = IndexedFrames.concatenate([frames[1:], IndexedFrames(), frames[:1], frames[::-2]])
    for lazy, listed in (
        (frames, plain),
        (frames[1::2], plain[1::2]),
        (frames[3:3], []),
        (IndexedFrames(), []),
        (joined, plain[1:] + plain[:1] + plain[::-2]),
    ):
        assert list(lazy) == listed and len(lazy) == len(listed)
        assert question_counts(lazy) == question_counts(listed) == lazy.counts.tolist()
        assert list(frame_names(lazy)) == list(frame_names(listed))
        unique = distinct_questions(lazy)
        assert len(set(unique)) == len(unique) and set(unique) == set(distinct_questions(listed))
        assert list(pickle.loads(pickle.dumps(lazy))) == listed
    assert frames[-1] == plain[-1]
    with pytest.raises(IndexError):
        frames[4]
    for most in (1, 7, 1000):
        assert list(draw_subsample(frames, most, 3)) == draw_subsample(plain, most, 3)
        assert list(subsample(frames, most)) == list(subsample(plain, most))
    assert plan_micro_batches(question_counts(frames), 4, 3, 0, 0) == plan_micro_batches(
        question_counts(plain), 4, 3, 0, 0
    )
    assert subsample(frames, None) is frames  # nothing is built where nothing is cut


@pytest.mark.usefixtures("no_wait")
def test_a_pickle_is_small_and_outlives_the_file_but_not_a_change(tmp_path: Path) -> None:
    lines = HEAD + "\n".join(f"question number {i}?|{i % 10}" for i in range(3000))
    root = plant(tmp_path / "ssg", {"VID04": {"1.txt": lines.encode()}})
    frames, _ = open_questions(root, ["VID04"], index_dir=tmp_path / "index")
    raw = pickle.dumps(frames)
    assert len(raw) < 2000
    (path,) = (tmp_path / "index").iterdir()
    path.unlink()
    assert list(pickle.loads(raw)) == list(frames)
    (root / "VID04" / "1.txt").write_text(HEAD + "x?|2")
    with pytest.raises(InputError, match="changed during the run"):
        pickle.loads(raw)


def test_processes_that_build_at_once_all_get_the_text(tmp_path: Path) -> None:
    root = small(tmp_path / "ssg")
    program = (
        "import sys; from surgvivqa.data.index import open_questions; from surgvivqa.data.ssgqa import read_split\n"
        "for i in range(20):\n"
        "    videos = ['VID04', 'VID01'][: 1 + (i + int(sys.argv[3])) % 2]\n"
        "    frames, report = open_questions(sys.argv[1], videos, index_dir=__import__('pathlib').Path(sys.argv[2]))\n"
        "    assert (list(frames), report) == read_split(sys.argv[1], videos)\n"
    )
    commands = [[sys.executable, "-c", program, str(root), str(tmp_path / "index"), str(i)] for i in range(3)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    assert [(p.communicate()[1], p.returncode) for p in running] == [("", 0)] * 3
    assert len(list((tmp_path / "index").iterdir())) == 1  # and nobody left half a file


@pytest.mark.usefixtures("no_wait")
def test_several_processes_parse_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path / "ssg")
    open_questions(root, VIDEOS, index_dir=tmp_path / "one")
    monkeypatch.setattr(index, "_MANY_FILES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    open_questions(root, VIDEOS, index_dir=tmp_path / "many")
    (one,), (many,) = (tmp_path / "one").iterdir(), (tmp_path / "many").iterdir()
    assert one.read_bytes() == many.read_bytes()
