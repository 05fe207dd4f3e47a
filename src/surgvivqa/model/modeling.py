"""SurgViVQA: video tokens, a text encoder that looks at them, and a decoder that answers; over packed rows."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BlipTextModel, GPT2LMHeadModel, PreTrainedModel, VideoMAEModel

from surgvivqa.data.packing import Packed
from surgvivqa.model.configuration import SurgViVQAConfig

LORA_TARGETS = ["c_attn", "c_proj"]


class SurgViVQAModel(PreTrainedModel):
    """The model of arXiv 2511.03325 with children named as its published checkpoints name them.

    ``visual_encoder`` is a ``VideoMAEModel``, ``text_encoder`` a ``BlipTextModel`` with cross-attention to the video
    tokens, ``llm`` a ``GPT2LMHeadModel``, wrapped by PEFT where the configuration has ``lora``.
    """

    config_class = SurgViVQAConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    visual_encoder: Any
    text_encoder: Any
    llm: Any

    def __init__(self, config: SurgViVQAConfig, parts: dict[str, nn.Module] | None = None) -> None:
        """Random weights, or the given parts (``visual_encoder``, ``text_encoder``, ``llm``) as they are."""
        super().__init__(config)
        parts = parts or {}
        self.visual_encoder = parts.get("visual_encoder") or VideoMAEModel(config.video_config)
        # BLIP's text model has an eager attention alone; the others take PyTorch's fused one.
        config.text_config._attn_implementation = "eager"
        self.text_encoder = parts.get("text_encoder") or BlipTextModel(config.text_config, add_pooling_layer=True)
        llm: Any = parts.get("llm") or GPT2LMHeadModel(config.decoder_config)
        if config.lora:
            adapters = LoraConfig(
                r=int(config.lora["r"]),
                lora_alpha=int(config.lora["alpha"]),
                lora_dropout=float(config.lora["dropout"]),
                target_modules=LORA_TARGETS,
                fan_in_fan_out=True,
            )
            llm = get_peft_model(llm, adapters)
        self.llm = llm

    @property
    def decoder(self) -> Any:
        """The GPT-2 under the adapters, if any: the same modules, adapters in place."""
        return self.llm.base_model.model if self.config.lora else self.llm

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Clips ``[F, T, 3, H, W]`` to video tokens ``[F, T/2 * H/16 * W/16, hidden]``."""
        trained = any(p.requires_grad for p in self.visual_encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            tokens: Tensor = self.visual_encoder(pixel_values=pixel_values).last_hidden_state
        return tokens

    def hidden_states(self, packed: Packed, video_tokens: Tensor) -> Tensor:
        """The decoder's last hidden states ``[F, S, hidden]`` of packed rows, row f looking at ``video_tokens[f]``.

        Raises:
            ValueError: the rows of text and video differ in number (Transformers' BLIP would spread them in silence).
        """
        if packed.input_ids.shape[0] != video_tokens.shape[0]:
            raise ValueError(f"{packed.input_ids.shape[0]} rows of text but {video_tokens.shape[0]} of video tokens")
        text = self.text_encoder(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=_additive(packed.text_mask, video_tokens.dtype),
            encoder_hidden_states=video_tokens,
            is_decoder=False,
        ).last_hidden_state
        hidden: Tensor = self.decoder.transformer(
            inputs_embeds=text,
            position_ids=packed.position_ids,
            attention_mask=_additive(packed.decoder_mask, text.dtype),
            use_cache=False,
        ).last_hidden_state
        return hidden

    def target_log_probs(self, packed: Packed, video_tokens: Tensor) -> Tensor:
        """Log-probability ``[N]`` (float32) of each target token, over the whole vocabulary.

        The output layer runs at the distinct positions that predict something, and nowhere else.
        """
        hidden = self.hidden_states(packed, video_tokens)
        flat = packed.target_rows * packed.input_ids.shape[1] + packed.target_positions
        places, which = torch.unique(flat, return_inverse=True)
        logits = self.decoder.lm_head(hidden.flatten(0, 1)[places]).float()
        return logits[which, packed.target_ids] - logits.logsumexp(dim=-1)[which]

    def question_losses(self, packed: Packed, video_tokens: Tensor) -> Tensor:
        """Negative log-likelihood ``[Q]`` of each question's answer in nats, summed over its tokens."""
        losses = -self.target_log_probs(packed, video_tokens)
        return torch.zeros(packed.num_questions).to(losses).index_add(0, packed.target_question, losses)

    def prompt_logits(self, packed: Packed, video_tokens: Tensor) -> Tensor:
        """Logits ``[F, S, vocabulary]`` at every position, for the leak check."""
        logits: Tensor = self.decoder.lm_head(self.hidden_states(packed, video_tokens))
        return logits

    def forward(self, packed: Packed, pixel_values: Tensor | None = None, video_tokens: Tensor | None = None) -> Tensor:
        """``question_losses`` of rows given their clips, or their video tokens where those are at hand."""
        if video_tokens is None:
            if pixel_values is None:
                raise ValueError("forward needs pixel_values or video_tokens")
            video_tokens = self.encode_video(pixel_values)
        return self.question_losses(packed, video_tokens)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """``[F, S, S]`` bool to the ``[F, 1, S, S]`` additive mask that Transformers passes on as it is."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min).unsqueeze(1)
