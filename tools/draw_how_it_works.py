"""Draws the pictures of docs/how-it-works.md from the package's own masks and trie.

    python -m tools.draw_how_it_works --vocabulary FOLDER [--out docs/figures]

FOLDER holds GPT-2's ``encoder.json`` and ``vocab.bpe`` (also published as ``vocab.json`` and ``merges.txt``), so that
the pieces of the labels are GPT-2's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from transformers import GPT2Tokenizer

from surgvivqa.data.labels import LABELS
from surgvivqa.data.packing import PromptTree, build_answer_chain, pack_stream
from surgvivqa.data.prompts import build_prompt, build_target
from surgvivqa.model.label_trie import LabelTrie

# Okabe and Ito's colours, which are told apart with colour-blindness.
BLUE, ORANGE, GREEN, GREY, RED = "#0072B2", "#E69F00", "#009E73", "#999999", "#D55E00"
matplotlib.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans", "svg.hashsalt": "surgvivqa"})


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = _gpt2_tokenizer(arguments.vocabulary)
    for name, draw in (
        ("leak", draw_leak),
        ("packed-stream", draw_packed_stream),
        ("trie", draw_trie),
        ("encode-ahead", draw_encode_ahead),
    ):
        figure = draw(tokenizer)
        figure.savefig(arguments.out / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        print(arguments.out / f"{name}.svg")


def _gpt2_tokenizer(folder: Path) -> GPT2Tokenizer:
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (folder / vocabulary).is_file():
            return GPT2Tokenizer(str(folder / vocabulary), str(folder / merges))
    raise SystemExit(f"{folder} has neither vocab.json nor encoder.json; name the folder of GPT-2's vocabulary.")


def _pieces(tokenizer: GPT2Tokenizer, ids: Sequence[int]) -> list[str]:
    """Tokens as readers see them: a visible space, a visible line end."""
    return [tokenizer.decode([i]).replace(" ", "␣").replace("\n", "⏎") for i in ids]


def draw_leak(tokenizer: GPT2Tokenizer) -> Figure:
    """Who sees whom in the text encoder, for one question with the answer ``specimen_bag``."""
    prompt = tokenizer.encode("Question: What is held?\nAnswer:")
    answer = tokenizer.encode(build_target("specimen_bag"))
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4.3))
    titles = {
        "bidirectional": "bidirectional (as published)\nthe prompt sees the answer",
        "prefix": "prefix (default)\nthe prompt sees the prompt",
        "causal": "causal\neach token sees earlier ones",
    }
    for axis, (mask, title) in zip(axes, titles.items(), strict=True):
        # The published form feeds the whole answer; for a like picture the last token is fed under every mask.
        chain = build_answer_chain(prompt, answer, 0, "bidirectional")
        sees = pack_stream([[chain]], mask, 1).text_mask[0].numpy()
        _draw_mask(axis, sees, _pieces(tokenizer, [*prompt, *answer]), len(prompt))
        axis.set_title(title, fontsize=9.5)
    axes[0].set_ylabel("this token …")
    axes[1].set_xlabel("… sees this one")
    figure.tight_layout()
    return figure


def _draw_mask(axis: Axes, sees: np.ndarray, tokens: Sequence[str], prompt: int) -> None:
    size = len(tokens)
    for row in range(size):
        for column in range(size):
            if not sees[row, column]:
                color = "#f2f2f2"
            elif column < prompt:
                color = BLUE
            else:
                color = RED if row < prompt else ORANGE
            axis.add_patch(Rectangle((column, row), 0.94, 0.94, color=color, linewidth=0))
    axis.set_xlim(0, size), axis.set_ylim(size, 0)
    axis.set_aspect("equal")
    axis.set_xticks(np.arange(size) + 0.5, tokens, rotation=90)
    axis.set_yticks(np.arange(size) + 0.5, tokens)
    axis.tick_params(length=0, labelsize=7)
    for spine in axis.spines.values():
        spine.set_visible(False)


def draw_packed_stream(tokenizer: GPT2Tokenizer) -> Figure:
    """Two frames with three questions as one stream, above the same as padded rows."""
    questions = [[("How many tools are there?", "2"), ("Is there a hook?", "True")], [("What is red?", "cystic_plate")]]
    trees: list[list[PromptTree]] = [
        [
            build_answer_chain(tokenizer.encode(build_prompt(q)), tokenizer.encode(build_target(a)), 0, "prefix")
            for q, a in frame
        ]
        for frame in questions
    ]
    stream = pack_stream(trees, "prefix", 3)
    total, width = len(stream.input_ids), 128
    figure, (above, below) = plt.subplots(2, 1, figsize=(10.5, 4.1), height_ratios=[3, 2.2])
    for row, tree in enumerate(tree for frame in trees for tree in frame):
        used = len(tree.prompt) + len(tree.tokens)
        above.add_patch(Rectangle((0, row), width, 0.8, color="#ececec", linewidth=0))
        above.add_patch(Rectangle((0, row), len(tree.prompt), 0.8, color=BLUE, linewidth=0))
        above.add_patch(Rectangle((len(tree.prompt), row), max(len(tree.tokens), 0.6), 0.8, color=ORANGE, linewidth=0))
        above.text(used + 1.5, row + 0.4, f"{used} tokens, {width - used} of padding", va="center", fontsize=8)
    above.set_xlim(0, width), above.set_ylim(3, -0.2)
    above.set_title("one padded row of 128 for each question, and the frame encoded for each", loc="left", fontsize=9.5)
    start = 0
    for frame_number, frame in enumerate(trees):
        first = start
        for tree in frame:
            for offset in range(len(tree.prompt) + len(tree.tokens)):
                color = BLUE if offset < len(tree.prompt) else ORANGE
                below.add_patch(Rectangle((start + offset + 0.04, 0), 0.92, 0.8, color=color, linewidth=0))
            start += len(tree.prompt) + len(tree.tokens)
            below.plot([start, start], [-0.1, 0.9], color="white", linewidth=2)
        below.plot([first + 0.2, start - 0.2], [1.05, 1.05], color=GREEN, linewidth=4, solid_capstyle="butt")
        below.text(
            (first + start) / 2,
            1.2,
            f"frame {frame_number}, once",
            ha="center",
            va="top",
            fontsize=8,
            color=GREEN,
        )
    below.set_xlim(0, width), below.set_ylim(1.9, -0.2)
    below.set_title(f"the packed stream: {total} tokens, and no padding", loc="left", fontsize=9.5)
    for axis in (above, below):
        axis.axis("off")
    figure.tight_layout()
    return figure


def draw_trie(tokenizer: GPT2Tokenizer) -> Figure:
    """A part of the trie of the labels' tokens."""
    ids = [tokenizer.encode(build_target(label)) for label in LABELS]
    trie = LabelTrie(ids)
    wanted = [
        LABELS.index(label)
        for label in ("specimen_bag", "specimenbag", "cystic_artery", "cystic_duct", "grasp", "grasper", "hook", "2")
    ]
    places: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, (len(wanted) - 1) / 2)}
    for row, label in enumerate(wanted):
        places[tuple(ids[label])] = (float(len(ids[label])), float(row))
    deepest = max(len(ids[label]) for label in wanted)
    for depth in range(deepest - 1, 0, -1):
        for prefix in {tuple(ids[label][:depth]) for label in wanted if len(ids[label]) > depth}:
            below = [y for p, (_, y) in places.items() if len(p) == depth + 1 and p[:depth] == prefix]
            places[prefix] = (float(depth), float(np.mean(below)))
    figure, axis = plt.subplots(figsize=(10.5, 3.9))
    for prefix, (x, y) in places.items():
        if prefix:
            px, py = places[prefix[:-1]]
            axis.plot([px * 1.5, x * 1.5], [py, y], color=GREY, linewidth=1, zorder=0)
    for prefix, (x, y) in places.items():
        is_leaf = prefix and any(tuple(ids[label]) == prefix for label in wanted)
        text = _pieces(tokenizer, prefix[-1:])[0] if prefix else "prompt"
        fill = "white" if is_leaf else BLUE if prefix else GREEN
        half = 0.16 + 0.043 * len(text)
        box = FancyBboxPatch(
            (x * 1.5 - half, y - 0.27),
            2 * half,
            0.54,
            boxstyle="round,pad=0.02",
            linewidth=1.2,
            facecolor=fill,
            edgecolor=fill if fill == GREEN else BLUE,
        )
        axis.add_patch(box)
        axis.text(x * 1.5, y, text, ha="center", va="center", fontsize=8.5, color="black" if is_leaf else "white")
        if is_leaf:
            name = LABELS[next(c for c in wanted if tuple(ids[c]) == prefix)]
            axis.text(x * 1.5 + half + 0.12, y, name, va="center", fontsize=8.5, color=GREEN)
    inner, tokens = len(trie.tokens), sum(map(len, ids))
    axis.set_title(
        f"All {len(LABELS)} labels: {tokens} tokens, {len(trie.edges)} edges, {inner} inner nodes (blue). "
        f"Only these run after the prompt.",
        loc="left",
        fontsize=9.5,
    )
    axis.set_xlim(-0.5, deepest * 1.5 + 1.6), axis.set_ylim(len(wanted) - 0.3, -0.7)
    axis.axis("off")
    figure.tight_layout()
    return figure


def draw_encode_ahead(_: GPT2Tokenizer) -> Figure:
    """A schedule of steps, with the encoders step by step and ahead. Lengths are for the eye, not measured."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(10.5, 2.9), sharex=True)
    x = 0.0
    for step in range(5):
        _bar(above, x, 2.0, BLUE, "encode" if step == 0 else "")
        _bar(above, x + 2.0, 1.0, ORANGE, f"{step + 1}")
        x += 3.0
    end = x
    above.set_title("each step encodes its own few questions", loc="left", fontsize=9.5)
    x = 0.0
    _bar(below, x, 3.2, BLUE, "encode 5 steps at once")
    x += 3.2
    for step in range(5):
        _bar(below, x, 1.0, ORANGE, f"{step + 1}")
        x += 1.0
    _bar(below, x, 3.2, "#9ecae1", "the next 5 …")
    below.set_title("the frozen encoders run ahead of the updates (--encode-ahead)", loc="left", fontsize=9.5)
    for axis in (above, below):
        axis.set_xlim(0, end), axis.set_ylim(0, 1)
        axis.axis("off")
    figure.tight_layout()
    return figure


def _bar(axis: Axes, x: float, width: float, color: str, text: str) -> None:
    axis.add_patch(Rectangle((x + 0.03, 0.1), width - 0.06, 0.8, color=color, linewidth=0))
    axis.text(
        x + width / 2, 0.5, text, ha="center", va="center", color="white" if color == BLUE else "black", fontsize=8.5
    )


if __name__ == "__main__":
    main()
