"""Questions find their objects: the graph's answer for them is the true one."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgvivqa.explanation.grounding import Phrase, ground_question, read_template
from surgvivqa.explanation.scene_graphs import Box, GraphObject, SceneGraph, read_scene_graph
from tests.conftest import SHARED

REAL = SHARED / "ssg-qa" / "VID01"
BOX = Box(0.0, 0.0, 0.1, 0.1)
GRAPH = SceneGraph(
    (
        GraphObject("liver", "anatomy", "top-mid", BOX),
        GraphObject("omentum", "anatomy", "bottom-mid", BOX),
        GraphObject("hook", "instrument", "top-mid", BOX),
        GraphObject("grasper", "instrument", "top-left", BOX),
        GraphObject("grasper", "instrument", "top-right", BOX),
    ),
    {
        "above": ((), (0, 2, 3, 4), (), (), ()),
        "left": ((3,), (3,), (3,), (), (0, 1, 2, 3)),
        "within": ((1,), (), (), (), ()),
        "grasp": ((), (), (), (1,), ()),
        "dissect": ((), (), (0,), (), ()),
    },
)


def template_lines(root: Path) -> list[tuple[SceneGraph, list[str]]]:
    """The fields of each template question of a synthetic set, with its frame's graph."""
    found = []
    for path in sorted((root / "ssg-qa").glob("*/*.txt")):
        graph = read_scene_graph(root / "scene_graph" / f"{path.parent.name}_{path.stem}.json")
        found += [(graph, line.split("|")) for line in path.read_text().splitlines() if line.count("|") == 4]
    return found


def test_grounded_questions_have_the_true_answer(synthetic_set: Path) -> None:
    lines = template_lines(synthetic_set)
    right, kinds = 0, Counter[str]()
    for graph, (question, answer, _, kind, _) in lines:
        grounding = ground_question(question, graph)
        right += grounding is not None and grounding.answers == (answer,)
        kinds[kind] += 1
    assert right == len(lines) > 200
    assert set(kinds) == {"count", "exist", "query_color", "query_type", "query_component"}


def test_counting_questions_have_as_many_targets_as_the_answer(synthetic_set: Path) -> None:
    for graph, (question, answer, _, kind, _) in template_lines(synthetic_set):
        grounding = ground_question(question, graph)
        assert grounding is not None
        if kind == "count":
            assert len(grounding.targets) == int(answer)
        if kind == "exist":
            assert bool(grounding.targets) == (answer == "True")


def test_actions_and_places_have_the_true_answer(synthetic_set: Path) -> None:
    checked = 0
    for path in sorted((synthetic_set / "ssg-qa").glob("*/*.txt")):
        graph = read_scene_graph(synthetic_set / "scene_graph" / f"{path.parent.name}_{path.stem}.json")
        for line in path.read_text().splitlines()[2:]:
            if line.count("|") < 4:
                grounding = ground_question(line.split("|")[0], graph)
                assert grounding is not None and set(line.split("|")[1].split(", ")) <= set(grounding.answers)
                checked += 1
    assert checked > 40


@pytest.mark.skipif(not REAL.is_dir(), reason="the real question files are not here")
@pytest.mark.parametrize("name", ["262.txt", "1.txt"])
def test_real_template_questions_are_read(name: str) -> None:
    lines = (REAL / name).read_text().splitlines()[2:]
    unread = [line for line in lines if line.count("|") == 4 and read_template(line.split("|")[0]) is None]
    assert unread == []


@pytest.mark.skipif(not REAL.is_dir(), reason="the real question files are not here")
def test_real_questions_about_actions_and_places_are_grounded() -> None:
    graph = read_scene_graph(SHARED / "scene_graph" / "VID01_1.json")
    for line in (REAL / "1.txt").read_text().splitlines()[2:]:
        question, answer, *_ = line.split("|")
        grounding = ground_question(question, graph)
        assert grounding is not None and answer in grounding.answers


def test_a_pronoun_stands_for_the_object_that_was_named_first() -> None:
    parsed = read_template("There is a brown anatomy; how many omentum anatomys are within it?")
    assert parsed is not None
    assert parsed.asked == "count"
    assert parsed.target == Phrase(component="omentum", kind="anatomy")
    assert parsed.relations == (("within", Phrase(color="brown", kind="anatomy")),)


def test_what_is_it_asks_about_the_first_phrase() -> None:
    parsed = read_template("There is a white object below the yellow omentum object; what is it?")
    assert parsed is not None
    assert (parsed.asked, parsed.target.color, parsed.relations[0][0]) == ("component", "white", "below")


@pytest.mark.parametrize(
    "question, asked, targets, referents",
    [
        ("How many things are above the omentum anatomy?", "count", (0, 2, 3, 4), (1,)),
        ("How many instruments are above the omentum anatomy and left of the hook object?", "count", (3,), (1, 2)),
        ("What is the grasper doing?", "verb", (3,), (1,)),
        ("What is the action being performed on liver?", "verb", (2,), (0,)),
        ("Which tool is operating on omentum", "component", (3,), (1,)),
        ("Which target is being dissected in the scene?", "component", (0,), (2,)),
        ("What anatomy is at the bottom-mid of the frame ?", "component", (1,), ()),
        ("Are there any blue things?", "exist", (), ()),
    ],
)
def test_targets_and_referents(question: str, asked: str, targets: tuple[int, ...], referents: tuple[int, ...]) -> None:
    grounding = ground_question(question, GRAPH)
    assert grounding is not None
    assert (grounding.asked, grounding.targets, grounding.referents) == (asked, targets, referents)


@pytest.mark.parametrize(
    "question",
    [
        "How many other things are the same color as the hook instrument?",
        "How many things are above the grasper instrument?",  # there are two
        "How many things are below the hook instrument?",  # the graph has no such relation
        "What is the hook instrument for?",
        "What is the scissors doing?",
        "Is the patient well?",
        "How many things are left of above the hook object?",
        "",
    ],
)
def test_a_question_that_is_not_understood_is_not_grounded(question: str) -> None:
    assert ground_question(question, GRAPH) is None


WORDS = (
    "how many what color is are the there a it ; ? white top-mid hook grasper things anatomy left of above within and"
)


@given(st.lists(st.sampled_from(WORDS.split()), max_size=14).map(" ".join) | st.text(max_size=60))
def test_any_text_is_read_or_refused(question: str) -> None:
    grounding = ground_question(question, GRAPH)
    assert grounding is None or set(grounding.targets) <= set(range(5))
