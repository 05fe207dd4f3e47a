"""``surgvivqa compare`` prints and writes comparisons, and refuses what cannot be compared."""

from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.helpers.evaluations import answer_questions, write_evaluation

HITS = {"base": {"VID02": "1100", "VID22": "1000"}, "lora": {"VID02": "1110", "VID22": "1011"}}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    for name, hits in HITS.items():
        write_evaluation(tmp_path / name / "eval-test", answer_questions(hits))
    return [str(tmp_path / name) for name in HITS]


def test_the_comparison_is_printed(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Comparison of runs")
    assert "lora answers 75.0% correctly and base 37.5%" in text and "Changed answers" in text


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("c.txt", "Comparison of runs\n==="),
        ("c.md", "# Comparison of runs"),
        ("c.tex", "% Comparison of runs"),
        ("c.html", "<!doctype html>"),
    ],
)
def test_the_ending_chooses_the_format(
    runs: list[str], tmp_path: Path, name: str, beginning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *runs, f"--output={tmp_path / name}"]) == 0
    assert (tmp_path / name).read_text().startswith(beginning)
    assert "lora answers 75.0% correctly" in capsys.readouterr().out


def test_the_format_can_be_given(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs, "--format=latex"]) == 0
    assert r"\toprule" in capsys.readouterr().out
    assert main(["compare", *runs, "--format=markdown", f"--output={tmp_path / 'c.out'}"]) == 0
    assert (tmp_path / "c.out").read_text().startswith("# Comparison")


@pytest.mark.parametrize("extra", [False, True])
def test_the_reference_can_be_another_run(runs: list[str], extra: bool, capsys: pytest.CaptureFixture[str]) -> None:
    given = runs[:1] if extra else runs
    assert main(["compare", *given, f"--reference={runs[1]}"]) == 0
    assert "base answers 37.5% correctly and lora 75.0%" in capsys.readouterr().out


def test_runs_on_different_questions_are_refused_and_named(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation(tmp_path / "other" / "eval-test", answer_questions({"VID02": "110"}))
    assert main(["compare", *runs, str(tmp_path / "other")]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "other and base do not answer the same questions: 3 questions are in both; 5 only in base" in captured.err
    assert "VID22 only in base" in captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output={tmp}/c.pdf"], "has none of the endings .txt, .md, .markdown, .tex, .html, .htm; give --format."),
        (["--output={tmp}/no/c.md"], "does not exist"),
        (["--output={tmp}", "--format=markdown"], "is a folder; give the name of a file in it."),
        (["--format=html"], "An HTML page is not printed; name its file with --output."),
        (["--output={tmp}/c.html", "--image-root={tmp}/no"], "is not a folder"),
        (["--pictures=601", "--output={tmp}/c.html"], "--pictures must be at most 600"),
        (["--split=val"], "has no evaluation of the val split"),
    ],
)
def test_wrong_input_is_reported_in_one_sentence(
    runs: list[str], tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *runs, *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_runs_are_an_error(runs: list[str], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs[:count]]) == 2
    assert f"A comparison needs at least two runs, but {count} are given." in capsys.readouterr().err
