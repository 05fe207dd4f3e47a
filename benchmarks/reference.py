"""The reference implementation: the published way, which the project is timed against. The package does not use it.

In training every question is padded to 128 tokens and its own clip goes through VideoMAE; logits are computed at all
128 positions. In scoring each label is a sequence of its own, padded to the longest of its pass: the published shares
of time (GPT-2 6%, output layer 3% of 25 s) leave no room for 128, and the shorter padding is harder to beat. All
modules are Transformers' and PEFT's, unchanged.
"""

from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BlipTextModel, GPT2LMHeadModel, VideoMAEModel
from transformers.initialization import no_init_weights

from benchmarks.models import LORA, fill_weights, freeze_all_but_lora, make_config

LENGTH = 128
TRAIN_BATCH = 8
SCORE_BATCH = 1
SEQUENCES_PER_PASS = 10
IGNORED = -100


class ReferenceModel(nn.Module):
    """VideoMAE, BLIP's text encoder and GPT-2 under PEFT, one after another."""

    def __init__(self, size: str) -> None:
        super().__init__()
        config = make_config(size)
        config.text_config._attn_implementation = "eager"  # Transformers has no other for BLIP's text model
        self.visual_encoder = VideoMAEModel(config.video_config)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=True)
        self.llm = get_peft_model(
            GPT2LMHeadModel(config.decoder_config),
            LoraConfig(
                r=int(LORA["r"]),
                lora_alpha=int(LORA["alpha"]),
                lora_dropout=LORA["dropout"],
                target_modules=["c_attn", "c_proj"],
                fan_in_fan_out=True,
            ),
        )

    def set_modes(self) -> None:
        """Sets the frozen parts to eval mode and the adapters' dropout to training mode, as the project does."""
        self.eval()
        for name, module in self.named_modules():
            if "lora_dropout" in name:
                module.train()

    def encode_video(self, clips: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` to ``[B, V, hidden]``."""
        with torch.no_grad():
            tokens: Tensor = self.visual_encoder(pixel_values=clips).last_hidden_state
        return tokens

    def logits(self, ids: Tensor, real: Tensor, seen: Tensor, video: Tensor) -> Tensor:
        """Computes logits at every position.

        Args:
            ids: ``[B, L]`` int64.
            real: 1 for tokens, 0 for padding ``[B, L]``.
            seen: BLIP's additive mask ``[B, 1, L, L]``.
            video: video tokens ``[B, V, hidden]``.

        Returns:
            ``[B, L, 50257]``.
        """
        with torch.no_grad():  # the text encoder is frozen
            text = self.text_encoder(
                input_ids=ids, attention_mask=seen, encoder_hidden_states=video, is_decoder=False
            ).last_hidden_state
        result: Tensor = self.llm(inputs_embeds=text, attention_mask=real, use_cache=False).logits
        return result


def build_reference(size: str, device: str) -> ReferenceModel:
    """The reference model with the weights of ``models.build_model``."""
    with no_init_weights():
        model = ReferenceModel(size)
    model.llm.base_model.model.tie_weights()
    fill_weights(model)
    freeze_all_but_lora(model)
    model.set_modes()
    return model.to(device)


def batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], mask: str, length: int = LENGTH
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, padding mask and labels ``[B, L]``, and the text encoder's additive mask ``[B, 1, L, L]``.

    Under ``prefix`` a prompt token attends to the prompt, an answer token to the prompt and the answer up to itself;
    under ``bidirectional`` every token attends to every token of its sequence. Padding attends to the first token.
    """
    count = len(prompts)
    ids = torch.zeros(count, length, dtype=torch.long)
    real = torch.zeros(count, length, dtype=torch.long)
    labels = torch.full((count, length), IGNORED)
    seen = torch.zeros(count, length, length, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        p, n = len(prompt), len(prompt) + len(answer)
        ids[i, :n] = torch.tensor([*prompt, *answer])
        real[i, :n] = 1
        labels[i, p:n] = torch.tensor(answer)
        if mask == "bidirectional":
            seen[i, :n, :n] = True
        elif mask == "prefix":
            seen[i, :n, :p] = True
            seen[i, p:n, p:n] = torch.ones(n - p, n - p).tril().bool()
        else:
            raise ValueError(f"mask {mask!r} is none of prefix, bidirectional")
        seen[i, n:, 0] = True
    bias = torch.zeros(count, 1, length, length).masked_fill(~seen.unsqueeze(1), torch.finfo(torch.float32).min)
    return ids, real, labels, bias


def losses(
    model: ReferenceModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    video: Tensor,
    mask: str = "prefix",
    length: int = LENGTH,
) -> Tensor:
    """Negative log-likelihood ``[B]`` of each answer, summed over its tokens; video tokens ``[B, V, hidden]``."""
    ids, real, labels, bias = (x.to(video.device) for x in batch(prompts, answers, mask, length))
    logits = model.logits(ids, real, bias, video)
    # All logits are computed; the softmax is taken at the labelled positions only, which favours this implementation.
    counted = labels[:, 1:] != IGNORED
    each = cross_entropy(logits[:, :-1][counted].float(), labels[:, 1:][counted], reduction="none")
    return torch.zeros(len(prompts)).to(each).index_add(0, counted.nonzero()[:, 0], each)


@torch.no_grad()
def scores(
    model: ReferenceModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    video: Tensor,
    mask: str = "prefix",
) -> Tensor:
    """Log-probabilities ``[Q, labels]``, ten label sequences per pass; video tokens ``[Q, V, hidden]``."""
    rows = []
    for question, prompt in enumerate(prompts):
        row = []
        for start in range(0, len(labels), SEQUENCES_PER_PASS):
            part = labels[start : start + SEQUENCES_PER_PASS]
            tokens = video[question].expand(len(part), -1, -1)
            longest = len(prompt) + max(map(len, part))
            row.append(-losses(model, [prompt] * len(part), part, tokens, mask, longest))
        rows.append(torch.cat(row))
    return torch.stack(rows)
