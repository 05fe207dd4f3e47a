"""Documents as text, Markdown and LaTeX: aligned, escaped, and balanced."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from surgvivqa.reporting.tables import (
    MISSING,
    Document,
    Points,
    Section,
    Table,
    between,
    escape_latex,
    p_value,
    percent,
    points,
    render_latex,
    render_markdown,
    render_text,
)

NASTY = r"a_b & 50% #1 $x$ {y} ~z^ <i> |pipe| \n `c` *d* [e](f)"
DOCUMENT = Document(
    "Two runs",
    [
        Section("In short", [Points([NASTY, "plain"]), f"A paragraph: {NASTY}"]),
        Section(
            "Figures",
            [
                Table(
                    "first_table",
                    f"Caption {NASTY}.",
                    ("run", "acc", "difference"),
                    [(NASTY, "73.3", "-0.5"), ("b", MISSING, "-1.5 to -0.5"), ("c", "1.0", "+2.0")],
                    rules=(2,),
                    note="A note.",
                )
            ],
        ),
    ],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.73284), "73.3"),
        (percent(None), MISSING),
        (points(0.05), "+5.0"),
        (points(-0.0521), "-5.2"),
        (points(-0.0001), "0.0"),
        (points(0.0), "0.0"),
        (between(0.1, 0.2), "10.0 to 20.0"),
        (between(-0.1, 0.2, signed=True), "-10.0 to +20.0"),
        (between(None, 0.2), MISSING),
        (p_value(0.0625), "0.0625"),
        (p_value(0.43), "0.43"),
        (p_value(1e-9), "<0.0001"),
        (p_value(None), MISSING),
    ],
)
def test_figures_are_formatted(text: str, expected: str) -> None:
    assert text == expected


def test_the_columns_of_a_text_table_are_aligned() -> None:
    lines = render_text(DOCUMENT).splitlines()
    rows = [line for line in lines if line.endswith(("difference", "-0.5", "+2.0"))]
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1
    assert sum(set(line) == {"-"} for line in lines[lines.index(rows[0]) :]) == 2


def test_a_name_cannot_break_a_line_or_control_the_terminal() -> None:
    table = Table("t", "c", ("run",), [("a\nb\x1b[31m",)])
    text = render_text(Document("d", [Section("s", [table])]))
    assert "a b [31m" in text and "\x1b" not in text


def test_every_row_of_a_markdown_table_has_the_same_cells() -> None:
    rows = [line for line in render_markdown(DOCUMENT).splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", row) for row in rows]
    assert len(rows) == 5 and {len(row) for row in cells} == {5}
    assert "\\<i\\>" in rows[2] and "\\|pipe\\|" in rows[2]


def test_markdown_keeps_the_underscores_of_names() -> None:
    table = Table("t", "c", ("group",), [("zero_hop",), ("_x_",)])
    text = render_markdown(Document("d", [Section("s", [table])]))
    assert "| zero_hop |" in text and r"| \_x\_ |" in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("zero_hop", r"zero\_hop"),
        ("95% & more", r"95\% \& more"),
        ("-0.5 to +1.2", r"$-$0.5 to +1.2"),
        ("sign-flip 2026-11", "sign-flip 2026-11"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        (MISSING, "--"),
        ("p <0.0001", r"p \textless{}0.0001"),
        ("[seed 1] lora", "{}[seed 1] lora"),
        ("*best*", "{}*best*"),
    ],
)
def test_latex_is_escaped(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped


def test_latex_is_balanced() -> None:
    text = render_latex(DOCUMENT)
    plain = re.sub(r"\\[\\{}%&$#_]", "", text)  # without escaped characters and line ends
    assert plain.count("{") == plain.count("}")
    for environment in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [2] * 4
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert r"\label{tab:first-table}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX engine")
def test_latex_compiles(tmp_path: Path) -> None:
    odd = Table("odd", "Odd names.", ("run", "n"), [("[a] *b*", "1"), ("*c", "2"), ("  95% [d]", "3")])
    sections = [*DOCUMENT.sections, Section("Odd", [Points(["[a] is right.", "*c is wrong."]), odd])]
    (tmp_path / "tables.tex").write_text(render_latex(Document("Odd", sections)))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{tables}\\end{document}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]
