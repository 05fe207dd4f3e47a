"""Position embeddings of the video encoder, for clips of another length than in its training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import VideoMAEConfig, VideoMAEModel
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table


def interpolate_positions(video_config: VideoMAEConfig, position_frames: int) -> Tensor:
    """Interpolates VideoMAE's position table over time, from the trained clip length to the configured one.

    The trained table holds sinusoids of a token's index, with time outermost. It is interpolated linearly along time
    for each patch, so that a clip of any length spans the trained positions. For the trained length it is unchanged. If
    the weights were trained with a single tubelet, there is nothing to interpolate, and the table holds the sinusoids
    of the longer clip's indices.

    Args:
        video_config: VideoMAE's configuration; its ``num_frames`` is the clip length in frames.
        position_frames: the clip length in frames that the weights were trained with.

    Returns:
        ``[1, V, hidden]`` float32, on the CPU.
    """
    patches = (video_config.image_size // video_config.patch_size) ** 2
    trained, wanted = (frames // video_config.tubelet_size for frames in (position_frames, video_config.num_frames))
    with torch.device("cpu"):
        length = wanted if trained == 1 else trained
        table: Tensor = get_sinusoid_encoding_table(length * patches, video_config.hidden_size)
    if length == wanted:
        return table
    rows_by_time = table.view(trained, patches * video_config.hidden_size).T.unsqueeze(0)
    resized = interpolate(rows_by_time, size=wanted, mode="linear", align_corners=wanted > 1)
    return resized[0].T.reshape(1, wanted * patches, video_config.hidden_size).contiguous()


def set_position_embeddings(video_encoder: VideoMAEModel, position_frames: int) -> None:
    """Sets a video encoder's position table for its configured clip length, in place.

    Args:
        video_encoder: the video encoder.
        position_frames: the clip length in frames that its weights were trained with.
    """
    embeddings = video_encoder.embeddings
    if position_frames != video_encoder.config.num_frames:
        embeddings.position_embeddings = interpolate_positions(video_encoder.config, position_frames)
    if _keep_table_on_device not in embeddings._forward_pre_hooks.values():
        embeddings.register_forward_pre_hook(_keep_table_on_device)


def _keep_table_on_device(embeddings: nn.Module, args: tuple[Any, ...]) -> None:
    """Moves the position table to the device of the clips ``[F, T, 3, H, W]``, the first argument.

    Transformers keeps the table outside the module's buffers, on the CPU, and copies it to the device in every pass.
    """
    table: Any = embeddings.position_embeddings
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
        embeddings.position_embeddings = table.to(args[0].device)
