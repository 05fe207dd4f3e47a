"""Fewer video tokens: their mean over a clip's time."""

from typing import Any

from torch import Tensor

VIDEO_POOLS = ("none", "temporal")


def token_count(video_config: Any, mode: str) -> int:
    """Video tokens of a clip after pooling: 1568 for VideoMAE-base with 16 frames, 196 with ``temporal``."""
    places = (video_config.image_size // video_config.patch_size) ** 2
    times = video_config.num_frames // video_config.tubelet_size
    return int(places if mode == "temporal" else places * times)


def pool_tokens(tokens: Tensor, video_config: Any, mode: str) -> Tensor:
    """Video tokens as the text encoder is given them.

    ``temporal`` replaces the T/2 tokens of a place by their mean. It changes what the model computes: cross-attention
    has one key a place, so it can no longer tell when something was seen, and an attention that would pick one moment
    gets the average of all. In a ``repeat`` clip all moments show the same frame and the tokens of a place differ by
    the encoder's position in time alone; in a ``past`` clip motion is blurred. A model has to be trained with it.

    Args:
        tokens: ``[F, V, H]``, V = T/2 * places, time outermost, as VideoMAE orders them.
        video_config: VideoMAE's configuration.
        mode: ``none`` or ``temporal``.

    Returns:
        ``[F, V, H]``, or ``[F, places, H]`` under ``temporal``.

    Raises:
        ValueError: an unknown mode, or a number of tokens that is not the configuration's.
    """
    if mode not in VIDEO_POOLS:
        raise ValueError(f"video pool {mode!r} is none of {', '.join(VIDEO_POOLS)}")
    if mode == "none":
        return tokens
    if tokens.shape[1] != token_count(video_config, "none"):
        raise ValueError(
            f"{tokens.shape[1]} video tokens, but the configuration makes {token_count(video_config, 'none')}"
        )
    return tokens.unflatten(1, (video_config.num_frames // video_config.tubelet_size, -1)).mean(dim=1)
