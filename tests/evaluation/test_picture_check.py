"""The picture check: definitions of its figures, what is asked, and what is said about them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from surgvivqa.data.frame_views import BlackFrames, ShuffledFrames
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation.picture_check import PictureCheck, check_picture, format_picture, picture_verdicts
from tests.helpers.views import LABEL, RuleModel, as_asked, frame

STORE = FrameStore(Path("frames"))
FRAMES = [
    frame("VID02", 1, "exist", "exist", "count", "query_color"),
    frame("VID02", 5, "exist", "count"),
    frame("VID22", 2, "exist", "count", "count"),
    frame("VID43", 9, "exist", "count", "query_type"),
]
SOURCES = [(f.video, f.frame) for f in FRAMES]


def check(model: RuleModel, frames: Sequence[FrameQuestions] = FRAMES) -> PictureCheck:
    found = check_picture(as_asked(model), frames, [(f.video, f.frame) for f in frames], STORE, {})
    assert found is not None
    return found


def mixed(question: Question, store: FrameStore) -> int:
    """Right on own frames but for counts on VID02; existence is right on black; wrong otherwise."""
    if isinstance(store, BlackFrames):
        return LABEL if question.type == "exist" else 0
    if isinstance(store, ShuffledFrames):
        return LABEL if question.line == 0 else 1
    return 0 if question.type == "count" and question.video == "VID02" else LABEL


def test_the_figures_are_those_of_a_plain_count() -> None:
    found = check(RuleModel(mixed))
    questions = [q for f in FRAMES for q in f.questions]
    own = [mixed(q, STORE) for q in questions]
    black = [mixed(q, BlackFrames(Path())) for q in questions]
    other = [mixed(q, ShuffledFrames(Path())) for q in questions]
    n = len(questions)
    hits = [sum(label == LABEL for label in labels) for labels in (own, black, other)]
    figures = found.overall
    assert figures.shuffled is not None
    assert (figures.n, figures.videos, found.distinct) == (12, 3, len({q.question for q in questions}))
    assert (figures.own.value, figures.black.acc.value, figures.shuffled.acc.value) == tuple(h / n for h in hits)
    assert figures.black.gain.value == pytest.approx((hits[0] - hits[1]) / n)
    assert figures.black.share.value == pytest.approx((hits[0] - hits[1]) / hits[0])
    assert figures.shuffled.share.value == pytest.approx((hits[0] - hits[2]) / hits[0])
    assert figures.black.changed.value == sum(a != b for a, b in zip(own, black, strict=True)) / n
    assert figures.shuffled.changed.value == sum(a != b for a, b in zip(own, other, strict=True)) / n
    assert figures.black.gain.low is not None and figures.black.gain.high is not None
    assert figures.black.gain.low < (hits[0] - hits[1]) / n < figures.black.gain.high


def test_figures_by_type_are_those_of_the_types_questions() -> None:
    found = check(RuleModel(mixed))
    assert sorted(found.by_type) == [
        "attribute",
        "count",
        "counting",
        "exist",
        "existence",
        "query_color",
        "query_type",
    ]
    assert found.by_type["existence"] == found.by_type["exist"]
    count = found.by_type["count"]
    assert (count.n, count.own.value, count.black.acc.value, count.black.share.value) == (5, 3 / 5, 0, 1)
    assert found.by_type["query_color"].black.share.low is None  # one video


def test_only_what_is_not_known_is_asked() -> None:
    own = RuleModel(mixed)(FRAMES, STORE)
    model = RuleModel(mixed)
    found = check_picture(as_asked(model), FRAMES[:2], SOURCES, STORE, {"own": own})
    assert [type(store) for store in model.asked] == [BlackFrames, ShuffledFrames]
    assert found is not None and found.overall.n == 6
    shown = RuleModel(mixed)(FRAMES, BlackFrames(Path()))
    model = RuleModel(mixed)
    check_picture(as_asked(model), FRAMES, SOURCES, STORE, {"black": shown})
    assert [type(store) for store in model.asked] == [FrameStore, ShuffledFrames]


def test_questions_that_were_not_answered_on_every_picture_are_left_out() -> None:
    own = [p for p in RuleModel(mixed)(FRAMES, STORE) if p.video != "VID22"]
    found = check_picture(as_asked(RuleModel(mixed)), FRAMES, SOURCES, STORE, {"own": own})
    assert found is not None and (found.overall.n, found.overall.videos) == (9, 2)
    assert check_picture(as_asked(RuleModel(mixed)), FRAMES[2:3], SOURCES, STORE, {"own": own}) is None


def test_one_video_has_no_other_frames_and_says_so() -> None:
    model = RuleModel(mixed)
    found = check(model, FRAMES[:2])
    assert found.overall.shuffled is None and [type(store) for store in model.asked] == [FrameStore, BlackFrames]
    assert picture_verdicts(found)[-1] == (
        "Frames of another video cannot be shown, because the questions are about one video only."
    )
    assert "of 1 video; one video gives no interval)" in picture_verdicts(found)[0]
    assert format_picture(found).splitlines()[1].split()[4] == "-"


def test_one_video_does_not_show_that_the_picture_helps() -> None:
    model = RuleModel(lambda q, s: LABEL if type(s) is FrameStore else 0)
    found = check_picture(as_asked(model), [frame("VID02", 1, "exist")], SOURCES, STORE, {})
    assert found is not None and found.overall.shuffled is not None
    first, *others = picture_verdicts(found)
    assert first == (
        "It is not shown that the picture helps the model: accuracy 100.0% on the questions' own frames, 0.0% on black "
        "ones (1 question of 1 video; one video gives no interval)."
    )
    assert not any("so the model reads this frame" in sentence for sentence in others)


def test_the_interval_of_a_share_ends_at_1() -> None:
    share = check(RuleModel(mixed)).overall.black.share
    assert share.high == 1


def test_the_section_is_read_back() -> None:
    found = check(RuleModel(mixed))
    adapter = TypeAdapter(PictureCheck)
    assert adapter.validate_python(json.loads(json.dumps(adapter.dump_python(found)))) == found


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [
        (
            lambda q, s: LABEL,
            "The model ignores the picture: no answer changes on black frames; accuracy 100.0%",
            "On black frames the model gives the same answer to 100.0% of these questions, on frames of another video "
            "to 100.0%.",
        ),
        (
            lambda q, s: LABEL if isinstance(s, BlackFrames) or q.line else 0,
            "The picture does not help the model: accuracy 66.7% on the questions' own frames, 100.0% on black ones",
            "On black frames the model gives the same answer to 66.7%",
        ),
        (
            lambda q, s: 0 if isinstance(s, BlackFrames) and q.video == "VID22" and q.line == 0 else LABEL,
            "It is not shown that the picture helps the model: accuracy 100.0% on the questions' own frames, 91.7% on",
            "On black frames the model gives the same answer to 91.7%",
        ),
        (
            lambda q, s: 0 if type(s) is not FrameStore and q.line else LABEL,
            "The picture gives 66.7% of the accuracy: accuracy 100.0% on the questions' own frames, 33.3% on black "
            "ones (12 questions of 3 videos; difference 66.7 points, 95% interval ",
            "A frame of another video costs 66.7 points of accuracy (95% interval ",
        ),
        (
            lambda q, s: 0 if isinstance(s, BlackFrames) and q.line else LABEL,
            "The picture gives 66.7% of the accuracy",
            "Frames of another video do not clearly cost accuracy (100.0%; difference 0.0 points, 95% interval 0.0 to "
            "0.0), so it is not shown",
        ),
    ],
    ids=["ignored", "harmful", "not shown", "used", "any picture"],
)
def test_the_verdict_says_what_the_figures_show(rule: object, first: str, last: str) -> None:
    sentences = picture_verdicts(check(RuleModel(rule)))  # type: ignore[arg-type]
    assert sentences[0].startswith(first), sentences
    assert sentences[-1].startswith(last), sentences


def test_the_table_has_a_row_for_each_type_but_not_for_their_groups() -> None:
    lines = format_picture(check(RuleModel(mixed))).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["all", "count", "exist", "query_color", "query_type"]
    assert lines[1].split() == ["all", "12", "83.3", "41.7", "33.3", "50.0", "41.7", "66.7"]
