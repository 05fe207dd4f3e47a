"""The curves of a training run, from the lines of its ``metrics.jsonl``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from surgvivqa.reporting.charts import Curve, line_chart

_VALIDATED = {"val_acc": "accuracy", "val_mAF1": "mAF1", "val_wF1": "wF1"}


def training_curves(log: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Draws loss, validation figures, learning rate and speed; curves without values are left out."""
    curves = []
    loss, validation_loss = _values(log, "loss"), _values(log, "val_loss")
    if loss:
        series = {"training": loss} | ({"validation": validation_loss} if validation_loss else {})
        chance = next((line["chance"] for line in log if _is_number(line.get("chance"))), None)
        top = max(value for points in series.values() for _, value in points)
        rule = ("a uniform guess", chance) if chance is not None and chance < 1.4 * top else None
        svg = line_chart(series, x="Step", x_format=",d", y="Loss, nats per question", points=len(loss) < 2, rule=rule)
        caption = "Negative log-likelihood of the complete answer."
        alt = f"Training loss falls from {loss[0][1]:.2f} to {loss[-1][1]:.2f} nats over {loss[-1][0]:,.0f} steps."
        curves.append(Curve("Loss", caption, svg, alt.replace("falls", "goes")))
    if validated := {name: values for key, name in _VALIDATED.items() if (values := _values(log, key))}:
        svg = line_chart(validated, x="Step", x_format=",d", y="On validation questions", y_format="%", points=True)
        last = ", ".join(f"{name} {100 * values[-1][1]:.1f}%" for name, values in validated.items())
        n = next((int(line["val_n"]) for line in log if _is_number(line.get("val_n"))), None)
        caption = f"On {n:,} questions." if n else "On the validation split."
        curves.append(Curve("Validation", caption, svg, f"Figures on the validation split; at the end {last}."))
    if rate := _values(log, "lr"):
        svg = line_chart({"rate": rate}, x="Step", x_format=",d", y="Learning rate", y_format="~g")
        top = max(value for _, value in rate)
        curves.append(Curve("Learning rate", "", svg, f"The learning rate, at most {top:g}."))
    if norm := _values(log, "grad_norm"):
        svg = line_chart({"norm": norm}, x="Step", x_format=",d", y="Norm of the gradients")
        curves.append(
            Curve("Gradients", "Norm before clipping.", svg, f"Norm of the gradients, {norm[-1][1]:.2g} at the end.")
        )
    return curves


def _values(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The points (step, value) of one key, without lines that have none."""
    return [
        (float(line["step"]), float(line[name]))
        for line in log
        if _is_number(line.get("step")) and _is_number(line.get(name))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
