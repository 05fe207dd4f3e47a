"""Mirrors: which place a file is taken from."""

from pathlib import Path

import pytest

from surgvivqa.downloads.places import Mirrors, Place
from surgvivqa.downloads.sources import find_source
from surgvivqa.utils.errors import InputError

SSG_QA = find_source("ssg-qa")
CHOLECT45 = find_source("cholect45")


def find(*values: str, name: str = "ssg-qa") -> Place:
    source = find_source(name)
    return Mirrors.parse(values).find(source, source.files[0])


def test_without_a_mirror_it_is_the_public_address() -> None:
    assert find() == Place(url=SSG_QA.files[0].url)
    assert find("surgcheck=https://x.example") == Place(url=SSG_QA.files[0].url)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://x.example/data", "https://x.example/data/ssg-qa.zip"),
        ("https://x.example/data/", "https://x.example/data/ssg-qa.zip"),
        ("http://x.example", "http://x.example/ssg-qa.zip"),
        ("https://x.example/data?key=a%20b", "https://x.example/data/ssg-qa.zip?key=a%20b"),
        ("https://x.example/other.tar.gz", "https://x.example/other.tar.gz"),
        ("ssg-qa=https://x.example/a", "https://x.example/a/ssg-qa.zip"),
    ],
)
def test_a_web_mirror_is_a_folder_or_the_file(value: str, url: str) -> None:
    assert find(value) == Place(url=url, is_mirror=True)


def test_the_mirror_of_one_set_wins_over_that_of_all() -> None:
    assert find("https://a.example", "ssg-qa=https://b.example").url == "https://b.example/ssg-qa.zip"


@pytest.mark.parametrize(
    "form", ["{folder}", "{folder}/ssg-qa.zip", "file://{folder}", "file://localhost{folder}", "ssg-qa={folder}"]
)
def test_a_local_mirror_is_a_folder_or_the_file(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "ssg-qa.zip").touch()
    assert find(form.format(folder=folder)) == Place(path=folder / "ssg-qa.zip", is_mirror=True)


def test_spaces_in_a_file_address_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "ssg-qa.zip").touch()
    assert find((tmp_path / "a b").as_uri()).path == tmp_path / "a b" / "ssg-qa.zip"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["/no/such/place"], r"/no/such/place is not a file, or name the file with --mirror ssg-qa=FILE"),
        (["s3://bucket"], "is of the kind s3; give an https or file address, or a folder"),
        (["file://host/x"], "names another machine"),
        (["ssg-qa="], "names no place"),
        (["/a", "/b"], "is given twice for all data sets"),
        (["ssg-qa=/a", "ssg-qa=/b"], "is given twice for ssg-qa"),
        (["ssgqa=/a"], r"did you mean ssg-qa\?"),
    ],
)
def test_a_wrong_mirror_is_a_sentence(values: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find(*values)


def test_a_set_with_a_request_form_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"request form https://forms\.gle/.*--mirror cholect45=FILE"):
        find(name="cholect45")


def test_what_the_form_brought_is_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "what_came.tar").touch()
    assert find(f"cholect45={tmp_path / 'what_came.tar'}", name="cholect45").path == tmp_path / "what_came.tar"
