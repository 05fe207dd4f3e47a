"""A small random SurgViVQA model with prompts, labels and clips that fit it."""

import torch
from transformers import BlipTextConfig, GPT2Config, VideoMAEConfig

from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.modeling import SurgViVQAModel

# Labels of several lengths with shared prefixes, as from GPT-2's tokenizer.
LABEL_IDS = [[20], [21], [22, 23], [22, 24, 25], [22, 24, 26], [27, 28, 29, 30], [31, 20], [32]]

PROMPTS = [[[1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11, 12, 13]], [[3, 3, 3]]]  # two frames: three questions and one


def small_model(lora: bool = False) -> SurgViVQAModel:
    torch.manual_seed(0)
    config = SurgViVQAConfig(
        VideoMAEConfig(
            image_size=32,
            patch_size=16,
            num_frames=4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            use_mean_pooling=False,
        ),
        BlipTextConfig(
            vocab_size=60,
            hidden_size=32,
            encoder_hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.3,
        ),
        GPT2Config(
            vocab_size=60,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.2,
        ),
        lora={"r": 4, "alpha": 8, "dropout": 0.0} if lora else None,
    )
    model = SurgViVQAModel(config).eval()
    if lora:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def clips() -> torch.Tensor:
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
