"""SurgViVQA: video tokens, a text encoder that looks at them, and a decoder that answers; over packed rows."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BlipTextModel, GPT2LMHeadModel, PreTrainedModel, VideoMAEModel

from surgvivqa.data.packing import Packed
from surgvivqa.model.attention import Layout, VideoMemory, install, layouts
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.dropout import install_dropout
from surgvivqa.model.video_pool import pool_tokens

LOGIT_ROWS = 64
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
            install_dropout(llm)
        self.llm = llm
        install(self.text_encoder, self.decoder)
        # Depending on how it was made, Transformers leaves VideoMAE with fused or with eager attention.
        self.visual_encoder.set_attn_implementation("sdpa")

    @property
    def decoder(self) -> Any:
        """The GPT-2 under the adapters, if any: the same modules, adapters in place."""
        return self.llm.base_model.model if self.config.lora else self.llm

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Clips ``[F, T, 3, H, W]`` to video tokens ``[F, T/2 * H/16 * W/16, hidden]``, pooled as configured."""
        trained = any(p.requires_grad for p in self.visual_encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            tokens = self.visual_encoder(pixel_values=pixel_values).last_hidden_state
            return pool_tokens(tokens, self.config.video_config, self.config.video_pool)

    def text_states(self, packed: Packed, video: VideoMemory, layout: Layout) -> Tensor:
        """The text encoder's last hidden states ``[N, hidden]`` of a stream whose frames look at ``video``.

        Raises:
            ValueError: the stream has another number of frames than ``video``.
        """
        embedded = self.text_encoder.embeddings(
            input_ids=packed.input_ids.unsqueeze(0), position_ids=packed.position_ids.unsqueeze(0)
        )
        encoded = self.text_encoder.encoder(
            embedded,
            attention_mask=layout,
            encoder_hidden_states=video.looked_at_by(packed.frames),
            encoder_attention_mask=layout,
        )
        states: Tensor = encoded.last_hidden_state[0]
        return states

    def decoder_states(self, packed: Packed, text: Tensor, layout: Layout) -> Tensor:
        """The decoder's last hidden states ``[N, hidden]`` of a stream of text states ``[N, hidden]``."""
        states: Tensor = self.decoder.transformer(
            inputs_embeds=text.unsqueeze(0),
            position_ids=packed.position_ids.unsqueeze(0),
            attention_mask=text.new_empty(1, 1, 1, 1),  # given, so that none is made: the layout says who sees whom
            layout=layout,
            use_cache=False,
        ).last_hidden_state[0]
        return states

    def hidden_states(self, packed: Packed, video: VideoMemory | Tensor) -> Tensor:
        """The decoder's last hidden states ``[N, hidden]``; ``video`` may be video tokens ``[F, V, hidden]``."""
        memory = video if isinstance(video, VideoMemory) else VideoMemory(video)
        for_text, for_decoder = layouts(packed, memory.tokens.dtype)
        return self.decoder_states(packed, self.text_states(packed, memory, for_text), for_decoder)

    def log_probs_at(self, packed: Packed, hidden: Tensor) -> Tensor:
        """Log-probability ``[T]`` (float32) of each target token over the whole vocabulary, from hidden states.

        The output layer runs at the distinct positions that predict something, and nowhere else; without gradients, a
        few positions at a time, which keeps the logits in the processor's cache.
        """
        places, which = torch.unique(packed.target_positions, return_inverse=True)
        if torch.is_grad_enabled():
            logits = self._logits(hidden[places])
            return logits[which, packed.target_ids] - logits.logsumexp(dim=-1)[which]
        result = torch.empty(len(which), device=hidden.device)
        order = torch.argsort(which)
        bounds = torch.searchsorted(which[order], torch.arange(0, len(places) + LOGIT_ROWS, LOGIT_ROWS).to(which))
        for n, start in enumerate(range(0, len(places), LOGIT_ROWS)):
            logits = self._logits(hidden[places[start : start + LOGIT_ROWS]])
            mine = order[int(bounds[n]) : int(bounds[n + 1])]
            rows = which[mine] - start
            result[mine] = logits[rows, packed.target_ids[mine]] - logits.logsumexp(dim=-1)[rows]
        return result

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits in float32 under any autocast: GPT-2's lie near -100, where neighbouring bfloat16s are 0.5 apart."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.decoder.lm_head(hidden.float())
            return logits

    def target_log_probs(self, packed: Packed, video: VideoMemory | Tensor) -> Tensor:
        """Log-probability ``[T]`` (float32) of each target token, over the whole vocabulary."""
        return self.log_probs_at(packed, self.hidden_states(packed, video))

    def question_losses(self, packed: Packed, video: VideoMemory | Tensor) -> Tensor:
        """Negative log-likelihood ``[Q]`` of each question's answer in nats, summed over its tokens."""
        return answer_losses(packed, self.target_log_probs(packed, video))

    def prompt_logits(self, packed: Packed, video: VideoMemory | Tensor) -> Tensor:
        """Logits ``[N, vocabulary]`` at every position, for the leak check."""
        logits: Tensor = self.decoder.lm_head(self.hidden_states(packed, video))
        return logits

    def forward(
        self,
        packed: Packed,
        pixel_values: Tensor | None = None,
        video_tokens: Tensor | None = None,
        text_states: Tensor | None = None,
    ) -> Tensor:
        """``question_losses`` of rows given their clips; or their video tokens, or the stream's text states ``[N,
        hidden]``, where those are at hand."""
        if text_states is not None:
            _, for_decoder = layouts(packed, text_states.dtype)
            hidden = self.decoder_states(packed, text_states, for_decoder)
            return answer_losses(packed, self.log_probs_at(packed, hidden))
        if video_tokens is None:
            if pixel_values is None:
                raise ValueError("forward needs pixel_values, video_tokens or text_states")
            video_tokens = self.encode_video(pixel_values)
        return self.question_losses(packed, video_tokens)


def answer_losses(packed: Packed, log_probs: Tensor) -> Tensor:
    """Log-probabilities ``[T]`` of target tokens to negative log-likelihoods ``[Q]`` of whole answers."""
    return torch.zeros(packed.num_questions).to(log_probs).index_add(0, packed.target_question, -log_probs)
