"""Consent to licences: by flag, typed, or not at all."""

import pytest

from surgvivqa.downloads.licence import accept_licence
from surgvivqa.downloads.sources import find_source
from surgvivqa.utils.errors import InputError

SOURCES = [find_source("ssg-qa"), find_source("cholect50-challenge")]


def test_all_licences_are_shown_with_their_notes(capsys: pytest.CaptureFixture[str]) -> None:
    assert accept_licence(SOURCES, accepted=True) == "--accept-licence"
    out = capsys.readouterr().out
    assert out.count("licence: CC BY-NC-SA 4.0 (https://creativecommons.org") == 2
    assert "VID74 is one of SSG-QA's test videos" in out


@pytest.mark.parametrize("typed", ["accept", " Accept ", "'accept'"])
def test_a_typed_word_accepts(typed: str) -> None:
    assert accept_licence(SOURCES, False, is_terminal=True, ask=lambda prompt: typed) == "typed"


@pytest.mark.parametrize("typed", ["", "no", "y"])
def test_anything_else_does_not(typed: str) -> None:
    with pytest.raises(InputError, match="of ssg-qa cholect50-challenge are not accepted, so nothing was downloaded"):
        accept_licence(SOURCES, False, is_terminal=True, ask=lambda prompt: typed)


def test_the_end_of_input_does_not_accept() -> None:
    def ask(prompt: str) -> str:
        raise EOFError

    with pytest.raises(InputError):
        accept_licence(SOURCES, False, is_terminal=True, ask=ask)


def test_without_a_terminal_nobody_is_asked() -> None:
    with pytest.raises(InputError, match="add --accept-licence"):
        accept_licence(SOURCES, False, is_terminal=False, ask=lambda prompt: "accept")
