"""Verdicts and charts of the sections that not every evaluation has, from their JSON in ``metrics.json``.

A section that is absent gives no verdict; the page then says which command computes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa.reporting.charts import Curve, line_chart, reliability_chart
from surgvivqa.reporting.page import between, percent
from surgvivqa.reporting.trust import Mark

MISSING = {
    "picture": "Not checked in this evaluation. surgvivqa eval checks it, unless --check-samples is 0.",
    "calibration": "Not computed in this evaluation. surgvivqa eval computes it, unless --answer-only is given.",
    "robustness": "Not measured in this evaluation. surgvivqa eval --corrupt all measures it; --strata FILE compares "
    "frames with and without a flag, such as smoke.",
    "contradictions": "Not counted in this evaluation. surgvivqa eval counts them.",
    "wordings": "Each question of this evaluation has one wording. surgvivqa eval compares the wordings of data sets "
    "that ask in several, such as SurgCheck.",
    "generation": "Nothing was generated in this evaluation. surgvivqa eval --generate writes sentences, for "
    "data sets with long answers.",
    "evidence": "Not measured in this evaluation. surgvivqa eval --evidence N --scene-graph-root DIR measures it and "
    "draws maps.",
}
_NAMES = ("picture", "calibration", "robustness", "strata", "contradictions", "evidence", "wordings", "generation")
_LEAST_PAIRS = 20  # of a kind of contradiction, for a verdict
_TOLERATED = 0.02  # overconfidence that is not worth a warning


@dataclass(frozen=True)
class Verdict:
    """A sentence about the figures.

    Attributes:
        mark: how it is marked.
        text: the sentence.
    """

    mark: Mark
    text: str


@dataclass(frozen=True)
class Sections:
    """The optional sections of one run.

    Attributes:
        content: each section's JSON by name; None for one that is absent.
        verdicts: what they say.
        curves: the charts of the calibration.
        severities: the columns of the table of corruptions.
        corruptions: its rows: a corruption and its result at each severity, None where it was not measured.
    """

    content: Mapping[str, Any]
    verdicts: Sequence[Verdict]
    curves: Sequence[Curve]
    severities: Sequence[int]
    corruptions: Sequence[tuple[str, Sequence[Mapping[str, Any] | None]]]


def build_sections(content: Mapping[str, Any]) -> Sections:
    """Reads the optional sections of ``metrics.json``."""
    found = {name: content.get(name) for name in _NAMES}
    verdicts = [
        verdict for name, judge in _JUDGES.items() if (section := found[name]) is not None for verdict in judge(section)
    ]
    calibration = found["calibration"]
    rows = [] if found["robustness"] is None else found["robustness"]["rows"]
    severities = sorted({row["severity"] for row in rows})
    by_cell = {(row["corruption"], row["severity"]): row for row in rows}
    names = dict.fromkeys(row["corruption"] for row in rows)
    return Sections(
        found,
        verdicts,
        [] if calibration is None else calibration_curves(calibration),
        severities,
        [(name, [by_cell.get((name, severity)) for severity in severities]) for name in names],
    )


def interval_text(figure: Mapping[str, Any]) -> str:
    """The interval of an estimate in parentheses, with a space before; empty if there is none."""
    return "" if figure["low"] is None else f" ({between((figure['low'], figure['high']))})"


def calibration_curves(calibration: Mapping[str, Any]) -> list[Curve]:
    """The reliability curve and the risk-coverage curve, with those at the fitted temperature."""
    figures = {"as scored": calibration["figures"]}
    if calibration["after_temperature"] is not None:
        figures[f"at temperature {calibration['temperature']['temperature']:.2f}"] = calibration["after_temperature"]
    bins = {name: [(b["confidence"], b["accuracy"], b["n"]) for b in f["bins"]] for name, f in figures.items()}
    risks = {
        name: list(zip(f["risk_coverage"]["coverage"], f["risk_coverage"]["risk"], strict=True))
        for name, f in figures.items()
    }
    first = calibration["figures"]
    words = "higher" if first["overconfidence"] > 0 else "lower"
    return [
        Curve(
            "Reliability",
            "On the dashed line, probabilities are shares of right answers. A dot's area grows with its questions.",
            reliability_chart(bins),
            f"Reliability curve: probabilities are on average {percent(abs(first['overconfidence']))} points {words} "
            "than the share of right answers.",
        ),
        Curve(
            "Answer or abstain",
            "The share of wrong answers, if only the most confident ones are given.",
            line_chart(
                risks, x="Share of questions answered", y="Wrong among them", x_format="%", y_format="%", from_zero=True
            ),
            f"Risk-coverage curve, with an area of {first['aurc']:.3f} under it.",
        ),
    ]


def _judge_picture(section: Mapping[str, Any]) -> list[Verdict]:
    overall = section["overall"]
    black, other = overall["black"], overall["shuffled"]
    gain, text = black["gain"], f"{percent(overall['own']['value'])}% right on its frames"
    text += f", {percent(black['acc']['value'])}% on black ones"
    if other is not None:
        text += f", {percent(other['acc']['value'])}% on frames of another video"
    share = black["share"]
    given = (
        ""
        if share["value"] is None
        else f"The picture gives {percent(share['value'], 0)}% of the accuracy{interval_text(share)}: "
    )
    changed = f"; {percent(black['changed']['value'], 0)}% of the answers change without it"
    if gain["low"] is None:
        return [Verdict("unknown", f"{given}{text}{changed}. An interval needs at least two videos.")]
    if gain["low"] > 0:
        return [Verdict("pass", f"{given}{text}{changed}.")]
    return [Verdict("warn", f"The picture hardly helps: {text}{changed}.")]


def _judge_calibration(section: Mapping[str, Any]) -> list[Verdict]:
    figures = section["figures"]
    gap, ends = figures["overconfidence"], figures["overconfidence_interval"]
    interval = "" if ends is None else f" ({between(ends)})"
    ece = f"expected calibration error {percent(figures['ece'])} points"
    means = f"mean probability {percent(figures['confidence'])}%, {percent(figures['accuracy'])}% right"
    if abs(gap) <= _TOLERATED or (ends is not None and ends[0] <= 0 <= ends[1]):
        word, mark = "Probabilities agree with the share of right answers on average", "pass"
    else:
        word = f"{'Overconfident' if gap > 0 else 'Too modest'} by {percent(abs(gap))} points{interval}"
        mark = "warn" if gap > 0 else "plain"
    verdicts = [Verdict(mark, f"{word}: {means}; {ece}.")]  # type: ignore[arg-type]
    curve = section["figures"]["risk_coverage"]
    half = min(range(len(curve["coverage"])), key=lambda at: abs(curve["coverage"][at] - 0.5), default=None)
    if half is not None and figures["failure_auroc"] is not None:
        right = percent(1 - curve["risk"][half])
        share = percent(curve["coverage"][half], 0)
        text = f"Of its most confident {share}% of answers {right}% are right, of all {percent(figures['accuracy'])}%"
        verdicts.append(Verdict("plain", f"{text} (AUROC of finding mistakes {figures['failure_auroc']:.2f})."))
    return verdicts


def _judge_robustness(section: Mapping[str, Any]) -> list[Verdict]:
    rows = [row for row in section["rows"] if row["drop"]["value"] is not None]
    if not rows:
        return []
    worst = max(rows, key=lambda row: row["drop"]["value"])
    drop = f"{percent(worst['drop']['value'])} points{interval_text(worst['drop'])}"
    name = f"{worst['corruption'].replace('_', ' ')} of severity {worst['severity']}"
    return [Verdict("plain", f"The worst of {len(rows)} corruptions is {name}: accuracy falls by {drop}.")]


_CONTRADICTIONS = {
    "existence_counting": "Its answers to whether and how many there are contradict each other",
    "synonyms": "Its answer changes with a synonym in the question",
    "sentences": "Its answer changes with the form of the question",
    "converse": "Its answers about left and right, or above and below, contradict each other",
    "opposite": "It sees an object on both sides of another one",
    "neighbouring_frames": "Its answer changes from one second to the next",
}


def _judge_contradictions(section: Mapping[str, Any]) -> list[Verdict]:
    rows = [row for row in section["rows"] if row["pairs"] >= _LEAST_PAIRS]
    if not rows:
        return []
    worst = max(rows, key=lambda row: row["rate"] - (row["reference_rate"] or 0.0))
    ends = "" if worst["interval"] is None else f" ({between(worst['interval'])})"
    what = _CONTRADICTIONS.get(worst["kind"], "It contradicts itself")
    text = f"{what} in {percent(worst['rate'])}%{ends} of {worst['pairs']:,} pairs"
    if worst["reference_rate"] is not None:
        text += f", the true answers in {percent(worst['reference_rate'])}%"
    is_clear = worst["interval"] is not None and worst["interval"][0] > (worst["reference_rate"] or 0.0)
    return [Verdict("warn" if is_clear else "plain", f"{text}.")]


def _judge_evidence(section: Mapping[str, Any]) -> list[Verdict]:
    asked, other, difference = (section[f"changed_{name}"] for name in ("asked", "elsewhere", "difference"))
    text = (
        f"Covering the asked object changes {percent(asked['value'], 0)}% of the answers, covering another place "
        f"{percent(other['value'], 0)}%: difference {percent(difference['value'])} points{interval_text(difference)}."
    )
    if difference["low"] is None:
        return [Verdict("unknown", text)]
    return [Verdict("pass" if difference["low"] > 0 else "warn", text)]


def _judge_wordings(section: Mapping[str, Any]) -> list[Verdict]:
    verdicts = []
    for pair in section["pairs"]:
        figures, found = pair["overall"], pair["difference"]
        names = pair["reference"].replace("_", " "), pair["other"].replace("_", " ")
        text = (
            f"{percent(figures['reference']['value'])}% right in the {names[0]} wording, "
            f"{percent(figures['other']['value'])}% of the same {figures['n']:,} questions in the {names[1]} one; both "
            f"{percent(figures['both']['value'])}%"
        )
        ends = "" if found["low"] is None else f" (difference {between((found['low'], found['high']))} points)"
        is_clear = found["low"] is not None and not found["low"] <= 0 <= found["high"]
        head = "Its accuracy depends on the wording" if is_clear else "Two wordings"
        verdicts.append(Verdict("warn" if is_clear else "plain", f"{head}: {text}{ends}."))
    return verdicts


def _judge_generation(section: Mapping[str, Any]) -> list[Verdict]:
    figures, distinct = section["figures"], section["distinct"]
    ends = figures["keyword_accuracy_interval"]
    interval = "" if ends is None else f" ({between(tuple(ends))})"
    text = (
        f"{percent(figures['keyword_accuracy'])}%{interval} of the generated answers hold the short answer, and "
        f"{percent(figures['acc'])}% of the closed-set answers are right."
    )
    verdicts = [Verdict("plain", text)]
    if distinct == 1 and figures["n"] > 1:
        verdicts.append(Verdict("warn", f"The same text was generated for all {figures['n']:,} questions."))
    return verdicts


_JUDGES = {
    "picture": _judge_picture,
    "evidence": _judge_evidence,
    "calibration": _judge_calibration,
    "contradictions": _judge_contradictions,
    "wordings": _judge_wordings,
    "generation": _judge_generation,
    "robustness": _judge_robustness,
}
