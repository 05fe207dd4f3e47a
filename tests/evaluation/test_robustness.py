"""Robustness: one row for each corruption, on the same questions."""

import json
from pathlib import Path

from pydantic import TypeAdapter

from surgvivqa.data.corruptions import Corruption, parse_corruptions
from surgvivqa.data.frame_views import CorruptedFrames
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import Question
from surgvivqa.evaluation.robustness import Robustness, format_robustness, measure_robustness
from tests.helpers.views import LABEL, RuleModel, as_asked, frame

STORE = FrameStore(Path("frames"))
FRAMES = [frame("VID02", 1, "exist", "count"), frame("VID22", 1, "exist", "count"), frame("VID22", 2, "count")]


def rule(question: Question, store: FrameStore) -> int:
    """Counts are wrong from severity 2 on, and existence on VID22 at 5; the count of VID22 frame 2 is always wrong."""
    severity = store.corruption.severity if isinstance(store, CorruptedFrames) else 0
    if question.frame == 2 or (question.type == "count" and severity >= 2):
        return severity
    return 0 if severity == 5 and question.video == "VID22" else LABEL


def measure(*corruptions: Corruption) -> Robustness:
    model = RuleModel(rule)
    found = measure_robustness(as_asked(model), FRAMES, STORE, RuleModel(rule)(FRAMES, STORE), corruptions)
    assert found is not None
    assert [store.corruption for store in model.asked if isinstance(store, CorruptedFrames)] == list(corruptions)
    return found


def test_drop_and_changes_are_paired_by_question() -> None:
    found = measure(*parse_corruptions(["smoke", "blur:2"]))
    assert (found.n, found.frames, found.videos, found.own.value) == (5, 3, 2, 4 / 5)
    assert [(r.corruption, r.severity) for r in found.rows] == [*(("smoke", s) for s in range(1, 6)), ("blur", 2)]
    assert [r.acc.value for r in found.rows] == [4 / 5, 2 / 5, 2 / 5, 2 / 5, 1 / 5, 2 / 5]
    assert [round(5 * (r.drop.value or 0)) for r in found.rows] == [0, 2, 2, 2, 3, 2]
    # The wrong answer to the last question changes too (0, then the severity).
    assert [round(5 * (r.changed.value or 0)) for r in found.rows] == [1, 3, 3, 3, 4, 3]
    worst = found.rows[1].drop
    assert worst.low is not None and worst.high is not None and worst.low < 2 / 5 < worst.high


def test_questions_without_a_prediction_are_left_out() -> None:
    own = RuleModel(rule)(FRAMES[:1], STORE)
    found = measure_robustness(as_asked(RuleModel(rule)), FRAMES, STORE, own, [Corruption("noise", 2)])
    assert found is not None and (found.n, found.rows[0].n, found.rows[0].acc.value) == (2, 2, 1 / 2)
    assert found.rows[0].drop.low is None  # one video
    assert measure_robustness(as_asked(RuleModel(rule)), FRAMES[1:], STORE, own, []) is None


def test_the_table_has_a_line_for_each_row_and_the_section_is_read_back() -> None:
    found = measure(*parse_corruptions(["all:3"]))
    lines = format_robustness(found).splitlines()
    assert lines[1].split() == ["none", "5", "80.0"]
    assert [line.split()[0] for line in lines[2:]] == [f"{r.corruption}:3" for r in found.rows] and len(lines) == 11
    adapter = TypeAdapter(Robustness)
    assert adapter.validate_python(json.loads(json.dumps(adapter.dump_python(found)))) == found
