"""The Hugging Face processor: converts images and questions to model inputs, and scores to answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from surgvivqa.data.frames import image_to_tensor, load_image
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.model.configuration import label_set_of
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import normalise_scores
from surgvivqa.utils.errors import InputError, first_line

Picture: TypeAlias = Image.Image | np.ndarray | str | Path


class SurgViVQAProcessor(ProcessorMixin):
    """The decoder's tokenizer with the frame, clip and prompt settings of a model.

    Args:
        tokenizer: the decoder's tokenizer.
        image_size: frames become ``image_size x image_size``.
        num_frames: frames per clip.
        frame_fit: ``squash``, ``pad`` or ``crop`` (``data.frames.fit_image``).
        clip_mode: ``repeat`` for clips that repeat one frame; ``past`` for clips that end with the frame in question.
        clip_stride: seconds between the frames of a ``past`` clip, for callers that collect the frames.
        prompt_mode: ``simple`` or ``choices``.
        max_length: the maximum length of a prompt with its answer, in tokens.
        labels: the labels that the model chooses from; None for SSG-QA's.
        label_set_name: the name of their set.
        **kwargs: passed on to ``ProcessorMixin``.

    Raises:
        InputError: the labels cannot be used.
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
        labels: Sequence[str] | None = None,
        label_set_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.image_size, self.num_frames = image_size, num_frames
        self.frame_fit, self.clip_mode, self.clip_stride = frame_fit, clip_mode, clip_stride
        self.prompt_mode, self.max_length = prompt_mode, max_length
        self.label_set = label_set_of(labels, label_set_name)
        if labels is not None:  # an attribute is saved; without it the file is as before label sets
            self.labels, self.label_set_name = list(labels), self.label_set.name
        self._prompt_tokenizer: PromptTokenizer | None = None

    @property
    def prompt_tokenizer(self) -> PromptTokenizer:
        """The tokenizer of prompts and labels."""
        if self._prompt_tokenizer is None:
            self._prompt_tokenizer = PromptTokenizer(
                self.tokenizer, self.prompt_mode, self.max_length, labels=self.label_set.labels
            )
        return self._prompt_tokenizer

    def __call__(
        self,
        images: Picture | Sequence[Picture | Sequence[Picture]],
        text: str | Sequence[str] | Sequence[Sequence[str]],
        **kwargs: Any,
    ) -> BatchFeature:
        """Converts frames with their questions to the arguments of ``SurgViVQAModel.score``.

        Args:
            images: a picture (a PIL image, an array ``[H, W, 3]`` uint8, or a path), or a list with one for each frame.
                A list in place of a picture is a clip, oldest frame first. A short clip is padded with its first frame;
                a long clip is cut to its last frames.
            text: a question, a list of questions about one frame, or such a list for each frame.
            **kwargs: only ``return_tensors="pt"`` is accepted.

        Returns:
            ``pixel_values`` ``[F, T, 3, H, W]`` float32, ``prompts`` (token ids of each frame's questions) and
            ``label_ids`` (token ids of the C labels).

        Raises:
            InputError: an image cannot be used, a question is too long, the numbers of frames and of lists of questions
                differ, or an argument is not supported.
        """
        if kwargs.pop("return_tensors", None) not in (None, "pt"):
            raise InputError("The processor returns only PyTorch tensors; leave out return_tensors, or use 'pt'.")
        if kwargs:
            raise InputError(f"The processor has no argument {', '.join(kwargs)}; it takes images and text.")
        frames = [images] if isinstance(images, Picture) else list(images)
        questions: Any = [[text]] if isinstance(text, str) else list(text)
        if questions and isinstance(questions[0], str):
            questions = [questions]
        if len(frames) != len(questions) or not all(questions):
            raise InputError(
                f"There are {len(frames)} frames but {len(questions)} lists of questions; give each frame a list of at "
                f"least one question."
            )
        prompts = [self.prompt_tokenizer.batch_prompt_ids(list(row)) for row in questions]
        longest = max(len(ids) for row in prompts for ids in row) + max(map(len, self.prompt_tokenizer.label_ids))
        if longest > self.max_length:
            raise InputError(f"The question takes {longest} tokens with its answer, but at most {self.max_length} fit.")
        pixels = torch.stack([self._load_clip(frame) for frame in frames])
        return BatchFeature({"pixel_values": pixels, "prompts": prompts, "label_ids": self.prompt_tokenizer.label_ids})

    def _load_clip(self, frame: Picture | Sequence[Picture]) -> Tensor:
        """The clip ``[T, 3, H, W]`` float32 of a picture or a list of pictures."""
        pictures = [frame] if isinstance(frame, Picture) else list(frame)[-self.num_frames :]
        if not pictures:
            raise InputError("A clip has no frame; give it at least one.")
        tensors = [self._load_picture(picture) for picture in pictures]
        return torch.stack([tensors[0]] * (self.num_frames - len(tensors)) + tensors)

    def _load_picture(self, picture: Picture) -> Tensor:
        """A picture as float32 ``[3, H, W]``."""
        if isinstance(picture, str | Path):
            return load_image(Path(picture), self.image_size, self.frame_fit)
        try:
            image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
            return image_to_tensor(image, self.image_size, self.frame_fit)
        except (ValueError, TypeError) as error:
            raise InputError(f"The image cannot be used ({first_line(error)}).") from None

    def answers(
        self, scores: Tensor, top: int = 1, norm: str = "sum", temperature: float = 1.0
    ) -> list[list[tuple[str, float]]]:
        """Finds the best labels of each question with their probabilities, best first.

        Args:
            scores: ``[Q, C]`` float, from ``SurgViVQAModel.score``.
            top: number of labels to return.
            norm: ``sum``, or ``mean`` over a label's tokens, as published (``scoring.normalise_scores``).
            temperature: divides the ranking scores before their softmax; changes probabilities, and no answer.
        """
        ranking, _ = normalise_scores(scores.float(), LabelTrie(self.prompt_tokenizer.label_ids), norm)
        labels = ranking.sort(dim=1, descending=True, stable=True).indices[:, :top]
        probability = (ranking / temperature).softmax(dim=1).gather(1, labels)
        names = self.label_set.labels
        return [
            [(names[c], p) for c, p in zip(row, values, strict=True)]
            for row, values in zip(labels.tolist(), probability.tolist(), strict=True)
        ]
