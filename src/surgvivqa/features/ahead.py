"""Runs the frozen encoders ahead: in one go for all micro-batches of a window.

Frozen encoders do not depend on the updates, so the frames and questions of the next K micro-batches can be encoded
together. Steps of few questions then cost little more than the decoder's part. Windows are at fixed places of an epoch
(``batches.TrainingWindows``), and a resumed run encodes the whole window that it starts in, so that the features are
the same bit for bit.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from surgvivqa.features.batches import AheadPart, Batch, Window
from surgvivqa.features.source import FeatureSource
from surgvivqa.features.text_reader import TextInputs
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.attention import CrossAttentionCache, build_layouts
from surgvivqa.model.modeling import SurgViVQAModel


def frozen_part(model: SurgViVQAModel) -> AheadPart:
    """What can be computed ahead: ``text`` if both encoders are frozen, ``video`` if only the video encoder is."""
    if any(p.requires_grad for p in model.visual_encoder.parameters()):
        return "none"
    before_text = [*model.text_encoder.parameters()]
    if model.video_projection is not None:
        before_text += model.video_projection.parameters()
    return "video" if any(p.requires_grad for p in before_text) else "text"


class WindowEncoder:
    """Computes the inputs of a window's micro-batches.

    Args:
        model: the model; its frozen encoders are in eval mode.
        video_source: the frames' video tokens.
        source: what reads the windows' inputs: ``video_source``, or a source of text states.
        part: what is computed ahead (``batches.Ahead``).
        frames_per_pass: number of frames that are encoded in one pass; as in the windows.
    """

    def __init__(
        self,
        model: SurgViVQAModel,
        video_source: VideoTokenSource,
        source: FeatureSource[Any],
        part: AheadPart,
        frames_per_pass: int,
    ) -> None:
        self.model, self.video_source, self.source = model, video_source, source
        self.part, self.frames_per_pass = part, frames_per_pass

    def batches(self, window: Window[Any]) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Yields the window's micro-batches, each with the arguments of the model's ``forward`` besides the stream.

        The arguments are empty for a micro-batch without a usable frame.

        Raises:
            RunError: an encoder's output is not finite, with a cache.
            FrameError: a frame's item in a cache file is damaged.
            InputError: a cache file is damaged as a whole, or cannot be written.
        """
        inputs = window.inputs
        features = None if inputs is None or self.part == "none" else self._encode(window, inputs)
        for batch in window.batches:
            if batch.packed is None or inputs is None:
                yield batch, {}
            elif features is None:
                tokens = self.model.encode_video(self.video_source.clips(inputs))
                yield batch, {"video_tokens": tokens.index_select(0, batch.frames)}
            elif batch.tokens is None:
                yield batch, {"video_tokens": features.index_select(0, batch.frames)}
            else:
                yield batch, {"text_states": features.index_select(0, batch.tokens)}

    @torch.no_grad()
    def _encode(self, window: Window[Any], inputs: Any) -> Tensor:
        """Text states ``[N, hidden]`` of the window's questions, or video tokens ``[F, V, hidden]`` of its frames."""
        if isinstance(inputs, TextInputs):
            return self.source(inputs)
        size, found = self.frames_per_pass, []
        for number, start in enumerate(range(0, len(inputs.keys), size)):
            tokens = self.video_source(inputs.part(start, start + size))
            if self.part == "text":
                stream = window.text[number]
                device_type = tokens.device.type
                if torch.is_autocast_enabled(device_type):  # once, and not in every layer
                    tokens = tokens.to(torch.get_autocast_dtype(device_type))
                layout, _ = build_layouts(stream, tokens.dtype)
                tokens = self.model.text_states(stream, CrossAttentionCache(tokens), layout)
            found.append(tokens)
        return torch.cat(found)
