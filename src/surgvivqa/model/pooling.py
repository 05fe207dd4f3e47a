"""Pooling of video tokens over time, for fewer keys in cross-attention."""

from torch import Tensor
from transformers import VideoMAEConfig

VIDEO_POOLS = ("none", "temporal")


def token_count(video_config: VideoMAEConfig, mode: str) -> int:
    """Video tokens per clip after pooling: 1568 for VideoMAE-base with 16 frames, 196 with ``temporal``."""
    patches = (video_config.image_size // video_config.patch_size) ** 2
    tubelets = video_config.num_frames // video_config.tubelet_size
    return int(patches if mode == "temporal" else patches * tubelets)


def pool_tokens(tokens: Tensor, video_config: VideoMAEConfig, mode: str) -> Tensor:
    """Pools video tokens for the text encoder.

    ``temporal`` replaces the T/2 tokens of a patch by their mean over time. It changes what the model computes, so a
    model has to be trained with it: cross-attention has one key per patch and cannot tell when something was seen. In a
    ``repeat`` clip the tokens of a patch differ only by their temporal position; in a ``past`` clip motion is blurred.

    Args:
        tokens: ``[F, V, hidden]``, V = T/2 * patches, time outermost, as VideoMAE orders them.
        video_config: VideoMAE's configuration.
        mode: ``none`` or ``temporal``.

    Returns:
        ``[F, V, hidden]``, or ``[F, patches, hidden]`` under ``temporal``.

    Raises:
        ValueError: the mode is unknown, or the number of tokens is not the configuration's.
    """
    if mode not in VIDEO_POOLS:
        raise ValueError(f"video pool {mode!r} is not one of {', '.join(VIDEO_POOLS)}")
    if mode == "none":
        return tokens
    if tokens.shape[1] != token_count(video_config, "none"):
        raise ValueError(
            f"{tokens.shape[1]} video tokens, but the configuration makes {token_count(video_config, 'none')}"
        )
    return tokens.unflatten(1, (video_config.num_frames // video_config.tubelet_size, -1)).mean(dim=1)
