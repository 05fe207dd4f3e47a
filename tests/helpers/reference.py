"""The reference implementation: one question, one label, one sequence, without packing, sharing or caches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from surgvivqa.model.modeling import SurgViVQAModel


def reference_log_prob(
    model: SurgViVQAModel, prompt: Sequence[int], answer: Sequence[int], video_tokens: Tensor, mask: str
) -> Tensor:
    """Log-probability (a scalar) of one answer after one prompt; video tokens ``[1, V, hidden]``."""
    log_probs = reference_logits(model, prompt, answer, video_tokens, mask).log_softmax(-1)
    p = len(prompt)
    return torch.stack([log_probs[p - 1 + i, token] for i, token in enumerate(answer)]).sum()


def reference_logits(
    model: SurgViVQAModel, prompt: Sequence[int], answer: Sequence[int], video_tokens: Tensor, mask: str
) -> Tensor:
    """Logits ``[N, vocabulary]`` of one prompt with one answer; video tokens ``[1, V, hidden]``.

    The text encoder's mask is written out from its definition, the decoder uses its own causal mask, and every logit is
    computed.
    """
    ids = torch.tensor([[*prompt, *answer]])
    n, p = ids.shape[1], len(prompt)
    sees = torch.zeros(n, n, dtype=torch.bool)
    for query in range(n):
        for key in range(n):
            if mask == "bidirectional":
                sees[query, key] = True
            elif mask == "causal":
                sees[query, key] = key <= query
            else:
                sees[query, key] = key < p or key <= query
    bias = torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]
    if model.video_projection is not None:
        video_tokens = model.video_projection(video_tokens)
    text = model.text_encoder(
        input_ids=ids, attention_mask=bias, encoder_hidden_states=video_tokens, is_decoder=False
    ).last_hidden_state
    if model.text_projection is not None:
        text = model.text_projection(text)
    logits: Tensor = model.decoder(inputs_embeds=text, use_cache=False).logits[0]
    return logits
