"""Greedy generation of answers as text: for each question the most probable token after token, until end-of-text.

The prompts of all frames of a pass run once, in one packed stream, and fill the KV caches of the text encoder and of
the decoder. Each later step runs one token of every question that is not finished; finished ones leave the batch.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from surgvivqa.data.packing import PackedStream, PaddedLayout, PromptTree, pack_stream
from surgvivqa.model.attention import AttentionLayout, CrossAttentionCache, KVCache, build_layouts

MAX_NEW_TOKENS = 64


class GeneratingModel(Protocol):
    """The methods of ``SurgViVQAModel`` that generation uses."""

    def text_states(self, packed: PackedStream, video: CrossAttentionCache, layout: AttentionLayout) -> Tensor:
        """The text encoder's last hidden states ``[N, hidden]``."""
        ...

    def decoder_states(self, packed: PackedStream, text: Tensor, layout: AttentionLayout) -> Tensor:
        """The decoder's last hidden states ``[N, hidden]``."""
        ...

    def most_probable_tokens(self, packed: PackedStream, hidden: Tensor) -> Tensor:
        """The most probable next token ``[P]`` int64 at each output position of a stream."""
        ...


@torch.inference_mode()
def generate_answers(
    model: GeneratingModel,
    prompts: Sequence[Sequence[Sequence[int]]],
    video: CrossAttentionCache | Tensor,
    mask: str,
    *,
    end: int | None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_length: int | None = None,
) -> list[list[int]]:
    """Generates an answer to each question by greedy decoding.

    Args:
        model: a ``SurgViVQAModel`` in eval mode.
        prompts: token ids of each frame's prompts.
        video: video tokens ``[F, V, hidden]``, or a cache of them that several calls share.
        mask: the mask mode. Under ``bidirectional`` a prompt's states depend on the answer, so nothing can be kept and
            every step runs the whole sequences.
        end: the end-of-text token, which ends an answer and is not part of it; None if there is none.
        max_new_tokens: an answer ends after this many tokens.
        max_length: the maximum length of a prompt with its answer in tokens, at which an answer ends; None for no
            maximum.

    Returns:
        The token ids of each answer, questions in frame order.
    """
    cache = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video, reuse=True)
    questions = _Questions(prompts, end, max_new_tokens, max_length)
    if mask == "bidirectional":
        while questions.active:
            packed = _pack_whole(questions, mask).to(cache.tokens.device)
            questions.append(_run(model, packed, cache, build_layouts(packed, cache.tokens.dtype)))
        return questions.answers
    if not questions.active:
        return questions.answers
    caches = (KVCache(), KVCache())  # the text encoder's and the decoder's
    packed = _pack_whole(questions, mask).to(cache.tokens.device)
    layouts = build_layouts(packed, cache.tokens.dtype)
    for layout, written in zip(layouts, caches, strict=True):
        layout.write_cache = written
    width = max(len(questions.prompts[q]) for q in questions.active)
    rows = questions.append(_run(model, packed, cache, layouts))
    while questions.active:
        packed = _pack_step(questions, width).to(cache.tokens.device)
        kept = torch.tensor(rows, device=cache.tokens.device)
        layouts = build_layouts(packed, cache.tokens.dtype)
        added = (KVCache(), KVCache())
        for layout, earlier, written in zip(layouts, caches, added, strict=True):
            layout.read_cache, layout.read_rows, layout.write_cache = earlier, kept, written
        rows = questions.append(_run(model, packed, cache, layouts))
        for earlier, new in zip(caches, added, strict=True):
            _extend(earlier, new, kept)
    return questions.answers


class _Questions:
    """The questions of a pass and their answers so far.

    Attributes:
        prompts: the prompt of each question.
        frames: the frame of each question.
        num_frames: number of frames.
        answers: the tokens of each answer so far.
        active: the questions whose answer is not finished, in order.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[Sequence[int]]],
        end: int | None,
        max_new_tokens: int,
        max_length: int | None,
    ) -> None:
        self.prompts = [prompt for row in prompts for prompt in row]
        self.frames = [frame for frame, row in enumerate(prompts) for _ in row]
        self.num_frames, self.end = len(prompts), end
        rooms = [max_new_tokens if max_length is None else max_length - len(prompt) for prompt in self.prompts]
        self.limits = [min(max_new_tokens, room) for room in rooms]
        self.answers: list[list[int]] = [[] for _ in self.prompts]
        self.active = [q for q, limit in enumerate(self.limits) if limit > 0]

    def append(self, tokens: Tensor) -> list[int]:
        """Appends the next token ``[active]`` int64 of each active question.

        Returns:
            The places, among the questions that were active, of those that still are.
        """
        places = []
        for place, (q, token) in enumerate(zip(self.active, tokens.tolist(), strict=True)):
            if token == self.end:
                continue
            self.answers[q].append(token)
            if len(self.answers[q]) < self.limits[q]:
                places.append(place)
        self.active = [self.active[place] for place in places]
        return places


def _run(
    model: GeneratingModel,
    packed: PackedStream,
    video: CrossAttentionCache,
    layouts: tuple[AttentionLayout, AttentionLayout],
) -> Tensor:
    """The most probable next token ``[P]`` int64 of each sequence of a stream."""
    text = model.text_states(packed, video, layouts[0])
    return model.most_probable_tokens(packed, model.decoder_states(packed, text, layouts[1]))


def _pack_whole(questions: _Questions, mask: str) -> PackedStream:
    """The whole sequences of the active questions, of which the last token predicts the next one."""
    trees: list[list[PromptTree]] = [[] for _ in range(questions.num_frames)]
    for row, q in enumerate(questions.active):
        answer = questions.answers[q]
        parents = tuple(range(-1, len(answer) - 1))
        # A stream's outputs are those that predict a target; the target itself, token 0, is not used.
        targets = ((len(answer) - 1, 0),)
        trees[questions.frames[q]].append(PromptTree(questions.prompts[q], tuple(answer), parents, targets, row))
    return pack_stream(trees, mask, len(questions.active))


def _pack_step(questions: _Questions, width: int) -> PackedStream:
    """The newest token of each active question, whose earlier tokens are in the caches.

    Args:
        questions: the questions; all active ones have equally many tokens in their answers.
        width: length of the longest prompt, to which the others are padded in the caches.
    """
    active = questions.active
    earlier = len(questions.answers[active[0]]) - 1  # tokens of the answers that are in the caches
    lengths = np.array([len(questions.prompts[q]) for q in active])
    sees = np.ones((len(active), 1, width + earlier + 1), bool)
    sees[:, 0, :width] = np.arange(width) < lengths[:, None]
    counts = np.bincount([questions.frames[q] for q in active], minlength=questions.num_frames)
    mask, places = torch.from_numpy(sees), torch.arange(len(active))
    return PackedStream(
        input_ids=torch.tensor([questions.answers[q][-1] for q in active]),
        position_ids=torch.from_numpy(lengths + earlier),
        sequences=PaddedLayout.of_lengths([1] * len(active)),
        frames=PaddedLayout.of_lengths(counts.tolist()),
        text_mask=mask,
        decoder_mask=mask,
        output_positions=places,
        target_rows=places,
        target_ids=torch.zeros(len(active), dtype=torch.int64),
        target_question=places,
        targets_before=tuple(range(len(active) + 1)),
        num_questions=len(active),
        question_slots=len(active),
    )


def _extend(cache: KVCache, new: KVCache, rows: Tensor) -> None:
    """Adds the keys and values of a step to a cache, and drops the rows that did not take part in it."""
    for module, (key, value) in new.layers.items():
        earlier_key, earlier_value = cache.layers[module]
        cache.layers[module] = (
            torch.cat([earlier_key[rows], key], dim=2),
            torch.cat([earlier_value[rows], value], dim=2),
        )
