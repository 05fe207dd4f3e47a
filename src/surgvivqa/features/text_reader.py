"""Reads the inputs of questions: their cached text states, or what is needed to compute them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.data.packing import PromptTree, answer_chain
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.cache import FeatureCache, compute_tag
from surgvivqa.features.cache_file import Key
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.features.source import FrameRequest, name_frame_in_errors

TokenRange = tuple[int, int]  # the first token of a question in its frame's item, and the one after its last


@dataclass(frozen=True)
class UncachedText:
    """A frame without cached text states: the prompt trees of all its questions, and its clip or video tokens."""

    trees: list[PromptTree]
    video: FrameInputs


@dataclass(frozen=True)
class TextInputs:
    """Some questions of F frames, in the order of the stream that ``pack_training`` makes of them, on the CPU.

    Attributes:
        keys: the cache keys of the F frames.
        token_ranges: for each frame, the tokens of its item that belong to each question.
        uncached: for each frame, what its text states are computed from; None if it is cached.
        states: ``[C, hidden]`` in the cache's dtype, the questions' tokens of the cached frames, one after another.
            None if no frame is cached.
    """

    keys: tuple[Key, ...]
    token_ranges: tuple[tuple[TokenRange, ...], ...]
    uncached: tuple[UncachedText | None, ...]
    states: Tensor | None


def select_tokens(item: Tensor, token_ranges: Sequence[TokenRange]) -> Tensor:
    """The tokens ``[n, hidden]`` of some questions, from the item ``[tokens, hidden]`` of all questions of a frame."""
    return torch.cat([item[start:end] for start, end in token_ranges]) if token_ranges else item[:0]


@dataclass(frozen=True)
class TextReader:
    """Reads text states in a worker process; a frame's image or video tokens only if its text states are not cached.

    An item holds the text encoder's outputs for all questions of a frame in file order: of each question the prompt's
    tokens, then the answer tokens that training feeds. One pass over all questions of a frame has a shape that does not
    depend on the questions that a micro-batch asks for, so an item is the same in every run.
    """

    frames: FrameReader
    prompt_tokenizer: PromptTokenizer
    mask: str
    cache: FeatureCache

    def prompt_trees(self, frame: FrameQuestions) -> list[PromptTree]:
        """The prompt trees of all questions of a frame, as training packs them."""
        prompts = self.prompt_tokenizer.batch_prompt_ids([q.question for q in frame.questions])
        answers = [self.prompt_tokenizer.label_ids[q.label] for q in frame.questions]
        return [
            answer_chain(prompt, answer, n, self.mask)
            for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]

    def key(self, frame: FrameQuestions, trees: Sequence[PromptTree]) -> Key:
        """Returns the cache key of a frame with these questions.

        The tag depends on the clip's image files, the token ids, and where each prompt ends: under ``prefix`` a
        prompt's first token sees its last, but no answer token.

        Raises:
            FrameError: an image of the clip is missing.
        """
        files = self.frames.store.file_states(frame.video, frame.frame)
        ids = [[list(tree.prompt), list(tree.tokens)] for tree in trees]
        return frame.video, frame.frame, compute_tag(files, ids)

    def cached(self, frame: FrameQuestions) -> Tensor | None:
        """Returns the cached item ``[tokens, hidden]`` of a frame with its questions, or None.

        Raises:
            FrameError: an image is missing, or the cache file is damaged there; it names the frame.
        """
        with name_frame_in_errors(frame):
            return self.cache.get(*self.key(frame, self.prompt_trees(frame)))

    def read_requests(self, requests: Sequence[FrameRequest]) -> TextInputs:
        """Returns the inputs of the questions that are asked; see ``FeatureReader``."""
        keys, token_ranges, uncached, states = [], [], [], []
        for frame, chosen in requests:
            trees = self.prompt_trees(frame)
            ends = [0]
            for tree in trees:
                ends.append(ends[-1] + len(tree.prompt) + len(tree.tokens))
            token_ranges.append(tuple((ends[q], ends[q + 1]) for q in chosen))
            with name_frame_in_errors(frame):
                keys.append(self.key(frame, trees))
                item = self.cache.get(*keys[-1])
            if item is not None:
                states.append(select_tokens(item, token_ranges[-1]))
            uncached.append(UncachedText(trees, self.frames.read([frame])) if item is None else None)
        return TextInputs(tuple(keys), tuple(token_ranges), tuple(uncached), torch.cat(states) if states else None)
