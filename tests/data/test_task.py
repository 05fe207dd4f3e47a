"""Labels, prompts and splits."""

import json
from pathlib import Path

import pytest

from surgvivqa.data.labels import LABELS, parse_label
from surgvivqa.data.prompts import build_prompt
from surgvivqa.data.splits import load_splits
from surgvivqa.utils.errors import InputError


def test_answers_are_matched_exactly_to_the_51_labels() -> None:
    assert len(LABELS) == len(set(LABELS)) == 51
    assert [parse_label(x) for x in LABELS] == list(range(51))
    assert parse_label("yes") == LABELS.index("True")
    assert parse_label("specimen_bag") != parse_label("specimenbag")
    assert parse_label("the liver") is None


def test_prompts_equal_the_published_ones() -> None:
    assert build_prompt("What is it?") == "Question: What is it?\nAnswer:"
    assert build_prompt("What is it?", "choices").startswith("Question: What is it?\nCandidates: 0, 1, 10, 2,")
    assert build_prompt("What is it?", "choices").endswith("white, yellow\nAnswer:")


def test_the_packaged_split_is_that_of_ssg_vqa_net() -> None:
    splits = load_splits()
    assert [len(splits.videos(s)) for s in ("train", "val", "test")] == [35, 5, 5]
    assert splits.test == ("VID02", "VID22", "VID43", "VID60", "VID74")


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["VID04"], ["VID04"], "share VID04"),
        (["VID02"], ["VID01"], "must never be trained on"),
        (["VID04"], ["VID22"], "must never be trained on"),
        (["VID02_clean"], ["VID01"], "must never be trained on"),
        (["VID04_old"], ["VID04"], "share VID04_old"),
        (["../VID04"], ["VID01"], "list of video names"),
        (["VID04", "VID04"], ["VID01"], "more than once"),
    ],
)
def test_invalid_splits_are_refused(tmp_path: Path, train: list[str], val: list[str], message: str) -> None:
    for name, videos in (("train", train), ("val", val), ("test", ["VID75"])):
        (tmp_path / f"{name}_videos.json").write_text(json.dumps(videos))
    with pytest.raises(InputError, match=message):
        load_splits(tmp_path)
