"""SurgViVQA: video tokens, a text encoder that looks at them, and a decoder that answers; over packed rows."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BlipTextModel, PreTrainedModel, VideoMAEModel

from surgvivqa.data.packing import PackedStream
from surgvivqa.model.attention import AttentionLayout, CrossAttentionCache, install_packed_attention, layouts
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.decoders import is_transposed, lora_targets, output_layer, stream_states
from surgvivqa.model.dropout import install_dropout
from surgvivqa.model.pooling import pool_tokens
from surgvivqa.model.positions import set_positions
from surgvivqa.model.scoring import LabelTrie, score_labels
from surgvivqa.utils.errors import InputError, first_line

LOGIT_ROWS = 64


class SurgViVQAModel(PreTrainedModel):
    """The model of arXiv 2511.03325 with children named as its published checkpoints name them.

    ``visual_encoder`` is a ``VideoMAEModel``, ``text_encoder`` a ``BlipTextModel`` with cross-attention to the video
    tokens, ``llm`` a causal language model (published: ``GPT2LMHeadModel``), wrapped by PEFT where the configuration
    has ``lora``. Where two neighbours differ in width, a linear layer lies between them: ``video_projection`` before
    the text encoder's cross-attention, ``text_projection`` before the decoder.
    """

    config_class = SurgViVQAConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    visual_encoder: Any
    text_encoder: Any
    llm: Any

    def __init__(self, config: SurgViVQAConfig, parts: dict[str, nn.Module] | None = None) -> None:
        """Random weights, or the given parts (``visual_encoder``, ``text_encoder``, ``llm``, and the projections, if
        any) as they are."""
        super().__init__(config)
        parts = parts or {}
        self.visual_encoder = parts.get("visual_encoder") or VideoMAEModel(config.video_config)
        set_positions(self.visual_encoder, config.position_frames)
        # BLIP's text model has an eager attention alone; the others take PyTorch's fused one.
        config.text_config._attn_implementation = "eager"
        self.text_encoder = parts.get("text_encoder") or BlipTextModel(config.text_config, add_pooling_layer=True)
        self.video_projection: nn.Module | None = None
        self.text_projection: nn.Module | None = None
        llm = parts.get("llm") or AutoModelForCausalLM.from_config(config.decoder_config, trust_remote_code=False)
        for name, from_width, to_width in projections(config):
            setattr(self, name, parts.get(name) or nn.Linear(from_width, to_width))
        self.llm = _add_adapters(llm, config.lora) if config.lora and not isinstance(llm, PeftModel) else llm
        install_packed_attention(self.text_encoder, self.decoder)
        # Depending on how it was made, Transformers leaves VideoMAE with fused or with eager attention.
        self.visual_encoder.set_attn_implementation("sdpa")
        self.post_init()

    def init_weights(self) -> None:
        """Nothing: each part comes with its weights, or made them itself. The names of tied weights are collected,
        which Transformers cannot do through PEFT's wrapper."""
        prefix = "llm.base_model.model." if self.config.lora else "llm."
        tied = self.decoder.all_tied_weights_keys
        self.all_tied_weights_keys = {prefix + name: prefix + source for name, source in tied.items()}

    @property
    def decoder(self) -> Any:
        """The language model under the adapters, if any: the same modules, adapters in place."""
        return self.llm.base_model.model if self.config.lora else self.llm

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding that prompts enter by: the text encoder's."""
        words: nn.Module = self.text_encoder.embeddings.word_embeddings
        return words

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Clips ``[F, T, 3, H, W]`` to video tokens ``[F, T/2 * H/16 * W/16, hidden]``, pooled as configured."""
        trained = any(p.requires_grad for p in self.visual_encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            tokens = self.visual_encoder(pixel_values=pixel_values).last_hidden_state
            return pool_tokens(tokens, self.config.video_config, self.config.video_pool)

    def text_states(self, packed: PackedStream, video: CrossAttentionCache, layout: AttentionLayout) -> Tensor:
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
            encoder_hidden_states=video.viewed_by(packed.frames, self.video_projection),
            encoder_attention_mask=layout,
        )
        states: Tensor = encoded.last_hidden_state[0]
        return states

    def decoder_states(self, packed: PackedStream, text: Tensor, layout: AttentionLayout) -> Tensor:
        """The decoder's last hidden states ``[N, hidden]`` of a stream of text states ``[N, text hidden]``."""
        if self.text_projection is not None:
            text = self.text_projection(text)
        return stream_states(self.decoder, text, packed.position_ids, layout)

    def hidden_states(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """The decoder's last hidden states ``[N, hidden]``; ``video`` may be video tokens ``[F, V, hidden]``."""
        memory = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video)
        for_text, for_decoder = layouts(packed, memory.tokens.dtype)
        return self.decoder_states(packed, self.text_states(packed, memory, for_text), for_decoder)

    def log_probs_at(self, packed: PackedStream, hidden: Tensor) -> Tensor:
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
            layer: Any = output_layer(self.decoder)
            logits: Tensor = layer(hidden.to(layer.weight.dtype))
            return logits.float()

    def target_log_probs(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Log-probability ``[T]`` (float32) of each target token, over the whole vocabulary."""
        return self.log_probs_at(packed, self.hidden_states(packed, video))

    def question_losses(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Negative log-likelihood ``[Q]`` of each question's answer in nats, summed over its tokens."""
        return answer_losses(packed, self.target_log_probs(packed, video))

    def prompt_logits(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Logits ``[N, vocabulary]`` at every position, for the leak check."""
        logits: Tensor = output_layer(self.decoder)(self.hidden_states(packed, video))
        return logits

    @torch.inference_mode()
    def score(
        self,
        pixel_values: Tensor,
        prompts: Sequence[Sequence[Sequence[int]]],
        label_ids: Sequence[Sequence[int]],
        mask: str | None = None,
    ) -> Tensor:
        """Log-probabilities ``[Q, 51]`` (float32) of the labels after each prompt, questions in frame order; what
        ``SurgViVQAProcessor`` returns is what it takes. ``mask`` is the configuration's unless given."""
        video = self.encode_video(pixel_values.to(self.device, next(self.visual_encoder.parameters()).dtype))
        return score_labels(self, prompts, video, LabelTrie(label_ids), mask or self.config.mask)

    def forward(
        self,
        packed: PackedStream,
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


def answer_losses(packed: PackedStream, log_probs: Tensor) -> Tensor:
    """Log-probabilities ``[T]`` of target tokens to negative log-likelihoods ``[Q]`` of whole answers."""
    return torch.zeros(packed.num_questions).to(log_probs).index_add(0, packed.target_question, -log_probs)


def _add_adapters(llm: Any, lora: dict[str, float]) -> PeftModel:
    """Fresh LoRA adapters (arXiv 2106.09685) on a decoder, which PEFT freezes."""
    targets = lora_targets(llm)
    adapters = LoraConfig(
        r=int(lora["r"]),
        lora_alpha=lora["alpha"],  # which may be a fraction
        lora_dropout=float(lora["dropout"]),
        target_modules=targets,
        fan_in_fan_out=is_transposed(llm, targets),
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(llm, adapters)
    except ValueError as error:
        raise InputError(f"The decoder takes no LoRA adapters ({first_line(error)}).") from None
    install_dropout(adapted)
    return adapted


def projections(config: SurgViVQAConfig) -> list[tuple[str, int, int]]:
    """Name, input and output width of the linear layers that a model of these parts needs between them; none where the
    widths are equal, as published."""
    video, text, decoder = config.video_config, config.text_config, config.decoder_config
    wanted = (
        ("video_projection", video.hidden_size, text.encoder_hidden_size),
        ("text_projection", text.hidden_size, decoder.hidden_size),
    )
    return [row for row in wanted if row[1] != row[2]]
