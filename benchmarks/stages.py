"""Timed stages, in a process of their own: ``python -m benchmarks.stages --stage score`` prints one line of JSON.

So nothing that one way does to the process reaches the other. Several stages of ours can share a process and a model;
the peak memory is then the first one's alone.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import flops, plain, scaling
from benchmarks.allocator import keep_freed_memory
from benchmarks.full_size import (
    FRAME_QUESTIONS,
    LABEL_IDS,
    Questions,
    best_loss_and_accuracy,
    build_ours,
    make_clip,
    make_questions,
)
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.model.attention import CrossAttentionCache, build_layouts
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel, answer_losses
from surgvivqa.model.scoring import best_labels, score_labels

MASK = "prefix"
GEMM_SHAPE = (1568, 768, 3072)
TRAINED_LAYERS, TRAINED_STEPS, TRAINED_BATCH, TRAINED_QUESTIONS, TRAINED_RATE = 3, 200, 16, 480, 2e-3


@dataclass(frozen=True)
class Options:
    """What a stage needs to know: the size, the device, a folder kept between stages, and which round this is."""

    size: str
    device: str
    work: Path
    round: int = 1
    built: list["Ours"] = field(default_factory=list)

    def ours(self) -> "Ours":
        """Our model, which the stages of one process share."""
        if not self.built:
            self.built.append(Ours(self))
        return self.built[0]

    @property
    def repeats(self) -> int:
        """Timed passes of ours in one process, after one that is not timed."""
        return 2


def clock(device: str, work: Callable[[], Any]) -> float:
    """Seconds of one call, to the end of what it started on the device."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: str) -> None:
    """Until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def stepper(model: nn.Module, loss: Callable[[], Tensor], rate: float = 1e-4) -> Callable[[], Any]:
    """A whole training step on the adapters: gradients from the mean loss, and AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)

    def step() -> None:
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()

    return step


def time_spent_in(module: nn.Module, device: str) -> list[float]:
    """A list that each of the module's forward passes adds its seconds to."""
    spent: list[float] = []

    def before(*_: Any) -> None:
        wait(device)
        spent.append(-time.perf_counter())

    def after(*_: Any) -> None:
        wait(device)
        spent[-1] += time.perf_counter()

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    return spent


def gemm(o: Options) -> dict[str, Any]:
    """The machine's own speed: one fp32 product of VideoMAE's first MLP layer, best of many."""
    rows, wide, out = GEMM_SHAPE
    left, right = torch.randn(rows, wide, device=o.device), torch.randn(wide, out, device=o.device)
    tries = [clock(o.device, lambda: left @ right) for _ in range(30)]
    return {"seconds": [min(tries)], "questions": 1, "flops_a_second": flops.linear(*GEMM_SHAPE) / min(tries)}


def plain_train(o: Options) -> dict[str, Any]:
    """Eight questions of one frame, each with its own clip."""
    model = plain.build_plain(o.size, o.device)
    questions = make_questions(FRAME_QUESTIONS).first(plain.TRAIN_BATCH)
    clip = make_clip(plain.make_config(o.size)).to(o.device)

    def loss(some: Questions) -> Tensor:
        clips = clip.repeat(len(some.prompts), 1, 1, 1, 1)
        return plain.losses(model, some.prompts, some.answers, model.encode_video(clips), MASK)

    result: dict[str, Any] = {"questions": plain.TRAIN_BATCH}
    if o.round == 1:  # once is enough: the weights are those of every round, before any step
        model.eval()
        with torch.no_grad():
            result["losses"] = loss(questions).tolist()
        model.set_modes()
    else:
        stepper(model, lambda: loss(questions.first(1)))()
    result["seconds"] = [clock(o.device, stepper(model, lambda: loss(questions)))]
    return result


def plain_train_kept(o: Options) -> dict[str, Any]:
    """The plain step with freed memory kept, to tell what that alone does."""
    keep_freed_memory()
    return plain_train(o)


def plain_score(o: Options) -> dict[str, Any]:
    """One question with its 51 labels, another one each round (two take twice as long)."""
    model = plain.build_plain(o.size, o.device)
    model.eval()
    questions = make_questions(FRAME_QUESTIONS).part(o.round - 1, plain.SCORE_BATCH)
    clip = make_clip(plain.make_config(o.size)).to(o.device)
    found: list[Tensor] = []

    def score(some: Questions, labels: Sequence[Sequence[int]]) -> None:
        video = model.encode_video(clip.repeat(len(some.prompts), 1, 1, 1, 1))
        found.append(plain.scores(model, some.prompts, labels, video, MASK))

    score(questions, LABEL_IDS[:1])
    spent = time_spent_in(model.llm.base_model.model.lm_head, o.device)
    seconds = clock(o.device, lambda: score(questions, LABEL_IDS))
    return {
        "seconds": [seconds],
        "questions": plain.SCORE_BATCH,
        "scores": found[-1].tolist(),
        "output_layer_seconds": sum(spent),
    }


class Ours:
    """The project's model with one frame of 39 questions."""

    def __init__(self, o: Options) -> None:
        self.model: SurgViVQAModel = build_ours(o.size, o.device)
        self.config = self.model.config
        self.clip = make_clip(self.config).to(o.device)
        self.questions = make_questions(FRAME_QUESTIONS)
        self.packed = self.pack(self.questions, o.device)

    @staticmethod
    def pack(questions: Questions, device: str) -> PackedStream:
        """One frame's stream with its true answers."""
        return pack_training([questions.prompts], [questions.answers], MASK).to(device)

    def encode_video(self) -> Tensor:
        """Video tokens ``[1, V, hidden]``, as a cache would give them: fp16."""
        with torch.no_grad():
            return self.model.encode_video(self.clip).half()

    def text_states(self, packed: PackedStream, video: Tensor) -> Tensor:
        """BLIP's output ``[N, hidden]``, fp16 as above."""
        with torch.no_grad():
            return self.model.text_states(
                packed, CrossAttentionCache(video.float()), build_layouts(packed, torch.float32)[0]
            ).half()

    def losses_of_text(self, packed: PackedStream, text: Tensor) -> Tensor:
        """Losses ``[Q]`` by GPT-2 alone."""
        states = self.model.decoder_states(packed, text.float(), build_layouts(packed, torch.float32)[1])
        return answer_losses(packed, self.model.log_probs_at(packed, states))

    def timed_steps(self, o: Options, loss: Callable[[], Tensor]) -> list[float]:
        """Seconds of training steps, the first one left out."""
        step = stepper(self.model, loss)
        step()
        return [clock(o.device, step) for _ in range(o.repeats)]


def train(o: Options) -> dict[str, Any]:
    """A frame encoded and trained on with all its questions."""
    ours = o.ours()
    model, packed = ours.model, ours.packed
    result: dict[str, Any] = {"questions": FRAME_QUESTIONS, "flops": flops.breakdown(ours.config, packed, train=True)}
    if o.round == 1:
        model.eval()
        with torch.no_grad():
            result["losses"] = model.question_losses(packed, model.encode_video(ours.clip)).tolist()
        set_modes(model)
    seconds = ours.timed_steps(o, lambda: model.question_losses(packed, model.encode_video(ours.clip)))
    return result | {"seconds": seconds}


def train_cached(o: Options) -> dict[str, Any]:
    """The same with the frame's video tokens at hand."""
    ours = o.ours()
    video = ours.encode_video()
    seconds = ours.timed_steps(o, lambda: ours.model.question_losses(ours.packed, video.float()))
    parts = flops.breakdown(ours.config, ours.packed, video=False, train=True)
    return {"seconds": seconds, "questions": FRAME_QUESTIONS, "flops": parts}


def train_text(o: Options) -> dict[str, Any]:
    """The same with BLIP's output at hand: GPT-2 alone."""
    ours = o.ours()
    text = ours.text_states(ours.packed, ours.encode_video())
    seconds = ours.timed_steps(o, lambda: ours.losses_of_text(ours.packed, text))
    parts = flops.breakdown(ours.config, ours.packed, video=False, text=False, train=True)
    return {"seconds": seconds, "questions": FRAME_QUESTIONS, "flops": parts}


def score(o: Options) -> dict[str, Any]:
    """All 51 scores of a frame's questions, the frame encoded too."""
    ours = o.ours()
    model, prompts, trie = ours.model.eval(), ours.questions.prompts, LabelTrie(LABEL_IDS)
    found: list[Tensor] = []

    @torch.inference_mode()
    def work() -> None:
        found.append(score_labels(model, [prompts], model.encode_video(ours.clip), trie, MASK))

    with torch.inference_mode():
        score_labels(model, [prompts[:8]], model.encode_video(ours.clip), trie, MASK)
    seconds = [clock(o.device, work) for _ in range(o.repeats)]
    parts = flops.breakdown(ours.config, scaling.scoring_stream(prompts, trie, MASK))
    compared = found[-1][(o.round - 1) * plain.SCORE_BATCH :][: plain.SCORE_BATCH].tolist()
    return {"seconds": seconds, "questions": FRAME_QUESTIONS, "scores": compared, "flops": parts}


def answer(o: Options) -> dict[str, Any]:
    """The best label alone: on the untrained model (round 1), and on one whose last layers' adapters were trained.

    The questions asked are others of the same kinds (``full_size.KINDS``).
    """
    ours = o.ours()
    model, trie = ours.model, LabelTrie(LABEL_IDS)
    asked = make_questions(FRAME_QUESTIONS, seed=1)
    length = sum(map(len, asked.prompts)) / FRAME_QUESTIONS
    roots = LabelTrie([[token] for token in sorted({ids[0] for ids in LABEL_IDS})])  # what the first pass predicts

    def measure(repeats: int) -> dict[str, Any]:
        model.eval()
        found: list[tuple[Tensor, Tensor, int]] = []

        @torch.inference_mode()
        def work() -> None:
            found.append(best_labels(model, [asked.prompts], model.encode_video(ours.clip), trie, MASK))

        work()
        seconds = [clock(o.device, work) for _ in range(repeats)]
        parts = flops.breakdown(ours.config, scaling.scoring_stream(asked.prompts, roots, MASK))
        right = sum(a == b for a, b in zip(found[-1][0].tolist(), asked.labels, strict=True))
        return {
            "seconds": seconds,
            "questions": FRAME_QUESTIONS,
            "nodes_a_question": found[-1][2] / FRAME_QUESTIONS,
            "accuracy": right / FRAME_QUESTIONS,
            "answers": len(set(found[-1][0].tolist())),
            "flops": flops.add_nodes(ours.config, parts, found[-1][2], length),
        }

    untrained = measure(1) if o.round == 1 else None
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept = o.work / f"adapters-{o.size}.safetensors"
    result: dict[str, Any] = {}
    if kept.exists():
        for name, value in load_file(kept).items():
            adapters[name].data.copy_(value)
    else:
        started = time.perf_counter()
        result["training_losses"] = _train_last_layers(ours, o)
        result["training_seconds"] = time.perf_counter() - started
        result["held_out_loss"] = _loss(ours, asked)
        result["best_possible"] = best_loss_and_accuracy()
        save_file({name: p.detach().cpu().contiguous() for name, p in adapters.items()}, kept)
    return result | measure(o.repeats) | ({"untrained": untrained} if untrained else {})


def _loss(ours: Ours, questions: Questions) -> float:
    ours.model.eval()
    with torch.no_grad():
        packed = ours.pack(questions, str(ours.clip.device))
        return float(ours.model.question_losses(packed, ours.encode_video().float()).mean())


def _train_last_layers(ours: Ours, o: Options) -> list[float]:
    """Trains the adapters of GPT-2's last layers, from the states below them, which are made once; the losses."""
    questions = make_questions(TRAINED_QUESTIONS, seed=2, longest=14)  # short: a few hundred steps in a minute
    video, decoder = ours.encode_video(), ours.model.decoder.transformer
    kept = min(TRAINED_LAYERS, len(decoder.h))
    found: list[Tensor] = []
    ours.model.eval()
    batches = []
    hook = decoder.h[-kept].register_forward_pre_hook(lambda _, states: found.append(states[0][0]))
    with torch.no_grad():
        for number in range(TRAINED_QUESTIONS // TRAINED_BATCH):
            packed = ours.pack(questions.part(number, TRAINED_BATCH), o.device)
            text = ours.text_states(packed, video).float()
            ours.model.decoder_states(packed, text, build_layouts(packed, torch.float32)[1])
            batches.append((packed, found.pop() - decoder.wpe(packed.position_ids)))  # which is added again
    hook.remove()
    every, decoder.h = decoder.h, nn.ModuleList(list(decoder.h)[-kept:])
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=TRAINED_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1.0, (n + 1) / 10, (TRAINED_STEPS - n) / (0.6 * TRAINED_STEPS))
    )
    set_modes(ours.model)
    torch.manual_seed(0)
    losses: list[float] = []
    for step in range(TRAINED_STEPS):
        if step % len(batches) == 0:
            random.Random(step).shuffle(batches)
        optimizer.zero_grad()
        loss = ours.losses_of_text(*batches[step % len(batches)]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    decoder.h = every
    return losses


STAGES: dict[str, Callable[[Options], dict[str, Any]]] = {
    "gemm": gemm,
    "plain_train": plain_train,
    "plain_train_kept": plain_train_kept,
    "train": train,
    "train_cached": train_cached,
    "train_text": train_text,
    "plain_score": plain_score,
    "score": score,
    "answer": answer,
    "scale_questions": scaling.questions,
    "scale_labels": scaling.labels,
    "scale_frames": scaling.frames,
}


def peak_bytes(device: str) -> int:
    """Most memory this process has held: on the GPU, or in main memory (Linux counts ``ru_maxrss`` in KiB)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_stages(names: Sequence[str], o: Options) -> dict[str, dict[str, Any]]:
    """Each stage's figures and threads, and the first one's peak memory (the process never shrinks)."""
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        results[name] = STAGES[name](o) | {"threads": torch.get_num_threads()}
        if len(results) == 1:
            results[name]["peak_bytes"] = peak_bytes(o.device)
    return results


def main() -> None:
    """The stages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, nargs="+", required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--round", type=int, default=1)
    chosen = parser.parse_args()
    print(json.dumps(run_stages(chosen.stage, Options(chosen.size, chosen.device, chosen.work, chosen.round))))


if __name__ == "__main__":
    main()
