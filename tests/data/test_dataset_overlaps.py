"""Which sets show the same operations, which models have seen a test video, and docs/overlaps.md."""

from importlib.resources import files
from pathlib import Path

import pytest

from surgvivqa.config import ModelConfig
from surgvivqa.data.dataset_overlaps import (
    DataSet,
    Finding,
    PretrainedModel,
    TrainingRun,
    find_seen_videos,
    load_overlaps,
    merge_findings,
    operation_number,
    parse_numbers,
    summarise_findings,
)
from surgvivqa.data.overlap_tables import BEGIN, END, format_numbers, format_tables
from surgvivqa.data.splits import TEST_VIDEOS, load_splits, read_folds

TESTED = sorted(TEST_VIDEOS)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "overlaps.md"


def finding(name: str, videos: list[str] = TESTED, dataset: str = "ssg-qa") -> Finding:
    (found,) = find_seen_videos(videos, {"--video-model": name}, dataset=dataset)
    return found


def test_numbers_are_read_and_written() -> None:
    assert parse_numbers("1, 4-6, 8") == {1, 4, 5, 6, 8} and parse_numbers(7) == {7} and parse_numbers("") == set()
    assert format_numbers({1, 2, 4, 5, 6, 8}) == "1, 2, 4-6, 8"


def test_the_page_holds_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == format_tables(load_overlaps()).strip()


def test_the_table_agrees_with_the_splits_of_the_package() -> None:
    splits = load_splits()
    ours = {operation_number(video) for name in ("train", "val", "test") for video in splits.videos(name)}
    folds = {operation_number(video) for fold in read_folds().videos for video in fold}
    table = {row.name: row for row in load_overlaps().sets}
    assert ours == folds == table["SSG-QA"].operations == table["CholecT45"].operations
    assert len(table["CholecT50"].operations) == 50 and ours < table["CholecT50"].operations


def test_every_row_names_its_sources_and_a_set_is_named_once() -> None:
    table = load_overlaps()
    rows: list[DataSet | PretrainedModel] = [*table.sets, *table.models]
    assert {name for row in rows for name in row.sources} == set(table.sources)
    assert all(row.sources and len(row.operations) <= row.videos for row in table.sets)
    names = [name for row in table.sets for name in row.names]
    assert len(names) == len(set(names))
    assert all(table.find_set(name) for row in table.models for name in row.sets)
    # What has no address is from memory, so it cannot make a row verified by itself.
    assert not [row for row in rows if row.evidence == "verified" and row.sources == ("papers",)]


def test_every_packaged_data_set_has_a_row() -> None:
    table = load_overlaps()
    packaged = [path.name.removesuffix(".yaml") for path in (files("surgvivqa.datasets") / "packaged").iterdir()]
    assert "surgcheck" in packaged
    assert [name for name in packaged if table.find_set(name) is None] == []


def test_the_default_parts_are_clean() -> None:
    defaults = ModelConfig()
    for name in (defaults.video_model, defaults.text_model, defaults.decoder_model, "/weights/videomae-base"):
        assert finding(name).verdict == "clean", name


@pytest.mark.parametrize(
    "name, seen, possible",
    [
        ("endovit_SPR.pth", ["VID02", "VID22"], []),
        ("endovit_ATD.pth", ["VID02", "VID22", "VID60"], []),
        ("weights/endovit_seg.pth", TESTED, []),
        ("egeozsoy/EndoViT", ["VID02", "VID22"], ["VID43", "VID60", "VID74"]),
        ("TimJaspersTue/SurgeNetModels", [], TESTED),
    ],
)
def test_surgical_models_have_seen_test_videos(name: str, seen: list[str], possible: list[str]) -> None:
    found = finding(name)
    assert (list(found.videos), list(found.possible)) == (seen, possible)
    assert found.verdict == ("seen" if seen else "possible")


def test_a_model_of_other_videos_is_clean_and_another_model_is_unknown() -> None:
    assert finding("endovit_ATD.pth", ["VID43", "VID74"]).verdict == "clean"
    assert finding("/models/mine").verdict == "unknown"
    assert finding("Qwen/Qwen3-0.6B").verdict == "clean" and finding("Qwen/Qwen3-VL-2B").verdict == "unknown"


@pytest.mark.parametrize("name", ["somebody/videomae-base", "/w/videomae-base-cholec80", "somebody/gpt2", "/w/blip-ft"])
def test_a_model_made_from_a_clean_one_is_unknown(name: str) -> None:
    assert finding(name).verdict == "unknown"


def test_a_surgical_model_is_recognised_in_any_folder() -> None:
    assert finding("/weights/my-EndoViT-v2").verdict == finding("somebody/endovit-base").verdict == "seen"


def test_a_copy_under_another_name_is_the_same_operation() -> None:
    assert finding("endovit_SPR.pth", ["video02_clean", "vid43"]).videos == ("video02_clean",)


def test_a_checkpoint_of_the_same_set_is_compared_by_name() -> None:
    (found,) = find_seen_videos(TESTED, runs=[TrainingRun("--pretrained-ckpt", "x.pth", ("VID022", "VID01"))])
    assert found.videos == ("VID22",) and found.verdict == "seen"
    (found,) = find_seen_videos(TESTED, runs=[TrainingRun("--pretrained-ckpt", "x.pth", ("VID01",))])
    assert found.verdict == "clean"
    (found,) = find_seen_videos(TESTED, runs=[TrainingRun("--pretrained-ckpt", "x.pth", ("VID01", "17"))])
    assert found.verdict == "possible" and "another data set" in found.why
    (found,) = find_seen_videos(TESTED, runs=[TrainingRun("--pretrained-ckpt", "x.pth", ())])
    assert found.verdict == "possible" and "not recorded" in found.why


def test_a_checkpoint_of_another_set_is_compared_by_operation() -> None:
    def found(videos: tuple[str, ...], dataset: str) -> Finding:
        return find_seen_videos(TESTED, runs=[TrainingRun("--checkpoint", "x", videos, dataset)])[0]

    assert found(("2", "9"), "cholec80-vqa").videos == ("VID02",)
    assert found(("9",), "cholec80-vqa").verdict == "clean"
    assert list(found(("17",), "endoscapes").possible) == TESTED  # its videos have other names
    assert found(("2",), "heichole").verdict == "clean"  # other operations, whatever the number
    assert found(("2",), "somebodys-own").verdict == "possible"


def test_tested_sets_with_names_of_their_own() -> None:
    assert finding("egeozsoy/EndoViT", ["162"], "endoscapes").possible == ("162",)
    assert finding("egeozsoy/EndoViT", ["video_02"], "pitvqa").verdict == "clean"
    assert finding("egeozsoy/EndoViT", ["CASE005"], "psi-ava-vqa").verdict == "possible"  # a part of Endo700k
    assert finding("egeozsoy/EndoViT", ["VID02"], "somebodys-own").verdict == "possible"


def test_what_matters_comes_first() -> None:
    models = {"--video-model": "gpt2", "--text-model": "/x/mine", "--decoder-model": "endovit_SPR.pth"}
    text = summarise_findings(find_seen_videos(TESTED, models))
    assert text.startswith("--decoder-model endovit_SPR.pth has seen VID02, VID22 (EndoViT for phase recognition was")
    assert text.index("/x/mine is not in the table") < text.index("gpt2 has seen none of the videos")


def test_the_folds_of_a_cross_validation_are_joined() -> None:
    parts = {"--video-model": "endovit_SPR.pth", "--decoder-model": "gpt2"}
    folds = [find_seen_videos(videos, parts) for videos in (["VID02", "VID60"], ["VID43"], ["VID22"])]
    video, decoder = merge_findings(finding for fold in folds for finding in fold)
    assert (video.verdict, video.videos) == ("seen", ("VID02", "VID22")) and video.why == folds[0][0].why
    assert decoder == folds[0][1]
