"""``surgvivqa data verify`` on trees as people have them: what it says, and what its links mend."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.cli import main
from surgvivqa.data.frames import FrameStore, find_missing_frames, open_image
from surgvivqa.data.index import open_questions
from surgvivqa.data.splits import load_splits
from tests.helpers.data_trees import NUMBERS, VIDEOS, hash_of, write_picture, write_questions, write_tree

Capture = pytest.CaptureFixture[str]
NAMES = sorted(itertools.chain(*VIDEOS.values()))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "set")


def verify(tree: Path, capsys: Capture, *flags: str, graphs: bool = False) -> tuple[int, dict[str, Any]]:
    """Runs the command with ``--json``; flags come last, so that they replace the roots."""
    words = [f"--ssgvqa-root={tree / 'ssg-qa'}", f"--image-root={tree / 'frames'}", f"--splits-dir={tree / 'splits'}"]
    words += [f"--scene-graph-root={tree / 'scene_graph'}"] if graphs else []
    code = main(["data", "verify", *words, "--json", *flags])
    return code, json.loads(capsys.readouterr().out)


def messages(result: dict[str, Any]) -> dict[str, str]:
    return {finding["kind"]: finding["message"] for finding in result["findings"]}


def check_usable(flags: dict[str, str]) -> None:
    """Checks that the readers find every question and every frame, each with its own picture."""
    frames, report = open_questions(flags["--ssgvqa-root"], NAMES)
    assert [(f.video, f.frame) for f in frames] == [(video, n) for video in NAMES for n in NUMBERS]
    assert report.questions == 2 * len(frames) and not report.describe_faults()
    store = FrameStore(Path(flags["--image-root"]))
    assert find_missing_frames(store, frames) == []
    for frame in frames:
        open_image(store.path(frame.video, frame.frame))


def test_a_right_tree_passes_and_its_flags_are_printed(tree: Path, capsys: Capture) -> None:
    code, result = verify(tree, capsys, graphs=True)
    assert code == 0 and result["ok"] and result["findings"] == []
    assert result["totals"] == {
        **{"question_files": 16, "questions": 32, "frames": 16, "missing_frames": 0, "unasked_frames": 0},
        **{"opened": 16, "damaged": 0, "one_colour": 0},
    }
    assert result["flags"] == {
        "--ssgvqa-root": str(tree / "ssg-qa"),
        "--image-root": str(tree / "frames"),
        "--scene-graph-root": str(tree / "scene_graph"),
    }
    assert [row["split"] for row in result["videos"]] == ["val", "test", "train", "train"]


def test_the_table_for_people(tree: Path, capsys: Capture) -> None:
    (tree / "frames" / "VID02" / "000007.png").unlink()
    roots = [f"--ssgvqa-root={tree / 'ssg-qa'}", f"--image-root={tree / 'frames'}"]
    code = main(["data", "verify", *roots, f"--splits-dir={tree / 'splits'}"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert lines[0].split() == "video split asked questions frames missing not asked opened damaged one colour".split()
    assert lines[2].split() == "VID02 test 4 8 3 1 0 3 0 0".split()
    assert lines[5].split() == "all 16 32 15 1 0 15 0 0".split()
    assert lines[6].startswith(
        "FAIL  missing-frames   1 question files of 1 videos have no frame (first: VID02 second 7 in"
    )


def save_as_jpeg(tree: Path) -> None:
    for path in tree.glob("frames/*/*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def rename(pattern: str, name: Callable[[Path], str]) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        for path in sorted(tree.glob(pattern)):
            path.rename(path.with_name(name(path)))

    return change


def move(pattern: str, inner: str) -> Callable[[Path], None]:
    """Moves what matches into a folder beside it."""

    def change(tree: Path) -> None:
        for path in sorted(tree.glob(pattern)):
            (path.parent / inner).mkdir(exist_ok=True)
            path.rename(path.parent / inner / path.name)

    return change


def count_25_per_second(tree: Path) -> None:
    rename("frames/*/*.png", lambda p: f"{25 * int(p.stem):06d}.png")(tree)


BROKEN: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "jpeg": (save_as_jpeg, "names-format", "16 files of frames are other pictures than .png (first: "),
    "capitals": (rename("frames/*/*.png", lambda p: f"{p.stem}.PNG"), "names-case", "ending in capitals"),
    "unpadded": (rename("frames/*/*.png", lambda p: f"{int(p.stem)}.png"), "names-padding", "not padded to six digits"),
    "prefix": (rename("frames/*/*.png", lambda p: f"frame_{p.name}"), "names-other", "another name around the number"),
    "small letters": (rename("frames/VID*", lambda p: p.name.lower()), "spelling", "4 folders of frames are spelled"),
    "no zero": (rename("frames/VID*", lambda p: f"VID{int(p.name[3:])}"), "spelling", "spelled differently"),
    "cholec80": (rename("frames/VID*", lambda p: f"video{p.name[3:]}"), "spelling", "(first: "),
    "deeper": (move("frames/*/*.png", "inner"), "deeper", "The frames of 4 videos lie in a folder within"),
    "root above": (move("frames/VID*", "data"), "other-root", "frames/data."),
    "root far above": (move("frames/VID*", "a/b"), "other-root", "/a/b"),
    "steps": (
        count_25_per_second,
        "numbered-by-rate",
        "increase in steps of 25 (first: VID01), so they count 25 frames",
    ),
    "questions padded": (rename("ssg-qa/*/*.txt", lambda p: f"{int(p.stem):06d}.txt"), "names-padded", "with zeros"),
    "questions _QA": (rename("ssg-qa/*/*.txt", lambda p: f"frame{p.stem}_QA.txt"), "names-other", "frame0_QA.txt"),
    "questions .TXT": (rename("ssg-qa/*/*.txt", lambda p: f"{p.stem}.TXT"), "names-case", "such as 2.txt"),
    "questions above": (move("ssg-qa/VID*", "qa"), "other-root", "give --ssgvqa-root"),
    "questions lower": (rename("ssg-qa/VID*", lambda p: p.name.lower()), "spelling", "4 folders of questions"),
    "questions deeper": (move("ssg-qa/*/*.txt", "qa"), "deeper", "The questions of 4 videos"),
}


def make_parents(change: Callable[[Path], None], tree: Path) -> None:
    for root in ("frames", "ssg-qa"):
        (tree / root / "a").mkdir(exist_ok=True)
    change(tree)
    for root in ("frames", "ssg-qa"):
        if not any((tree / root / "a").iterdir()):
            (tree / root / "a").rmdir()


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_layout_is_explained_and_mended_by_links(kind: str, tree: Path, capsys: Capture) -> None:
    change, finding, sentence = BROKEN[kind]
    make_parents(change, tree)
    code, result = verify(tree, capsys)
    assert code == 1 and not result["ok"]
    assert sentence in messages(result)[finding]
    assert "missing-frames" not in messages(result)  # they are found where they are
    code, result = verify(tree, capsys, f"--link-to={tree / 'links'}", graphs=True)
    assert code == 0 and result["ok"]
    check_usable(result["flags"])
    assert verify(tree / "links", capsys, f"--splits-dir={tree / 'splits'}")[1]["findings"] == []


def test_links_show_the_right_pictures(tree: Path, capsys: Capture) -> None:
    count_25_per_second(tree)
    _, result = verify(tree, capsys, f"--link-to={tree / 'links'}")
    for number in NUMBERS:
        write_picture(tree / "wanted.png", hash_of("VID05", number))
        assert (Path(result["flags"]["--image-root"]) / "VID05" / f"{number:06d}.png").read_bytes() == (
            tree / "wanted.png"
        ).read_bytes()


def test_a_folder_beside_the_videos_that_cannot_be_read_does_not_matter(
    tree: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "frames" / "lost+found").mkdir()
    real = os.scandir

    def scandir(folder: Any) -> Any:
        if Path(folder).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr("surgvivqa.downloads.tree.os.scandir", scandir)
    assert verify(tree, capsys)[0] == 0


def test_another_root_needs_no_links(tree: Path, capsys: Capture) -> None:
    move("frames/VID*", "data")(tree)
    _, result = verify(tree, capsys)
    assert result["flags"]["--image-root"] == str(tree / "frames" / "data")


@pytest.mark.parametrize("link_kind", ["symlink", "hardlink", "copy"])
def test_the_kinds_of_links(link_kind: str, tree: Path, capsys: Capture) -> None:
    save_as_jpeg(tree)
    code, result = verify(tree, capsys, f"--link-to={tree / 'links'}", f"--link-kind={link_kind}", graphs=True)
    assert code == 0
    check_usable(result["flags"])
    path = tree / "links" / "frames" / "VID02" / "000002.png"
    original = tree / "frames" / "VID02" / "000002.jpg"
    assert path.is_symlink() == (link_kind == "symlink")
    assert path.samefile(original) == (link_kind != "copy")
    assert (tree / "links" / "scene_graph" / "VID02_7.json").exists()


def test_links_are_made_anew_but_replace_nothing_else(tree: Path, capsys: Capture) -> None:
    save_as_jpeg(tree)
    to = tree / "links"
    assert verify(tree, capsys, f"--link-to={to}")[0] == 0
    assert verify(tree, capsys, f"--link-to={to}")[0] == 0
    (tree / "mine").mkdir()
    (tree / "mine" / "file").touch()
    for place, sentence in (("mine", "holds other files"), ("frames/links", "is within"), ("splits/x.json", "")):
        if place == "splits/x.json":
            (tree / place).touch()
            sentence = "is a file or a link"
        with_flags = [
            f"--ssgvqa-root={tree / 'ssg-qa'}",
            f"--image-root={tree / 'frames'}",
            f"--link-to={tree / place}",
        ]
        assert main(["data", "verify", *with_flags, f"--splits-dir={tree / 'splits'}"]) == 2
        assert sentence in capsys.readouterr().err
    assert (tree / "mine" / "file").exists()


def test_copies_of_an_earlier_call_are_not_replaced_by_links_to_themselves(tree: Path, capsys: Capture) -> None:
    to = tree / "links"
    assert verify(tree, capsys, f"--link-to={to}", "--link-kind=copy")[0] == 0
    kept = sorted(path for path in to.rglob("*") if path.is_file())
    flags = [f"--ssgvqa-root={to / 'ssg-qa'}", f"--image-root={to / 'frames'}", f"--link-to={to}"]
    assert main(["data", "verify", *flags, f"--splits-dir={tree / 'splits'}"]) == 2
    assert "holds" in capsys.readouterr().err
    assert sorted(path for path in to.rglob("*") if path.is_file()) == kept


def test_swapped_roots_are_recognised(tree: Path, capsys: Capture) -> None:
    code, result = verify(tree, capsys, f"--ssgvqa-root={tree / 'frames'}", f"--image-root={tree / 'ssg-qa'}")
    assert code == 1
    assert "are the two flags swapped? Then exchange the two flags." in messages(result)["swapped"]
    assert result["flags"] == {"--ssgvqa-root": str(tree / "ssg-qa"), "--image-root": str(tree / "frames")}
    assert result["totals"]["questions"] == 32
    swapped = [f"--ssgvqa-root={tree / 'frames'}", f"--image-root={tree / 'ssg-qa'}"]
    code, result = verify(tree, capsys, *swapped, f"--link-to={tree / 'links'}")
    assert code == 0
    check_usable(result["flags"])


def test_one_root_twice_is_recognised(tree: Path, capsys: Capture) -> None:
    _, result = verify(tree, capsys, f"--ssgvqa-root={tree / 'frames'}")
    assert "give --ssgvqa-root the folder of the questions" in messages(result)["swapped"]


def test_a_videos_own_folder_is_recognised(tree: Path, capsys: Capture) -> None:
    own = [f"--ssgvqa-root={tree / 'ssg-qa' / 'VID04'}", f"--image-root={tree / 'frames' / 'VID04'}"]
    code, result = verify(tree, capsys, *own)
    assert code == 1 and f"give --image-root {tree / 'frames'}" in messages(result)["other-root"]
    assert result["flags"] == {"--ssgvqa-root": str(tree / "ssg-qa"), "--image-root": str(tree / "frames")}


def test_variants_and_copies_are_left_out(tree: Path, capsys: Capture) -> None:
    shutil.copytree(tree / "frames" / "VID02", tree / "frames" / "VID02_clean")
    shutil.copytree(tree / "ssg-qa" / "VID02", tree / "ssg-qa" / "VID02_old")
    shutil.copytree(tree / "frames" / "VID02", tree / "frames" / "vid02")
    shutil.copy(tree / "frames" / "VID02" / "000002.png", tree / "frames" / "VID02" / "000002 (1).png")
    code, result = verify(tree, capsys)
    assert code == 0 and result["totals"]["frames"] == 16
    found = messages(result)
    assert "1 folders look like variants" in found["variants"] and "VID02/000002 (1).png" in found["copies"]
    assert "frames/vid02" in found["doubles"]
    assert {f["level"] for f in result["findings"]} == {"WARN", "INFO"}


def test_missing_videos_are_named_with_what_to_do(tree: Path, capsys: Capture) -> None:
    shutil.rmtree(tree / "frames" / "VID05")
    code, result = verify(tree, capsys)
    assert code == 1
    assert messages(result)["missing-videos"] == (
        "1 of 4 videos have no folder of frames (VID05); add them, or name the videos that you have through "
        "--splits-dir."
    )
    assert "missing-frames" not in messages(result)


def test_nothing_found_says_how_deep_it_looked(tree: Path, capsys: Capture) -> None:
    (tree / "empty" / "empty").mkdir(parents=True)
    _, result = verify(tree, capsys, f"--image-root={tree / 'empty' / 'empty'}")
    assert "holds none of them up to three folders deep" in messages(result)["missing-videos"]
    assert result["flags"] == {}


def test_questions_without_frames_and_frames_without_questions(tree: Path, capsys: Capture) -> None:
    (tree / "frames" / "VID04" / "000001.png").unlink()
    write_picture(tree / "frames" / "VID04" / "000009.png", 9)
    code, result = verify(tree, capsys)
    assert code == 1
    row = next(row for row in result["videos"] if row["video"] == "VID04")
    assert (row["missing_frames"], row["missing"], row["unasked_frames"]) == (1, [1], 1)
    assert "1 of 16 frames have no question file" in messages(result)["unasked-frames"]


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(raw[: len(raw) // 2])
        case "bits":
            path.write_bytes(raw[:200] + bytes([raw[200] ^ 255]) + raw[201:])
        case "text":
            path.write_text("no picture")
        case "empty":
            path.write_bytes(b"")
        case "link":
            path.unlink()
            path.symlink_to("nowhere")


@pytest.mark.parametrize("how", ["truncated", "bits", "text", "empty", "link"])
def test_damaged_frames_are_found(how: str, tree: Path, capsys: Capture) -> None:
    damage(tree / "frames" / "VID02" / "000007.png", how)
    code, result = verify(tree, capsys)
    assert code == 1
    found = messages(result)
    assert "VID02/000007.png" in found.get("damaged-frames", found.get("empty-files", ""))
    assert result["totals"]["damaged"] == 1 and result["totals"]["missing_frames"] == 0
    assert next(row for row in result["videos"] if row["damaged"])["video"] == "VID02"


def test_a_sample_may_miss_what_every_frame_finds(tree: Path, capsys: Capture) -> None:
    damage(tree / "frames" / "VID02" / "000007.png", "text")
    code, result = verify(tree, capsys, "--frames-to-open=4")
    assert code == 0 and result["totals"]["opened"] == 4
    code, result = verify(tree, capsys, "--every-frame")
    assert code == 1 and result["totals"]["opened"] == 16


def test_every_frame_opens_those_without_questions_too(tree: Path, capsys: Capture) -> None:
    (tree / "frames" / "VID04" / "000009.png").write_text("no picture")
    assert verify(tree, capsys)[0] == 0
    assert verify(tree, capsys, "--every-frame")[0] == 1


def test_black_equal_and_tiny_frames_are_warned_of(tree: Path, capsys: Capture) -> None:
    for path in (tree / "frames" / "VID01").iterdir():
        Image.new("RGB", (80, 64)).save(path)
    for path in (tree / "frames" / "VID02").iterdir():
        write_picture(path, 1)
    for path in (tree / "frames" / "VID04").iterdir():
        write_picture(path, int(path.stem), (8, 8))
    code, result = verify(tree, capsys)
    found = messages(result)
    assert code == 0
    assert "4 of the 16 opened frames have one colour" in found["one-colour"]
    assert "4 of the 4 opened frames of VID02 are identical" in found["identical"]
    assert "4 of the 16 opened frames have a side below 64" in found["odd-size"]
    assert result["totals"]["one_colour"] == 4


def test_25_frames_per_second_that_are_numbered_on_need_a_flag(tree: Path, capsys: Capture) -> None:
    for video in NAMES:
        for path in list((tree / "frames" / video).iterdir()):
            path.unlink()
        for number in range(8 * 25):
            (tree / "frames" / video / f"{number:06d}.png").touch()
        for second in range(8):
            write_picture(tree / "frames" / video / f"{25 * second:06d}.png", hash_of(video, second))
    _, result = verify(tree, capsys)
    assert (
        "VID01 has 200 frames, but its highest question number is 7), about 25 per second" in messages(result)["rate"]
    )
    _, result = verify(tree, capsys, "--frame-rate=25", f"--link-to={tree / 'links'}")
    check_usable(result["flags"])
    assert len(list((tree / "links" / "frames" / "VID02").iterdir())) == 8
    write_picture(tree / "wanted.png", hash_of("VID02", 7))
    assert (tree / "links" / "frames" / "VID02" / "000007.png").read_bytes() == (tree / "wanted.png").read_bytes()


def test_frames_numbered_from_1_are_warned_of_and_can_be_shifted(tree: Path, capsys: Capture) -> None:
    for video in NAMES:
        for number in reversed(NUMBERS):
            frame = tree / "frames" / video / f"{number:06d}.png"
            frame.rename(frame.with_name(f"{number + 1:06d}.png"))
    _, result = verify(tree, capsys)
    assert "The frames of 4 of 4 videos begin at number 1" in messages(result)["first-number"]
    code, result = verify(tree, capsys, "--first-number=1", f"--link-to={tree / 'links'}")
    assert code == 0
    check_usable(result["flags"])


def test_odd_names_and_contents_of_question_files_are_listed(tree: Path, capsys: Capture) -> None:
    for name in ("2.0.txt", "-3.txt", "2.txt.gz"):
        (tree / "ssg-qa" / "VID04" / name).touch()
    for name in ("._2.txt", ".DS_Store"):
        (tree / "ssg-qa" / "VID04" / name).write_bytes(b"\0")
    (tree / "ssg-qa" / "VID05" / "0.txt").write_text("Which tools are present?|hook\nWhat?|nonsense\n")
    (tree / "ssg-qa" / "VID05" / "1.txt").write_text("")
    code, result = verify(tree, capsys)
    found = messages(result)
    assert code == 0
    assert "3 files are no questions by their names" in found["other-files"]
    assert "do not begin with the two summary lines" in found["question-content"]
    assert "answers outside the" in found["question-content"]
    assert "1 files of questions are empty" in found["empty-files"]


def test_scene_graphs_are_compared(tree: Path, capsys: Capture) -> None:
    (tree / "scene_graph" / "VID02_7.json").unlink()
    (tree / "scene_graph" / "VID02_2.json").write_text("{")
    (tree / "scene_graph" / "VID01_0.json").write_text("")
    code, result = verify(tree, capsys, graphs=True)
    assert code == 1
    assert "1 frames with questions have no scene graph (first: VID02_7.json)" in messages(result)["missing-graphs"]
    assert "2 scene graphs are empty or damaged" in messages(result)["damaged-graphs"]


@pytest.mark.parametrize(
    "change", [move("scene_graph/*.json", "inner"), rename("scene_graph/*", lambda p: p.name.lower())]
)
def test_misplaced_scene_graphs_are_mended_by_links(
    change: Callable[[Path], None], tree: Path, capsys: Capture
) -> None:
    change(tree)
    assert verify(tree, capsys, graphs=True)[0] == 1
    code, result = verify(tree, capsys, f"--link-to={tree / 'links'}", graphs=True)
    assert code == 0
    assert (Path(result["flags"]["--scene-graph-root"]) / "VID02_7.json").exists()


def test_a_folder_without_scene_graphs_fails(tree: Path, capsys: Capture) -> None:
    code, result = verify(tree, capsys, f"--scene-graph-root={tree / 'splits'}")
    assert code == 1 and "holds no <VIDxx>_<frame>.json" in messages(result)["no-graphs"]


def test_published_counts_are_shown_for_the_standard_split(tree: Path, capsys: Capture) -> None:
    roots = [f"--ssgvqa-root={tree / 'ssg-qa'}", f"--image-root={tree / 'frames'}"]
    assert main(["data", "verify", *roots]) == 1
    out = capsys.readouterr().out
    assert "CholecT45, frames: 16; published: 90,489 (README.md of the repository)" in out
    assert "41 of 45 videos have no folder of questions" in out and "known-count" not in out


def test_complete_but_small_copies_differ_from_the_published_counts(tmp_path: Path, capsys: Capture) -> None:
    splits = load_splits()
    for video in (*splits.train, *splits.val, *splits.test):
        (tmp_path / "ssg-qa" / video).mkdir(parents=True)
        (tmp_path / "frames" / video).mkdir(parents=True)
        write_questions(tmp_path / "ssg-qa" / video / "0.txt")
        write_picture(tmp_path / "frames" / video / "000000.png", hash_of(video, 0))
    roots = [f"--ssgvqa-root={tmp_path / 'ssg-qa'}", f"--image-root={tmp_path / 'frames'}"]
    assert main(["data", "verify", *roots, "--json"]) == 0
    found = [f["message"] for f in json.loads(capsys.readouterr().out)["findings"] if f["kind"] == "known-count"]
    assert [message.split(" in ")[0] for message in found] == [
        "There are 45 frames instead of about 25,000",
        "There are 90 questions instead of about 960,000",
        "There are 45 frames instead of 90,489",
    ]


def test_links_to_a_synthetic_set_are_marked_as_synthetic(tree: Path, capsys: Capture) -> None:
    (tree / "synthetic.json").write_text("{}")
    save_as_jpeg(tree)
    verify(tree, capsys, f"--link-to={tree / 'links'}")
    assert (tree / "links" / "synthetic.json").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--image-root=/no/such"], "--image-root /no/such is not a folder"),
        (["--scene-graph-root=/no/such"], "--scene-graph-root /no/such is not a folder"),
        (["--frames-to-open=0"], "--frames-to-open must be at least 1"),
    ],
)
def test_wrong_usage_is_one_sentence(flags: list[str], sentence: str, tree: Path, capsys: Capture) -> None:
    words = [f"--ssgvqa-root={tree / 'ssg-qa'}", f"--image-root={tree / 'frames'}", f"--splits-dir={tree / 'splits'}"]
    assert main(["data", "verify", *words, *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_roots_that_are_not_given_are_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv("SSGVQA_ROOT", raising=False)
    assert main(["data", "verify"]) == 2
    assert "--ssgvqa-root is missing; give it, or set SSGVQA_ROOT." in capsys.readouterr().err
