"""Where the project's time goes, what each optimization brings, and what a larger batch costs.

    python -m benchmarks.profile [--stage NAME]... [--size full|small] [--without NAME]... [--compile]
    python -m benchmarks.profile --ablation [--stage NAME]... [--without NAME]... [--passes N]
    python -m benchmarks.profile --frames

The first form prints self CPU time under torch.profiler of one pass after a warm one, by part and by kind of operation,
with the optimizations of ``--without`` turned off. ``--ablation`` times each optimization turned off on its own, all of
them or those of ``--without``. Every result is compared with the unchanged one (in eval mode, without dropout).
``--frames`` measures training steps of 1, 2, 4 and 8 frames.
"""

import argparse
import contextlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.models import LORA, SIZES
from benchmarks.profiled_stage import PHASES, STAGES, ProfiledStage
from benchmarks.project_model import MASK, ProjectModel
from benchmarks.questions import FRAME_QUESTIONS, make_questions
from benchmarks.switches import WITHOUT, has_effect, patched, without
from benchmarks.timing import time_call, training_step
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.model.dropout import LaneDropout
from surgvivqa.model.modeling import SurgViVQAModel

TOLERANCE = 1e-4

# Parts of the pass by method of the model; the remainder is masks, packing and sums.
PARTS = {
    "encode_video": "VideoMAE",
    "text_states": "BLIP",
    "decoder_states": "GPT-2",
    "log_probs_at": "output layer, log-softmax",
}
OUTSIDE = "masks, packing, sums"
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


def check_equal(stage: ProfiledStage, expected: Tensor, names: Sequence[str]) -> None:
    """Raises SystemExit if a switch changes the numbers."""
    apart = (stage.check() - expected).abs().max().item()
    if not apart <= TOLERANCE:
        raise SystemExit(f"{stage.stage} without {', '.join(names)}: numbers differ by {apart:.1e}.")


@contextlib.contextmanager
def named(model: SurgViVQAModel) -> Iterator[None]:
    """Marks the model's parts as ranges of the profiler."""

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
    """An event and its enclosing events, innermost first."""
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


def profile_pass(stage: ProfiledStage) -> tuple[Counter[tuple[str, str]], float]:
    """Self CPU microseconds by part and kind of one pass after a warm one, and the seconds of that pass."""
    with named(stage.ours.model):
        stage.run()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            took = time_call("cpu", stage.run)
    spent: Counter[tuple[str, str]] = Counter()
    for event in found.events() or ():
        spent[_part(event), _kind(event)] += event.self_cpu_time_total
    return spent, took


def profile_table(stage: str, spent: Counter[tuple[str, str]], took: float, names: Sequence[str]) -> list[str]:
    """A Markdown table of one stage: kinds of operation by part, in per cent of the pass."""
    total = sum(spent.values())
    parts = [p for p in (*PARTS.values(), *PHASES, OUTSIDE) if any(a == p for a, _ in spent)]
    kinds = [k for k in (*KINDS, THIN, DROPOUT, "rest") if any(b == k for _, b in spent)]
    kinds.sort(key=lambda k: -sum(v for (_, b), v in spent.items() if b == k))
    off = f", without {', '.join(names)}" if names else ""
    lines = [
        f"{stage}{off}: {took / FRAME_QUESTIONS:.3g} s per question in the profiled pass; per cent of self CPU time.",
        "",
        f"| kind of operation | {' | '.join(parts)} | all |",
        "| --- " * (len(parts) + 2) + "|",
    ]
    for kind in kinds:
        cells = [100 * spent[part, kind] / total for part in parts]
        lines.append(f"| {kind} | {' | '.join(f'{c:.1f}' if c >= 0.05 else '' for c in cells)} | {sum(cells):.1f} |")
    sums = [100 * sum(v for (a, _), v in spent.items() if a == part) / total for part in parts]
    return [*lines, f"| all | {' | '.join(f'{c:.1f}' for c in sums)} | 100 |"]


def ablation_rows(stage: ProfiledStage, switches: Sequence[str], passes: int) -> list[str]:
    """Rows of a Markdown table: seconds per question with all optimizations, and without each, alternating."""
    model, expected = stage.ours.model, stage.check()
    cases: list[tuple[str, ...]] = [(), *((name,) for name in switches if has_effect(name, stage.stage))]
    times: dict[tuple[str, ...], list[float]] = {case: [] for case in cases}
    for number in range(passes + 1):  # the first pass warms up
        for case in cases:
            with without(case, model):
                if number == 0:
                    check_equal(stage, expected, case)
                took = time_call("cpu", stage.run)
            if number:
                times[case].append(took / FRAME_QUESTIONS)
    least = min(times[()])
    rows = []
    for case, each in times.items():
        change = f"{100 * (min(each) / least - 1):+.0f}%" if case else ""
        rows.append(
            f"| {stage.stage} | {case[0] if case else 'nothing'} | {min(each):.4f} | {max(each):.4f} | {change} |"
        )
    return rows


def frames_table(ours: ProjectModel, video: Tensor, counts: Sequence[int], live: bool) -> list[str]:
    """A Markdown table: seconds per question and peak memory of training steps of 39 questions per frame."""
    model, clip = ours.model, ours.clip
    lines = ["| frames per step | questions | s per question | peak, GB |", "| --- | --- | --- | --- |"]
    for count in counts:  # ascending, since the peak of the process never falls
        some = [make_questions(FRAME_QUESTIONS, seed=n) for n in range(count)]
        packed = pack_training([q.prompts for q in some], [q.answers for q in some], MASK)

        def losses(packed: PackedStream = packed, count: int = count) -> Tensor:
            clips = clip.expand(count, *clip.shape[1:])
            tokens = model.encode_video(clips) if live else video.expand(count, -1, -1)
            return model.question_losses(packed, tokens.float())

        step = training_step(model, losses)
        took = [time_call("cpu", step) for _ in range(3 if count < 4 else 2)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        asked = count * FRAME_QUESTIONS
        lines.append(f"| {count} | {asked} | {min(took) / asked:.3f} | {peak:.2f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def compile_layers(model: SurgViVQAModel) -> None:
    """Compiles each layer of the three parts with torch.compile, which needs a C++ compiler."""
    for layer in (*model.visual_encoder.encoder.layer, *model.text_encoder.encoder.layer, *model.decoder.transformer.h):
        layer.compile()


def main(arguments: list[str] | None = None) -> None:
    """Runs the form that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), action="append", help="may be repeated; default: all")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument(
        "--without", choices=tuple(WITHOUT), action="append", default=[], metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--passes", type=int, default=2, help="timed passes of --ablation (default: 2)")
    parser.add_argument("--frames", action="store_true")
    parser.add_argument(
        "--live", action="store_true", help="with --frames: encode the frames instead of using cached tokens"
    )
    parser.add_argument("--most", type=int, default=8, help="most frames of --frames (default: 8)")
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args(arguments)
    stages = STAGES if not chosen.stage or "all" in chosen.stage else tuple(chosen.stage)
    ours = ProjectModel(chosen.size, "cpu")
    video = ours.encode_video()
    if chosen.frames:
        counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= chosen.most]
        print("\n".join(frames_table(ours, video, counts, chosen.live)))
        return
    if chosen.ablation:
        print("| stage | without | s per question, least | most | change |\n| --- | --- | --- | --- | --- |")
    for name in stages:
        stage = ProfiledStage(ours, name, video)
        if chosen.ablation:
            print("\n".join(ablation_rows(stage, chosen.without or tuple(WITHOUT), chosen.passes)), flush=True)
            continue
        switches = [switch for switch in chosen.without if has_effect(switch, name)]
        expected = stage.check()
        if chosen.compile:
            eager = min(time_call("cpu", stage.run) for _ in range(3))
            compile_layers(ours.model)
            began = time.perf_counter()
            stage.run()
            first = time.perf_counter() - began
            took = min(time_call("cpu", stage.run) for _ in range(3))
            print(
                f"{name}: {eager / FRAME_QUESTIONS:.4f} s per question, compiled {took / FRAME_QUESTIONS:.4f} "
                f"(least of three; first compiled pass {first:.0f} s)"
            )
            check_equal(stage, expected, ["(compiled)"])
            continue
        with without(switches, ours.model):
            check_equal(stage, expected, switches)
            spent, took = profile_pass(stage)
        print("\n".join([*profile_table(name, spent, took, switches), ""]), flush=True)


if __name__ == "__main__":
    main()
