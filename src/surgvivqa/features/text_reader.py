"""What a step is given of some questions: the text encoder's outputs where a cache has them, else what makes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.data.packing import PromptTree, answer_chain
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.cache import FeatureStore, tag_of
from surgvivqa.features.cache_file import Key
from surgvivqa.features.frame_reader import FrameInputs, FrameReader, attach_frame

Span = tuple[int, int]  # the first row of a question in its frame's item, and the one after its last


@dataclass(frozen=True)
class UnmadeText:
    """A frame without cached text states: the prompt trees of all its questions, and its clip or video tokens."""

    trees: list[PromptTree]
    video: FrameInputs


@dataclass(frozen=True)
class TextInputs:
    """Some questions of F frames, in the order of the stream that ``pack_training`` makes of them.

    ``keys`` are the F cache keys and ``spans`` says which rows of each frame's item are the questions'. ``states``
    ``[C, hidden]`` in the cache's dtype has these rows of the frames that are cached, one after another (None for
    none); ``unmade`` has the others, None where a frame is cached.
    """

    keys: tuple[Key, ...]
    spans: tuple[tuple[Span, ...], ...]
    unmade: tuple[UnmadeText | None, ...]
    states: Tensor | None


def rows_of(item: Tensor, spans: Sequence[Span]) -> Tensor:
    """The rows ``[n, hidden]`` of some questions, from an item ``[rows, hidden]`` of all their frame's."""
    return torch.cat([item[start:end] for start, end in spans]) if spans else item[:0]


@dataclass(frozen=True)
class TextReader:
    """Reads text states in a worker process: a frame's image and video tokens only where the cache has none.

    An item holds the text encoder's outputs of all questions of a frame in their order: of each the prompt's tokens,
    then the answer tokens that training feeds. One item a frame, because that is what one pass makes in a shape of its
    own, whichever questions a micro-batch asks for.
    """

    frames: FrameReader
    prompt_tokenizer: PromptTokenizer
    mask: str
    cache: FeatureStore

    def prompt_trees(self, frame: FrameQuestions) -> list[PromptTree]:
        """The prompt trees of all questions of a frame, as training packs them."""
        prompts = self.prompt_tokenizer.batch_prompt_ids([q.question for q in frame.questions])
        answers = [self.prompt_tokenizer.label_ids[q.label] for q in frame.questions]
        return [
            answer_chain(prompt, answer, n, self.mask)
            for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]

    def key(self, frame: FrameQuestions, trees: Sequence[PromptTree]) -> Key:
        """The cache key of a frame with these questions: images' state and token ids are in the tag.

        Where a prompt ends is in it too: under ``prefix`` a prompt's first token sees its last, but no answer token.

        Raises:
            FrameError: an image of its clip is missing.
        """
        stamp = self.frames.store.stamp(frame.video, frame.frame)
        ids = [[list(tree.prompt), list(tree.tokens)] for tree in trees]
        return frame.video, frame.frame, tag_of(stamp, ids)

    def cached(self, frame: FrameQuestions) -> Tensor | None:
        """What the cache has of a frame with its questions.

        Raises:
            FrameError: as ``read_rows``.
        """
        with attach_frame(frame):
            return self.cache.get(*self.key(frame, self.prompt_trees(frame)))

    def read_rows(self, picked: Sequence[tuple[FrameQuestions, Sequence[int]]]) -> TextInputs:
        """Frames, each with the indices of the questions that are asked.

        Raises:
            FrameError: an image, or what a cache file holds of a frame, cannot be used; it names the frame.
            InputError: a whole cache file is damaged.
        """
        keys, spans, unmade, states = [], [], [], []
        for frame, chosen in picked:
            trees = self.prompt_trees(frame)
            ends = [0]
            for tree in trees:
                ends.append(ends[-1] + len(tree.prompt) + len(tree.tokens))
            spans.append(tuple((ends[q], ends[q + 1]) for q in chosen))
            with attach_frame(frame):
                keys.append(self.key(frame, trees))
                item = self.cache.get(*keys[-1])
            if item is not None:
                states.append(rows_of(item, spans[-1]))
            unmade.append(UnmadeText(trees, self.frames.read([frame])) if item is None else None)
        return TextInputs(tuple(keys), tuple(spans), tuple(unmade), torch.cat(states) if states else None)
