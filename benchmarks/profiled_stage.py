"""One stage of the project as a single pass, for profiling and ablation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from benchmarks.project_model import MASK, ProjectModel
from benchmarks.questions import FRAME_QUESTIONS, LABEL_IDS
from benchmarks.switches import TRAINING
from surgvivqa.data.packing import PackedStream, build_answer_chain
from surgvivqa.model import scoring
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import find_best_labels, score_labels

STAGES = (*TRAINING, "score", "answer")
PHASES = ("GPT-2 and output layer, backward", "AdamW")  # ranges of the profiler


class ProfiledStage:
    """One stage of the project: ``run`` is the timed pass, ``check`` returns its numbers without dropout."""

    def __init__(self, ours: ProjectModel, stage: str, video: Tensor) -> None:
        self.ours, self.stage, model = ours, stage, ours.model
        self.questions, trie = FRAME_QUESTIONS, LabelTrie(LABEL_IDS)
        text = ours.text_states(ours.packed, video) if stage == "train_text" else None

        def losses() -> Tensor:
            packed = self.pack()
            if text is not None:
                states = text[ours.packed.sequences.source] if len(packed.input_ids) != len(text) else text
                return ours.losses_of_text_states(packed, states)
            return model.question_losses(packed, model.encode_video(ours.clip) if stage == "train" else video.float())

        @torch.inference_mode()
        def scores() -> Tensor:
            call = find_best_labels if stage == "answer" else score_labels
            found = call(model, [ours.questions.prompts], model.encode_video(ours.clip), trie, MASK)
            return found[1] if isinstance(found, tuple) else found

        if stage in TRAINING:
            set_modes(model)
            self.run, self._numbers = self._step(losses), losses
        else:
            model.eval()
            self.run, self._numbers = scores, scores

    def pack(self) -> PackedStream:
        """Packs the stream as the package does, through ``scoring.pack_stream``, which a switch may replace."""
        packed: PackedStream = vars(scoring)["pack_stream"]([self._trees()], MASK, FRAME_QUESTIONS)
        return packed

    def _trees(self) -> list[Any]:
        asked = self.ours.questions
        pairs = zip(asked.prompts, asked.answers, strict=True)
        return [build_answer_chain(p, a, n, MASK) for n, (p, a) in enumerate(pairs)]

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
