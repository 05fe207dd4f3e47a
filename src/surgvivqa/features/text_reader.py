"""Reads the inputs of questions: their cached text states, or the inputs of the text encoder."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgvivqa.data.packing import PromptTree, build_answer_chain
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.cache import FeatureCache, compute_tag
from surgvivqa.features.cache_file import Key
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.features.source import FrameRequest, name_frame_in_errors

TokenRange = tuple[int, int]  # start and end (exclusive) of a question's tokens in the item of its frame


@dataclass(frozen=True)
class UncachedText:
    """A frame without cached text states.

    Attributes:
        trees: the prompt trees of all questions about the frame.
        video: its clip or its cached video tokens.
    """

    trees: list[PromptTree]
    video: FrameInputs


@dataclass(frozen=True)
class TextInputs:
    """Questions about F frames, in the order in which ``pack_training`` packs them, on the CPU.

    Attributes:
        keys: the cache keys of the F frames.
        token_ranges: for each frame, the tokens of each selected question in the frame's item.
        uncached: for each frame, the inputs that its text states are computed from; None if they are cached.
        states: ``[n, hidden]`` in the cache's dtype, the selected questions' text states of the cached frames, one
            after another. None if no frame is cached.
    """

    keys: tuple[Key, ...]
    token_ranges: tuple[tuple[TokenRange, ...], ...]
    uncached: tuple[UncachedText | None, ...]
    states: Tensor | None

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "TextInputs":
        """The inputs with ``function`` applied to the cached text states; what is not cached stays on the CPU."""
        return dataclasses.replace(self, states=None if self.states is None else function(self.states))


def select_tokens(item: Tensor, token_ranges: Sequence[TokenRange]) -> Tensor:
    """Selects the rows ``[n, hidden]`` of questions from the item ``[tokens, hidden]`` of all questions of a frame."""
    return torch.cat([item[start:end] for start, end in token_ranges]) if token_ranges else item[:0]


@dataclass(frozen=True)
class TextReader:
    """Reads text states in a worker process; reads a frame's image or video tokens if its text states are not cached.

    An item ``[tokens, hidden]`` holds the text encoder's outputs for all questions about a frame in file order: for
    each question the prompt's tokens, then the answer tokens that training feeds. The pass that computes it has the
    same shape whichever questions a micro-batch selects, so an item is the same in every run.

    Attributes:
        frames: reads the frames.
        prompt_tokenizer: converts prompts and labels to token ids.
        mask: the mask mode.
        cache: the cache of text states.
    """

    frames: FrameReader
    prompt_tokenizer: PromptTokenizer
    mask: str
    cache: FeatureCache

    @property
    def bytes_per_frame(self) -> int:
        """Size of a frame's clip in bytes."""
        return self.frames.bytes_per_frame

    def prompt_trees(self, frame: FrameQuestions) -> list[PromptTree]:
        """Builds the prompt trees of all questions about a frame, as training packs them."""
        prompts = self.prompt_tokenizer.batch_prompt_ids([q.question for q in frame.questions])
        answers = [self.prompt_tokenizer.target_ids(q) for q in frame.questions]
        return [
            build_answer_chain(prompt, answer, n, self.mask)
            for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]

    def cache_key(self, frame: FrameQuestions, trees: Sequence[PromptTree]) -> Key:
        """The cache key of a frame with these prompt trees.

        The tag depends on the clip's image files, the token ids, and where each prompt ends, because under ``prefix``
        a prompt's tokens see the whole prompt, but no answer token.

        Raises:
            FrameError: an image of the clip is missing.
        """
        shown = self.frames.store.shown(frame.video, frame.frame)
        files: list[Any] = self.frames.store.file_states(*shown)
        if shown != (frame.video, frame.frame):
            files = [*shown, files]
        ids = [[list(tree.prompt), list(tree.tokens)] for tree in trees]
        return frame.video, frame.frame, compute_tag(files, ids)

    def read_cached(self, frame: FrameQuestions) -> Tensor | None:
        """Reads a frame's item ``[tokens, hidden]`` in the cache's dtype; None if it is not cached.

        Raises:
            FrameError: an image is missing, or the frame's item in a cache file is damaged; the error names the frame.
            InputError: a cache file is damaged as a whole.
        """
        with name_frame_in_errors(frame):
            return self.cache.get(*self.cache_key(frame, self.prompt_trees(frame)))

    def read_requests(self, requests: Sequence[FrameRequest]) -> TextInputs:
        """Reads the inputs of the selected questions (see ``FeatureReader``)."""
        keys, token_ranges, uncached, states = [], [], [], []
        for frame, chosen in requests:
            trees = self.prompt_trees(frame)
            ends = [0]
            for tree in trees:
                ends.append(ends[-1] + len(tree.prompt) + len(tree.tokens))
            token_ranges.append(tuple((ends[q], ends[q + 1]) for q in chosen))
            with name_frame_in_errors(frame):
                keys.append(self.cache_key(frame, trees))
                item = self.cache.get(*keys[-1])
            if item is not None:
                states.append(select_tokens(item, token_ranges[-1]))
            uncached.append(UncachedText(trees, self.frames.read([frame])) if item is None else None)
        return TextInputs(tuple(keys), tuple(token_ranges), tuple(uncached), torch.cat(states) if states else None)
