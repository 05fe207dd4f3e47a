"""The Markdown tables of ``make bench-gpu``."""

from collections.abc import Sequence
from typing import Any

from benchmarks.estimate import CORPUS_QUESTIONS

Row = dict[str, Any]


def format_report(results: dict[str, Any]) -> str:
    """The whole report as Markdown.

    Args:
        results: what ``gpu.json`` holds.
    """
    lines = [*_head(results["machine"]), ""]
    sections = results["sections"]
    plain = _plain_rates(sections)
    for name, tables in (("engine-train", _engine_train), ("engine-score", _engine_score), ("accuracy", _accuracy)):
        if name in sections:
            lines += [*tables(sections[name], plain), ""]
    if "commands" in sections:
        lines += [*_commands(sections["commands"], plain), ""]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return lines


def number(value: float | None, form: str = ",.0f") -> str:
    """A number in a format; empty if there is none, with three digits if it is below 10 in the default format."""
    if value is None:
        return ""
    return f"{value:.3g}" if form == ",.0f" and abs(value) < 10 else f"{value:{form}}"


def _head(machine: Row) -> list[str]:
    rates = ", ".join(f"{name} {rate / 1e12:,.4g}" for name, rate in machine["products"].items())
    lines = [
        "# Benchmark on a GPU" if machine["device"] == "cuda" else "# Benchmark for a GPU, tried on a CPU",
        "",
        f"Command: `{machine['command']}`. Date: {machine['date']}.",
        f"Device: {machine['name']}. PyTorch {machine['torch']}, Transformers {machine['transformers']}, "
        f"CUDA {machine['cuda'] or 'none'}, Python {machine['python']}, {machine['cores']} CPU cores.",
        f"Products of {machine['product_size']}x{machine['product_size']} matrices, TFLOP/s: {rates}.",
        f"Models: {machine['size']} size, random weights. The benchmark took {machine['seconds']:.0f} s "
        f"({', '.join(f'{n} {s:.0f}' for n, s in machine['section_seconds'].items())}).",
    ]
    if machine["size"] != "full":
        lines += ["", "**The small size tests the benchmark itself; its times mean nothing.**"]
    return lines


def _plain_rates(sections: dict[str, Any]) -> dict[str, float]:
    """The plain way's questions per second of training and of scoring in this run: in bf16, else in fp32."""
    found: dict[str, float] = {}
    for name in ("engine-train", "engine-score"):
        rows = [r for r in sections.get(name, ()) if r["name"].startswith("plain way") and "rate" in r]
        if rows:
            found[name] = next((r for r in rows if r["precision"] == "bf16"), rows[0])["rate"]
    return found


def _ratio(row: Row, plain: float | None) -> str:
    return f"{row['rate'] / plain:.3g}" if plain and "rate" in row else ""


def _engine(rows: Sequence[Row], plain: float | None) -> list[str]:
    head = ["work", "precision", "questions/s", "to the plain way", "ms", "TFLOP/s", "of the chip", "peak GB"]
    head += ["kernels", "copies", "busy"]
    cells = []
    for row in rows:
        if "error" in row:
            cells.append([row["name"], row["precision"], f"({row['error']})", *[""] * 8])
            continue
        share = f"{row['share']:.1%}" if "share" in row else ""
        cells.append(
            [
                row["name"],
                row["precision"],
                number(row["rate"]),
                _ratio(row, plain),
                f"{1e3 * row['median']:.1f}",
                number(row.get("tflops"), ".3g"),
                share,
                number(row.get("peak_gb"), ".2f"),
                number(row.get("kernels", row.get("operations")), ",d"),
                number(row.get("copies"), ",d"),
                number(row.get("busy"), ".0%"),
            ]
        )
    return table(head, cells)


_COLUMNS = (
    'Median times; "frames x questions per frame" in a step. "Of the chip" is the share of the measured bf16 product. '
    "The ratio is to the plain way in bf16, in this run. Kernels include copies and fills; busy is the share of the "
    "time in which the device works. On a CPU the operations of a step stand under kernels."
)


def _engine_train(rows: Sequence[Row], plain: dict[str, float]) -> list[str]:
    note = (
        "Each step calls the model and AdamW directly: without encoding ahead and without CUDA graphs, which the rows "
        "of the commands have."
    )
    return ["## The engine: training steps", "", _COLUMNS, note, "", *_engine(rows, plain.get("engine-train"))]


def _engine_score(rows: Sequence[Row], plain: dict[str, float]) -> list[str]:
    note = "An answer-only row depends on the weights: random ones leave more labels open than trained ones."
    return ["## The engine: scoring", "", note, "", *_engine(rows, plain.get("engine-score"))]


def _accuracy(rows: Sequence[Row], _: dict[str, float]) -> list[str]:
    head = ["outputs", "against", "questions", "losses: largest (mean)", "scores: largest (mean)", "equal best labels"]
    cells = []
    for row in rows:
        if "error" in row:
            cells.append([row["name"], row["against"], "", f"({row['error']})", "", ""])
            continue
        pairs = [f"{row[f'{kind}_largest']:.1e} ({row[f'{kind}_mean']:.1e})" for kind in ("loss", "score")]
        cells.append(
            [row["name"], row["against"], str(row["questions"]), *pairs, f"{row['equal']} of {row['decided']}"]
        )
    lines = [
        "## Accuracy",
        "",
        "Absolute differences in nats, with the same weights. Best labels are compared where the two best scores "
        "differ by more than twice the largest difference.",
        "",
        *table(head, cells),
    ]
    for row in rows:
        if "within_tolerance" in row:
            verdict = "within" if row["within_tolerance"] else "NOT within"
            lines += ["", f"In fp32 both implementations agree {verdict} 1e-4."]
    return lines


def _duration(row: Row) -> str:
    """How long the published recipe, or an epoch of all training questions, takes at a row's rate."""
    if "error" in row or "rate" not in row or not row["name"].startswith("train"):
        return ""
    if "recipe" in row["name"]:
        return f"30,000 steps of 8: {30_000 * 8 / row['rate'] / 60:.1f} min"
    return f"{CORPUS_QUESTIONS:,} questions: {CORPUS_QUESTIONS / row['rate']:,.0f} s"


def _commands(section: Row, plain: dict[str, float]) -> list[str]:
    rows = section["rows"]
    head = ["command", "questions/s", "to the plain way", "at this rate", "steps", "whole command, s"]
    cells = []
    for row in rows:
        rate = f"({row['error']})" if "error" in row else number(row.get("rate"))
        kind = "engine-train" if row["name"].startswith("train") else "engine-score"
        ratio = "" if "error" in row else _ratio(row, plain.get(kind))
        steps, wall = number(row.get("steps"), ",d"), number(row.get("wall_s"), ".1f")
        cells.append([row["name"], rate, ratio, _duration(row), steps, wall])
    lines = [
        "## The commands",
        "",
        "Training: the median of the log's `questions_per_second` after its first line; with a cache, after the epoch "
        "that fills it. `--max-hours` stops each run early. Evaluation: the questions beyond those of its first row, "
        "by the time beyond that row's, loading not counted.",
    ]
    if "set" in section:
        about = section["set"]
        lines[-1] += (
            f" The synthetic set has {about['frames']} training frames with "
            f"{about['questions_per_frame']:.1f} questions each, of {about['prompt_tokens']:.1f} tokens on average in "
            f"the packaged tokenizer; a label has {about['label_tokens']:.2f} tokens (GPT-2's tokenizer: 18 and 1.78)."
        )
    lines += ["", *table(head, cells), "", "As run, in a folder `WORK`:", "", "```bash"]
    return [*lines, *(row["command"] for row in rows), "```"]
