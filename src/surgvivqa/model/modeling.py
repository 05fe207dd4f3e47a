"""SurgViVQA (arXiv 2511.03325): a video encoder, a text encoder with cross-attention to it, and a decoder.

::

    clip [F, T, 3, H, W] --VideoMAE--> video tokens [F, V, hidden]
                                             |  (cross-attention)
    packed stream of token ids [N] --BLIP text encoder--> text states [N, hidden]
                                   --decoder, as inputs_embeds--> states [N, hidden] --output layer--> logits

VideoMAE: arXiv 2203.12602; BLIP: arXiv 2201.12086; GPT-2: Radford et al. 2019; LoRA: arXiv 2106.09685. ``data.packing``
describes the packed stream, ``model.scoring`` scores labels with it, and ``checkpoints`` loads and saves models.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BlipTextModel, PreTrainedModel, VideoMAEModel

from surgvivqa.data.packing import PackedStream
from surgvivqa.model.attention import AttentionLayout, CrossAttentionCache, build_layouts, install_packed_attention
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.decoders import is_transposed, lora_targets, output_layer, run_decoder
from surgvivqa.model.dropout import install_lane_dropout
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.pooling import pool_tokens
from surgvivqa.model.positions import set_position_embeddings
from surgvivqa.model.scoring import score_labels
from surgvivqa.utils.errors import InputError, RunError, first_line

# Positions per call of the output layer without gradients: so that logits fit in a CPU's cache, or into 0.8 GB.
LOGIT_ROWS, LOGIT_ROWS_ON_GPU = 64, 4096


class SurgViVQAModel(PreTrainedModel):
    """The model, with its parts named as in the published checkpoints.

    Attributes:
        visual_encoder: a ``VideoMAEModel``.
        text_encoder: a ``BlipTextModel`` with cross-attention to the video tokens.
        llm: a causal language model (published: ``GPT2LMHeadModel``), wrapped by PEFT if the configuration has
            ``lora``.
        video_projection: a linear layer between video tokens and text encoder; None if their widths are equal.
        text_projection: the same between text encoder and decoder.
    """

    config_class = SurgViVQAConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    visual_encoder: Any
    text_encoder: Any
    llm: Any

    def __init__(self, config: SurgViVQAConfig, parts: dict[str, nn.Module] | None = None) -> None:
        """Builds the model with random weights, or from given parts.

        Args:
            config: the configuration.
            parts: modules by attribute name, used unchanged, except that a decoder without adapters gets new ones if
                the configuration has ``lora``.

        Raises:
            InputError: PEFT cannot adapt the decoder.
        """
        super().__init__(config)
        parts = parts or {}
        self.visual_encoder = parts.get("visual_encoder") or VideoMAEModel(config.video_config)
        set_position_embeddings(self.visual_encoder, config.position_frames)
        # BLIP's text model has only eager attention; the other parts use PyTorch's fused kernel.
        config.text_config._attn_implementation = "eager"
        self.text_encoder = parts.get("text_encoder") or BlipTextModel(config.text_config, add_pooling_layer=True)
        self.video_projection: nn.Module | None = None
        self.text_projection: nn.Module | None = None
        llm = parts.get("llm") or AutoModelForCausalLM.from_config(config.decoder_config, trust_remote_code=False)
        for name, from_width, to_width in projections(config):
            setattr(self, name, parts.get(name) or nn.Linear(from_width, to_width))
        self.llm = _add_adapters(llm, config.lora) if config.lora and not isinstance(llm, PeftModel) else llm
        install_packed_attention(self.text_encoder, self.decoder)
        # Transformers builds VideoMAE with fused or with eager attention, depending on the constructor.
        self.visual_encoder.set_attn_implementation("sdpa")
        self.post_init()

    def init_weights(self) -> None:
        """Collects the names of tied weights, which Transformers cannot do through PEFT's wrapper.

        It initialises no weights, because each part has them.
        """
        prefix = "llm.base_model.model." if self.config.lora else "llm."
        tied = self.decoder.all_tied_weights_keys
        self.all_tied_weights_keys = {prefix + name: prefix + source for name, source in tied.items()}

    @property
    def decoder(self) -> Any:
        """The language model without PEFT's wrapper, but with its adapters."""
        return self.llm.base_model.model if self.config.lora else self.llm

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding of the text encoder."""
        embedding: nn.Module = self.text_encoder.embeddings.word_embeddings
        return embedding

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Encodes clips.

        Args:
            pixel_values: ``[F, T, 3, H, W]`` float, normalised.

        Returns:
            Video tokens ``[F, V, hidden]``, pooled as configured. Without pooling, V is ``T/2 * H/16 * W/16`` for
            patches of 16 pixels and tubelets of 2 frames.
        """
        is_trainable = any(p.requires_grad for p in self.visual_encoder.parameters())
        with torch.set_grad_enabled(is_trainable and torch.is_grad_enabled()):
            tokens = self.visual_encoder(pixel_values=pixel_values).last_hidden_state
            return pool_tokens(tokens, self.config.video_config, self.config.video_pool)

    def text_states(self, packed: PackedStream, video: CrossAttentionCache, layout: AttentionLayout) -> Tensor:
        """Computes the text encoder's last hidden states.

        Args:
            packed: the stream of N tokens.
            video: the video tokens ``[F, V, hidden]``.
            layout: the text encoder's layout of the stream.

        Returns:
            ``[N, hidden]``.

        Raises:
            ValueError: the stream and ``video`` have different numbers of frames.
        """
        embedded = self.text_encoder.embeddings(
            input_ids=packed.input_ids.unsqueeze(0), position_ids=packed.position_ids.unsqueeze(0)
        )
        encoded = self.text_encoder.encoder(
            embedded,
            attention_mask=layout,
            encoder_hidden_states=video.for_stream(packed.frames, self.video_projection),
            encoder_attention_mask=layout,
        )
        states: Tensor = encoded.last_hidden_state.squeeze(0)
        return states

    def decoder_states(self, packed: PackedStream, text: Tensor, layout: AttentionLayout) -> Tensor:
        """Computes the decoder's last hidden states.

        Args:
            packed: the stream of N tokens.
            text: text states ``[N, hidden]`` of the text encoder's width.
            layout: the decoder's layout of the stream.

        Returns:
            ``[N, hidden]`` of the decoder's width.
        """
        if self.text_projection is not None:
            text = self.text_projection(text)
        return run_decoder(self.decoder, text, packed.position_ids, layout)

    def hidden_states(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Computes the decoder's last hidden states ``[N, hidden]`` from video tokens ``[F, V, hidden]``."""
        cache = video if isinstance(video, CrossAttentionCache) else CrossAttentionCache(video)
        text_layout, decoder_layout = build_layouts(packed, cache.tokens.dtype)
        return self.decoder_states(packed, self.text_states(packed, cache, text_layout), decoder_layout)

    def log_probs_at(self, packed: PackedStream, hidden: Tensor) -> Tensor:
        """Computes the log-probability of each target token over the vocabulary.

        The output layer runs only at the distinct positions that predict a target; without gradients, at some of them
        at a time.

        Args:
            packed: the stream of N tokens with T targets.
            hidden: the decoder's last hidden states ``[N, hidden]``.

        Returns:
            ``[T]`` float32, in nats.
        """
        outputs = hidden.index_select(0, packed.output_positions)
        if torch.is_grad_enabled():
            return _select_log_probs(self._logits(outputs), packed.target_rows, packed.target_ids)
        rows_per_call = LOGIT_ROWS if hidden.device.type == "cpu" else LOGIT_ROWS_ON_GPU
        parts = [hidden.new_empty(0, dtype=torch.float32)]
        for start in range(0, len(outputs), rows_per_call):
            logits = self._logits(outputs[start : start + rows_per_call])
            first, end = packed.targets_before[start], packed.targets_before[min(start + rows_per_call, len(outputs))]
            parts.append(_select_log_probs(logits, packed.target_rows[first:end] - start, packed.target_ids[first:end]))
        return torch.cat(parts)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[n, vocabulary]`` float32, without autocast: near GPT-2's -100, bfloat16 has steps of 0.5."""
        with torch.autocast(hidden.device.type, enabled=False):
            layer: Any = output_layer(self.decoder)
            logits: Tensor = layer(hidden.to(layer.weight.dtype))
            return logits.float()

    def most_probable_tokens(self, packed: PackedStream, hidden: Tensor) -> Tensor:
        """Finds the most probable next token at each of the P output positions of a stream.

        Args:
            packed: the stream of N tokens.
            hidden: the decoder's last hidden states ``[N, hidden]``.

        Returns:
            ``[P]`` int64.

        Raises:
            RunError: a logit is not finite.
        """
        outputs = hidden.index_select(0, packed.output_positions)
        rows_per_call = LOGIT_ROWS if hidden.device.type == "cpu" else LOGIT_ROWS_ON_GPU
        best = [self._logits(part).max(dim=-1) for part in outputs.split(rows_per_call)]
        if not all(found.values.isfinite().all() for found in best):
            raise RunError(
                "The model's logits are not finite, so no answer can be generated; its weights are unusable."
            )
        return torch.cat([found.indices for found in best])

    def target_log_probs(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Computes the log-probability ``[T]`` (float32, nats) of each target token over the vocabulary."""
        return self.log_probs_at(packed, self.hidden_states(packed, video))

    def question_losses(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Computes the negative log-likelihood ``[Q]`` (float32, nats) of each answer, summed over its tokens."""
        return sum_answer_losses(packed, self.target_log_probs(packed, video))

    def stream_logits(self, packed: PackedStream, video: CrossAttentionCache | Tensor) -> Tensor:
        """Computes the logits ``[N, vocabulary]`` of every token, to check that prompts do not depend on answers."""
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
        """Computes the scores of all labels for each question; its arguments are the output of ``SurgViVQAProcessor``.

        Under an autocast of the caller the matrix products run in its dtype; the scores are float32.

        Args:
            pixel_values: clips ``[F, T, 3, H, W]`` float.
            prompts: token ids of each frame's prompts.
            label_ids: token ids of the C labels.
            mask: the mask mode; the configuration's by default.

        Returns:
            ``[Q, C]`` float32 on the model's device, summed log-probabilities in nats, questions in frame order.

        Raises:
            InputError: a label's ids are a prefix of another label's.
            ValueError: the mask mode is unknown, or the number of frames differs between clips and prompts.
        """
        dtype = next(self.visual_encoder.parameters()).dtype
        video = self.encode_video(pixel_values.to(self.device, dtype, non_blocking=True))
        return score_labels(self, prompts, video, LabelTrie(label_ids), mask or self.config.mask)

    def forward(
        self,
        packed: PackedStream,
        pixel_values: Tensor | None = None,
        video_tokens: Tensor | None = None,
        text_states: Tensor | None = None,
    ) -> Tensor:
        """Computes the loss of each question's answer from clips, video tokens or text states.

        Args:
            packed: the stream of N tokens, F frames and Q questions.
            pixel_values: clips ``[F, T, 3, H, W]`` float.
            video_tokens: ``[F, V, hidden]`` float, instead of clips.
            text_states: ``[N, hidden]`` float, instead of clips and video tokens.

        Returns:
            Negative log-likelihoods ``[Q]`` (float32, nats), summed over the tokens of each answer.

        Raises:
            ValueError: none of the three inputs is given.
        """
        if text_states is not None:
            _, decoder_layout = build_layouts(packed, text_states.dtype)
            hidden = self.decoder_states(packed, text_states, decoder_layout)
            return sum_answer_losses(packed, self.log_probs_at(packed, hidden))
        if video_tokens is None:
            if pixel_values is None:
                raise ValueError("forward needs pixel_values, video_tokens or text_states")
            video_tokens = self.encode_video(pixel_values)
        return self.question_losses(packed, video_tokens)


def sum_answer_losses(packed: PackedStream, log_probs: Tensor) -> Tensor:
    """Sums log-probabilities ``[T]`` of tokens to the negative log-likelihood ``[Q]`` of each answer."""
    losses = log_probs.new_zeros(packed.question_slots).index_add(0, packed.target_question, -log_probs)
    return losses[: packed.num_questions]


def _select_log_probs(logits: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """The log-probability ``[n]`` of each token id ``[n]`` in a row ``[n]`` of logits ``[P, vocabulary]``."""
    chosen = logits.flatten().index_select(0, rows * logits.shape[1] + ids)
    return chosen - logits.logsumexp(dim=-1).index_select(0, rows)


def _add_adapters(llm: Any, lora: dict[str, float]) -> PeftModel:
    """Adds new LoRA adapters to a decoder; PEFT freezes the decoder's weights.

    Raises:
        InputError: PEFT cannot adapt the decoder.
    """
    targets = lora_targets(llm)
    settings = LoraConfig(
        r=int(lora["r"]),
        lora_alpha=lora["alpha"],  # need not be an integer
        lora_dropout=float(lora["dropout"]),
        target_modules=targets,
        fan_in_fan_out=is_transposed(llm, targets),
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(llm, settings)
    except ValueError as error:
        raise InputError(f"LoRA adapters cannot be added to the decoder ({first_line(error)}).") from None
    install_lane_dropout(adapted)
    return adapted


def projections(config: SurgViVQAConfig) -> list[tuple[str, int, int]]:
    """The projections between parts of different widths: name, input width, output width."""
    video, text, decoder = config.video_config, config.text_config, config.decoder_config
    candidates = (
        ("video_projection", video.hidden_size, text.encoder_hidden_size),
        ("text_projection", text.hidden_size, decoder.hidden_size),
    )
    return [(name, from_width, to_width) for name, from_width, to_width in candidates if from_width != to_width]
