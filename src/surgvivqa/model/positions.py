"""The video encoder's positions for clips of another length than it was trained on."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table


def interpolate_positions(video_config: Any, position_frames: int) -> Tensor:
    """VideoMAE's positions for its configured clips, from the table of clips of ``position_frames``.

    The table is sinusoids of a token's number, time outermost. A shorter clip would get the beginning of it, as if it
    ended early, and a longer one numbers that were never met; so its moments are spread over the trained ones instead,
    linearly, place by place. For the trained length it is the table itself, and where only one moment was trained there
    is nothing to spread over: the longer clip gets the sinusoids that follow.

    Args:
        video_config: VideoMAE's configuration; ``num_frames`` is the clips' length.
        position_frames: the length that the weights were trained with.

    Returns:
        ``[1, V, hidden]`` float32.
    """
    places = (video_config.image_size // video_config.patch_size) ** 2
    trained, wanted = (frames // video_config.tubelet_size for frames in (position_frames, video_config.num_frames))
    with torch.device("cpu"):
        length = wanted if trained == 1 else trained
        table: Tensor = get_sinusoid_encoding_table(length * places, video_config.hidden_size)
    if length == wanted:
        return table
    by_time = table.view(trained, places * video_config.hidden_size).T.unsqueeze(0)
    spread = interpolate(by_time, size=wanted, mode="linear", align_corners=wanted > 1)
    return spread[0].T.reshape(1, wanted * places, video_config.hidden_size).contiguous()


def set_position_embeddings(video_encoder: Any, position_frames: int) -> None:
    """Gives a video encoder its positions; where they are its own already, nothing changes."""
    if position_frames != video_encoder.config.num_frames:
        video_encoder.embeddings.position_embeddings = interpolate_positions(video_encoder.config, position_frames)
