"""Charts with axes, drawn by Altair and rendered to SVG by vl-convert, without a browser or a network.

An SVG needs no JavaScript, prints well and takes a few kilobytes. Its colours are the variables of ``page.css``
(``var(--c1)``), so that a chart follows the page into dark mode and onto paper.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from surgvivqa.utils.errors import InputError

try:
    import altair as alt
    import vl_convert
except ImportError:  # the extra [report] is not installed: check_charts says so
    alt = vl_convert = None  # type: ignore[assignment]

WIDTH, HEIGHT = 330, 190  # pixels of the plot; two charts stand side by side, and one fills a phone's screen
COLOURS = tuple(f"var(--c{number})" for number in range(1, 7))
_MOST_POINTS = 300  # of a curve: more are not visible at this size


@dataclass(frozen=True)
class Curve:
    """A chart with its words.

    Attributes:
        title: its title.
        caption: what it shows.
        svg: the chart.
        alt: the same in words, for readers who do not see it.
    """

    title: str
    caption: str
    svg: Markup
    alt: str


def check_charts() -> None:
    """Checks that the packages for charts are there.

    Raises:
        InputError: they are not.
    """
    if alt is None:
        raise InputError("A report needs Altair and vl-convert for its charts: pip install 'surgvivqa[report]'.")


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    x_format: str = "~s",
    y_format: str = "~g",
    points: bool = False,
    rule: tuple[str, float] | None = None,
    from_zero: bool = False,
) -> Markup:
    """Curves of one or more series.

    Args:
        series: the points (x, y) of each series by its name, at most six series.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        x_format: d3's format of the horizontal axis' labels.
        y_format: d3's format of the vertical axis' labels.
        points: whether each point has a dot, for series of a few points.
        rule: a name and a value, for a dashed horizontal line.
        from_zero: whether the vertical axis begins at 0.
    """
    names = list(series)
    rows = [{"x": a, "y": b, "series": name} for name in names for a, b in thin(series[name])]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("x:Q", title=x, axis=alt.Axis(grid=False, format=x_format, tickCount=5)),
        y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=from_zero), axis=alt.Axis(format=y_format, tickCount=5)),
        color=_series_colour(names),
    )
    layers = [base.mark_line(strokeWidth=1.8, interpolate="linear")]
    if points:
        layers.append(base.mark_point(filled=True, size=32, opacity=1))
    if rule is not None:
        layers += _rule(*rule)
    return render(alt.layer(*layers))


def reliability_chart(series: Mapping[str, Sequence[tuple[float, float, int]]]) -> Markup:
    """Reliability curves: accuracy against probability, with the diagonal of a calibrated model.

    Args:
        series: for each name, the mean probability, accuracy and number of questions of each bin that has questions. A
            dot's area grows with its number.
    """
    rows = [{"x": x, "y": y, "n": n, "series": name} for name, bins in series.items() for x, y, n in bins]
    axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X("x:Q", title="Probability of the answer", scale=alt.Scale(domain=[0, 1]), axis=axis)
    y = alt.Y("y:Q", title="Share of right answers", scale=alt.Scale(domain=[0, 1]), axis=axis)
    data = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=_series_colour(list(series)))
    diagonal = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])).encode(x=x, y=y)
    return render(
        alt.layer(
            diagonal.mark_line(color="var(--strong)", strokeDash=[4, 3]),
            data.mark_line(strokeWidth=1.8),
            data.mark_point(filled=True, opacity=0.9).encode(
                size=alt.Size("n:Q", scale=alt.Scale(range=[14, 260]), legend=None)
            ),
        )
    )


def thin(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points of a curve: means of neighbouring points, all of them where there are few."""
    size = -(-len(points) // most) if points else 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def render(chart: Any) -> Markup:
    """A chart as SVG in the page's colours, with unique ids and without a fixed size."""
    styled = (
        chart.properties(width=WIDTH, height=HEIGHT)
        .configure(background="transparent", font="sans-serif", padding=2)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="var(--soft)",
            titleColor="var(--soft)",
            gridColor="var(--rule)",
            domainColor="var(--strong)",
            tickColor="var(--strong)",
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
            domain=False,
        )
        .configure_legend(labelColor="var(--ink)", labelFontSize=11, symbolStrokeWidth=2.5)
        .configure_text(color="var(--soft)", fontSize=11)
    )
    svg = vl_convert.vegalite_to_svg(styled.to_dict())
    return Markup(_strip(svg))


def _series_colour(names: Sequence[str]) -> Any:
    """One colour for each series, with a legend if there are several."""
    return alt.Color(
        "series:N",
        scale=alt.Scale(domain=list(names), range=list(COLOURS[: len(names)])),
        legend=alt.Legend(title=None, orient="top", symbolType="stroke") if len(names) > 1 else None,
    )


def _rule(name: str, value: float) -> list[Any]:
    data = alt.Chart(alt.Data(values=[{"y": value, "name": name}])).encode(y="y:Q")
    line = data.mark_rule(color="var(--strong)", strokeDash=[4, 3])
    text = data.mark_text(align="right", baseline="bottom", dx=-2, dy=-2).encode(
        x=alt.value(WIDTH), text=alt.Text("name:N")
    )
    return [line, text]


def _strip(svg: str) -> str:
    """Removes what a page does not need: the fixed size, and the accessibility tree of the marks, which only repeats.

    The page gives each chart one accessible name.
    """
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' (?:aria-[\w]+|role)="[^"]*"', "", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
