"""The gallery's choice of questions, and its pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.explanation.overlay import Overlay, OverlayMap, color_map
from surgvivqa.explanation.scene_graphs import Box as SceneBox
from surgvivqa.reporting.gallery import Gallery, Pictures, choose_predictions, heat_map_uri, item_of, with_overlay


def prediction(index: int, *, right: bool, probability: float | None = 0.5, kind: str = "exist") -> Prediction:
    video, frame = f"VID{index % 3}", index // 2
    return Prediction(video, frame, f"Question {index}?", 12, 12 if right else 11, probability, type=kind)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_half_are_the_most_confident_mistakes_in_this_order() -> None:
    predictions = [prediction(i, right=i % 2 == 0, probability=i / 100) for i in range(100)]
    chosen = choose_predictions(predictions, 20)
    assert [p.probability for p in chosen[:10]] == [i / 100 for i in range(99, 79, -2)]
    assert len(chosen) == 20 and len({id(p) for p in chosen}) == 20


def test_a_frame_is_repeated_only_when_there_is_no_other() -> None:
    predictions = [prediction(0, right=False, probability=0.9)] * 30 + [prediction(40, right=False, probability=0.1)]
    chosen = choose_predictions(predictions, 4)
    assert {p.frame for p in chosen} == {0, 20}


def test_the_other_half_is_spread_over_types_and_over_right_and_wrong() -> None:
    rare = [prediction(i, right=bool(i % 2), kind="query_color") for i in range(6)]
    predictions = [prediction(i, right=True) for i in range(500)] + rare
    chosen = choose_predictions(predictions, 12)
    assert {(p.type, p.correct) for p in chosen} == {("exist", True), ("query_color", True), ("query_color", False)}
    assert sum(p.type == "query_color" for p in chosen) >= 5


def test_all_are_chosen_where_there_are_few() -> None:
    predictions = [prediction(i, right=True, probability=None) for i in range(5)]
    assert len(choose_predictions(predictions, 120)) == 5


@pytest.mark.parametrize("count", [0, 1, 2])
def test_no_more_are_chosen_than_wanted(count: int) -> None:
    predictions = [prediction(i, right=i % 2 == 0) for i in range(60)]
    assert len(choose_predictions(predictions, count)) == count


def test_a_frame_becomes_a_small_webp(tmp_path: Path) -> None:
    (tmp_path / "VID0").mkdir()
    Image.new("RGB", (854, 480), (200, 30, 30)).save(tmp_path / "VID0" / "000007.png")
    found = Pictures(tmp_path).picture("VID0", 7)
    assert found is not None
    assert found[1:] == (320, 180) and decoded(found[0]).size == (320, 180) and decoded(found[0]).format == "WEBP"


def test_a_missing_frame_is_explained_without_the_local_folder(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    assert pictures.picture("VID0", 7) is None
    note = pictures.note([("VID0", 7)])
    assert (
        note.startswith("1 of 1 frames have no picture: Frame VID0")
        and "--image-root" in note
        and str(tmp_path) not in note
    )
    assert "--image-root" in Pictures(None).note([])


def test_a_videos_name_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "000007.png")
    pictures = Pictures(tmp_path / "root")
    assert pictures.picture("..", 7) is None and "not the name of a video" in pictures.missing["..", 7]


def test_a_heat_map_has_the_overlays_colours_and_is_most_opaque_where_it_is_greatest() -> None:
    pixels = np.asarray(decoded(heat_map_uri([[0.0, 0.4], [1.0, 0.0]])).convert("RGBA"))
    assert pixels[..., 3].tolist() == [[64, 115], [191, 64]]
    assert (pixels[..., :3] == color_map(np.array([[0.0, 0.4], [1.0, 0.0]], np.float32))).all()


def test_preferred_questions_take_half_of_the_rest() -> None:
    predictions = [prediction(i, right=True) for i in range(200)]
    preferred = {(p.video, p.frame, p.question) for p in predictions[:40]}
    chosen = choose_predictions(predictions, 40, preferred=preferred)
    assert sum((p.video, p.frame, p.question) in preferred for p in chosen) >= 20
    wrong = [prediction(i, right=False) for i in range(200)]
    chosen = choose_predictions(wrong, 40, preferred={(p.video, p.frame, p.question) for p in wrong[100:]})
    assert len(chosen) == 40


def test_an_item_gets_the_maps_and_boxes_of_its_question() -> None:
    maps = {"occlusion": OverlayMap("occlusion", ((0.0, 1.0),))}
    overlay = Overlay("VID0", 0, "Question 0?", maps, (SceneBox(0.1, 0.2, 0.3, 0.4),), ())
    item = with_overlay(item_of(prediction(0, right=True)), overlay)
    assert [(shown.method, decoded(shown.picture).size) for shown in item.maps] == [("occlusion", (2, 1))]
    assert [(box.left, box.bottom, box.role) for box in item.boxes] == [(0.1, 0.4, "asked")]
    assert Gallery([item]).has_overlays and Gallery([item]).methods == {"occlusion": "occlusion"}


def test_the_filters_offer_what_the_items_have() -> None:
    view = Gallery([item_of(prediction(0, right=True)), item_of(prediction(1, right=False, kind="count"))])
    assert (view.outcomes, view.types, view.labels) == (["right", "wrong"], ["count", "exist"], ["False", "True"])
    assert view.videos == ["VID0", "VID1"] and not view.has_overlays
