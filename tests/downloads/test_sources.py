"""The table of sources: what must hold for each entry, and how names are found."""

import re

import pytest

from surgvivqa.downloads.sources import Source, SourceFile, UnpackLimits, find_source, load_sources
from surgvivqa.utils.errors import InputError


def test_the_table_has_the_sets_that_the_documentation_names() -> None:
    names = [source.name for source in load_sources()]
    assert len(names) == len(set(names))
    assert {"ssg-qa", "ssg-qa-graphs", "surgcheck", "endoscapes", "cholect50-challenge"} <= {
        source.name for source in load_sources() if source.access == "download"
    }
    assert {"cholect45", "cholect50", "cholec80"} == {s.name for s in load_sources() if s.access == "request form"}


@pytest.mark.parametrize("source", load_sources(), ids=lambda source: source.name)
def test_every_set_says_where_it_is_from_and_under_which_licence(source: Source) -> None:
    assert source.licence and source.terms and source.page.startswith("https://")
    assert re.fullmatch(r"[a-z0-9_-]+", source.folder) and re.compile(source.root)
    assert len(source.files) <= 1  # ``install`` takes one
    if source.access == "download":
        assert source.files[0].url and source.files[0].unpacked
    else:
        assert source.by_hand and all(file.url is None for file in source.files)


def test_folders_of_sets_differ() -> None:
    folders = [source.folder for source in load_sources()]
    assert len(folders) == len(set(folders))


def test_a_checksum_is_published_or_unknown_never_invented() -> None:
    known = {source.name: file.sha256 for source in load_sources() for file in source.files if file.sha256}
    assert known == {"ssg-qa-graphs": "0a7d8cbdce9fde6409d5a39902d08420f89da10d6de4bd3f772f9a8c19cc57a2"}
    assert all(file.verified == bool(file.sha256) for source in load_sources() for file in source.files)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"url": "http://x.example/a.zip"}, "does not begin with https://"),
        ({"name": "../a.zip"}, "is not the name of a file"),
        ({"sha256": "abc"}, "is not a SHA-256 checksum"),
        ({"verified": True}, "is called verified, but has no checksum"),
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, object], why: str) -> None:
    row = {"name": "a.zip", "url": None, "seen": "x", "verified": False, "at_most": 1, **change}
    with pytest.raises(ValueError, match=why):
        SourceFile.model_validate(row)


def test_an_unknown_size_is_none() -> None:
    row = {"name": "a.zip", "url": None, "seen": "x", "verified": False, "bytes": "unknown", "at_most": 1}
    file = SourceFile.model_validate({**row, "unpacked": {"bytes": 1, "files": 1}})
    assert file.bytes is None and file.unpacked == UnpackLimits(bytes=1, files=1, ratio=200)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'CholecT5' is not a data set of the table; did you mean cholect50\?"):
        find_source("CholecT5")
