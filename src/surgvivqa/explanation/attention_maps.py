"""Maps of where the text encoder's cross-attention looks, and of what the answer's score depends on in it.

*Attention* is the weight that the prompt's last token, whose output predicts the first token of the answer, gives to
each video token: the mean over heads and layers. It is computed by the model itself, from its queries and keys.

*Gradient-weighted attention* weights each attention weight with the positive part of the derivative of the answer's
score, ``A * max(0, dy/dA)``, as in Chefer et al. (ICCV 2021, arXiv 2103.15679) and, for feature maps, Grad-CAM
(Selvaraju et al., ICCV 2017). It is summed over all tokens of the question and its answer, since the decoder reads
all of them, and averaged over heads and layers. ``y`` is the summed log-probability of the answer's tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.data.packing import build_answer_chain, pack_stream
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.modeling import SurgViVQAModel, sum_answer_losses


@dataclass(frozen=True)
class AttentionMaps:
    """The maps of one question over the h x w patches of its frame; time is averaged.

    Attributes:
        layers: attention of each of the D layers, ``[D, h, w]`` float32. A layer's map sums to 1 over the patches.
        attention: their mean, ``[h, w]`` float32.
        gradient_attention: ``[h, w]`` float32, not negative; all zero if no weight can raise the answer's score.
        score: the answer's score, the summed log-probability of its tokens in nats.
    """

    layers: Tensor
    attention: Tensor
    gradient_attention: Tensor
    score: float


def patch_grid(config: SurgViVQAConfig) -> int:
    """The number of patches along a side of the frame: 14 for VideoMAE-base."""
    video = config.video_config
    return int(video.image_size // video.patch_size)


def compute_attention_maps(
    model: SurgViVQAModel, video: Tensor, prompt: Sequence[int], answer: Sequence[int], mask: str
) -> AttentionMaps:
    """Computes both maps of one question; the model's parameters get no gradient.

    Args:
        model: the model in eval mode.
        video: the video tokens ``[1, V, hidden]`` of the frame, not an inference tensor.
        prompt: token ids of the prompt.
        answer: token ids of the answer whose score is explained.
        mask: the mask mode. Under ``bidirectional`` the prompt's states depend on the answer.
    """
    packed = pack_stream([[build_answer_chain(prompt, answer, 0, mask)]], mask, 1).to(video.device)
    cache = CrossAttentionCache(video.detach(), record_weights=True)
    with torch.enable_grad():
        score = -sum_answer_losses(packed, model.target_log_probs(packed, cache))[0]
        assert cache.weights is not None
        weights = list(cache.weights.values())
        gradients = torch.autograd.grad(score, weights)
    stacked = torch.stack([w.detach().float().squeeze(0) for w in weights])  # [D, heads, L, V]
    slopes = torch.stack([g.float().squeeze(0) for g in gradients])
    side = patch_grid(model.config)
    layers = _over_patches(stacked[:, :, len(prompt) - 1].mean(dim=1), side)
    weighted = (stacked * slopes.clamp(min=0)).sum(dim=2).mean(dim=(0, 1))
    return AttentionMaps(
        layers.cpu(), layers.mean(dim=0).cpu(), _over_patches(weighted, side).cpu(), float(score.detach())
    )


def _over_patches(values: Tensor, side: int) -> Tensor:
    """Sums values ``[..., V]`` of video tokens over time, to ``[..., side, side]``."""
    return values.unflatten(-1, (-1, side, side)).sum(dim=-3)
