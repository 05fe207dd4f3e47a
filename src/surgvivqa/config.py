"""Every flag of every command, as documented dataclasses.

Precedence, lowest first: the defaults below, the file named by ``--config`` (YAML, the same names with underscores),
the command line. ``SSGVQA_ROOT`` and ``IMAGE_ROOT`` in the environment stand in for the two data folders where neither
names them. The run folder's ``config.yaml`` holds the outcome and starts the same run again.
"""

import dataclasses
import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from surgvivqa.data.prompts import PromptMode
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

Preset = Literal["base", "tiny"]
MaskMode = Literal["prefix", "causal", "bidirectional"]
FrameFit = Literal["squash", "pad", "crop"]
ClipMode = Literal["repeat", "past"]
ScoreNorm = Literal["sum", "mean"]
Schedule = Literal["cosine", "constant"]
TrainVideo = Literal["none", "patch-embed", "full"]
VideoPool = Literal["none", "temporal"]
TextEmbeddings = Literal["published", "aligned"]
CacheDtype = Literal["fp16", "bf16", "fp32"]
OnBadFrame = Literal["error", "skip"]
BestMetric = Literal["acc", "mAP", "mAR", "mAF1", "wF1", "loss"]


def _root(variable: str) -> Any:
    return field(default_factory=lambda: Path(os.environ[variable]) if os.environ.get(variable) else None)


@dataclass(kw_only=True)
class DataConfig:
    """Where the data lies and how a frame becomes a clip."""

    ssgvqa_root: Path | None = _root("SSGVQA_ROOT")
    """Folder of the questions, <root>/<VIDxx>/<frame>.txt (default: the environment's SSGVQA_ROOT)."""
    image_root: Path | None = _root("IMAGE_ROOT")
    """Folder of the frames, <root>/<VIDxx>/<frame padded to 6>.png (default: the environment's IMAGE_ROOT)."""
    splits_dir: Path | None = None
    """Folder with train_videos.json, val_videos.json, test_videos.json (default: SSG-VQA-Net's split)."""
    strict: bool = False
    """Make a line that breaks the format, an answer outside the 51 labels, or a question file that is no text (or over
    8 MB, or no file) an error instead of a count."""
    workers: int = 2
    """Processes that decode frames beside the training process; 0 decodes in it."""
    on_bad_frame: OnBadFrame = "error"
    """A frame that is missing, damaged or no still 8-bit picture ends the command (what was learned is saved), or the
    questions about it are left out, told of and counted."""
    max_bad_frames: float = 0.01
    """With --on-bad-frame skip: the part of the frames that may be left out; one more is an error."""


@dataclass(kw_only=True)
class ModelConfig:
    """What the model is made of."""

    preset: Preset = "base"
    """base: VideoMAE-base, BLIP-base and GPT-2 as published; tiny: a small base in the package that has
    learned from drawn scenes, no hub."""
    video_model: str = "MCG-NJU/videomae-base"
    """Video encoder of the base preset: a hub name or a local folder."""
    text_model: str = "Salesforce/blip-vqa-base"
    """Text encoder of the base preset: a hub name or a local folder."""
    decoder_model: str = "gpt2"
    """Decoder and tokenizer of the base preset: a hub name or a local folder."""
    text_embeddings: TextEmbeddings = "published"
    """The text encoder's rows in the base preset. published looks BLIP's WordPiece rows up with the decoder's ids, as
    published checkpoints do; aligned gives each of the decoder's tokens the mean of BLIP's rows for its string."""
    mask: MaskMode = "prefix"
    """Who sees whom. bidirectional is the published behaviour, in which the answer leaks into its own prediction."""
    prompt_mode: PromptMode = "simple"
    """simple asks the question; choices also lists the 51 candidates (needs --max-length of about 192)."""
    max_length: int = 128
    """Longest prompt with its answer, in tokens; a longer one is an error before the run starts."""
    frame_fit: FrameFit = "squash"
    """squash keeps the whole frame, pad keeps its shape too, crop cuts the sides off (parity with VideoMAE)."""
    clip_mode: ClipMode = "repeat"
    """repeat shows the asked frame T times; past shows the T frames that end at it."""
    clip_stride: int = 1
    """Seconds between two frames of a past clip."""
    num_frames: int | None = None
    """Frames in a clip, an even number (default: 16, or 2 in the tiny preset)."""
    video_pool: VideoPool = "none"
    """none gives the text encoder every video token; temporal their mean over the clip's time: an eighth of them at 16
    frames, in memory, in cross-attention and on disk, without the order in time."""
    lora_r: int = 8
    """Rank of the LoRA adapters; 0 for none."""
    lora_alpha: int = 32
    """LoRA's alpha: the adapters are scaled by alpha / r."""
    lora_dropout: float = 0.1
    """Dropout before the adapters."""


def clip_length(config: ModelConfig) -> int:
    """Frames in a clip: what the flag says, or the preset's own number.

    Raises:
        InputError: it is odd or below 2, as VideoMAE takes frames two by two; or above 512.
    """
    length = config.num_frames if config.num_frames is not None else (2 if config.preset == "tiny" else 16)
    if length < 2 or length % 2 or length > 512:  # positions are made for each frame
        raise InputError(f"--num-frames must be an even number from 2 to 512, not {length}.")
    return length


@dataclass(kw_only=True)
class TrainConfig(DataConfig, ModelConfig):
    """Fine-tunes the model and leaves a run folder."""

    checkpoint_dir: Path = Path("runs/train")
    """The run folder: config.yaml, train.log, metrics.jsonl, checkpoints/, best/, best_model.pth."""
    log_file: Path | None = None
    """Text log (default: train.log in the run folder)."""
    overwrite: bool = False
    """Replace a run that the run folder already holds."""
    resume: Literal["auto", "never"] = "auto"
    """auto: a run folder's run goes on from its newest whole checkpoint, with the same flags; never: it is refused."""
    max_hours: float | None = None
    """Stop after this long as if a signal came: a checkpoint, exit code 75, and the same command goes on."""
    pretrained_ckpt: Path | None = None
    """Start from these weights: a run folder, its best/, or a .pth state dict."""

    max_steps: int | None = None
    """Optimiser steps; without it, --epochs."""
    epochs: int = 1
    """Passes over the training questions, where --max-steps is not given."""
    batch_size: int = 8
    """Questions in a forward pass."""
    questions_per_frame: int = 8
    """How many of them share a frame: more is faster, fewer gives less correlated gradients."""
    gradient_accumulation_steps: int = 1
    """Forward passes for one optimiser step."""
    lr: float = 5e-4
    """Highest learning rate, reached after the warm-up."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices alone."""
    warmup_steps: int = 100
    """Steps of linear warm-up (cut to a tenth of the run where it is shorter)."""
    schedule: Schedule = "cosine"
    """The rate after the warm-up: cosine to zero, or constant."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    fp16: bool = False
    """Mixed precision in float16, with loss scaling; needs a GPU."""
    bf16: bool = False
    """Mixed precision in bfloat16; far slower than float32 on most CPUs."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    full_finetune: bool = False
    """Train GPT-2 itself and put no LoRA adapters on it."""
    train_gpt2_full: bool = False
    """Train GPT-2's own weights (beside the adapters, unless --full-finetune)."""
    train_blip: bool = False
    """Train the whole BLIP text encoder."""
    unfreeze_blip_last_n: int = 0
    """Train the last N layers of the BLIP text encoder."""
    train_video: TrainVideo = "none"
    """Train nothing of VideoMAE, its patch embedding and last LayerNorm (as the paper does), or all of it."""

    cache: Path | None = None
    """Folder of cached video tokens: read where they are there, filled where not; needs a frozen video encoder."""
    cache_dtype: CacheDtype = "fp16"
    """How they are rounded, in the cache and in the run: fp16 and bf16 take half of fp32's space."""
    cache_text: bool = False
    """Also keep in --cache what the frozen text encoder gives for every training question, so that an epoch runs
    GPT-2 alone. For training only: to score labels the text encoder must run anyway."""

    eval_every_steps: int = 2000
    """Validate after this many steps, and at the end; 0 for the end alone."""
    save_every_steps: int = 5000
    """Write checkpoints/step-N after this many steps; 0 for none but the best."""
    keep_checkpoints: int = 2
    """How many of checkpoints/ to keep."""
    val_max_samples: int | None = 2000
    """Validate on at most this many questions, spread over the videos."""
    best_metric: BestMetric = "acc"
    """The validation figure that picks best/."""
    max_train_samples: int | None = None
    """Train on at most this many questions, drawn by the seed."""
    log_interval: int = 50
    """Steps between two lines of the log."""
    seed: int = 42
    """Everything random follows from it."""
    debug: bool = False
    """Eight frames, ten steps, validation at the end: does it run at all?"""


@dataclass(kw_only=True)
class EvalConfig:
    """Scores all 51 labels for every question of a split and writes predictions.jsonl and metrics.json."""

    checkpoint: Path
    """A run folder, its best/, a .pth state dict, or tiny: the packaged base as it is."""
    output: Path | None = None
    """Folder of the results (default: eval-<split> in the run folder)."""
    split: Literal["train", "val", "test"] = "test"
    """Which videos."""
    ssgvqa_root: Path | None = _root("SSGVQA_ROOT")
    """Folder of the questions (default: SSGVQA_ROOT, then the checkpoint's own)."""
    image_root: Path | None = _root("IMAGE_ROOT")
    """Folder of the frames (default: IMAGE_ROOT, then the checkpoint's own)."""
    splits_dir: Path | None = None
    """Folder of the three split files (default: the checkpoint's own)."""
    prompt_mode: PromptMode | None = None
    """The prompt (default: the checkpoint's own; another one is warned of)."""
    mask: MaskMode | None = None
    """Who sees whom (default: the checkpoint's own)."""
    max_length: int | None = None
    """Longest prompt with its answer, in tokens (default: the checkpoint's own)."""
    score_norm: ScoreNorm = "sum"
    """sum of a label's token log-probabilities, or their mean (the published way, which favours long labels)."""
    scores: bool = False
    """Also write the 51 log-probabilities of every question."""
    answer_only: bool = False
    """Leave out the scores of labels that cannot win: the same answers, faster; probability and top5 are null."""
    batch_size: int = 40
    """Questions in a pass; one frame's questions share its encoding whatever this is. More on a GPU."""
    max_samples: int | None = None
    """Score at most this many questions, spread over the videos."""
    workers: int = 2
    """Processes that decode frames."""
    strict: bool = False
    """Make a line that breaks the format, an unknown answer or a question file that is no text an error."""
    on_bad_frame: OnBadFrame = "error"
    """A frame that cannot be used ends the command, or its questions are left out; metrics.json then names it."""
    max_bad_frames: float = 0.01
    """With --on-bad-frame skip: the part of the frames that may be left out; one more is an error."""
    bf16: bool = False
    """Run in bfloat16 (a GPU)."""
    cache: Path | None = None
    """Folder of cached video tokens: read where they are there, filled where not."""
    cache_dtype: CacheDtype = "fp16"
    """How they are rounded, in the cache and in the scores."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What a lone .pth is read as; a run folder brings its own."""


@dataclass(kw_only=True)
class PredictConfig:
    """Answers one question about one frame, or about a clip of several."""

    checkpoint: Path
    """A run folder, its best/, a .pth state dict, or tiny: the packaged base as it is."""
    image: list[Path]
    """The frame; or the frames of a clip, oldest first, for a model trained on past clips."""
    question: str
    """The question."""
    top: int = 5
    """How many answers to show."""
    json: bool = False
    """Print JSON."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What a lone .pth is read as; a run folder brings its own."""


@dataclass(kw_only=True)
class CacheConfig(DataConfig, ModelConfig):
    """Fills a cache of video tokens for training and evaluation; run again, it goes on where it was stopped."""

    cache: Path
    """The cache's folder; what was made of other weights or settings stays beside it, in a folder of its own."""
    checkpoint: Path | None = None
    """Fill it for eval --checkpoint: weights and settings from here (a run folder, its best/, or a .pth)."""
    pretrained_ckpt: Path | None = None
    """Fill it for train --pretrained-ckpt: weights from here, settings from the flags."""
    splits: str = "train,val,test"
    """Which videos: splits with commas between."""
    cache_dtype: CacheDtype = "fp16"
    """How tokens are rounded; fp16 and bf16 take half of fp32's space."""
    cache_text: bool = False
    """Then also the text states of the training split's questions, for train --cache-text with the same flags."""
    shard: int | None = None
    """This task's number, from 0, where several share the videos (default: SLURM array task, torchrun's rank)."""
    num_shards: int | None = None
    """How many tasks share the videos (default: SLURM array tasks, torchrun's world size)."""
    verify: bool = False
    """Then read everything back and compare the checksums."""


@dataclass(kw_only=True)
class CheckConfig(TrainConfig):
    """Looks at everything that can go wrong before a run does. Takes train's flags."""

    json: bool = False
    """Print the results as JSON."""
    frames_to_open: int = 200
    """How many frames to decode, spread over the videos; 0 for all."""


_LARGEST_YAML = 1_000_000  # bytes
_LEAST = {
    "seed": 0,
    "batch_size": 1,
    "questions_per_frame": 1,
    "gradient_accumulation_steps": 1,
    "log_interval": 1,
    "max_steps": 1,
    "epochs": 1,
    "max_train_samples": 1,
    "max_samples": 1,
    "clip_stride": 1,
    "max_length": 1,
    "keep_checkpoints": 1,
    "lr": 0,
    "max_hours": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
    "workers": 0,
    "lora_r": 0,
    "lora_dropout": 0,
    "eval_every_steps": 0,
    "save_every_steps": 0,
    "val_max_samples": 0,
    "frames_to_open": 0,
    "max_bad_frames": 0,
}


def check_ranges(config: Any) -> None:
    """Raises InputError where a flag's number lies outside its range."""
    for name, least in _LEAST.items():
        value = getattr(config, name, None)
        if value is not None and not value >= least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {value}.")
    if getattr(config, "seed", 0) >= 2**32:
        raise InputError(f"--seed must be below 2**32, not {config.seed}.")
    if getattr(config, "max_bad_frames", 0) > 1:
        raise InputError(f"--max-bad-frames is a part of all frames, at most 1, not {config.max_bad_frames}.")
    if getattr(config, "lora_dropout", 0) >= 1:
        raise InputError(f"--lora-dropout must be below 1, not {config.lora_dropout}.")


def data_roots(config: DataConfig) -> tuple[Path, Path]:
    """The folders of the questions and of the frames.

    Raises:
        InputError: one is not given, or is no folder.
    """
    roots = []
    for flag, root in (("--ssgvqa-root", config.ssgvqa_root), ("--image-root", config.image_root)):
        if root is None:
            raise InputError(f"{flag} is missing; give it, or set {flag[2:].replace('-', '_').upper()}.")
        if not root.is_dir():
            raise InputError(f"{flag} {root} is no folder.")
        roots.append(root)
    return roots[0], roots[1]


def save_yaml(config: Any, path: Path) -> None:
    """Writes a config as YAML, whole or not at all; paths become text."""
    plain = {
        f.name: str(v) if isinstance(v := getattr(config, f.name), Path) else v for f in dataclasses.fields(config)
    }
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def yaml_arguments(path: Path, cls: type) -> list[str]:
    """A YAML file of flags as command-line arguments, so that the command line's own rules type and check them.

    Raises:
        InputError: as ``read_yaml``.
    """
    arguments: list[str] = []
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name, value in read_yaml(path, cls).items():
        if isinstance(value, dict):
            for key, inner in value.items():
                arguments += _argument(f"{name}.{key}", inner)
        elif value is not None or fields[name].default is not None:
            # A root left empty stands for the environment's.
            arguments += [] if name.endswith("_root") and value is None else _argument(name, value)
    return arguments


def _argument(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        head, _, tail = flag[2:].rpartition(".")
        return [flag if value else f"--{head}{'.' if head else ''}no-{tail}"]
    return [flag, *(str(v) for v in value)] if isinstance(value, list) else [flag, str(value)]


class _Flags(yaml.SafeLoader):
    """YAML without aliases: a few lines of aliases of aliases are more than any memory as text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As YAML's own."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)


def plain_yaml(path: Path) -> Any:
    """The content of a YAML file of flags.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large or too deep to be one, or no text.
        yaml.YAMLError: it is no YAML, several documents, or has an alias.
    """
    if path.stat().st_size > _LARGEST_YAML:
        raise ValueError(f"it is larger than {_LARGEST_YAML:,} bytes, so it is no file of flags")
    try:
        return _Flags(path.read_text(encoding="utf-8")).get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deep to be a file of flags") from None


def read_yaml(path: Path, cls: type) -> dict[str, Any]:
    """Reads a YAML file of flags for ``cls``.

    Raises:
        InputError: the file cannot be read, is no mapping, or has a key that is no flag (the nearest one is named).
    """
    try:
        loaded = plain_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"Config file {path} cannot be read ({str(error).splitlines()[0]}).") from None
    values = {} if loaded is None else loaded
    if not isinstance(values, dict):
        raise InputError(f"Config file {path} must map flag names to values.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
            raise InputError(f"Config file {path} has the unknown key {key!r}; the nearest one is {near[0]!r}.")
        if value is not None and "Path" in str(fields[name].type):
            value = Path(str(value))
        elif "float" in str(fields[name].type) and isinstance(value, str):
            try:  # YAML 1.1 reads 5e-4 as text
                value = float(value)
            except ValueError:
                raise InputError(f"Config file {path}: {key} must be a number, not {value!r}.") from None
        result[name] = value
    return result
