"""The timeline: one question asked at many moments of a video, as a coloured strip, a table and a CSV file."""

import base64
import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from surgvivqa.utils.errors import InputError
from surgvivqa.video.times import format_time

# Okabe and Ito's colours, which colour-blind readers can tell apart, without black; then grey for all other answers.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B3A21B")
_OTHER = "#8A8A8F"
_BESIDE_NAMED = ("#CC79A7", "#009E73")  # for answers that are no colours
_NAMED = {
    "blue": "#2F6FDB",
    "brown": "#8B5A2B",
    "red": "#D03030",
    "silver": "#A3A9B2",
    "white": "#E4E4DE",
    "yellow": "#E3B80F",
}
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the strip's width
_HEIGHT = 100  # of the strip in its own units: one per percent


@dataclass(frozen=True)
class Moment:
    """The answer at one moment.

    Attributes:
        at: seconds from the video's start.
        answer: the most probable answer.
        probability: its probability.
        second: the second most probable answer; empty if there is none.
        second_probability: its probability.
    """

    at: float
    answer: str
    probability: float
    second: str = ""
    second_probability: float = 0.0


def list_moments(duration: float, every: float, most: int) -> list[float]:
    """The moments of a video, ``every`` seconds from 0; none is at its end, where the last frame is over.

    Raises:
        InputError: there would be more than ``most``, or ``every`` is not a positive number.
    """
    if not math.isfinite(every) or every <= 0:
        raise InputError("The time between two moments must be a number of seconds above 0.")
    count = max(1, math.ceil(duration / every - 1e-9))
    if count > most:
        least = math.ceil(10 * duration / most) / 10
        raise InputError(
            f"Every {every:g} s would be {count:,} moments, but at most {most:,} are asked; choose {least:g} s or more."
        )
    return [round(number * every, 3) for number in range(count)]


def show_label(label: str) -> str:
    """A label in words: ``cystic_duct`` becomes ``cystic duct``."""
    return label.replace("_", " ")


def write_csv(question: str, moments: Sequence[Moment]) -> str:
    """The timeline as CSV, one moment per row, with the labels as the model has them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("seconds", "time", "question", "answer", "probability", "second_answer", "second_probability"))
    for m in moments:
        cells = (m.answer, f"{m.probability:.4f}", m.second, f"{m.second_probability:.4f}" if m.second else "")
        writer.writerow((f"{m.at:g}", format_time(m.at), question, *cells))
    return text.getvalue()


def draw_timeline(question: str, moments: Sequence[Moment], asked: int, note: str = "") -> str:
    """The timeline as HTML: a strip whose colour is the answer and whose height is its probability.

    Args:
        question: the question.
        moments: the moments that are answered.
        asked: how many will be; a progress bar is shown until then.
        note: a sentence about the timeline, such as why it is not complete.
    """
    colours = choose_colours([moment.answer for moment in moments])
    running = len(moments) < asked and not note
    parts = [f'<div class="sv-timeline"><p class="sv-question">{escape(question)}</p>']
    if running:
        parts.append(
            f'<p class="sv-progress"><progress max="{asked}" value="{len(moments)}" aria-label="Moments asked">'
            f"</progress> {len(moments)} of {asked} moments</p>"
        )
    if note:
        parts.append(f'<p class="sv-note" role="status">{escape(note)}</p>')
    if moments:
        parts += [_legend(moments, colours), _strip(moments, asked if running else len(moments), colours)]
    if moments and not running:
        parts.append(_table(question, moments))
    return "".join([*parts, "</div>"])


def choose_colours(answers: Sequence[str]) -> dict[str, str]:
    """A colour for each answer: the most frequent ones have their own, the others share a grey.

    Where most answers are colours, these are shown as themselves.
    """
    frequent = [answer for answer, _ in Counter(answers).most_common()]
    named = _NAMED if 2 * sum(answer in _NAMED for answer in answers) > len(answers) else {}
    chosen = {answer: named[answer] for answer in frequent if answer in named}
    free = _BESIDE_NAMED if named else _COLOURS
    rest = [answer for answer in frequent if answer not in chosen]
    return chosen | {answer: free[i] if i < len(free) else _OTHER for i, answer in enumerate(rest)}


def _legend(moments: Sequence[Moment], colours: dict[str, str]) -> str:
    counts = Counter(moment.answer for moment in moments)
    own = [answer for answer in counts if colours[answer] != _OTHER]
    own.sort(key=lambda answer: -counts[answer])
    items = [_legend_item(show_label(answer), colours[answer], counts[answer], len(moments)) for answer in own]
    if rest := sum(count for answer, count in counts.items() if colours[answer] == _OTHER):
        items.append(_legend_item(f"{len(counts) - len(own)} other answers", _OTHER, rest, len(moments)))
    return f'<ul class="sv-legend">{"".join(items)}</ul>'


def _legend_item(name: str, colour: str, count: int, total: int) -> str:
    return (
        f'<li><span class="sv-swatch" style="background:{colour}"></span>{escape(name)} '
        f"<small>{round(100 * count / total)}%</small></li>"
    )


def _strip(moments: Sequence[Moment], places: int, colours: dict[str, str]) -> str:
    bars = []
    for i, m in enumerate(moments):
        height = max(3.0, _HEIGHT * m.probability)
        words = f"{format_time(m.at)}  {show_label(m.answer)}, {100 * m.probability:.0f}%"
        bars.append(
            f'<g data-at="{m.at:g}" data-words="{escape(words, quote=True)}"><title>{escape(words)}</title>'
            f'<rect class="sv-back" x="{i}" y="0" width="1" height="{_HEIGHT}"/>'
            f'<rect x="{i + 0.04:.2f}" y="{_HEIGHT - height:.1f}" width="0.92" height="{height:.1f}" '
            f'fill="{colours[m.answer]}"/></g>'
        )
    label = "Answers over time. Left and right arrow keys move, Enter shows the frame."
    return (
        f'<div class="sv-strip" tabindex="0" role="application" aria-label="{label}">'
        f'<div class="sv-scale" aria-hidden="true"><span>100%</span><span>50</span><span>0</span></div>'
        f'<svg viewBox="0 0 {places} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{"".join(bars)}</svg>'
        f'</div><div class="sv-axis" aria-hidden="true">{"".join(_tick(moments, at) for at in _TICKS)}</div>'
        '<p class="sv-readout" aria-live="polite">Point at the strip to read it; click to see the frame.</p>'
    )


def _tick(moments: Sequence[Moment], share: float) -> str:
    return f"<span>{format_time(moments[round(share * (len(moments) - 1))].at)}</span>"


def _table(question: str, moments: Sequence[Moment]) -> str:
    rows = "".join(
        f'<tr><td><button type="button" data-at="{m.at:g}">{format_time(m.at)}</button></td>'
        f"<td>{escape(show_label(m.answer))}</td><td>{100 * m.probability:.1f}%</td>"
        f"<td>{escape(show_label(m.second))}</td><td>{100 * m.second_probability:.1f}%</td></tr>"
        for m in moments
    )
    data = base64.b64encode(write_csv(question, moments).encode()).decode()
    return (
        f'<p><a class="sv-download" download="timeline.csv" href="data:text/csv;base64,{data}">Download as CSV</a></p>'
        f'<details><summary>Table of {len(moments)} moments</summary><div class="sv-scroll"><table><thead><tr>'
        '<th scope="col">Time</th><th scope="col">Answer</th><th scope="col">Probability</th>'
        '<th scope="col">Second</th><th scope="col">Probability</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )
