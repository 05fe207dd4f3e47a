"""From flags or a checkpoint to a model with its tokenizer, and back to a folder.

A checkpoint folder holds::

    config.json          the architecture (SurgViVQAConfig)
    surgvivqa.json       the settings it was trained with, and the run's flags
    model.safetensors    the tensors that the published parts do not give back (base preset), or all (tiny preset)
    tokenizer.json ...   the tokenizer
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from surgvivqa.config import ModelConfig, TrainConfig, clip_length, read_yaml
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.packing import PromptCoder
from surgvivqa.errors import InputError
from surgvivqa.labels import LABELS
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.freezing import (
    apply_freezing,
    checkpoint_activations,
    lora_settings,
    refuse_cache_of_what_trains,
)
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.pretrained import load_decoder, load_text_encoder, load_video_encoder
from surgvivqa.model.vocabulary import fit_vocabulary
from surgvivqa.prompts import build_prompt, build_target

PACKAGED = "tiny"  # what --checkpoint calls the packaged base
PACKAGED_BASE = Path(__file__).parents[1] / "base"  # the tiny preset's weights, made by `surgvivqa build-base`
_SETTINGS = tuple(f.name for f in dataclasses.fields(ModelConfig))


@dataclass
class Bundle:
    """A model with what belongs to it: its tokenizer, its settings, and the flags of the run that made it.

    ``own`` names the tensors that came from a checkpoint and not from the published parts.
    """

    model: SurgViVQAModel
    tokenizer: Any
    settings: ModelConfig
    run: dict[str, Any] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.model.config.video_pool = self.settings.video_pool


def frame_store(bundle: Bundle, image_root: Path) -> FrameStore:
    """The frames as this model wants them."""
    return frame_store_of(bundle.settings, bundle.model.config.video_config, image_root)


def frame_store_of(settings: ModelConfig, video: Any, image_root: Path) -> FrameStore:
    """The frames as a model of these settings and this VideoMAE configuration wants them."""
    return FrameStore(
        root=image_root,
        size=video.image_size,
        fit=settings.frame_fit,
        clip_mode=settings.clip_mode,
        num_frames=video.num_frames,
        stride=settings.clip_stride,
    )


def coder(bundle: Bundle) -> PromptCoder:
    """Prompts and labels to token ids, as this model wants them."""
    return PromptCoder(bundle.tokenizer, bundle.settings.prompt_mode, bundle.settings.max_length)


def train_tokenizer(questions: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE for the tiny preset. As in GPT-2's, a label's words are tokens apart; no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    pattern = pre_tokenizers.Split(Regex(r" ?[^\W_]+|_+| ?[^\s\w]+|\s+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pattern, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    labels = [build_target(label) for label in LABELS] * 1000
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        min_frequency=2,
        show_progress=False,
    )
    texts = [build_prompt(q) for q in sorted(set(questions))]
    tokenizer.train_from_iterator(texts + labels, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def build_for_training(config: TrainConfig) -> Bundle:
    """The model a training run starts from, with its freezing applied.

    Raises:
        InputError: a pretrained part cannot be had, or would stay at random; or nothing would be trained.
    """
    refuse_cache_of_what_trains(config)
    length = clip_length(config)
    if length < 2 or length % 2:
        raise InputError(f"--num-frames must be an even number of at least 2, not {length}.")
    settings = ModelConfig(**{name: getattr(config, name) for name in _SETTINGS})
    torch.manual_seed(config.seed)
    if config.pretrained_ckpt is not None:
        start = load_checkpoint(config.pretrained_ckpt, settings)
        bundle = _go_on_from(start, settings, lora_settings(config), f"--pretrained-ckpt {config.pretrained_ckpt}")
    elif config.preset == "tiny":
        start = _load_folder(PACKAGED_BASE, config.num_frames)
        bundle = _go_on_from(start, settings, lora_settings(config), "--preset tiny")
    else:
        bundle = _build_base(settings, lora_settings(config))
    apply_freezing(bundle.model, config)
    if config.gradient_checkpointing:
        checkpoint_activations(bundle.model)
    return bundle


def _build_base(settings: ModelConfig, lora: dict[str, float] | None) -> Bundle:
    video = load_video_encoder(settings.video_model, clip_length(settings))
    text = load_text_encoder(settings.text_model)
    decoder, tokenizer = load_decoder(settings.decoder_model)
    widths = (video.config.hidden_size, text.config.encoder_hidden_size)
    if widths[0] != widths[1]:
        raise InputError(
            f"--video-model {settings.video_model} gives tokens of {widths[0]} numbers, but the text encoder "
            f"{settings.text_model} looks at tokens of {widths[1]}; take parts of one width."
        )
    if text.config.hidden_size != decoder.config.hidden_size:
        raise InputError(
            f"--text-model {settings.text_model} gives states of {text.config.hidden_size} numbers, but the decoder "
            f"{settings.decoder_model} takes {decoder.config.hidden_size}; take parts of one width."
        )
    fit_vocabulary(text, settings, decoder, tokenizer)
    config = SurgViVQAConfig(video.config, text.config, decoder.config, lora=lora)
    model = SurgViVQAModel(config, {"visual_encoder": video, "text_encoder": text, "llm": decoder})
    return Bundle(model, tokenizer, settings)


_OF_THE_CHECKPOINT = ("preset", "video_model", "text_model", "decoder_model", "text_embeddings", "num_frames")
_OF_THE_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout")


def _go_on_from(start: Bundle, settings: ModelConfig, lora: dict[str, float] | None, path: str) -> Bundle:
    """A checkpoint's weights under this run's settings; what the weights decide comes from the checkpoint.

    Adapters are added where the run asks for some and the checkpoint has none, and merged where it has some and the run
    asks for none (``--full-finetune``).

    Raises:
        InputError: a flag asks for another model than the checkpoint's.
    """
    model, merge = start.model, bool(start.model.config.lora) and lora is None
    start.settings.num_frames = model.config.video_config.num_frames
    fixed = [*_OF_THE_CHECKPOINT, *(_OF_THE_ADAPTERS if model.config.lora and not merge else ())]
    usual = ModelConfig()
    for name in fixed:
        asked, has = getattr(settings, name), getattr(start.settings, name)
        if asked not in (has, getattr(usual, name)):
            raise InputError(
                f"--{name.replace('_', '-')} {asked} contradicts {path}, which has {has}; leave the flag out."
            )
        setattr(settings, name, has)
    parts = {"visual_encoder": model.visual_encoder, "text_encoder": model.text_encoder, "llm": model.llm}
    own = set(start.own)
    if merge:
        parts["llm"] = model.llm.merge_and_unload()
        plain = (n.replace("llm.base_model.model.", "llm.").replace(".base_layer.", ".") for n in own)
        own = {re.sub(r"\.lora_[AB]\.\w+\.weight$", ".weight", n) for n in plain}
    old = model.config
    if merge or (lora and not old.lora):
        config = SurgViVQAConfig(old.video_config, old.text_config, old.decoder_config, lora=lora)
        model = SurgViVQAModel(config, parts)
        if lora:  # PEFT puts what it wraps under other names
            own = {_WRAPPED.sub(r"llm.base_model.model.\1.base_layer.\2", n) for n in own}
            own = {re.sub(r"^llm\.(?!base_model\.)", "llm.base_model.model.", n) for n in own}
    return Bundle(model, start.tokenizer, settings, own=own & set(model.state_dict()))


_WRAPPED = re.compile(r"^llm\.(transformer\.h\.\d+\.(?:attn|mlp)\.(?:c_attn|c_proj))\.(weight|bias)$")


def saved_tensors(bundle: Bundle) -> dict[str, Tensor]:
    """What a checkpoint must hold: the tensors trained, now or in a checkpoint that the run started from, or all where
    no published part can give the rest back.

    The output layer is tied to the word embedding and is left out.
    """
    model, whole = bundle.model, bundle.settings.preset == "tiny"
    trained = {name for name, p in model.named_parameters() if p.requires_grad} | bundle.own
    return {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if (whole or name in trained) and not name.endswith("lm_head.weight")
    }


def save_checkpoint(bundle: Bundle, folder: Path) -> None:
    """Writes a checkpoint folder (drawn at the top of this file), whole or not at all."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    bundle.model.config.save_pretrained(temporary)
    bundle.tokenizer.save_pretrained(temporary)
    settings = {"settings": dataclasses.asdict(bundle.settings), "run": bundle.run}
    (temporary / "surgvivqa.json").write_text(json.dumps(settings, indent=2, default=str), encoding="utf-8")
    save_file({k: v.cpu() for k, v in saved_tensors(bundle).items()}, temporary / "model.safetensors")
    (temporary / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def export_pth(bundle: Bundle, path: Path) -> None:
    """Writes the saved tensors in the published form: a ``torch.save`` of names and tensors, nothing else in it."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save({_published(k): v.cpu() for k, v in saved_tensors(bundle).items()}, temporary)
    temporary.replace(path)


# VideoMAE's query and value biases: (the name in published files, the name in Transformers 5).
_RENAMED = (
    ("attention.attention.q_bias", "attention.attention.query.bias"),
    ("attention.attention.v_bias", "attention.attention.value.bias"),
)


def _published(name: str) -> str:
    """A tensor's name as published files have it."""
    for old, new in _RENAMED:
        if name.startswith("visual_encoder.") and name.endswith(new):
            return name.removesuffix(new) + old
    return name


def _present(name: str) -> str:
    """A tensor's name as this model has it."""
    for old, new in _RENAMED:
        if name.startswith("visual_encoder.") and name.endswith(old):
            return name.removesuffix(old) + new
    return name


def load_checkpoint(path: Path, fallback: ModelConfig) -> Bundle:
    """A model in eval mode from a run folder, its ``best/``, a ``.pth`` state dict, or ``tiny``, the packaged base.

    Args:
        path: the checkpoint.
        fallback: the settings a lone ``.pth`` is read with; one with a ``config.yaml`` beside it takes those.

    Raises:
        InputError: there is no checkpoint, it is damaged, or its tensors do not belong to the model.
    """
    path = Path(path)
    if str(path) == PACKAGED:
        if any((folder / "surgvivqa.json").is_file() for folder in (path, path / "best")):
            raise InputError(f"{PACKAGED!r} is the packaged base, but also a run folder here; give its full path.")
        bundle = _load_folder(PACKAGED_BASE, fallback.num_frames)
    elif path.suffix in (".pth", ".pt", ".bin"):
        bundle = _load_pth(path, fallback)
    else:
        folders = [path, path / "best"]
        folder = next((f for f in folders if (f / "surgvivqa.json").is_file()), None)
        if folder is None:
            raise InputError(
                f"--checkpoint {path} holds no checkpoint: expected a run folder with best/, a folder with "
                f"surgvivqa.json, or a .pth file."
            )
        bundle = _load_folder(folder)
    bundle.model.eval()
    return bundle


def _load_folder(folder: Path, num_frames: int | None = None) -> Bundle:
    """A checkpoint folder's model; ``num_frames`` gives it clips of another length."""
    try:
        saved = json.loads((folder / "surgvivqa.json").read_text(encoding="utf-8"))
        settings = ModelConfig(**saved["settings"])
        config = SurgViVQAConfig.from_pretrained(folder)
        config.video_config.num_frames = num_frames or config.video_config.num_frames
        tensors = load_file(folder / "model.safetensors")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # safetensors, JSON and tokenizers each raise their own kinds
        raise InputError(
            f"Checkpoint {folder} is damaged or incomplete ({str(error).splitlines()[0][:200]})."
        ) from error
    if settings.preset == "tiny":
        model = SurgViVQAModel(config)
    else:
        model = _build_base(settings, config.lora).model
    _put(model, tensors, folder, whole=settings.preset == "tiny")
    return Bundle(model, tokenizer, settings, saved.get("run", {}), set(tensors))


def _load_pth(path: Path, fallback: ModelConfig) -> Bundle:
    if not path.is_file():
        raise InputError(f"--checkpoint {path} does not exist.")
    beside = path.parent / "config.yaml"
    if beside.is_file():
        run = read_yaml(beside, TrainConfig)
        fallback = ModelConfig(**{k: v for k, v in run.items() if k in _SETTINGS})
    else:
        run = {}
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated zip, foreign pickle: torch raises several kinds
        raise InputError(
            f"{path} is no state dict that can be read safely: it is damaged, or holds Python objects beside tensors, "
            f"which are never executed here."
        ) from error
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise InputError(f"{path} is no state dict: it must map parameter names to tensors.")
    tensors = {_present(k.removeprefix("module.")): v for k, v in tensors.items()}
    if fallback.preset == "tiny":
        folder = path.parent / "best"
        if not (folder / "surgvivqa.json").is_file():
            raise InputError(f"{path} is of the tiny preset, whose tokenizer is in best/ beside it; that is missing.")
        bundle = _load_folder(folder)
        _put(bundle.model, tensors, path, whole=True)
        return Bundle(bundle.model, bundle.tokenizer, bundle.settings, run)
    has_lora = any("lora_" in k for k in tensors)
    lora = {"r": fallback.lora_r, "alpha": fallback.lora_alpha, "dropout": fallback.lora_dropout} if has_lora else None
    bundle = _build_base(fallback, lora)
    _put(bundle.model, tensors, path, whole=False)
    return Bundle(bundle.model, bundle.tokenizer, fallback, run, set(tensors))


def _put(model: SurgViVQAModel, tensors: dict[str, Tensor], where: Path, *, whole: bool) -> None:
    """Copies tensors into the model by name; every name and shape must fit, and ``whole`` wants all of them."""
    own = model.state_dict()
    foreign = [
        k
        for k in tensors
        if k not in own and not k.endswith(("position_ids", "position_embeddings", ".attn.bias", "masked_bias"))
    ]
    shapes = [k for k, v in tensors.items() if k in own and own[k].shape != v.shape]
    absent = [k for k in own if k not in tensors and not k.endswith("lm_head.weight")] if whole else []
    for problem, names in (("does not know", foreign), ("has another shape for", shapes), ("is not given", absent)):
        if names:
            raise InputError(
                f"{where} does not fit the model: the model {problem} {len(names)} of its tensors (first: {names[0]})."
            )
    if not tensors:
        raise InputError(f"{where} holds no tensor.")
    model.load_state_dict(tensors, strict=False)
