"""Questions to text states: from the cache where they are in it, else by the frozen encoder, then into the cache."""

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

log = logging.getLogger("surgvivqa")
# What decides the text encoder's output and shows in no tensor's shape.
_ARCHITECTURE = ("num_attention_heads", "layer_norm_eps", "hidden_act")


class TextStateSource:
    """The text encoder's outputs on questions in training, from a cache that fills as frames are met.

    A frame's item is a function of the frozen weights, the frame and its questions alone, whichever of them a
    micro-batch asks for: all are computed in one pass of that frame, in float32 whatever precision the run has, rounded
    to the cache's dtype, and used in that rounded form also the first time. So a hit equals a miss bit for bit.

    Args:
        model: its text encoder is frozen and in eval mode.
        video: the frames' video tokens, with a cache.
        reader: the questions' token ids, and the cache of text states.
    """

    def __init__(self, model: SurgViVQAModel, video: VideoTokenSource, reader: TextReader) -> None:
        self.model, self.video, self.reader, self.cache = model, video, reader, reader.cache
        self.hits = self.misses = 0

    def model_inputs(self, inputs: TextInputs) -> dict[str, Tensor]:
        """What ``forward`` takes."""
        return {"text_states": self(inputs)}

    @torch.no_grad()
    def __call__(self, inputs: TextInputs) -> Tensor:
        """Text states ``[N, hidden]``, float32, on the model's device, in the order of the questions' stream.

        Raises:
            RunError: an encoder gives a value that is not finite.
            InputError: a cache file is damaged.
        """
        lengths = [
            sum(end - start for start, end in token_ranges)
            for token_ranges, uncached in zip(inputs.token_ranges, inputs.uncached, strict=True)
            if uncached is None
        ]
        found = iter(() if inputs.states is None else inputs.states.to(self.video.device).float().split(lengths))
        pieces = []
        for key, token_ranges, uncached in zip(inputs.keys, inputs.token_ranges, inputs.uncached, strict=True):
            self.hits += uncached is None
            pieces.append(next(found) if uncached is None else select_tokens(self._made(key, uncached), token_ranges))
        return torch.cat(pieces)

    def _made(self, key: Key, uncached: UncachedText) -> Tensor:
        """The item ``[rows, hidden]`` of a frame, float32."""
        # Since the worker looked, this process may have met the frame in an earlier batch.
        item = self.cache.get(*key)
        if item is not None:
            self.hits += 1
            return item.to(self.video.device).float()
        self.misses += 1
        video = CrossAttentionCache(self.video(uncached.video))
        packed = pack_stream([uncached.trees], self.reader.mask, len(uncached.trees)).to(self.video.device)
        with torch.autocast(self.video.device.type, enabled=False):
            states = self.model.text_states(packed, video, build_layouts(packed, video.tokens.dtype)[0])
        return self.cache.put(*key, states).float()

    def flush(self) -> None:
        """Writes what was computed and is not on disk yet."""
        self.video.flush()
        self.cache.flush()

    def __enter__(self) -> "TextStateSource":
        return self

    def __exit__(self, *error: object) -> None:
        self.video.__exit__(*error)
        self.cache.flush()
        log.info("Cache %s: text of %d frames' rows read, of %d computed", self.cache.folder, self.hits, self.misses)


def build_text_state_source(
    bundle: ModelBundle,
    video: VideoTokenSource,
    prompts: PromptTokenizer,
    cache: Path,
    dtype: str,
    *,
    must_write: bool = False,
) -> TextStateSource:
    """The text states of a model's questions, its video and text encoders taken as frozen.

    Args:
        bundle: the model; with its text encoder's weights hashed (about a second for BLIP-base).
        video: its frames' video tokens, cached.
        prompts: questions and labels to token ids.
        cache: the cache folder.
        dtype: the cache's dtype.
        must_write: whether a cache folder that cannot be written is an error.

    Raises:
        InputError: the cache folder cannot be used.
    """
    assert video.cache is not None
    encoder, mask = bundle.model.text_encoder, bundle.settings.mask
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
    made_of: dict[str, Any] = {
        "features": "text states",
        "video_tokens": video.cache.fingerprint,  # their manifest has it in words; the rounding of theirs is in it
        "weights_sha256": hash_weights(weights),
        "architecture": {name: getattr(bundle.model.config.text_config, name) for name in _ARCHITECTURE},
        "computed_in": "float32, fused attention",
        "mask": mask,
        # The ids are in each item's tag; this keeps the items of another prompt from being dropped as out of date.
        "prompt_mode": bundle.settings.prompt_mode,
    }
    width = bundle.model.config.text_config.hidden_size
    store = FeatureCache(cache, made_of, width, dtype, must_write=must_write)
    return TextStateSource(bundle.model, video, TextReader(video.reader, prompts, mask, store))
