"""Computes the text states of questions with the frozen text encoder, or takes them from a cache."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgvivqa.data.packing import pack_stream
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.features.cache import FeatureCache, hash_weights
from surgvivqa.features.cache_file import Key
from surgvivqa.features.text_reader import TextInputs, TextReader, UncachedText, select_tokens
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.attention import CrossAttentionCache, build_layouts
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.tf32 import full_float32

log = logging.getLogger("surgvivqa")
# Values that change the text encoder's output but no tensor's shape.
_ARCHITECTURE = ("num_attention_heads", "layer_norm_eps", "hidden_act")


class TextStateSource:
    """The text encoder's outputs on training questions, from a cache that is filled frame by frame.

    A frame's item depends only on the frozen weights, the frame and all questions about it, not on the questions that a
    micro-batch selects. It is computed in one pass, in float32 under any precision of the run, and rounded to the
    cache's dtype; the rounded values are used the first time too, so a hit equals a miss bit for bit.

    Args:
        model: the model; its text encoder is frozen and in eval mode.
        video_source: the frames' video tokens, with a cache.
        reader: reads the questions' token ids and cached text states.

    Attributes:
        hits: number of frames read from the cache.
        misses: number of frames computed.
    """

    def __init__(self, model: SurgViVQAModel, video_source: VideoTokenSource, reader: TextReader) -> None:
        self.model, self.video_source, self.reader, self.cache = model, video_source, reader, reader.cache
        self.hits = self.misses = 0

    @torch.no_grad()
    def __call__(self, inputs: TextInputs) -> Tensor:
        """Text states ``[N, hidden]`` float32 on the model's device, in the order of the packed stream.

        Raises:
            RunError: an encoder's output is not finite.
            InputError: a cache file is damaged.
        """
        lengths = [
            sum(end - start for start, end in token_ranges)
            for token_ranges, uncached in zip(inputs.token_ranges, inputs.uncached, strict=True)
            if uncached is None
        ]
        device = self.video_source.device
        cached = iter(() if inputs.states is None else inputs.states.to(device).float().split(lengths))
        pieces = []
        for key, token_ranges, uncached in zip(inputs.keys, inputs.token_ranges, inputs.uncached, strict=True):
            self.hits += uncached is None
            if uncached is None:
                pieces.append(next(cached))
            else:
                pieces.append(select_tokens(self._load_or_compute(key, uncached), token_ranges))
        return torch.cat(pieces)

    def _load_or_compute(self, key: Key, uncached: UncachedText) -> Tensor:
        """The item ``[tokens, hidden]`` float32 of a frame."""
        device = self.video_source.device
        # This process may have computed the item for an earlier batch after the worker read the cache.
        item = self.cache.get(*key)
        if item is not None:
            self.hits += 1
            return item.to(device).float()
        self.misses += 1
        video = CrossAttentionCache(self.video_source(uncached.video))
        packed = pack_stream([uncached.trees], self.reader.mask, len(uncached.trees)).to(device)
        with torch.autocast(device.type, enabled=False), full_float32():
            states = self.model.text_states(packed, video, build_layouts(packed, video.tokens.dtype)[0])
        return self.cache.put(*key, states).float()

    def flush(self) -> None:
        """Writes the computed features that are not on disk yet (see ``FeatureSource``)."""
        self.video_source.flush()
        self.cache.flush()

    def __enter__(self) -> "TextStateSource":
        return self

    def __exit__(self, *error: object) -> None:
        self.video_source.__exit__(*error)
        self.cache.flush()
        log.info("Cache %s: text states of %d frames read, of %d computed", self.cache.folder, self.hits, self.misses)


def build_text_state_source(
    bundle: ModelBundle,
    video_source: VideoTokenSource,
    prompt_tokenizer: PromptTokenizer,
    cache: Path,
    dtype: str,
    *,
    must_write: bool = False,
) -> TextStateSource:
    """Builds the source of a model's text states; its video and text encoders must be frozen.

    Args:
        bundle: the model; its text encoder's weights are hashed (about a second for BLIP-base).
        video_source: the frames' video tokens, with a cache.
        prompt_tokenizer: converts prompts and labels to token ids.
        cache: the cache folder.
        dtype: the cache's dtype: ``fp16``, ``bf16`` or ``fp32``.
        must_write: whether a cache folder that cannot be written is an error.

    Raises:
        InputError: the cache folder cannot be used.
    """
    assert video_source.cache is not None
    encoder, mask = bundle.model.text_encoder, bundle.settings.mask
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
    fingerprint_values: dict[str, Any] = {
        "features": "text states",
        "video_tokens": video_source.cache.fingerprint,  # covers the frames, the video encoder and the rounding
        "weights_sha256": hash_weights(weights),
        "architecture": {name: getattr(bundle.model.config.text_config, name) for name in _ARCHITECTURE},
        "computed_in": "float32, fused attention",
        "mask": mask,
        # Token ids are in each item's tag, but items of another prompt mode must not be dropped as stale.
        "prompt_mode": bundle.settings.prompt_mode,
    }
    if not bundle.label_set.is_ssg_qa:  # caches of SSG-QA are older than other labels
        fingerprint_values["labels"] = list(bundle.label_set.labels)
    if prompt_tokenizer.target != "short":  # so that items of short answers are not dropped as stale
        fingerprint_values["target"] = prompt_tokenizer.target
    width = bundle.model.config.text_config.hidden_size
    store = FeatureCache(cache, fingerprint_values, width, dtype, must_write=must_write)
    reader = TextReader(video_source.reader, prompt_tokenizer, mask, store)
    return TextStateSource(bundle.model, video_source, reader)
