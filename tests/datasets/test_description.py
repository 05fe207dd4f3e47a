"""Descriptions: those of the package load, and a mistake is one sentence with file, key and nearest known key."""

import os
from pathlib import Path

import pytest

from surgvivqa.data.labels import LABELS, SSG_QA
from surgvivqa.datasets.description import load_description, packaged_names
from surgvivqa.utils.errors import InputError


@pytest.mark.parametrize("name", packaged_names())
def test_a_packaged_description_is_complete(name: str) -> None:
    found = load_description(name)
    assert found.name == name and found.title
    assert all([found.licence, found.source, found.homepage, found.protocol, found.checked])


def test_the_fixed_label_lists_have_their_published_lengths() -> None:
    lengths = {"endovis18-vqa": 18, "cholec80-vqa": 13, "pitvqa": 59}
    for name, length in lengths.items():
        found = load_description(name)
        assert found.has_fixed_labels and len(found.label_set()) == length


@pytest.mark.parametrize("name", ["endovis18-vqa", "cholec80-vqa", "pitvqa", "cholect50-generated", "real-colon-vqa"])
def test_listed_splits_do_not_overlap(name: str) -> None:
    rule = load_description(name).splits
    assert rule is not None and rule.train is not None and isinstance(rule.val, tuple)
    assert len({*rule.train, *rule.val, *rule.test}) == len(rule.train) + len(rule.val) + len(rule.test)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x\nfiels: a.csv\n", "the key fiels is unknown; the nearest one is fields"),
        ("name: x\nfiles: a.csv\nfields: {vido: a}\n", "unknown column 'vido'; the nearest one is 'video'"),
        ("name: x\nfiles: a.csv\nsplits: {tran: [a]}\n", "the key splits.tran is unknown; the nearest one is train"),
        ("name: x\nfiles: a.csv\nfields: {question: {frm: a}}\n", "the key fields.question.frm is unknown"),
        ("files: a.csv\n", "the key name is missing"),
        ("name: x\n", "files is missing"),
        ("name: x\nfiles: a.csv\nlabels: [yes, no]\n", 'put it in quotes, such as "yes"'),
        ('name: x\nfiles: a.csv\nlabels: ["a", "a"]\n', "labels names 'a' more than once"),
        ('name: x\nfiles: a.csv\nlabels: ["a"]\naliases: {b: c}\n', "aliases leads to 'c'"),
        ("name: x\nfiles: ../a.csv\n", "is not a path below the root of the questions"),
        ("name: x\nfiles: a.csv\nfields: {video: {from: image, match: '('}}\n", "is not a regular expression"),
        ("name: x\nfiles: a.csv\nsplits: {val: 1.5}\n", "must be at least 0 and below 1"),
        ("name: x\nreader: pipe\nfiles: a.txt\ncolumns: [question, answer]\n", "do not name video, frames"),
        ("name: x\nfiles: a.csv\nlabels_file: none.txt\n", "labels_file"),
        ("name: x\nfiles: a.csv\nlabels_file: ../a.txt\n", "labels_file is not a path below"),
        ("name: x\nfiles: a.csv\nlabels: [a]\nlabels_file: a.txt\n", "has labels and labels_file; leave out one"),
        ("- a\n", "must map keys"),
        ("a: *b\n", "it has an alias"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        load_description(str(path))
    assert sentence in str(raised.value) and str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pipe_is_no_description(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match="it is not a regular file"):
        load_description(str(tmp_path / "mine.yaml"))


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(InputError, match="the nearest is surgcheck"):
        load_description("surchek")


def test_labels_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("yes\nno\n\nmaybe so\n")
    (tmp_path / "mine.yaml").write_text("name: mine\nfiles: a.csv\nlabels_file: labels.txt\naliases: {Ja: 'yes'}\n")
    label_set = load_description(str(tmp_path / "mine.yaml")).label_set()
    assert label_set.labels == ("yes", "no", "maybe so")
    assert label_set.index("JA") == 0


def test_numbers_are_labels_and_videos(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nfiles: a.csv\nlabels: [0, 1, two]\nsplits: {test: [7]}\n")
    found = load_description(str(tmp_path / "mine.yaml"))
    assert found.labels == ("0", "1", "two")
    assert found.splits is not None and found.splits.test == ("7",)


def test_a_model_is_accepted_by_its_labels() -> None:
    assert load_description("ssg-qa").accepts(SSG_QA)
    assert load_description("ssg-qa").label_set().labels == LABELS
    assert not load_description("surgcheck").accepts(SSG_QA)
    trained = load_description("surgcheck").label_set(("No", "Yes"))
    assert load_description("surgcheck").accepts(trained)
    assert not load_description("pitvqa").accepts(trained)


def test_the_reference_wording_is_the_first_one() -> None:
    assert load_description("surgcheck").wordings == ("original", "less_biased")
