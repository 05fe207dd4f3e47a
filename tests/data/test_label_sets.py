"""Label sets: matching answers, what is refused, and reading SSG-QA's layout with other labels."""

import pickle
from pathlib import Path

import pytest

from surgvivqa.data.index import open_questions
from surgvivqa.data.labels import ALIASES, LABELS, SSG_QA, LabelSet
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.prompts import build_prompt
from surgvivqa.data.ssgqa import ReadReport, read_split
from tests.helpers.label_sets import SEVEN
from tests.helpers.parts import splitting_tokenizer


def test_an_answer_matches_a_label_exactly_and_an_alias_in_any_case() -> None:
    assert [SEVEN.index(label) for label in SEVEN.labels] == list(range(7))
    assert SEVEN.index(" cold snare\n") == 4 and SEVEN.index("TRUE") == 0 and SEVEN.index("None") == 1
    assert SEVEN.index("snare") is SEVEN.index("Yes") is SEVEN.index("") is SEVEN.index("True story") is None
    assert SSG_QA.index("YES") == LABELS.index("True") and SSG_QA.index("fAlse") == LABELS.index("False")


def test_sets_are_equal_by_name_and_labels_and_can_be_sent_to_processes() -> None:
    assert LabelSet("ssg-qa", LABELS) == SSG_QA and SEVEN != SSG_QA
    assert LabelSet("other", LABELS) != SSG_QA and LabelSet("other", LABELS).is_ssg_qa
    again = pickle.loads(pickle.dumps(SEVEN))
    assert again == SEVEN and hash(again) == hash(SEVEN) and again.index("none") == 1
    assert LabelSet.of_labels(None) is LabelSet.of_labels(list(LABELS), "other") is SSG_QA


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("abc", "not a list of texts"),
        (["a", 1], "not a list of texts"),
        ([], "has 0 labels, not 1 to 1,000"),
        ([str(n) for n in range(1001)], "has 1,001 labels"),
        (["a", "b", "a"], "has the label 'a' twice"),
        ([""], "label '' is not a line of text"),
        ([" a"], "label ' a' is not"),
        (["a\nb"], r"label 'a\\nb' is not"),
        (["\x1b[2J"], "is not a line of text"),
        (["x" * 201], "is not a line of text of 1 to 200"),
    ],
)
def test_labels_that_cannot_be_used(labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSet.of_labels(labels)


def test_names_and_aliases_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="an alias names 'c'"):
        LabelSet("x", ("a", "b"), {"d": "c"})
    for name in ("", "a\nb", "x" * 101, 5):
        with pytest.raises(ValueError, match="the name of its label set"):
            LabelSet.of_labels(["a"], name)  # type: ignore[arg-type]


def test_choices_lists_the_labels() -> None:
    assert build_prompt("What?", "choices", SEVEN.labels) == (
        "Question: What?\nCandidates: yes, no, 0, 2, cold snare, polyp, polyp with a clip\nAnswer:"
    )


def test_a_label_that_begins_another_ends_with_end_of_text() -> None:
    tokenizer = splitting_tokenizer()
    tokens = PromptTokenizer(tokenizer, "simple", 128, labels=("polyp", "polyp 12", "polyp 1", "no"))
    assert tokens.terminated == [0, 2] and tokens.label_ids[0][-1] == tokenizer.eos_token_id
    plain = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in tokens.labels]
    assert [ids[: len(p)] for ids, p in zip(tokens.label_ids, plain, strict=True)] == plain


def write_questions(root: Path) -> None:
    (root / "VID01").mkdir(parents=True)
    lines = ["Which anatomical structures are present?|x", "Which tools are present?|y"]
    lines += ["Is there a polyp?|yes", "Which tool?|cold snare", "How many?|1", "Is there a clip?|None"]
    (root / "VID01" / "5.txt").write_text("\n".join(lines))


def test_question_files_are_read_with_other_labels(tmp_path: Path) -> None:
    write_questions(tmp_path / "q")
    (frame,), report = read_split(tmp_path / "q", ["VID01"], label_set=SEVEN)
    assert [q.label for q in frame.questions] == [0, 4, 1]
    assert report.skipped["unknown_answer"] == 1 and "answers outside the labels" in report.describe_faults()[0]


def test_the_index_keeps_label_sets_apart(tmp_path: Path) -> None:
    write_questions(tmp_path / "q")
    without = LabelSet(SEVEN.name, SEVEN.labels)  # equal, but an alias changes what is read
    found: list[tuple[list[int], ReadReport]] = []
    for label_set in (SEVEN, SSG_QA, without, SEVEN):
        frames, report = open_questions(tmp_path / "q", ["VID01"], index_dir=tmp_path / "index", label_set=label_set)
        again = pickle.loads(pickle.dumps(frames))
        assert [q for f in again for q in f.questions] == [q for f in frames for q in f.questions]
        found.append(([q.label for f in frames for q in f.questions], report))
    assert [labels for labels, _ in found] == [[0, 4, 1], [LABELS.index("True"), 1], [0, 4], [0, 4, 1]]
    assert ALIASES["yes"] == "True"
