"""The stage that finds the best label alone, on a model whose adapters are trained first.

Branch and bound depends on how peaked the label distribution is; an untrained model would be no realistic measure.
"""

import random
import time
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import flops
from benchmarks.project_model import MASK, REPEATS, Options, ProjectModel
from benchmarks.questions import FRAME_QUESTIONS, LABEL_IDS, Questions, best_loss_and_accuracy, make_questions
from benchmarks.scaling import scoring_stream
from benchmarks.timing import time_call
from surgvivqa.model.attention import build_layouts
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import find_best_labels

TRAINED_LAYERS, TRAINED_STEPS, TRAINED_BATCH, TRAINED_QUESTIONS, TRAINED_RATE = 3, 200, 16, 480, 2e-3


def answer(o: Options) -> dict[str, Any]:
    """Finds the best label alone: on the untrained model (round 1), and after training the last layers' adapters.

    The questions are other ones than those trained on, of the same kinds (``questions.KINDS``).
    """
    ours = o.project_model()
    model, trie = ours.model, LabelTrie(LABEL_IDS)
    asked = make_questions(FRAME_QUESTIONS, seed=1)
    length = sum(map(len, asked.prompts)) / FRAME_QUESTIONS
    roots = LabelTrie([[token] for token in sorted({ids[0] for ids in LABEL_IDS})])  # which the first pass predicts

    def measure(repeats: int) -> dict[str, Any]:
        model.eval()
        found: list[tuple[Tensor, Tensor, int]] = []

        @torch.inference_mode()
        def work() -> None:
            found.append(find_best_labels(model, [asked.prompts], model.encode_video(ours.clip), trie, MASK))

        work()
        seconds = [time_call(o.device, work) for _ in range(repeats)]
        parts = flops.breakdown(ours.config, scoring_stream(asked.prompts, roots, MASK))
        right = sum(a == b for a, b in zip(found[-1][0].tolist(), asked.labels, strict=True))
        return {
            "seconds": seconds,
            "questions": FRAME_QUESTIONS,
            "nodes_per_question": found[-1][2] / FRAME_QUESTIONS,
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
        result["training_losses"] = _train_last_layers(ours)
        result["training_seconds"] = time.perf_counter() - started
        result["held_out_loss"] = _loss(ours, asked)
        result["best_possible"] = best_loss_and_accuracy()
        save_file({name: p.detach().cpu().contiguous() for name, p in adapters.items()}, kept)
    return result | measure(REPEATS) | ({"untrained": untrained} if untrained else {})


def _loss(ours: ProjectModel, questions: Questions) -> float:
    ours.model.eval()
    with torch.no_grad():
        packed = ours.pack(questions)
        return float(ours.model.question_losses(packed, ours.encode_video().float()).mean())


def _train_last_layers(ours: ProjectModel) -> list[float]:
    """Trains the adapters of GPT-2's last layers on the states below them, computed once; returns the losses."""
    questions = make_questions(TRAINED_QUESTIONS, seed=2, longest=14)  # short, for speed
    video, decoder = ours.encode_video(), ours.model.decoder.transformer
    kept = min(TRAINED_LAYERS, len(decoder.h))
    found: list[Tensor] = []
    ours.model.eval()
    batches = []
    hook = decoder.h[-kept].register_forward_pre_hook(lambda _, states: found.append(states[0][0]))
    with torch.no_grad():
        for number in range(TRAINED_QUESTIONS // TRAINED_BATCH):
            packed = ours.pack(questions.part(number, TRAINED_BATCH))
            text = ours.text_states(packed, video).float()
            ours.model.decoder_states(packed, text, build_layouts(packed, torch.float32)[1])
            batches.append((packed, found.pop() - decoder.wpe(packed.position_ids)))  # which GPT-2 adds again
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
        loss = ours.losses_of_text_states(*batches[step % len(batches)]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    decoder.h = every
    return losses
