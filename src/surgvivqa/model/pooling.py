"""Pools video tokens over time, for fewer keys in cross-attention."""

from torch import Tensor
from transformers import VideoMAEConfig

VIDEO_POOLS = ("none", "temporal")


def token_count(video_config: VideoMAEConfig, mode: str) -> int:
    """The number of video tokens per clip after pooling.

    It is 1568 for VideoMAE-base with 16 frames, and 196 under ``temporal``.
    """
    patches = (video_config.image_size // video_config.patch_size) ** 2
    tubelets = video_config.num_frames // video_config.tubelet_size
    return int(patches if mode == "temporal" else patches * tubelets)


def pool_tokens(tokens: Tensor, video_config: VideoMAEConfig, mode: str) -> Tensor:
    """Pools video tokens for the text encoder.

    ``temporal`` replaces the T/2 tokens of a patch by their mean over time. A model must be trained with it, because
    cross-attention then has one key per patch and no information about time. In a ``repeat`` clip the tokens of a patch
    differ only by their temporal position; in a ``past`` clip motion is averaged.

    Args:
        tokens: ``[F, V, hidden]`` float, V = T/2 * patches with time outermost, the order of VideoMAE.
        video_config: VideoMAE's configuration.
        mode: ``none`` or ``temporal``.

    Returns:
        ``[F, V, hidden]``, or ``[F, patches, hidden]`` under ``temporal``.

    Raises:
        ValueError: the mode is unknown, or the number of tokens does not match the configuration.
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
