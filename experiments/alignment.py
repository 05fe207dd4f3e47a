"""What ``--text-embeddings aligned`` is worth, measured on small stand-ins pretrained on text alone.

    python -m experiments.alignment [--out runs/alignment] [--seeds 3]     # prints the table of docs/experiments.md

The stand-ins are a random VideoMAE, a BLIP text encoder with its own WordPieces, and a GPT-2 with a byte-level BPE,
saved as the published parts are. They are pretrained on questions in the source domain's wording, whose answer is the
first component or colour that the question names; the video is a black clip. Then LoRA is trained with either setting
on questions in SSG-QA's wording.

``together``: encoder and decoder are pretrained as one chain; the decoder reads the encoder's states from the start.
``apart``: the same encoder, and a decoder pretrained on the same questions as a language model; it has never read the
encoder's states, as GPT-2 has never read BLIP's.
"""

import argparse
import math
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipTextConfig,
    BlipVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
)
from transformers.utils import logging as transformers_logging

from experiments.build_base.source_domain import source_appearance
from experiments.build_base.source_questions import Wording, source_questions
from surgvivqa.config import TextEmbeddings, TrainConfig
from surgvivqa.data.labels import LABEL_INDEX, LABELS
from surgvivqa.data.packing import pack_training
from surgvivqa.data.prompts import build_prompt, build_target
from surgvivqa.data.vocabulary import COLORS, COMPONENTS
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.appearance import TARGET_APPEARANCE
from surgvivqa.synthetic.questions import SceneIndex, generate_candidates
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene, scene_graph
from surgvivqa.synthetic.tokenizer import train_tokenizer
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.schedule import make_optimizer

Asked = tuple[str, int]  # a question and the index of its label
HIDDEN, LAYERS, HEADS, FRAMES, IMAGE = 64, 2, 4, 2, 32
PIECES, TOKENS = 220, 480  # vocabulary sizes: half of the words are single tokens in both
BATCH, LORA_BATCH, MARKS = 64, 32, (0, 50, 200)
_NAMED = re.compile(rf"\b({'|'.join(sorted({*COMPONENTS, *COLORS.values()}))})\b")


def questions(domain: Literal["source", "target"], videos: range) -> list[Asked]:
    """Distinct questions in a domain's wording that name a component or a colour; the first one is the answer."""
    texts: dict[str, None] = {}
    for video in videos:
        rng = np.random.default_rng([7, video])
        for second in (0, 4):
            appearance = source_appearance(7, video, second) if domain == "source" else TARGET_APPEARANCE
            scene = generate_scene(7, video, second)
            graph = scene_graph(scene, render(scene, appearance)[2], f"{video}_{second}")
            scene_index = SceneIndex(graph, appearance.colors)
            if domain == "source":
                texts.update(dict.fromkeys(q.text for q in source_questions(scene_index, Wording(video % 2), rng, 120)))
            else:
                texts.update(dict.fromkeys(c.text for c in generate_candidates(scene_index, rng)))
    found = [(text, _NAMED.search(text)) for text in texts]
    return [(text, LABEL_INDEX[match[1]]) for text, match in found if match]


def word_pieces(texts: Sequence[str], size: int) -> BertTokenizer:
    """Trains an uncased WordPiece tokenizer, as BERT's."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(texts, vocab_size=size, min_frequency=2, show_progress=False)
    return BertTokenizer(vocab=trainer.get_vocab())


def make_stand_ins(out: Path, known: Sequence[Asked], steps: int, seed: int = 0) -> float:
    """Pretrains the chain on text and writes it to ``out``: folders ``video``, ``text`` and ``gpt2``.

    An example is a prompt with the first tokens of its answer, in WordPieces, and the decoder's next token.

    Returns:
        The mean loss of the last tenth of the steps, nats per token.
    """
    torch.manual_seed(seed)
    pieces = word_pieces([f"{build_prompt(q)}{build_target(LABELS[a])}" for q, a in known], PIECES)
    tokenizer = train_tokenizer([q for q, _ in known], TOKENS)
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    sizes["intermediate_size"] = 4 * HIDDEN
    video = VideoMAEForPreTraining(
        VideoMAEConfig(
            **sizes,
            image_size=IMAGE,
            num_frames=FRAMES,
            use_mean_pooling=False,
            decoder_hidden_size=HIDDEN,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=HEADS,
        )
    )
    text = BlipTextConfig(
        **sizes, vocab_size=len(pieces), encoder_hidden_size=HIDDEN, projection_dim=HIDDEN, initializer_range=0.05
    )
    blip = BlipForQuestionAnswering(
        BlipConfig(
            text_config=text.to_dict(),
            vision_config=BlipVisionConfig(**sizes, image_size=IMAGE).to_dict(),
        )
    )
    gpt2 = GPT2LMHeadModel(_gpt2(tokenizer))
    model = SurgViVQAModel(
        SurgViVQAConfig(video.config, text, gpt2.config), {"visual_encoder": video.videomae, "llm": gpt2}
    )
    loss = _pretrain_chain(model, pieces, tokenizer, known, steps, np.random.default_rng(seed))
    video.save_pretrained(out / "video")
    blip.text_encoder.load_state_dict(
        {k: v for k, v in model.text_encoder.state_dict().items() if not k.startswith("pooler.")}
    )
    blip.save_pretrained(out / "text")
    pieces.save_pretrained(out / "text")
    gpt2.save_pretrained(out / "gpt2")
    tokenizer.save_pretrained(out / "gpt2")
    return loss


def _gpt2(tokenizer: Any) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(tokenizer), n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=128, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.05,
    )  # fmt: skip


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _pretrain_chain(
    model: SurgViVQAModel,
    pieces: Any,
    tokenizer: Any,
    known: Sequence[Asked],
    steps: int,
    rng: np.random.Generator,
) -> float:
    answers = _ids(tokenizer, [build_target(label) for label in LABELS])
    said = [["", *(tokenizer.decode(ids[:n]) for n in range(1, len(ids)))] for ids in answers]  # before each token
    trained = [*model.text_encoder.parameters(), *model.llm.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    tokens = black_clip(model)
    losses = []
    model.train()
    for _ in range(steps):
        picked = [known[i] for i in rng.integers(len(known), size=BATCH)]
        places = [int(rng.integers(len(answers[a]))) for _, a in picked]
        texts = [build_prompt(q) + said[a][n] for (q, a), n in zip(picked, places, strict=True)]
        targets = [[answers[a][n]] for (_, a), n in zip(picked, places, strict=True)]
        loss = model(pack_training([_ids(pieces, texts)], [targets], "prefix"), video_tokens=tokens).mean()
        losses.append(_step(loss, trained, optimizer))
        schedule.step()
    return statistics.mean(losses[-max(1, steps // 10) :])


def _step(loss: Tensor, trained: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> float:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def pretrain_decoder_apart(folder: Path, out: Path, known: Sequence[Asked], steps: int, seed: int = 0) -> float:
    """Copies the stand-ins to ``out`` with a decoder pretrained on the same questions as a language model.

    Returns:
        The mean loss of the last tenth of the steps, nats per token.
    """
    shutil.copytree(folder, out)
    tokenizer = build_for_training(run_config(folder, "published", 0)).prompt_tokenizer().tokenizer
    torch.manual_seed(seed)
    model, rng = GPT2LMHeadModel(_gpt2(tokenizer)), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    losses, trained = [], list(model.parameters())
    for _ in range(steps):
        picked = [known[i] for i in rng.integers(len(known), size=BATCH)]
        texts = _ids(tokenizer, [build_prompt(q) + build_target(LABELS[a]) for q, a in picked])
        longest = max(map(len, texts)) + 1
        rows = torch.tensor([[*ids, *[tokenizer.eos_token_id] * (longest - len(ids))] for ids in texts])
        ends = torch.tensor([len(ids) for ids in texts])[:, None]
        loss = model(input_ids=rows, labels=rows.where(torch.arange(longest) <= ends, -100)).loss
        losses.append(_step(loss, trained, optimizer))
        schedule.step()
    model.save_pretrained(out / "gpt2")
    return statistics.mean(losses[-max(1, steps // 10) :])


def black_clip(model: SurgViVQAModel) -> Tensor:
    """Video tokens ``[1, V, hidden]`` of a black clip."""
    with torch.no_grad():
        return model.encode_video(torch.zeros(1, FRAMES, 3, IMAGE, IMAGE))


def run_config(folder: Path, embeddings: TextEmbeddings, seed: int) -> TrainConfig:
    """The flags of a training run on the stand-ins."""
    return TrainConfig(
        video_model=str(folder / "video"),
        text_model=str(folder / "text"),
        decoder_model=str(folder / "gpt2"),
        num_frames=FRAMES,
        text_embeddings=embeddings,
        seed=seed,
        lr=2e-3,
    )


@torch.no_grad()
def held_out_loss(bundle: ModelBundle, asked: Sequence[Asked]) -> float:
    """Mean negative log-likelihood of the true labels, nats per label."""
    bundle.model.eval()
    tokens, total = black_clip(bundle.model), 0.0
    for start in range(0, len(asked), 128):
        total += float(_losses(bundle, asked[start : start + 128], tokens).sum())
    return total / len(asked)


def _losses(bundle: ModelBundle, asked: Sequence[Asked], tokens: Tensor) -> Tensor:
    prompts = bundle.prompt_tokenizer()
    ids = prompts.batch_prompt_ids([q for q, _ in asked])
    answers = [prompts.label_ids[a] for _, a in asked]
    return bundle.model(pack_training([ids], [answers], bundle.settings.mask), video_tokens=tokens)


def fine_tune(
    config: TrainConfig, asked: Sequence[Asked], held_out: Sequence[Asked], marks: Sequence[int] = MARKS
) -> dict[int, float]:
    """Trains LoRA in batches of 32; returns the held-out loss (nats per label) after each of the ``marks`` steps."""
    bundle = build_for_training(config)
    optimizer = make_optimizer(bundle.model, config.lr, config.weight_decay)
    trained = [p for p in bundle.model.parameters() if p.requires_grad]
    tokens, rng, figures = black_clip(bundle.model), np.random.default_rng(config.seed), {}
    for step in range(max(marks) + 1):
        if step in marks:
            figures[step] = held_out_loss(bundle, held_out)
            set_modes(bundle.model)
        if step < max(marks):
            picked = [asked[i] for i in rng.integers(len(asked), size=LORA_BATCH)]
            _step(_losses(bundle, picked, tokens).mean(), trained, optimizer)
    return figures


def main() -> int:
    """Pretrains the stand-ins, fine-tunes them, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to keep the stand-ins in")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="steps of pretraining")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.monotonic()
    scratch = tempfile.TemporaryDirectory()  # removed at exit
    out = options.out or Path(scratch.name)
    known, new = questions("source", range(60)), questions("target", range(100, 112))
    order = np.random.default_rng(0).permutation(len(new))
    held_out, asked = [new[i] for i in order[:1000]], [new[i] for i in order[1000:]]
    order = np.random.default_rng(1).permutation(len(known))
    unseen, known = [known[i] for i in order[:1000]], [known[i] for i in order[1000:]]
    print(f"{len(known)} questions to pretrain on, {len(asked)} to fine-tune on, {len(held_out)} held out", flush=True)
    shares = [n / len(held_out) for n in Counter(a for _, a in held_out).values()]
    print(f"labels at their frequencies: {-sum(p * math.log(p) for p in shares):.2f} nats")
    for kind in ("together", "apart"):
        shutil.rmtree(out / kind, ignore_errors=True)
    loss = make_stand_ins(out / "together", known, options.steps)
    print(f"pretrained together: {loss:.3f} nats per token, {time.monotonic() - started:.0f} s", flush=True)
    loss = pretrain_decoder_apart(out / "together", out / "apart", known, options.steps)
    print(f"decoder alone: {loss:.3f} nats per token, {time.monotonic() - started:.0f} s", flush=True)
    heads = ["stand-ins", "rows", "source wording, 0 steps", *(f"{mark} steps" for mark in MARKS)]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    settings: tuple[TextEmbeddings, ...] = ("published", "aligned")
    for kind in ("together", "apart"):
        for embeddings in settings:
            start = held_out_loss(build_for_training(run_config(out / kind, embeddings, 0)), unseen)
            runs = [fine_tune(run_config(out / kind, embeddings, s), asked, held_out) for s in range(options.seeds)]
            cells = [[run[mark] for run in runs] for mark in MARKS]
            shown = [f"{statistics.mean(c):.2f} ± {statistics.stdev(c) if len(c) > 1 else 0:.2f}" for c in cells]
            lines.append(f"| {kind} | {embeddings} | {start:.2f} | {' | '.join(shown)} |")
            print(lines[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    print("\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
