"""Where the time of our stages goes, what each optimisation brings, and what a larger batch costs.

    python -m benchmarks.profile [--stage NAME]... [--size full|small] [--without NAME]... [--compile]
    python -m benchmarks.profile --ablation [--stage train_cached]    each optimisation off in turn
    python -m benchmarks.profile --frames                             1, 2, 4, 8 frames a training step

The first prints self CPU time under torch.profiler of one pass after a warm one, by part and by kind of operation. The
switches of ``--without`` put one optimisation back off, in this process alone, and every result is compared with the
unchanged one (dropout, random in training, without gradients and in eval mode).
"""

import argparse
import contextlib
import dataclasses
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.activations import NewGELUActivation

from benchmarks.full_size import FRAME_QUESTIONS, LABEL_IDS, LORA, SIZES, make_questions
from benchmarks.stages import MASK, Options, Ours, clock, stepper
from surgvivqa.data.packing import PackedStream, PaddedLayout, answer_chain, pack_training
from surgvivqa.model import attention, scoring
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.dropout import LaneDropout
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import best_labels, score_labels

TRAINING = ("train", "train_cached", "train_text")
STAGES = (*TRAINING, "score", "answer")
TOLERANCE = 1e-4

# Parts by the model's methods; what lies in none of them is masks, packing and sums.
PARTS = {
    "encode_video": "VideoMAE",
    "text_states": "BLIP",
    "decoder_states": "GPT-2",
    "log_probs_at": "output layer, log-softmax",
}
OUTSIDE = "masks, packing, sums"
PHASES = ("GPT-2 and output layer, backward", "AdamW")
DROPOUT = "adapters' dropout"
THIN = "adapters' products (rank 8)"
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "slow_conv3d_forward", "convolution"),
    "fused attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "activation": ("gelu", "gelu_backward", "tanh", "tanh_backward", "pow"),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax, log-softmax": ("_softmax", "_log_softmax", "_log_softmax_backward_data", "logsumexp", "exp", "amax"),
    "copies, index": (
        "copy_", "index_select", "index", "index_copy_", "index_put_", "_index_put_impl_", "cat", "fill_", "zero_",
        "gather", "embedding",
    ),
    "sums, products by element": ("add", "add_", "mul", "mul_", "sum", "div", "sub", "neg"),
}  # fmt: skip
KIND_OF = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}


class Work:
    """One stage on our model: ``run`` is what is timed, ``check`` its numbers without dropout."""

    def __init__(self, ours: Ours, stage: str, video: Tensor) -> None:
        self.ours, self.stage, model = ours, stage, ours.model
        self.questions, trie = FRAME_QUESTIONS, LabelTrie(LABEL_IDS)
        text = ours.text_states(ours.packed, video) if stage == "train_text" else None

        def losses() -> Tensor:
            packed = self.pack()
            if text is not None:
                states = text[ours.packed.sequences.source] if len(packed.input_ids) != len(text) else text
                return ours.losses_of_text(packed, states)
            return model.question_losses(packed, model.encode_video(ours.clip) if stage == "train" else video.float())

        @torch.inference_mode()
        def scores() -> Tensor:
            call = best_labels if stage == "answer" else score_labels
            found = call(model, [ours.questions.prompts], model.encode_video(ours.clip), trie, MASK)
            return found[1] if isinstance(found, tuple) else found

        if stage in TRAINING:
            set_modes(model)
            self.run, self._numbers = self._step(losses), losses
        else:
            model.eval()
            self.run, self._numbers = scores, scores

    def pack(self) -> PackedStream:
        """The stream, packed as the product does it; a switch may have put something in between."""
        return scoring.pack_stream([self._blocks()], MASK, FRAME_QUESTIONS)

    def _blocks(self) -> list[Any]:
        asked = self.ours.questions
        pairs = zip(asked.prompts, asked.answers, strict=True)
        return [answer_chain(p, a, n, MASK) for n, (p, a) in enumerate(pairs)]

    def _step(self, losses: Callable[[], Tensor]) -> Callable[[], Any]:
        model = self.ours.model
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)

        def step() -> None:
            optimizer.zero_grad()
            loss = losses().mean()
            with record_function(PHASES[0]):
                loss.backward()
            with record_function(PHASES[1]):
                optimizer.step()

        return step

    def check(self) -> Tensor:
        """Losses or scores in eval mode."""
        model = self.ours.model
        model.eval()
        try:
            with torch.no_grad():
                return self._numbers()
        finally:
            if self.stage in TRAINING:
                set_modes(model)


@contextlib.contextmanager
def patched(target: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute set for a while."""
    missing = object()
    before = vars(target).get(name, missing)
    setattr(target, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(target, name)
        else:
            setattr(target, name, before)


def _eager(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    weights = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (weights if attn_mask is None else weights + attn_mask).softmax(dim=-1) @ value


def without_dropout(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """PyTorch's dropout for the adapters."""
    return patched(LaneDropout, "forward", nn.Dropout.forward)


@contextlib.contextmanager
def without_activation(model: SurgViVQAModel) -> Iterator[None]:
    """GPT-2's activation as in Transformers, eight operations."""
    layers = [layer.mlp for layer in model.decoder.transformer.h]
    before = [layer.act for layer in layers]
    for layer in layers:
        layer.act = NewGELUActivation()
    try:
        yield
    finally:
        for layer, act in zip(layers, before, strict=True):
            layer.act = act


def without_blip_sdpa(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """BLIP's attention as in Transformers: products, masks and softmax one after another."""
    stock, fused = model.text_states, attention.scaled_dot_product_attention

    def text_states(*args: Any) -> Tensor:
        with patched(attention, "scaled_dot_product_attention", lambda *a, dropout_p=0.0, **k: _eager(*a, **k)):
            return stock(*args)

    assert fused is torch.nn.functional.scaled_dot_product_attention
    return patched(model, "text_states", text_states)


def without_shared_keys(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Cross-attention's keys and values made for each question anew (one frame a step)."""
    stock = model.text_states

    def text_states(packed: PackedStream, video: CrossAttentionCache, layout: Any) -> Tensor:
        each = CrossAttentionCache(video.tokens.expand(packed.sequences.num_groups, -1, -1))
        return stock(dataclasses.replace(packed, frames=packed.sequences), each, layout)

    return patched(model, "text_states", text_states)


def without_gather(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Logits and log-softmax at every position."""

    def log_probs_at(packed: PackedStream, hidden: Tensor) -> Tensor:
        logs = model.decoder.lm_head(hidden).log_softmax(dim=-1)
        return logs[packed.target_positions, packed.target_ids]

    return patched(model, "log_probs_at", log_probs_at)


def without_packing(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Every question padded to the longest of the step, in the linear layers too (one frame a step)."""
    stock = scoring.pack_stream

    def pack_stream(*args: Any, **kwargs: Any) -> PackedStream:
        packed = stock(*args, **kwargs)
        blocks, places = packed.sequences, torch.arange(len(packed.sequences.source))
        return dataclasses.replace(
            packed,
            input_ids=packed.input_ids[blocks.source],
            position_ids=packed.position_ids[blocks.source],
            sequences=PaddedLayout(places, places, blocks.num_groups),
            frames=PaddedLayout(places, places, packed.frames.num_groups),
            target_positions=blocks.slots[packed.target_positions],
        )

    return patched(scoring, "pack_stream", pack_stream)


WITHOUT: dict[str, Callable[[SurgViVQAModel], contextlib.AbstractContextManager[None]]] = {
    "packing": without_packing,
    "gather": without_gather,
    "shared-keys": without_shared_keys,
    "blip-sdpa": without_blip_sdpa,
    "activation": without_activation,
    "dropout": without_dropout,
}


def changes(name: str, stage: str) -> bool:
    """Whether a switch has anything to switch off in a stage."""
    if name == "dropout":
        return stage in TRAINING
    return not (stage == "train_text" and name in ("shared-keys", "blip-sdpa"))


@contextlib.contextmanager
def without(names: Sequence[str], model: SurgViVQAModel) -> Iterator[None]:
    """Several switches at once."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(WITHOUT[name](model))
        yield


def assert_equal(work: Work, expected: Tensor, names: Sequence[str]) -> None:
    """Exits where a switch changes the numbers."""
    apart = (work.check() - expected).abs().max().item()
    if not apart <= TOLERANCE:
        raise SystemExit(f"{work.stage} without {', '.join(names)}: numbers differ by {apart:.1e}.")


@contextlib.contextmanager
def named(model: SurgViVQAModel) -> Iterator[None]:
    """The model's parts as ranges of the profiler."""

    def ranged(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return method(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for name, part in PARTS.items():
            stack.enter_context(patched(model, name, ranged(part, getattr(model, name))))
        for module in model.modules():
            if isinstance(module, LaneDropout):
                stack.enter_context(patched(module, "forward", ranged(DROPOUT, module.forward)))
        yield


def _chain(event: Any) -> Iterator[Any]:
    """An event and those it lies in, innermost first."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _kind(event: Any) -> str:
    chain = list(_chain(event))
    if any(e.name == DROPOUT for e in chain):
        return DROPOUT
    for e in chain:
        if e.name in KIND_OF:
            thin = KIND_OF[e.name] == "matrix products" and any(LORA["r"] in shape for shape in e.input_shapes or ())
            return THIN if thin else KIND_OF[e.name]
    return "rest"


def _part(event: Any) -> str:
    return next((e.name for e in _chain(event) if e.name in (*PARTS.values(), *PHASES)), OUTSIDE)


def shares(work: Work) -> tuple[Counter[tuple[str, str]], float]:
    """Self CPU microseconds by part and kind of one pass after a warm one, and that pass's seconds."""
    with named(work.ours.model):
        work.run()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            took = clock("cpu", work.run)
    spent: Counter[tuple[str, str]] = Counter()
    for event in found.events() or ():
        spent[_part(event), _kind(event)] += event.self_cpu_time_total
    return spent, took


def described(stage: str, spent: Counter[tuple[str, str]], took: float, names: Sequence[str]) -> list[str]:
    """One stage's table in Markdown: kinds of operations by parts, in per cent of the pass."""
    total = sum(spent.values())
    parts = [p for p in (*PARTS.values(), *PHASES, OUTSIDE) if any(a == p for a, _ in spent)]
    kinds = [k for k in (*KINDS, THIN, DROPOUT, "rest") if any(b == k for _, b in spent)]
    kinds.sort(key=lambda k: -sum(v for (_, b), v in spent.items() if b == k))
    off = f", without {', '.join(names)}" if names else ""
    lines = [
        f"{stage}{off}: {took / FRAME_QUESTIONS:.3g} s a question in the profiled pass; per cent of its self CPU time.",
        "",
        f"| kind of operation | {' | '.join(parts)} | all |",
        "| --- " * (len(parts) + 2) + "|",
    ]
    for kind in kinds:
        cells = [100 * spent[part, kind] / total for part in parts]
        lines.append(f"| {kind} | {' | '.join(f'{c:.1f}' if c >= 0.05 else '' for c in cells)} | {sum(cells):.1f} |")
    sums = [100 * sum(v for (a, _), v in spent.items() if a == part) / total for part in parts]
    return [*lines, f"| all | {' | '.join(f'{c:.1f}' for c in sums)} | 100 |"]


def ablation(work: Work, passes: int) -> list[str]:
    """Rows of a Markdown table: seconds a question with all on, and with each switch off, in turns."""
    model, expected = work.ours.model, work.check()
    cases: list[tuple[str, ...]] = [(), *((name,) for name in WITHOUT if changes(name, work.stage))]
    times: dict[tuple[str, ...], list[float]] = {case: [] for case in cases}
    for number in range(passes + 1):  # the first is not kept
        for case in cases:
            with without(case, model):
                if number == 0:
                    assert_equal(work, expected, case)
                took = clock("cpu", work.run)
            if number:
                times[case].append(took / FRAME_QUESTIONS)
    least = min(times[()])
    rows = []
    for case, each in times.items():
        change = f"{100 * (min(each) / least - 1):+.0f}%" if case else ""
        rows.append(
            f"| {work.stage} | {case[0] if case else 'nothing'} | {min(each):.4f} | {max(each):.4f} | {change} |"
        )
    return rows


def frames_a_step(ours: Ours, video: Tensor, counts: Sequence[int], live: bool) -> list[str]:
    """A Markdown table: seconds a question and peak memory of training steps of 39 questions a frame."""
    model, size = ours.model, ours.clip
    lines = ["| frames a step | questions | s a question | peak, GB |", "| --- | --- | --- | --- |"]
    for count in counts:  # ascending: the process's peak is that of the largest so far
        some = [make_questions(FRAME_QUESTIONS, seed=n) for n in range(count)]
        packed = pack_training([q.prompts for q in some], [q.answers for q in some], MASK)

        def losses(packed: PackedStream = packed, count: int = count) -> Tensor:
            clips = size.expand(count, *size.shape[1:])
            tokens = model.encode_video(clips) if live else video.expand(count, -1, -1)
            return model.question_losses(packed, tokens.float())

        step = stepper(model, losses)
        took = [clock("cpu", step) for _ in range(3 if count < 4 else 2)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        asked = count * FRAME_QUESTIONS
        lines.append(f"| {count} | {asked} | {min(took) / asked:.3f} | {peak:.2f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def compile_layers(model: SurgViVQAModel) -> None:
    """Each layer of the three parts under torch.compile, which needs a C++ compiler."""
    for layer in (*model.visual_encoder.encoder.layer, *model.text_encoder.encoder.layer, *model.decoder.transformer.h):
        layer.compile()


def main(arguments: list[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), action="append", help="may be repeated; default: all")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--without", choices=tuple(WITHOUT), action="append", default=[], metavar="NAME")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--passes", type=int, default=2, help="of --ablation, timed ones (default: 2)")
    parser.add_argument("--frames", action="store_true")
    parser.add_argument("--live", action="store_true", help="of --frames: encode them instead of having their tokens")
    parser.add_argument("--most", type=int, default=8, help="of --frames (default: 8)")
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args(arguments)
    stages = STAGES if not chosen.stage or "all" in chosen.stage else tuple(chosen.stage)
    ours = Ours(Options(chosen.size, "cpu", Path()))
    video = ours.encode_video()
    if chosen.frames:
        counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= chosen.most]
        print("\n".join(frames_a_step(ours, video, counts, chosen.live)))
        return
    if chosen.ablation:
        print("| stage | without | s a question, least | most | change |\n| --- | --- | --- | --- | --- |")
    for stage in stages:
        work = Work(ours, stage, video)
        if chosen.ablation:
            print("\n".join(ablation(work, chosen.passes)), flush=True)
            continue
        names = [name for name in chosen.without if changes(name, stage)]
        expected = work.check()
        if chosen.compile:
            plain = min(clock("cpu", work.run) for _ in range(3))
            compile_layers(ours.model)
            began = time.perf_counter()
            work.run()
            first = time.perf_counter() - began
            took = min(clock("cpu", work.run) for _ in range(3))
            print(
                f"{stage}: {plain / FRAME_QUESTIONS:.4f} s a question, compiled {took / FRAME_QUESTIONS:.4f} "
                f"(least of three; first compiled pass {first:.0f} s)"
            )
            assert_equal(work, expected, ["(compiled)"])
            continue
        with without(names, ours.model):
            assert_equal(work, expected, names)
            spent, took = shares(work)
        print("\n".join([*described(stage, spent, took, names), ""]), flush=True)


if __name__ == "__main__":
    main()
