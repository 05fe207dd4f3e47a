"""Documents of paragraphs and tables, as plain text, Markdown and LaTeX (booktabs).

A cell is text. Its numbers have an ASCII minus, which LaTeX turns into its own; a missing value is ``MISSING``.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

MISSING = "–"
_TEXT_WIDTH = 100
_WIDE = 6  # columns; LaTeX sets wider tables in a smaller size


@dataclass(frozen=True)
class Table:
    r"""A table.

    Attributes:
        name: a short name, for LaTeX's ``\label{tab:NAME}``.
        caption: what it shows, in a sentence.
        head: the columns' titles.
        rows: the cells; the first cells name the row.
        names: number of columns that name the row: text to the left, figures to the right of them.
        rules: the indices of rows that begin a part of the table.
        note: how to read it; empty if that is plain.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    rules: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of a document with its heading; strings are paragraphs."""

    title: str
    blocks: Sequence[str | Points | Table]


@dataclass(frozen=True)
class Document:
    """Text that can be rendered in several formats.

    Attributes:
        title: the first heading.
        sections: its parts.
    """

    title: str
    sections: Sequence[Section]


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in %, without the sign."""
    return MISSING if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign."""
    if value is None:
        return MISSING
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def between(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """The ends of an interval of fractions, in %: ``67.1 to 79.4``."""
    if low is None or high is None:
        return MISSING
    return " to ".join((points if signed else percent)(end) for end in (low, high))


def p_value(value: float | None) -> str:
    """A p value: four decimals where it is small, never 0."""
    if value is None:
        return MISSING
    return "<0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def render_text(document: Document) -> str:
    """Renders a document as plain text for a terminal."""
    lines = [document.title, "=" * len(document.title)]
    for section in document.sections:
        lines += ["", section.title, "-" * len(section.title)]
        for index, block in enumerate(section.blocks):
            lines += [""] if index or isinstance(block, Table) else []
            if isinstance(block, Table):
                lines += _text_table(block)
            elif isinstance(block, Points):
                for sentence in block.sentences:
                    lines += _wrap(sentence, first="- ", rest="  ")
            else:
                lines += _wrap(block)
    return "\n".join(lines) + "\n"


def render_markdown(document: Document) -> str:
    """Renders a document as Markdown with pipe tables."""
    lines = [f"# {escape_markdown(document.title)}"]
    for section in document.sections:
        lines += ["", f"## {escape_markdown(section.title)}"]
        for block in section.blocks:
            lines.append("")
            if isinstance(block, Table):
                lines += _markdown_table(block)
            elif isinstance(block, Points):
                lines += [f"- {escape_markdown(sentence)}" for sentence in block.sentences]
            else:
                lines.append(escape_markdown(block))
    return "\n".join(lines) + "\n"


def render_latex(document: Document) -> str:
    r"""Renders a document as LaTeX to be read by ``\input``; the preamble needs ``\usepackage{booktabs}``."""
    lines = [f"% {_one_line(document.title)}", r"% The preamble needs \usepackage{booktabs}."]
    for section in document.sections:
        lines += ["", rf"\subsection*{{{escape_latex(section.title)}}}"]
        for block in section.blocks:
            lines.append("")
            if isinstance(block, Table):
                lines += _latex_table(block)
            elif isinstance(block, Points):
                items = [rf"  \item {escape_latex(sentence)}" for sentence in block.sentences]
                lines += [r"\begin{itemize}", *items, r"\end{itemize}"] if items else []
            else:
                lines.append(escape_latex(block))
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Escapes what LaTeX interprets, and gives numbers a minus sign instead of a hyphen."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        MISSING: "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
    escaped = "".join(special.get(character, character) for character in _one_line(text))
    escaped = re.sub(r"(?<![\w.)-])-(?=\d)", "$-$", escaped)
    # At the beginning of a row or an item, LaTeX would take these as an argument of the command before.
    return f"{{}}{escaped}" if escaped.lstrip().startswith(("[", "*")) else escaped


def _text_table(table: Table) -> list[str]:
    rows = [list(map(_one_line, row)) for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = [table.caption]
    for index, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column < table.names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if index - 1 in (0, *table.rules):
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        lines.append("  ".join(cells).rstrip())
    return lines + (_wrap(table.note) if table.note else [])


def _markdown_table(table: Table) -> list[str]:
    align = ["---" if column < table.names else "---:" for column in range(len(table.head))]
    rows = [[escape_markdown(cell) for cell in row] for row in (table.head, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], align, *rows[1:])]
    note = ["", escape_markdown(table.note)] if table.note else []
    return [f"**{escape_markdown(table.caption)}**", "", *lines, *note]


def _latex_table(table: Table) -> list[str]:
    columns = "l" * table.names + "r" * (len(table.head) - table.names)
    caption = " ".join(part for part in (table.caption, table.note) if part)
    lines = [
        r"\begin{table}[htbp]",
        r"  \centering",
        *([r"  \small", r"  \setlength{\tabcolsep}{4pt}"] if len(table.head) > _WIDE else []),
        rf"  \caption{{{escape_latex(caption)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', table.name)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_latex_row(table.head)}",
        r"    \midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and index in table.rules:
            lines.append(r"    \midrule")
        lines.append(f"    {_latex_row(row)}")
    return [*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def escape_markdown(text: str) -> str:
    """Escapes what would break a table or be read as markup; names of flags and labels keep their underscores."""
    return re.sub(r"[\\`*<>|\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", _one_line(text))


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _wrap(text: str, first: str = "", rest: str = "") -> list[str]:
    """Breaks a paragraph into lines of at most ``_TEXT_WIDTH`` characters."""
    return textwrap.wrap(
        _one_line(text), _TEXT_WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )
