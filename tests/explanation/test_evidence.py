"""Evidence on a model: what is covered, what is compared, and that the figures are the model's own."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgvivqa.commands.evidence import measure_evidence
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig
from surgvivqa.data.ssgqa import FrameQuestions, read_split
from surgvivqa.evaluation.evidence import EvidenceRecord
from surgvivqa.explanation.evidence import EvidenceRun, ground_frames, place_elsewhere
from surgvivqa.explanation.frame_area import FrameArea
from surgvivqa.explanation.map_checks import points_into
from surgvivqa.explanation.occlusion import cover_boxes
from surgvivqa.explanation.overlay import Overlay
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.errors import InputError

WHOLE, LIGHT = Box(0.0, 0.0, 1.0, 1.0), np.zeros((64, 64), np.float32)
SIZE = st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.05, 0.5), st.floats(0.05, 0.5))
BOXES = SIZE.map(lambda b: Box(b[0], b[1], min(1.0, b[0] + b[2]), min(1.0, b[1] + b[3])))


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    found = load_model(Path("tiny"), OptionalModelConfig())
    found.model.requires_grad_(False)
    return found


def frames_of(root: Path, *videos: str) -> list[FrameQuestions]:
    return read_split(root / "ssg-qa", videos or ("VID02",))[0]


Run = tuple[EvidenceRun, list[EvidenceRecord], list[Overlay]]


@pytest.fixture(scope="module")
def measured(bundle: ModelBundle, synthetic_set: Path) -> Run:
    run = EvidenceRun(bundle, bundle.frame_store(synthetic_set / "frames"))
    (frame,) = ground_frames(frames_of(synthetic_set), synthetic_set / "scene_graph", 4, Counter())
    result = run.measure(frame)
    return run, result.records, result.overlays


@settings(deadline=None, max_examples=80)
@given(st.lists(BOXES, min_size=1, max_size=2), st.lists(BOXES, max_size=2), st.integers(0, 9))
def test_areas_elsewhere_have_the_targets_sizes_and_touch_nothing(
    targets: list[Box], avoid: list[Box], seed: int
) -> None:
    for area in place_elsewhere(targets, avoid, WHOLE, LIGHT, np.random.default_rng(seed)):
        assert sorted(box.area for box in area) == pytest.approx(sorted(box.area for box in targets))
        for n, box in enumerate(area):
            assert min(box) >= 0 and max(box) <= 1 + 1e-9
            assert not any(box.overlaps(other) for other in (*targets, *avoid, *area[:n]))


def test_areas_elsewhere_show_the_endoscopes_view() -> None:
    dark = np.zeros((64, 64), np.float32)
    dark[:, 32:] = 1
    areas = place_elsewhere([Box(0.0, 0.0, 0.2, 0.2)], [], WHOLE, dark, np.random.default_rng(0))
    assert len(areas) == 4
    assert all(box.right <= 0.5 + 0.25 * 0.2 for area in areas for box in area)


def test_there_may_be_no_room_elsewhere() -> None:
    assert place_elsewhere([Box(0.1, 0.1, 0.9, 0.9)], [], WHOLE, LIGHT, np.random.default_rng(0)) == []


def test_questions_are_spread_over_videos_and_share_out_the_number(synthetic_set: Path) -> None:
    frames, left_out = frames_of(synthetic_set, "VID01", "VID02", "VID04"), Counter[str]()
    chosen = ground_frames(frames, synthetic_set / "scene_graph", 20, left_out)
    assert Counter(frame.video for frame in chosen) == {"VID01": 2, "VID02": 2, "VID04": 2}
    assert sum(frame.most for frame in chosen) == 20
    assert left_out["asks about nothing that is there"] > 0
    assert set(left_out) == {"asks about nothing that is there"}
    for frame in chosen:
        assert len({question.question.line for question in frame.questions}) == len(frame.questions) > 4


def test_frames_without_a_graph_are_left_out_unless_none_has_one(synthetic_set: Path, tmp_path: Path) -> None:
    frames, left_out = frames_of(synthetic_set), Counter[str]()
    with pytest.raises(InputError, match="None of the 3 frames chosen for --evidence has a scene graph"):
        ground_frames(frames, tmp_path, 10, left_out)
    graph = synthetic_set / "scene_graph" / "VID02_0.json"
    (tmp_path / "VID02_0.json").write_bytes(graph.read_bytes())
    assert [frame.frame for frame in ground_frames(frames, tmp_path, 10, left_out)] == [0]
    assert left_out["no scene graph"] > 0


def test_an_answer_changes_as_it_does_when_the_covered_clip_is_asked(
    measured: Run, bundle: ModelBundle, synthetic_set: Path
) -> None:
    run, records, overlays = measured
    assert len(records) == 4
    processor = bundle.processor()
    for record, overlay in zip(records, overlays, strict=True):
        clip = run.store.clip("VID02", record.frame)
        inputs: Any = processor(synthetic_set / "frames" / "VID02" / f"{record.frame:06d}.png", record.question)
        answers = []
        for shown in (clip, cover_boxes(clip, overlay.asked, run.fill)):
            scores = bundle.model.score(shown.unsqueeze(0), inputs["prompts"], inputs["label_ids"])
            answers.append(scores[0].log_softmax(-1))
        label = int(answers[0].argmax())
        assert label == record.label
        assert record.probability == pytest.approx(float(answers[0][label].exp()), abs=1e-4)
        assert record.drop_asked == pytest.approx(float(answers[0][label] - answers[1][label]), abs=1e-3)
        assert record.changed_asked == (int(answers[1].argmax()) != label)


def test_the_pointing_game_is_played_on_the_maps_that_are_shown(measured: Run) -> None:
    _, records, overlays = measured
    for record, overlay in zip(records, overlays, strict=True):
        for method, shown in overlay.maps.items():
            assert record.methods[method].points == points_into(shown.values, overlay.asked)
        areas = [box.area for box in overlay.asked]  # their boxes may overlap
        assert max(areas) - 0.01 <= record.chance <= sum(areas) + 0.01


def test_the_same_seed_gives_the_same_figures(measured: Run, bundle: ModelBundle, synthetic_set: Path) -> None:
    run = EvidenceRun(bundle, bundle.frame_store(synthetic_set / "frames"))
    (frame,) = ground_frames(frames_of(synthetic_set), synthetic_set / "scene_graph", 4, Counter())
    assert run.measure(frame).records == measured[1]


def test_maps_of_a_cropped_frame_are_moved_to_the_frame(bundle: ModelBundle, synthetic_set: Path) -> None:
    store = bundle.frame_store(synthetic_set / "frames")
    run = EvidenceRun(bundle, type(store)(**{**vars(store), "fit": "crop"}))
    (frame,) = ground_frames(frames_of(synthetic_set), synthetic_set / "scene_graph", 4, Counter())
    result = run.measure(frame)
    visible = FrameArea.of_fit("crop", 430, 240, store.size)
    for record, overlay in zip(result.records, result.overlays, strict=True):
        assert overlay.maps["attention"].values.shape == (8, 14)
        assert not overlay.maps["attention"].values[:, [0, -1]].any()  # outside the square
        assert all(visible.to_input(box).area or len(overlay.asked) > 1 for box in overlay.asked)
        assert 0 < record.chance <= 1


def test_nothing_to_measure_is_an_error_that_says_why(bundle: ModelBundle, synthetic_set: Path) -> None:
    frame = frames_of(synthetic_set)[0]
    nothing = FrameQuestions("VID02", frame.frame, tuple(q for q in frame.questions if q.answer in ("0", "False")))
    with pytest.raises(InputError, match=r"can be measured .* asks about nothing that is there"):
        store = bundle.frame_store(synthetic_set / "frames")
        measure_evidence(bundle, [nothing], store, synthetic_set / "scene_graph", 4)


def test_no_gradient_is_left_behind(measured: Run) -> None:
    assert all(p.grad is None and not p.requires_grad for p in measured[0].bundle.model.parameters())
    assert torch.is_grad_enabled()
