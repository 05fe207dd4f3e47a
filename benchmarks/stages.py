"""Timed stages in a process of their own: ``python -m benchmarks.stages --stage score`` prints one line of JSON.

A process of its own keeps one implementation from affecting the other. Stages of the project can share a process and a
model; the peak memory is then that of the first stage.
"""

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import flops, reference, reference_stages, scaling
from benchmarks.answer_stage import answer
from benchmarks.project_model import MASK, REPEATS, Options
from benchmarks.questions import FRAME_QUESTIONS, LABEL_IDS
from benchmarks.timing import time_call, training_step
from surgvivqa.data.packing import PackedStream
from surgvivqa.model.attention import CrossAttentionCache, build_layouts
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import score_labels

EIGHT = 8  # questions: the published batch
GEMM_SHAPE = (1568, 768, 3072)


def gemm(o: Options) -> dict[str, Any]:
    """The machine's speed: the fp32 matrix product of VideoMAE's first MLP layer, best of 30."""
    rows, wide, out = GEMM_SHAPE
    left, right = torch.randn(rows, wide, device=o.device), torch.randn(wide, out, device=o.device)
    tries = [time_call(o.device, lambda: left @ right) for _ in range(30)]
    return {"seconds": [min(tries)], "questions": 1, "flops_per_second": flops.linear(*GEMM_SHAPE) / min(tries)}


def train(o: Options) -> dict[str, Any]:
    """A training step of all questions about one frame, the frame encoded."""
    ours = o.project_model()
    model, packed = ours.model, ours.packed
    result: dict[str, Any] = {"questions": FRAME_QUESTIONS, "flops": flops.breakdown(ours.config, packed, train=True)}
    if o.round == 1:
        model.eval()
        with torch.no_grad():
            result["losses"] = model.question_losses(packed, model.encode_video(ours.clip)).tolist()
        set_modes(model)
    seconds = ours.time_steps(lambda: model.question_losses(packed, model.encode_video(ours.clip)))
    return result | {"seconds": seconds}


def train_cached(o: Options) -> dict[str, Any]:
    """The same with cached video tokens."""
    ours = o.project_model()
    video = ours.encode_video()
    seconds = ours.time_steps(lambda: ours.model.question_losses(ours.packed, video.float()))
    parts = flops.breakdown(ours.config, ours.packed, video=False, train=True)
    return {"seconds": seconds, "questions": FRAME_QUESTIONS, "flops": parts}


def train_text(o: Options) -> dict[str, Any]:
    """The same with cached BLIP outputs: GPT-2 alone."""
    ours = o.project_model()
    text = ours.text_states(ours.packed, ours.encode_video())
    seconds = ours.time_steps(lambda: ours.losses_of_text_states(ours.packed, text))
    parts = flops.breakdown(ours.config, ours.packed, video=False, text=False, train=True)
    return {"seconds": seconds, "questions": FRAME_QUESTIONS, "flops": parts}


def train_eight(o: Options) -> dict[str, Any]:
    """A training step of eight questions about one frame, the frame encoded: the default flags."""
    ours = o.project_model()
    packed = ours.pack(ours.questions.first(EIGHT))
    seconds = ours.time_steps(lambda: ours.model.question_losses(packed, ours.model.encode_video(ours.clip)))
    return {"seconds": seconds, "questions": EIGHT, "flops": flops.breakdown(ours.config, packed, train=True)}


def train_eight_ahead(o: Options) -> dict[str, Any]:
    """Steps of eight questions, all about one frame, which is encoded once with them (``--shuffle-frames``)."""
    ours = o.project_model()
    parts = [ours.pack(ours.questions.part(n, EIGHT)) for n in range(FRAME_QUESTIONS // EIGHT)]
    questions = EIGHT * len(parts)
    whole = ours.pack(ours.questions.first(questions))
    current: list[tuple[PackedStream, Tensor]] = []
    step = training_step(ours.model, lambda: ours.losses_of_text_states(*current[0]))

    def window() -> None:
        with torch.no_grad():
            video = CrossAttentionCache(ours.model.encode_video(ours.clip))
            text = ours.model.text_states(whole, video, build_layouts(whole, torch.float32)[0])
        for part, states in zip(parts, text.split([len(part.input_ids) for part in parts]), strict=True):
            current[:] = [(part, states)]
            step()

    window()
    seconds = [time_call(o.device, window) for _ in range(REPEATS)]
    parts_of = flops.breakdown(ours.config, whole, train=True)
    return {"seconds": seconds, "questions": questions, "flops": parts_of}


def score(o: Options) -> dict[str, Any]:
    """Scores the 51 labels of all questions about one frame, the frame encoded."""
    ours = o.project_model()
    model, prompts, trie = ours.model.eval(), ours.questions.prompts, LabelTrie(LABEL_IDS)
    found: list[Tensor] = []

    @torch.inference_mode()
    def work() -> None:
        found.append(score_labels(model, [prompts], model.encode_video(ours.clip), trie, MASK))

    with torch.inference_mode():
        score_labels(model, [prompts[:8]], model.encode_video(ours.clip), trie, MASK)
    seconds = [time_call(o.device, work) for _ in range(REPEATS)]
    parts = flops.breakdown(ours.config, scaling.scoring_stream(prompts, trie, MASK))
    compared = found[-1][(o.round - 1) * reference.SCORE_BATCH :][: reference.SCORE_BATCH].tolist()
    return {"seconds": seconds, "questions": FRAME_QUESTIONS, "scores": compared, "flops": parts}


STAGES: dict[str, Callable[[Options], dict[str, Any]]] = {
    "gemm": gemm,
    "reference_train": reference_stages.train,
    "reference_train_memory_kept": reference_stages.train_with_memory_kept,
    "train": train,
    "train_cached": train_cached,
    "train_text": train_text,
    "train_eight": train_eight,
    "train_eight_ahead": train_eight_ahead,
    "reference_score": reference_stages.score,
    "score": score,
    "answer": answer,
    "scale_questions": scaling.questions,
    "scale_labels": scaling.labels,
    "scale_frames": scaling.frames,
}


def peak_bytes(device: str) -> int:
    """Peak memory of this process: on the GPU, or in main memory (``ru_maxrss`` is in KiB on Linux)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_stages(names: Sequence[str], o: Options) -> dict[str, dict[str, Any]]:
    """Runs stages; returns their figures by name, with the peak memory of the first."""
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        results[name] = STAGES[name](o) | {"threads": torch.get_num_threads()}
        if len(results) == 1:
            results[name]["peak_bytes"] = peak_bytes(o.device)
    return results


def main() -> None:
    """Runs the stages named on the command line."""
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
