"""Measures which maps point at the asked object, and whether covering it changes the answer: rows of experiments.md.

    python -m experiments.pointing RUN [RUN ...] --data SYNTHETIC_SET [--count 400] [--fill surround mean] [--out FILE]

RUN is a run folder, or ``tiny`` for the packaged base; SYNTHETIC_SET is a folder that ``surgvivqa synth`` wrote, such
as the quickstart's ``data``. The questions are spread over the test videos; their scene graphs give the boxes.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from surgvivqa.commands.evidence import measure_evidence
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig
from surgvivqa.data.index import open_questions
from surgvivqa.data.splits import load_splits
from surgvivqa.evaluation.evidence import Estimate, Evidence
from surgvivqa.explanation.occlusion import FILLS, Fill
from surgvivqa.utils.atomic_files import write_text


def run_evidence(checkpoint: Path, data: Path, count: int, fill: Fill) -> Evidence:
    """The evidence of one model on the test videos of a synthetic set."""
    bundle = load_model(checkpoint, OptionalModelConfig())
    bundle.model.requires_grad_(False)
    frames, _ = open_questions(data / "ssg-qa", load_splits(None).videos("test"))
    store = bundle.frame_store(data / "frames")
    evidence, _ = measure_evidence(bundle, frames, store, data / "scene_graph", count, fill=fill)
    return evidence


def answer_rows(results: Sequence[tuple[str, Evidence]]) -> list[str]:
    """A Markdown table of the answers that change, in %, with 95% intervals over videos."""
    lines = ["| run | fill | asked object covered | elsewhere | difference | drop, nats | elsewhere |"]
    lines.append("| --- " * 7 + "|")
    for name, e in results:
        cells = (*map(_percent, (e.changed_asked, e.changed_elsewhere, e.changed_difference)),)
        drops = (f"{e.drop_asked.value:.2f}", f"{e.drop_elsewhere.value:.2f}")
        lines.append(f"| {' | '.join((name, e.fill, *cells, *drops))} |")
    return lines


def pointing_rows(results: Sequence[tuple[str, Evidence]]) -> list[str]:
    """A Markdown table of pointing accuracy, in %."""
    lines = ["| run | map | pointing | chance | centre | random weights | other question | over random | rank corr. |"]
    lines.append("| --- " * 9 + "|")
    for name, e in results:
        for m in e.methods:
            title = f"{m.title}, {e.fill}" if m.method == "occlusion" else m.title
            shares = (m.pointing, e.chance, e.centre, m.random_weights)
            cells = [f"{100 * share:.1f}" for share in shares]
            cells.append("" if m.other_question is None else f"{100 * m.other_question:.1f}")
            cells.append(_percent(m.over_random_weights))
            cells.append("" if m.randomisation_correlation is None else f"{m.randomisation_correlation:.2f}")
            lines.append(f"| {' | '.join((name, title, *cells))} |")
    return lines


def _percent(estimate: Estimate) -> str:
    interval = (
        ""
        if estimate.low is None or estimate.high is None
        else (f" ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})")
    )
    return f"{100 * estimate.value:.1f}{interval}"


def main() -> int:
    """Measures every run with every fill, and prints both tables and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--fill", nargs="+", choices=FILLS, default=["surround"])
    parser.add_argument("--out", type=Path, help="also write the sections as JSON lines")
    options = parser.parse_args()
    results, lines = list[tuple[str, Evidence]](), list[str]()
    for run in options.runs:
        for fill in options.fill:
            started = time.monotonic()
            evidence = run_evidence(run, options.data, options.count, fill)
            seconds = time.monotonic() - started
            print(
                f"{run.name}, {fill}, {evidence.n} questions, {seconds:.0f} s: {' '.join(evidence.verdicts)}",
                flush=True,
            )
            results.append((run.name, evidence))
            lines.append(json.dumps({"run": run.name, **dataclasses.asdict(evidence)}) + "\n")
            if options.out is not None:
                write_text(options.out, "".join(lines))
    print("\n".join([*answer_rows(results), "", *pointing_rows(results)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
