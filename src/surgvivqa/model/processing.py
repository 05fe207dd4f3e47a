"""What stands before and after the model, as Hugging Face's tools expect it: images and questions in, answers out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from surgvivqa.data.frames import image_tensor, load_image
from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import normalise_scores
from surgvivqa.utils.errors import InputError, first_line

Picture: TypeAlias = Image.Image | np.ndarray | str | Path


class SurgViVQAProcessor(ProcessorMixin):
    """A tokenizer with how this model wants its frames, clips and prompts.

    Args:
        tokenizer: the decoder's.
        image_size: frames become ``image_size x image_size``.
        num_frames: frames in a clip.
        frame_fit: ``squash``, ``pad`` or ``crop`` (``data.frames.fit_image``).
        clip_stride: seconds between the frames of a ``past`` clip, for whoever gathers them.
        clip_mode: ``repeat`` shows one frame ``num_frames`` times; ``past`` wants the frames before it as well.
        prompt_mode: ``simple`` or ``choices``.
        max_length: longest prompt with its answer, in tokens.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int = 224,
        num_frames: int = 16,
        frame_fit: str = "squash",
        clip_mode: str = "repeat",
        clip_stride: int = 1,
        prompt_mode: str = "simple",
        max_length: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.image_size, self.num_frames = image_size, num_frames
        self.frame_fit, self.clip_mode, self.clip_stride = frame_fit, clip_mode, clip_stride
        self.prompt_mode, self.max_length = prompt_mode, max_length
        self._coder: PromptTokenizer | None = None

    @property
    def prompt_tokenizer(self) -> PromptTokenizer:
        """Prompts and labels to token ids."""
        if self._coder is None:
            self._coder = PromptTokenizer(self.tokenizer, self.prompt_mode, self.max_length)
        return self._coder

    def __call__(
        self,
        images: Picture | Sequence[Picture | Sequence[Picture]],
        text: str | Sequence[str] | Sequence[Sequence[str]],
        **kwargs: Any,
    ) -> BatchFeature:
        """Frames with their questions, as ``SurgViVQAModel.score`` takes them.

        Args:
            images: a picture (PIL's, an array ``[H, W, 3]`` uint8, or a path), or one for each frame; in the place of a
                picture a list makes a clip, oldest first. A clip too short is filled with its first frame, one too
                long keeps its last frames.
            text: a question, the questions about one frame, or such a list for each frame.

        Returns:
            ``pixel_values`` ``[F, T, 3, H, W]`` float32, ``prompts`` (token ids by frame and question) and
            ``label_ids`` (token ids of the 51 labels).

        Raises:
            InputError: an image cannot be read, a question is too long, or frames and lists of questions do not match.
        """
        if kwargs.pop("return_tensors", None) not in (None, "pt"):
            raise InputError("The processor gives PyTorch tensors alone; leave return_tensors out, or give 'pt'.")
        if kwargs:
            raise InputError(f"The processor knows no {', '.join(kwargs)}; it takes images and text alone.")
        frames = [images] if isinstance(images, Picture) else list(images)
        questions: Any = [[text]] if isinstance(text, str) else list(text)
        if questions and isinstance(questions[0], str):
            questions = [questions]
        if len(frames) != len(questions) or not all(questions):
            raise InputError(
                f"{len(frames)} frames but {len(questions)} lists of questions; give each frame a list of at least one."
            )
        prompts = [self.prompt_tokenizer.all_prompt_ids(list(row)) for row in questions]
        longest = max(len(ids) for row in prompts for ids in row) + max(map(len, self.prompt_tokenizer.label_ids))
        if longest > self.max_length:
            raise InputError(f"The question takes {longest} tokens with its answer, but at most {self.max_length} fit.")
        pixels = torch.stack([self._clip(frame) for frame in frames])
        return BatchFeature({"pixel_values": pixels, "prompts": prompts, "label_ids": self.prompt_tokenizer.label_ids})

    def _clip(self, frame: Picture | Sequence[Picture]) -> Tensor:
        pictures = [frame] if isinstance(frame, Picture) else list(frame)[-self.num_frames :]
        if not pictures:
            raise InputError("A clip has no frame.")
        tensors = [self._pixels(picture) for picture in pictures]
        return torch.stack([tensors[0]] * (self.num_frames - len(tensors)) + tensors)

    def _pixels(self, picture: Picture) -> Tensor:
        if isinstance(picture, str | Path):
            return load_image(Path(picture), self.image_size, self.frame_fit)
        try:
            image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
            return image_tensor(image, self.image_size, self.frame_fit)
        except (ValueError, TypeError) as error:
            raise InputError(f"The picture cannot be used ({first_line(error)}).") from None

    def answers(self, scores: Tensor, top: int = 1, norm: str = "sum") -> list[list[tuple[str, float]]]:
        """The likeliest labels with their probabilities, best first, of each question.

        Args:
            scores: ``[Q, 51]``, of ``SurgViVQAModel.score``.
            top: how many.
            norm: ``sum``, or ``mean`` over a label's tokens, as published.
        """
        _, probability = normalise_scores(scores.float(), LabelTrie(self.prompt_tokenizer.label_ids), norm)
        best = probability.sort(dim=1, descending=True, stable=True)
        return [
            [(LABELS[c], float(p)) for c, p in zip(labels[:top], values[:top], strict=True)]
            for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
