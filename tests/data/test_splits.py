"""The official folds, and the folder of a fold: the only one that may train on a test video of the standard split."""

import json
from pathlib import Path

import pytest

from surgvivqa.data.splits import FOLD_FILE, TEST_VIDEOS, Folds, load_splits, read_folds, write_fold
from surgvivqa.utils.errors import InputError
from tests.helpers.splits import write_splits

FOLDS = Folds((("VID02", "VID01"), ("VID22", "VID04"), ("VID05", "VID06", "VID08")))


def test_the_official_folds_are_all_videos_of_the_standard_split() -> None:
    """Nwoye and Padoy (arXiv 2204.05235) have nine videos in each of five folds."""
    folds, splits = read_folds(), load_splits()
    assert [len(videos) for videos in folds.videos] == [9] * 5
    named = [video for videos in folds.videos for video in videos]
    assert sorted(named) == sorted([*splits.train, *splits.val, *splits.test])
    assert folds.videos[0][:3] == ("VID79", "VID02", "VID51") and folds.videos[4][-1] == "VID13"


def test_the_last_videos_of_the_other_folds_are_for_validation() -> None:
    splits = read_folds().split(5, 5)
    assert splits.test == read_folds().videos[4]
    assert splits.val == ("VID65", "VID75", "VID22", "VID49", "VID12")  # the end of fold 4
    assert splits.train[:2] == ("VID79", "VID02") and len(splits.train) == 31
    assert not set(splits.train) & {*splits.val, *splits.test}


def test_every_video_is_tested_once_and_never_trained_on_in_its_fold() -> None:
    tested: list[str] = []
    for fold in (1, 2, 3):
        splits = FOLDS.split(fold, 1)
        assert not set(splits.train) & {*splits.val, *splits.test} and len(splits.val) == 1
        tested += splits.test
    assert sorted(tested) == sorted(video for videos in FOLDS.videos for video in videos)


def test_a_fold_is_read_back_and_may_train_on_reserved_videos(tmp_path: Path) -> None:
    written = write_fold(tmp_path, FOLDS, 2, 1)
    assert load_splits(tmp_path) == written
    assert written.fold == 2 and set(written.train) & TEST_VIDEOS == {"VID02"}


def test_without_its_fold_file_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_fold(tmp_path, FOLDS, 2, 1)
    (tmp_path / FOLD_FILE).unlink()
    with pytest.raises(InputError, match="names VID02, a test video of SSG-VQA-Net's split"):
        load_splits(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"fold": 2}',
        '{"fold": true, "val_videos": 1, "folds": {"1": ["VID02"], "2": ["VID01"]}}',
        '{"fold": 2, "val_videos": 0, "folds": {"1": ["VID02", "VID01"]}}',
        '{"fold": 2, "val_videos": 0, "folds": {"1": ["VID02"], "2": ["VID02_clean"]}}',
    ],
)
def test_a_fold_file_that_is_not_crossvals_does_not_open_the_reserved_videos(content: str, tmp_path: Path) -> None:
    write_splits(tmp_path, train=["VID02"], val=[], test=["VID01"])
    (tmp_path / FOLD_FILE).write_text(content)
    with pytest.raises(InputError):
        load_splits(tmp_path)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_the_files_of_a_fold_cannot_be_edited(name: str, tmp_path: Path) -> None:
    """Its test video moved into training, or any other change, is refused."""
    write_fold(tmp_path, FOLDS, 2, 1)
    path = tmp_path / f"{name}_videos.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), "VID73"]))
    with pytest.raises(InputError, match=f"{name}_videos.json names other videos than fold 2"):
        load_splits(tmp_path)


def test_a_fold_file_that_is_a_link_counts(tmp_path: Path) -> None:
    """A broken link must not make the folder one of a plain split, nor open the reserved videos."""
    write_splits(tmp_path, train=["VID01"], val=[], test=["VID02"])
    (tmp_path / FOLD_FILE).symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not the file that crossval writes"):
        load_splits(tmp_path)
