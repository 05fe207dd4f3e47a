"""The two stages of the base's build: the lesson on patches, then questions."""

import abc
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.synthetic.lesson import Lesson, SourceSet, open_eyes, set_words, word_groups
from surgvivqa.synthetic.pretraining import Gaze, SourceBatch, source_batch

if TYPE_CHECKING:
    from surgvivqa.synthetic.build_base import BaseConfig


class Stage(abc.ABC):
    """A stage of the build: a module to train, its steps, and what it does when they are done."""

    name: str
    steps: int
    trained: list[nn.Parameter]
    modules: dict[str, nn.Module]

    @abc.abstractmethod
    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, which is a function of the seed and the step alone, and figures for the log."""

    @abc.abstractmethod
    def figures(self) -> dict[str, float]:
        """Figures on validation videos."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Called once after the last step."""


class LessonStage(Stage):
    """Patches and words (``lesson.py``)."""

    name = "lesson"

    def __init__(
        self, config: "BaseConfig", model: SurgViVQAModel, tokenizer: Any, data: SourceSet, val: SourceSet
    ) -> None:
        self.config, self.model, self.data, self.val, self.steps = config, model, data, val, config.lesson_steps
        self.groups = word_groups(tokenizer)
        self.heads = Lesson(model, self.groups)
        words = model.text_encoder.embeddings.word_embeddings
        self.modules = {"model": model, "heads": self.heads}
        self.trained = [*model.visual_encoder.parameters(), *words.parameters(), *self.heads.parameters()]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.config.seed, 1, step])
        count = min(self.config.lesson_frames, len(self.data.frames))
        chosen = torch.from_numpy(rng.choice(len(self.data.frames), count, replace=False))
        past = torch.from_numpy(rng.random(count) < 0.5) & self.data.moves[chosen]
        light = rng.normal(1, 0.1, (count, 1)) + rng.normal(0, 0.02, (count, 3))
        loss, right = self._of(self.data, chosen, past, torch.from_numpy(light).float())
        return loss, {"component": float(right.mean())}

    def _of(self, data: SourceSet, chosen: Tensor, past: Tensor, light: Tensor | None = None) -> tuple[Tensor, Tensor]:
        clips = data.clips(chosen, past, self.model.config.video_config.num_frames, light)
        tokens = self.model.visual_encoder(pixel_values=clips).last_hidden_state
        loss, right = self.heads(self.model, tokens, data.classes[chosen], data.offsets[chosen], past)
        return loss, right

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        every = torch.arange(0, len(self.val.frames), 4)
        right = [self._of(self.val, part, torch.zeros(len(part), dtype=torch.bool))[1] for part in every.split(64)]
        return {"val_component": float(torch.cat(right).mean())}

    def finish(self) -> None:
        set_words(self.model, self.groups)
        open_eyes(self.model)


class QuestionStage(Stage):
    """Questions with drawn cross-attention (``pretraining.py``), on the lesson's frozen video tokens."""

    name = "questions"

    def __init__(
        self, config: "BaseConfig", model: SurgViVQAModel, tokenizer: Any, data: SourceSet, val: SourceSet
    ) -> None:
        self.config, self.model, self.tokenizer, self.data, self.val = config, model, tokenizer, data, val
        self.steps, self.modules = config.question_steps, {"model": model}
        parts = (*model.text_encoder.named_parameters(), *model.llm.named_parameters())
        self.trained = [p for name, p in parts if not name.startswith("pooler.")]
        self.tokens: dict[str, tuple[Tensor, Tensor]] = {}
        self.gaze = Gaze(model)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.config.seed, 2, step])
        # BLIP learns to read both ways and forwards alone, so that neither mask is a stranger to it.
        mask = "prefix" if rng.random() < 0.6 else "causal"
        batch = self._batch(self.data, rng, mask)
        memory = self._memory("train", self.data, batch)
        answers = self.model.question_losses(batch.packed, memory).mean()
        away, _ = self.gaze.loss(batch.pointers, memory)
        return answers + self.config.gaze * away, {"answers": answers.item(), "gaze": away.item()}

    def _batch(self, data: SourceSet, rng: np.random.Generator, mask: str) -> SourceBatch:
        frames = min(self.config.question_frames, len(data.frames))
        layers = self.model.config.text_config.num_hidden_layers
        return source_batch(data, self.tokenizer, rng, frames, self.config.questions_per_frame, mask, layers)

    def _memory(self, name: str, data: SourceSet, batch: SourceBatch) -> CrossAttentionCache:
        if name not in self.tokens:  # the video encoder is frozen here: each frame is encoded once, still and moving
            self.tokens[name] = (self._encode(data, torch.zeros_like(data.moves)), self._encode(data, data.moves))
        still, moving = self.tokens[name]
        tokens = torch.where(batch.past[:, None, None], moving[batch.chosen], still[batch.chosen])
        return CrossAttentionCache(tokens.float(), reuse=True)

    @torch.no_grad()
    def _encode(self, data: SourceSet, past: Tensor) -> Tensor:
        length = self.model.config.video_config.num_frames
        parts = torch.arange(len(data.frames)).split(64)
        return torch.cat([self.model.encode_video(data.clips(p, past[p], length)).half() for p in parts])

    def finish(self) -> None:
        self.gaze.close()

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        hits: dict[str, list[bool]] = defaultdict(list)
        seen = []
        for number in range(20):
            batch = self._batch(self.val, np.random.default_rng([3, number]), "prefix")
            memory = self._memory("val", self.val, batch)
            hidden = self.model.hidden_states(batch.packed, memory)
            seen.append(self.gaze.loss(batch.pointers, memory)[1])
            places, targets = batch.packed.target_positions, batch.packed.target_ids
            right = self.model.decoder.lm_head(hidden[places]).argmax(-1) == targets
            for n, question in enumerate(batch.questions):  # an answer is right if each of its tokens is the likeliest
                hits[question.kind].append(bool(right[batch.packed.target_question == n].all()))
        shares = {f"gaze_{n}": float(v) for n, v in enumerate(torch.stack(seen).mean(0))}
        by_kind = {f"val_{kind}": float(np.mean(v)) for kind, v in sorted(hits.items())}
        return by_kind | {"val_all": float(np.mean(list(itertools.chain(*hits.values()))))} | shares
