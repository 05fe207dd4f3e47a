"""The tables of ``make bench``."""

import statistics
from typing import Any

TITLES = {
    "gemm": "matrix product of this machine",
    "reference_train": "training step, reference implementation",
    "train": "training step, project, frames encoded",
    "train_cached": "training step, project, video tokens cached",
    "train_text": "training step, project, BLIP outputs cached",
    "train_eight": "training step, project, 8 questions, frames encoded",
    "train_eight_ahead": "training steps, project, 8 questions, a frame encoded once for all of its",
    "reference_train_memory_kept": "training step, reference implementation, freed memory kept",
    "reference_score": "scoring 51 labels, reference implementation",
    "score": "scoring 51 labels, project",
    "answer": "best label alone, project, trained model",
    "untrained": "best label alone, project, untrained model",
    "scale_questions": "1 to 64 questions per frame",
    "scale_labels": "51 to 204 labels",
    "scale_frames": "1 to 10,000 cached frames",
}


def comparison_table(summary: dict[str, Any]) -> list[str]:
    """The comparison as Markdown."""
    machine = summary["machine"]
    lines = [
        f"{summary['size']} size, fp32, {machine['device']}, {summary['threads']} threads, {machine['processor']}; "
        f"a product of 1568x768 and 768x3072 runs at {machine['gemm_flops_per_second'] / 1e9:,.0f} GFLOP/s.",
        "",
        "| stage | questions per pass | s per question, median (least) | reference / project | floor, s | time / floor "
        "| peak, GB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, f in summary["stages"].items():
        ratio = f"{f['ratio']:.1f}" if "ratio" in f else ""
        floor = f"{f['floor']:.3g} | {f['over_floor']:.2f}" if "floor" in f else " | "
        peak = f"{f['peak_bytes'] / 1e9:.2f}" if f["peak_bytes"] else ""
        lines.append(
            f"| {TITLES[name]} | {f['questions']} | {f['median']:.3g} ({f['min']:.3g}) | {ratio} | {floor} | {peak} |"
        )
    lines += ["", "The floor is the time of the stage's matrix products at that speed. GFLOP per question:", ""]
    parts = list(summary["stages"]["train"]["flops"])
    lines += [f"| stage | {' | '.join(parts)} |", "| --- " * (len(parts) + 1) + "|"]
    for name, f in summary["stages"].items():
        if "flops" in f:
            counts = " | ".join(f"{f['flops'][part] / 1e9:.2f}" for part in parts)
            lines.append(f"| {TITLES[name]} | {counts} |")
    trained, untrained = summary["stages"]["answer"], summary["stages"]["untrained"]
    lines += [
        "",
        f"Agreement: losses differ by at most {summary['max_loss_diff']:.1e}, scores by "
        f"{summary['max_score_diff']:.1e}. Peak memory, project over reference: "
        f"training {summary['peak_memory_ratio']:.2f}, scoring {summary['peak_memory_ratio_scoring']:.2f}.",
        f"If the reference keeps freed memory, train_ratio is {summary['train_ratio_reference_memory_kept']:.1f}.",
        f"Without the time of the reference's output layer, score_ratio would be "
        f"{summary['score_ratio_without_reference_output_layer']:.1f}.",
        f"Best label alone: {trained['nodes_per_question']:.2f} of 29 inner nodes per question on the trained "
        f"model ({trained['answers']} different answers to 39 questions, accuracy {trained['accuracy']:.2f}), "
        f"{untrained['nodes_per_question']:.2f} on the untrained one.",
        f"Its adapters were trained for {trained['training_seconds']:.0f} s: from {trained['training_losses'][0]:.1f} "
        f"to {statistics.mean(trained['training_losses'][-20:]):.2f} nats per answer (mean of the last 20 steps), "
        f"{trained['held_out_loss']:.2f} on held-out questions; no model can be below "
        f"{trained['best_possible'][0]:.2f}, nor an accuracy above {trained['best_possible'][1]:.2f}.",
    ]
    return lines
