"""Optional sections of ``metrics.json``, as JSON, for tests of what shows them."""

from typing import Any


def estimate(value: float, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def picture(gain: tuple[float | None, float | None] = (0.3, 0.5)) -> dict[str, Any]:
    def without(acc: float) -> dict[str, Any]:
        figures = {"acc": estimate(acc, acc - 0.05, acc + 0.05), "gain": estimate(0.4, *gain)}
        return figures | {"share": estimate(0.55, 0.5, 0.6), "changed": estimate(0.6, 0.5, 0.7)}

    figures = {"n": 40, "videos": 2, "own": estimate(0.7, 0.6, 0.8), "black": without(0.3), "shuffled": without(0.35)}
    return {
        "overall": figures,
        "by_type": {"count": figures, "counting": figures},
        "distinct": 9,
        "seed": 0,
        "note": "",
    }


def robustness() -> dict[str, Any]:
    def row(corruption: str, severity: int, drop: float) -> dict[str, Any]:
        found = {"corruption": corruption, "severity": severity, "n": 40, "own": 0.7, "acc": estimate(0.7 - drop)}
        return found | {"drop": estimate(drop, drop - 0.1, drop + 0.1), "changed": estimate(drop)}

    rows = [row("smoke", 1, 0.05), row("smoke", 5, 0.32), row("motion_blur", 5, 0.0)]
    return {"n": 40, "frames": 4, "videos": 2, "own": estimate(0.7, 0.6, 0.8), "seed": 0, "rows": rows}


def strata() -> dict[str, Any]:
    row = {"flag": "bleeding", "n_inside": 10, "n_outside": 30, "frames_inside": 1, "frames_outside": 3, "videos": 2}
    figures = {"inside": estimate(0.5), "outside": estimate(0.8), "difference": estimate(-0.3, -0.5, -0.1)}
    return {
        "source": "flags.csv",
        "frames": 4,
        "frames_not_listed": 0,
        "n": 40,
        "n_not_listed": 0,
        "rows": [row | figures],
    }


def calibration(overconfidence: float = 0.12, ends: tuple[float, float] | None = (0.08, 0.16)) -> dict[str, Any]:
    bins = [{"low": 0.2, "high": 0.4, "n": 10, "confidence": 0.3, "accuracy": 0.2}]
    bins.append({"low": 0.8, "high": 1.0, "n": 30, "confidence": 0.95, "accuracy": 0.8})
    curve = {"coverage": [0.25, 0.5, 1.0], "risk": [0.02, 0.1, 0.3], "threshold": [0.9, 0.8, 0.1]}
    figures: dict[str, Any] = {
        "n": 40,
        "accuracy": 0.7,
        "confidence": 0.7 + overconfidence,
        "overconfidence": overconfidence,
    }
    figures |= {"overconfidence_interval": ends, "ece": 0.1, "ece_interval": (0.05, 0.15), "ece_equal_mass": 0.11}
    figures |= {"ece_equal_mass_interval": None, "brier": 0.4, "log_score": 0.9, "bins": bins, "equal_mass_bins": bins}
    figures |= {"failure_auroc": 0.81, "risk_coverage": curve, "aurc": 0.12, "aurc_oracle": 0.05, "aurc_random": 0.3}
    after = figures | {"ece": 0.03}
    fitted = {"temperature": 1.4, "split": "val"}
    return {"ece_definition": "ece: ...", "figures": figures, "temperature": fitted, "after_temperature": after}


def contradictions(rate: float = 0.2, ends: tuple[float, float] | None = (0.1, 0.3)) -> dict[str, Any]:
    example = {"video": "VID02", "frame": 3, "question": "Are there any hooks?", "answer": "True", "other_frame": 3}
    example |= {"other_question": "How many hooks are there?", "other_answer": "0"}
    row = {"kind": "existence_counting", "description": "exists and counts", "pairs": 50, "asked": 0, "videos": 2}
    row |= {"contradictions": 10, "rate": rate, "interval": ends, "other_answers": 0, "reference_pairs": 50}
    row |= {"reference_contradictions": 0, "reference_rate": 0.0, "unlike_reference": 10, "examples": [example]}
    none = row | {"kind": "converse", "pairs": 0, "rate": None, "interval": None, "examples": []}
    return {"asked_frames": 0, "asked_questions": 0, "rows": [row, none]}


def evidence(low: float | None = 0.2) -> dict[str, Any]:
    method = {"method": "occlusion", "title": "occlusion", "pointing": 0.55, "random_weights": 0.1, "points": True}
    method |= {"other_question": None, "over_chance": estimate(0.5, 0.4, 0.6), "over_random_weights": estimate(0.4)}
    shares = {
        "asked": estimate(0.6, 0.4, 0.8),
        "elsewhere": estimate(0.05, 0.0, 0.1),
        "difference": estimate(0.55, low, 0.8),
    }
    found = {"n": 12, "videos": 2, "fill": "surround", "controls": 4, "left_out": {}, "chance": 0.07, "centre": 0.1}
    found |= {f"changed_{name}": value for name, value in shares.items()}
    return found | {"by_asked": [], "methods": [method], "verdicts": ["The answers depend on the asked object."]}


def wordings(low: float | None = -0.3) -> dict[str, Any]:
    figures: dict[str, Any] = {"n": 20, "reference": estimate(0.7, 0.6, 0.8), "other": estimate(0.5, 0.4, 0.6)}
    figures |= {"both": estimate(0.45, 0.4, 0.5), "changed": estimate(0.3, 0.2, 0.4)}
    found: dict[str, Any] = {
        "difference": -0.2,
        "low": low,
        "high": None if low is None else -0.1,
        "p_t": 0.01,
        "p_sign_flip": 0.5,
    }
    found |= {"least_p": 0.5, "detectable": 0.1, "videos": 2, "improved": 0, "worsened": 2, "right_to_wrong": 5}
    found |= {"wrong_to_right": 1, "pooled": -0.2, "sd": 0.01, "by_video": {}}
    pair = {"reference": "original", "other": "less_biased", "overall": figures, "by_type": {"Action": figures}}
    return {"pairs": [pair | {"difference": found, "unpaired": 2}]}


def generation(distinct: int = 9) -> dict[str, Any]:
    row = {"n": 40, "bleu4": 0.31, "rouge_l": 0.52, "rouge_l_interval": (0.4, 0.6), "keyword_accuracy": 0.7}
    row |= {
        "keyword_accuracy_interval": (0.6, 0.8),
        "exact_match": 0.2,
        "exact_match_interval": (0.1, 0.3),
        "acc": 0.65,
    }
    found = {"figures": row, "by_type": {"blue_dye_presence": row}, "without_long_answer": 3, "distinct": distinct}
    return found | {"signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1", "rouge_version": "0.1.2"}


ALL = {
    "picture": picture(),
    "robustness": robustness(),
    "strata": strata(),
    "calibration": calibration(),
    "contradictions": contradictions(),
    "evidence": evidence(),
    "wordings": wordings(),
    "generation": generation(),
}
