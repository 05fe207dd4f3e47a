"""One video under two names: it is found by its name, by links and by equal files."""

import shutil
from pathlib import Path

import pytest

from surgvivqa.commands.check import CheckConfig, Result, run_checks
from surgvivqa.data.overlaps import Overlap, check_no_links, find_copies, find_links
from surgvivqa.data.splits import Splits, base_video, load_splits
from surgvivqa.utils.errors import InputError
from tests.helpers.splits import write_splits


@pytest.mark.parametrize("name", ["VID02", "VID02_clean", "vid02", "Vid2", "VID002", "VID_02", "video02", "vid02-b"])
def test_a_videos_name_is_recognised_in_any_spelling(name: str) -> None:
    assert base_video(name) == "VID02"


@pytest.mark.parametrize("name", ["VID20", "VID22", "VID021", "clip02", "XVID02"])
def test_different_videos_have_different_names(name: str) -> None:
    assert base_video(name) != "VID02"


def test_a_date_in_a_name_is_no_number_of_a_video() -> None:
    assert len({base_video(name) for name in ("vid2024-1", "vid2024-2", "video_20240102_3", "video_20240103_3")}) == 4


@pytest.mark.parametrize("name", ["vid02", "VID2", "video_22"])
def test_a_test_video_in_train_is_refused_in_any_spelling(name: str, tmp_path: Path) -> None:
    write_splits(tmp_path, train=[name], val=[], test=[])
    with pytest.raises(InputError, match=f"names {name}, a test video"):
        load_splits(tmp_path)


def test_a_split_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    write_splits(tmp_path, train=["VID01"], val=[], test=[])
    path = tmp_path / "train_videos.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert load_splits(tmp_path).train == ("VID01",)


def write_video(root: Path, video: str, contents: list[str]) -> None:
    (root / video).mkdir(parents=True)
    for number, content in enumerate(contents):
        (root / video / f"{number}.txt").write_text(content)


def test_copies_under_any_name_are_found(tmp_path: Path) -> None:
    lines = [f"question {n}" * (n + 1) for n in range(20)]
    write_video(tmp_path, "VID01", lines)
    write_video(tmp_path, "other", lines)
    write_video(tmp_path, "part", lines[5:15])  # renumbered
    write_video(tmp_path, "VID02", [line.upper() for line in lines])
    write_video(tmp_path, "empty", [])
    copies = find_copies(tmp_path, ["VID01", "VID02", "other", "part", "empty", "absent"], ".txt")
    assert {(o.first, o.second) for o in copies} == {("VID01", "other"), ("VID01", "part"), ("other", "part")}


def test_a_copy_of_a_very_short_video_is_found(tmp_path: Path) -> None:
    write_video(tmp_path, "VID01", ["a", "bb"])
    write_video(tmp_path, "other", ["a", "bb"])
    assert len(find_copies(tmp_path, ["VID01", "other"], ".txt")) == 1


def test_a_few_equal_files_do_not_make_a_copy(tmp_path: Path) -> None:
    write_video(tmp_path, "VID01", ["black"] * 10 + ["a" * n for n in range(10)])
    write_video(tmp_path, "VID02", ["black"] * 10 + ["b" * n for n in range(10)])
    assert find_copies(tmp_path, ["VID01", "VID02"], ".txt") == []


def test_links_to_one_folder_are_found_and_refused_across_splits(tmp_path: Path) -> None:
    write_video(tmp_path, "VID01", ["a"])
    (tmp_path / "VID02").symlink_to(tmp_path / "VID01")
    assert find_links(tmp_path, ["VID01", "VID02"]) == [
        Overlap("VID01", "VID02", f"are links to one folder under {tmp_path}")
    ]
    check_no_links([tmp_path], Splits(("VID01", "VID02"), (), ()))
    with pytest.raises(InputError, match=r"VID01 \(train\) and VID02 \(test\) are links to one folder"):
        check_no_links([tmp_path], Splits(("VID01",), (), ("VID02",)))


@pytest.mark.parametrize("part", ["ssg-qa", "frames"])
@pytest.mark.parametrize("split, status", [("test", "FAIL"), ("train", "WARN")])
def test_check_reports_a_copied_video(part: str, split: str, status: str, synthetic_set: Path, tmp_path: Path) -> None:
    for name in ("ssg-qa", "frames"):
        (tmp_path / name).mkdir()
        for video in ("VID01", "VID04", "VID02"):
            (tmp_path / name / video).symlink_to(synthetic_set / name / video)
        source = "VID04" if name == part else "VID02"
        shutil.copytree(synthetic_set / name / source, tmp_path / name / "VID90")
    splits = {"train": ["VID04"], "val": ["VID01"], "test": []}
    splits[split].append("VID90")
    write_splits(tmp_path / "splits", **splits)
    overlap = check_results(tmp_path)["overlap"]
    assert overlap.status == status
    assert f"VID04 (train) and VID90 ({split})" in overlap.message


def check_results(root: Path) -> dict[str, Result]:
    """The results of ``check`` by name, up to the images."""
    config = CheckConfig(preset="tiny", ssgvqa_root=root / "ssg-qa", image_root=root / "frames")
    config.splits_dir = root / "splits"
    results = {}
    for result in run_checks(config):
        results[result.name] = result
        if result.name == "images":
            break
    return results
