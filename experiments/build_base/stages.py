"""The two stages of the build: patches, then questions."""

import abc
import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.build_base.attention_supervision import AttentionSupervision, SourceBatch, source_batch
from experiments.build_base.config import BuildConfig
from experiments.build_base.patch_heads import (
    PatchHeads,
    initialize_cross_attention,
    scale_word_embeddings,
    word_groups,
)
from experiments.build_base.source_frames import SourceFrames
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.modeling import SurgViVQAModel


class Stage(abc.ABC):
    """A stage of the build.

    Attributes:
        name: of its state file and in the log.
        steps: number of training steps.
        trained: the parameters that it trains.
        modules: what its state file holds; ``model`` is the base.
    """

    name: str
    steps: int
    trained: list[nn.Parameter]
    modules: dict[str, nn.Module]

    @abc.abstractmethod
    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, a function of the seed and the step alone, and metrics for the log."""

    @abc.abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics on the validation videos."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Called once after the last step."""

    def set_trainable(self) -> None:
        """Sets training mode and freezes what the stage does not train."""
        for module in self.modules.values():
            module.train()
        self.modules["model"].requires_grad_(False)
        for parameter in self.trained:
            parameter.requires_grad_(True)


class PatchStage(Stage):
    """Classifies patches by words (``patch_heads.py``)."""

    name = "patches"

    def __init__(
        self, config: BuildConfig, model: SurgViVQAModel, tokenizer: Any, data: SourceFrames, val: SourceFrames
    ) -> None:
        self.config, self.model, self.data, self.val, self.steps = config, model, data, val, config.patch_steps
        self.groups = word_groups(tokenizer)
        self.heads = PatchHeads(model, self.groups)
        words = model.text_encoder.embeddings.word_embeddings
        self.modules = {"model": model, "heads": self.heads}
        self.trained = [*model.visual_encoder.parameters(), *words.parameters(), *self.heads.parameters()]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss on patches of random frames, half of them in moving clips, under random light."""
        rng = np.random.default_rng([self.config.seed, 1, step])
        count = min(self.config.patch_frames, len(self.data.frames))
        chosen = torch.from_numpy(rng.choice(len(self.data.frames), count, replace=False))
        past = torch.from_numpy(rng.random(count) < 0.5) & self.data.moves[chosen]
        light = rng.normal(1, 0.1, (count, 1)) + rng.normal(0, 0.02, (count, 3))
        loss, right = self._of(self.data, chosen, past, torch.from_numpy(light).float())
        return loss, {"component": float(right.mean())}

    def _of(
        self, data: SourceFrames, chosen: Tensor, past: Tensor, light: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        clips = data.clips(chosen, past, self.model.config.video_config.num_frames, light)
        tokens = self.model.visual_encoder(pixel_values=clips).last_hidden_state
        loss, right = self.heads(self.model, tokens, data.classes[chosen], data.offsets[chosen], past)
        return loss, right

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share of patches whose component is right."""
        every = torch.arange(0, len(self.val.frames), 4)
        right = [self._of(self.val, part, torch.zeros(len(part), dtype=torch.bool))[1] for part in every.split(64)]
        return {"val_component": float(torch.cat(right).mean())}

    def finish(self) -> None:
        """Starts the word embeddings and the cross-attention of the next stage."""
        scale_word_embeddings(self.model, self.groups)
        initialize_cross_attention(self.model)


class QuestionStage(Stage):
    """Questions with supervised cross-attention (``attention_supervision.py``), on frozen video tokens."""

    name = "questions"

    def __init__(
        self, config: BuildConfig, model: SurgViVQAModel, tokenizer: Any, data: SourceFrames, val: SourceFrames
    ) -> None:
        self.config, self.model, self.tokenizer, self.data, self.val = config, model, tokenizer, data, val
        self.steps, self.modules = config.question_steps, {"model": model}
        parts = (*model.text_encoder.named_parameters(), *model.llm.named_parameters())
        self.trained = [p for name, p in parts if not name.startswith("pooler.")]
        self.tokens: dict[str, tuple[Tensor, Tensor]] = {}
        self.attention = AttentionSupervision(model)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of the answers, and the weighted loss of the supervised attention heads."""
        rng = np.random.default_rng([self.config.seed, 2, step])
        # Both masks, so that BLIP can be fine-tuned under either.
        mask = "prefix" if rng.random() < 0.6 else "causal"
        batch = self._batch(self.data, rng, mask)
        video = self._video("train", self.data, batch)
        answers = self.model.question_losses(batch.packed, video).mean()
        attention, _ = self.attention.loss(batch.attention_targets, video)
        loss = answers + self.config.attention_weight * attention
        return loss, {"answers": answers.item(), "attention": attention.item()}

    def _batch(self, data: SourceFrames, rng: np.random.Generator, mask: str) -> SourceBatch:
        frames = min(self.config.question_frames, len(data.frames))
        layers = self.model.config.text_config.num_hidden_layers
        return source_batch(data, self.tokenizer, rng, frames, self.config.questions_per_frame, mask, layers)

    def _video(self, name: str, data: SourceFrames, batch: SourceBatch) -> CrossAttentionCache:
        if name not in self.tokens:  # frozen here: each frame is encoded once, still and moving
            self.tokens[name] = (self._encode(data, torch.zeros_like(data.moves)), self._encode(data, data.moves))
        still, moving = self.tokens[name]
        tokens = torch.where(batch.past[:, None, None], moving[batch.chosen], still[batch.chosen])
        return CrossAttentionCache(tokens.float(), reuse=True)

    @torch.no_grad()
    def _encode(self, data: SourceFrames, past: Tensor) -> Tensor:
        length = self.model.config.video_config.num_frames
        parts = torch.arange(len(data.frames)).split(64)
        return torch.cat([self.model.encode_video(data.clips(p, past[p], length)).half() for p in parts])

    def finish(self) -> None:
        """Removes the hooks on cross-attention."""
        self.attention.close()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Accuracy by kind of question, and the attention on target patches by layer."""
        hits: dict[str, list[bool]] = defaultdict(list)
        shares = []
        for number in range(20):
            batch = self._batch(self.val, np.random.default_rng([3, number]), "prefix")
            video = self._video("val", self.val, batch)
            hidden = self.model.hidden_states(batch.packed, video)
            shares.append(self.attention.loss(batch.attention_targets, video)[1])
            places, targets = batch.packed.target_positions, batch.packed.target_ids
            right = self.model.decoder.lm_head(hidden[places]).argmax(-1) == targets
            for n, question in enumerate(batch.questions):  # right if each token is the most likely one
                hits[question.kind].append(bool(right[batch.packed.target_question == n].all()))
        by_layer = {f"attention_{n}": float(v) for n, v in enumerate(torch.stack(shares).mean(0))}
        by_kind = {f"val_{kind}": float(np.mean(v)) for kind, v in sorted(hits.items())}
        return by_kind | {"val_all": float(np.mean(list(itertools.chain(*hits.values()))))} | by_layer
