"""How many frames and questions are scored in one pass: a fixed number on a CPU, what the memory allows on a GPU."""

from dataclasses import dataclass

import torch

from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.modeling import LOGIT_ROWS_ON_GPU
from surgvivqa.model.pooling import token_count

MAX_FRAMES = 32
QUESTIONS_PER_FRAME = 40  # SSG-QA has 39 on average
_USED_SHARE = 0.6  # of the free memory; the rest is for fragments and for libraries' buffers


@dataclass(frozen=True)
class PassSize:
    """The most that one pass takes.

    Attributes:
        questions: number of questions; a frame with more is scored in several passes.
        frames: number of frames.
    """

    questions: int
    frames: int = MAX_FRAMES


ON_CPU = PassSize(QUESTIONS_PER_FRAME)


@dataclass(frozen=True)
class PassMemory:
    """What a pass of a model takes of a GPU's memory, in bytes, rounded up to be safe.

    Attributes:
        per_frame: for a frame, its clip, the video encoder's activations, and the keys and values for cross-attention
            (116 MB in float32 at full size).
        per_question: for a question, the activations, masks, and keys and values of its tokens.
        fixed: the logits of one call of the output layer.
    """

    per_frame: int
    per_question: int
    fixed: int

    @classmethod
    def of_model(cls, config: SurgViVQAConfig, tokens_per_question: int, value_bytes: int) -> "PassMemory":
        """Computes it from a model's sizes.

        Args:
            config: the model's configuration.
            tokens_per_question: number of tokens of the longest prompt and of the labels' trie.
            value_bytes: bytes of a number in the matrix products: 4, or 2 under autocast. Outputs of norms have 4.
        """
        video, text, decoder = config.video_config, config.text_config, config.decoder_config
        clip = video.num_frames * video.num_channels * video.image_size**2
        patches = token_count(video, "none")
        tokens = token_count(video, config.video_pool)
        keys_values = 2 * text.num_hidden_layers * tokens * text.hidden_size * value_bytes
        encoder = patches * (2 * video.intermediate_size * value_bytes + 6 * video.hidden_size * 4)
        width = max(text.hidden_size, decoder.hidden_size)
        inner = max(text.intermediate_size, _inner_size(decoder))
        activations = tokens_per_question * (2 * inner * value_bytes + 8 * width * 4)
        masks = tokens_per_question**2 * (2 + 2 * (4 + value_bytes))
        layers = text.num_hidden_layers * text.hidden_size + decoder.num_hidden_layers * decoder.hidden_size
        kv_cache = 2 * tokens_per_question * layers * value_bytes
        return cls(
            per_frame=clip * (4 + value_bytes) + encoder + keys_values,
            per_question=activations + masks + kv_cache,
            fixed=3 * 4 * LOGIT_ROWS_ON_GPU * decoder.vocab_size,
        )


def choose_pass_size(free_bytes: int, memory: PassMemory) -> PassSize:
    """The largest pass that fits, of at most ``MAX_FRAMES`` frames with ``QUESTIONS_PER_FRAME`` questions each.

    Args:
        free_bytes: free memory of the GPU, in bytes.
        memory: what a pass takes of it.
    """
    budget = int(_USED_SHARE * free_bytes) - memory.fixed
    frames = budget // (memory.per_frame + QUESTIONS_PER_FRAME * memory.per_question)
    if frames >= 1:
        frames = min(MAX_FRAMES, frames)
        return PassSize(frames * QUESTIONS_PER_FRAME, frames)
    questions = (budget - memory.per_frame) // memory.per_question
    return PassSize(min(QUESTIONS_PER_FRAME, max(1, questions)), 1)


def free_memory(device: torch.device) -> int:
    """The bytes of a GPU that are free, once PyTorch has returned what it holds without a use.

    What a CUDA graph holds stays with it.
    """
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def _inner_size(decoder: object) -> int:
    """The width between the two layers of a decoder's MLP; GPT-2's configuration has None for four times its width."""
    hidden: int = decoder.hidden_size  # type: ignore[attr-defined]
    return getattr(decoder, "n_inner", None) or getattr(decoder, "intermediate_size", None) or 4 * hidden
