"""Verdicts of the sections that not every evaluation has."""

from collections.abc import Mapping
from typing import Any

import pytest

from surgvivqa.reporting.sections import MISSING, build_sections
from tests.helpers import sections


def verdict(name: str, section: Mapping[str, Any]) -> tuple[str, str]:
    found = build_sections({name: section}).verdicts[0]
    return found.mark, found.text


def test_absent_sections_have_no_verdict_and_say_which_command_gives_them() -> None:
    found = build_sections({})
    assert (found.verdicts, found.curves, found.corruptions) == ([], [], [])
    assert all("surgvivqa eval" in text for text in MISSING.values())


@pytest.mark.parametrize(("ends", "mark"), [((0.3, 0.5), "pass"), ((-0.1, 0.5), "warn"), ((None, None), "unknown")])
def test_the_picture_helps_only_with_an_interval_above_zero(ends: tuple[float, float], mark: str) -> None:
    found, text = verdict("picture", sections.picture(ends))
    assert found == mark
    assert "70.0% right on its frames, 30.0% on black ones, 35.0% on frames of another video" in text


def test_the_share_of_the_picture_has_its_interval() -> None:
    assert "The picture gives 55% of the accuracy (50.0 to 60.0)" in verdict("picture", sections.picture())[1]


@pytest.mark.parametrize(
    ("gap", "ends", "mark", "words"),
    [
        (0.12, (0.08, 0.16), "warn", "Overconfident by 12.0 points (8.0 to 16.0)"),
        (-0.12, (-0.16, -0.08), "plain", "Too modest by 12.0 points"),
        (0.12, (-0.01, 0.25), "pass", "Probabilities agree"),
        (0.01, (0.005, 0.015), "pass", "Probabilities agree"),
        (0.12, None, "warn", "Overconfident by 12.0 points:"),
    ],
)
def test_overconfidence_is_a_warning(gap: float, ends: tuple[float, float] | None, mark: str, words: str) -> None:
    found, text = verdict("calibration", sections.calibration(gap, ends))
    assert found == mark and text.startswith(words)


def test_the_most_confident_half_is_said() -> None:
    found = build_sections({"calibration": sections.calibration()}).verdicts[1]
    assert (
        found.text
        == "Of its most confident 50% of answers 90.0% are right, of all 70.0% (AUROC of finding mistakes 0.81)."
    )


@pytest.mark.parametrize(("ends", "mark"), [((0.1, 0.3), "warn"), ((0.0, 0.4), "plain"), (None, "plain")])
def test_contradictions_are_a_warning_if_they_are_clear(ends: tuple[float, float] | None, mark: str) -> None:
    found, text = verdict("contradictions", sections.contradictions(ends=ends))
    assert found == mark and "of 50 pairs, the true answers in 0.0%." in text


@pytest.mark.parametrize(("low", "mark"), [(0.2, "pass"), (-0.1, "warn"), (None, "unknown")])
def test_evidence_needs_an_interval_above_zero(low: float | None, mark: str) -> None:
    found, text = verdict("evidence", sections.evidence(low))
    assert found == mark and "changes 60% of the answers, covering another place 5%" in text


def test_the_worst_corruption_is_named() -> None:
    assert verdict("robustness", sections.robustness()) == (
        "plain",
        "The worst of 3 corruptions is smoke of severity 5: accuracy falls by 32.0 points (22.0 to 42.0).",
    )


def test_corruptions_become_a_table_with_gaps() -> None:
    found = build_sections({"robustness": sections.robustness()})
    assert found.severities == [1, 5]
    rows = {
        name: [None if cell is None else cell["drop"]["value"] for cell in cells] for name, cells in found.corruptions
    }
    assert rows == {"smoke": [0.05, 0.32], "motion_blur": [None, 0.0]}
