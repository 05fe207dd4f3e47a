"""The flags of the commands, as dataclasses. A field holds everything that is known about its flag.

Precedence, lowest first: the defaults, the YAML file of ``--config`` (the same names with underscores), the command
line. The environment variables ``SSGVQA_ROOT`` and ``IMAGE_ROOT`` are the defaults of the data folders. A run folder's
``config.yaml`` holds the result; ``--config`` with it starts the same run again.

To add a flag, add a field with ``flag(...)`` to its group or command. Its help, bounds, behaviour on resume and
visibility in published files follow from that call.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import tyro
import yaml

from surgvivqa.data.prompts import PromptMode, Target
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_yaml import plain_yaml

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
CudaGraphs = Literal["auto", "on", "off"]
BestMetric = Literal["acc", "mAP", "mAR", "mAF1", "wF1", "loss"]

OnResume = Literal["same", "free", "presence"]
FixedBy = Literal["weights", "adapters"]
_FLAG = "flag"  # key of a Flag in a field's metadata


@dataclass(frozen=True)
class Flag:
    """The properties of a flag other than its name, type, default and help.

    Attributes:
        least: smallest value allowed.
        most: largest value allowed.
        below: every value must be smaller than this.
        on_resume: ``same``: a resumed run must have the same value; ``free``: it may have another one; ``presence``: it
            may have another one, but must be given if the run had it, and only then.
        names_part: the value is a published model part, a hub name or a folder.
        fixed_by: what decides the value when a run starts from a checkpoint: its weights, its adapters, or nothing.
        accepts_fraction: the flag takes an integer, but checkpoints of other tools may hold a fraction.
        in_card: a model card shows it.
        is_path: the value is a local path, which no published file shows. Follows from the type.
    """

    least: float | None = None
    most: float | None = None
    below: float | None = None
    on_resume: OnResume = "same"
    names_part: bool = False
    fixed_by: FixedBy | None = None
    accepts_fraction: bool = False
    in_card: bool = False
    is_path: bool = False


def flag(
    help: str, default: Any = MISSING, *, default_factory: Callable[[], Any] | None = None, **properties: Any
) -> Any:
    """A dataclass field for a flag.

    Args:
        help: one or two sentences for ``--help``.
        default: its value if it is not given; a flag without a default is required.
        default_factory: makes the default when the command starts.
        properties: attributes of ``Flag``.
    """
    metadata = {"help": help, _FLAG: Flag(**properties)}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(cls: type) -> dict[str, Flag]:
    """The flags of a config class by field name, those of nested groups (``OptionalModelConfig``) included."""
    hints, flags = get_type_hints(cls), dict[str, Flag]()
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            flags |= flags_of(hints[field.name])
        else:
            properties = field.metadata.get(_FLAG, Flag())
            is_path = Path in (hints[field.name], *get_args(hints[field.name]))
            flags[field.name] = dataclasses.replace(properties, is_path=is_path)
    return flags


def flag_names(cls: type, select: Callable[[Flag], object]) -> tuple[str, ...]:
    """The names of a config class's flags for which ``select`` is true, in their order."""
    return tuple(name for name, properties in flags_of(cls).items() if select(properties))


def option(name: str) -> str:
    """A flag as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def folder_from_environment(variable: str) -> Callable[[], Path | None]:
    """Makes the default of a flag for a folder: what an environment variable names, or None."""
    return lambda: Path(os.environ[variable]) if os.environ.get(variable) else None


@dataclass(kw_only=True)
class DataConfig:
    """Where the data is and what to do with data that cannot be used."""

    dataset: str | None = flag(
        "Data set: ssg-qa, surgcheck, real-colon-vqa or another name of docs/data-sets.md, or a YAML file that "
        "describes one. Default: ssg-qa, or in eval the data set that the checkpoint was trained on.",
        None,
        in_card=True,
    )
    ssgvqa_root: Annotated[Path | None, tyro.conf.arg(aliases=["--question-root"])] = flag(
        "Folder of the questions, for SSG-QA <root>/<VIDxx>/<frame>.txt; or their file. Default: the environment "
        "variable SSGVQA_ROOT, or in eval the folder that the checkpoint was trained with.",
        default_factory=folder_from_environment("SSGVQA_ROOT"),
        on_resume="free",  # compared by content: training.resume.compute_fingerprint
    )
    image_root: Path | None = flag(
        "Folder of the frames, for SSG-QA <root>/<VIDxx>/<frame padded to 6 digits>.png. Default: the environment "
        "variable IMAGE_ROOT, or in eval the folder that the checkpoint was trained with.",
        default_factory=folder_from_environment("IMAGE_ROOT"),
        on_resume="free",
    )
    splits_dir: Path | None = flag(
        "Folder with train_videos.json, val_videos.json and test_videos.json. Default: the data set's own split (for "
        "SSG-QA SSG-VQA-Net's), or in eval the split that the checkpoint was trained with.",
        None,
        on_resume="free",  # compared by content: training.resume.compute_fingerprint
    )
    strict: bool = flag(
        "Stop with an error at a malformed line, an answer outside the labels, or a question file that is not text, "
        "instead of skipping and counting it.",
        False,
    )
    workers: int | None = flag(
        "Processes that decode frames; 0 uses the main process. Default: one less than the cores that this process may "
        "use, from 1 to 16.",
        None,
        least=0,
        on_resume="free",
    )
    on_bad_frame: OnBadFrame = flag(
        "What to do with a frame that is missing, damaged or not a still 8-bit image. error: save and stop. skip: "
        "leave out its questions and report them.",
        "error",
        on_resume="free",
    )
    max_bad_frames: float = flag(
        "Largest fraction of frames that --on-bad-frame skip may leave out; more is an error.",
        0.01,
        least=0,
        most=1,
        on_resume="free",
    )


@dataclass(kw_only=True)
class ModelConfig:
    """What the model consists of and how it reads frames and questions."""

    preset: Preset = flag(
        "base: VideoMAE-base, BLIP-base and GPT-2 as published. tiny: a small model that comes with the package, "
        "pretrained on synthetic scenes.",
        "base",
        fixed_by="weights",
    )
    video_model: str = flag(
        "Video encoder of the base preset: a hub name or a local folder.",
        "MCG-NJU/videomae-base",
        names_part=True,
        fixed_by="weights",
    )
    text_model: str = flag(
        "Text encoder of the base preset: a hub name or a local folder.",
        "Salesforce/blip-vqa-base",
        names_part=True,
        fixed_by="weights",
    )
    decoder_model: str = flag(
        "Decoder and tokenizer of the base preset: a hub name or a local folder.",
        "gpt2",
        names_part=True,
        fixed_by="weights",
    )
    text_embeddings: TextEmbeddings = flag(
        "Word embeddings of the text encoder in the base preset. published: BLIP's WordPiece rows indexed by the "
        "decoder's token ids, as in published checkpoints. aligned: each decoder token gets the mean of BLIP's rows "
        "for the same string.",
        "published",
        fixed_by="weights",
    )
    mask: MaskMode = flag(
        "Attention mask of the text encoder. prefix: prompt tokens see the prompt, answer tokens see the prompt and "
        "earlier answer tokens. causal: every token sees earlier tokens. bidirectional: the published behaviour, in "
        "which the answer leaks into its own prediction.",
        "prefix",
        in_card=True,
    )
    prompt_mode: PromptMode = flag(
        "simple: the question alone. choices: the question and the list of candidate labels.", "simple", in_card=True
    )
    max_length: int | None = flag(
        "Maximum length of a prompt with its answer, in tokens; a longer one is an error before the run starts. "
        "Default: the model's maximum.",
        None,
        least=1,
        on_resume="free",
        in_card=True,
    )
    frame_fit: FrameFit = flag(
        "How a frame becomes square. squash: resize to a square. pad: keep the aspect ratio and pad. crop: resize the "
        "short side and crop the centre, as VideoMAE's image processor does.",
        "squash",
        in_card=True,
    )
    clip_mode: ClipMode = flag(
        "repeat: a clip is one frame repeated. past: a clip is the frame and the frames before it.",
        "repeat",
        in_card=True,
    )
    clip_stride: int = flag("Seconds between two frames of a past clip.", 1, least=1, in_card=True)
    num_frames: int | None = flag(
        "Number of frames in a clip, even. Default: 16, or 2 in the tiny preset.", None, fixed_by="weights"
    )
    video_pool: VideoPool = flag(
        "none: the text encoder attends to every video token. temporal: it attends to their mean over time, an eighth "
        "of the tokens at 16 frames.",
        "none",
        in_card=True,
    )
    lora_r: int = flag("Rank of the LoRA adapters; 0 adds no adapters.", 8, least=0, fixed_by="adapters", in_card=True)
    lora_alpha: int = flag(
        "Alpha of the LoRA adapters, which are scaled by alpha / r.",
        32,
        fixed_by="adapters",
        accepts_fraction=True,
        in_card=True,
    )
    lora_dropout: float = flag("Dropout of the adapters.", 0.1, least=0, below=1, fixed_by="adapters", in_card=True)


MODEL_FLAGS = tuple(field.name for field in dataclasses.fields(ModelConfig))
PART_FLAGS = flag_names(ModelConfig, lambda properties: properties.names_part)

# ModelConfig with None for flags that are not given, for commands that read the settings from a checkpoint.
if TYPE_CHECKING:
    OptionalModelConfig = ModelConfig
else:
    OptionalModelConfig = dataclasses.make_dataclass(
        "OptionalModelConfig",
        [
            (f.name, f.type | None, dataclasses.field(default=None, metadata=f.metadata))
            for f in dataclasses.fields(ModelConfig)
        ],
        kw_only=True,
    )


def given_flags(group: OptionalModelConfig) -> dict[str, Any]:
    """The flags that are given in an ``OptionalModelConfig``, by name."""
    return {name: value for name, value in vars(group).items() if value is not None}


def clip_length(config: ModelConfig) -> int:
    """Frames in a clip: the flag's value, or the preset's.

    Raises:
        InputError: the number is odd or below 2 (VideoMAE takes frames in pairs), or above 512.
    """
    length = config.num_frames if config.num_frames is not None else (2 if config.preset == "tiny" else 16)
    if length < 2 or length % 2 or length > 512:
        raise InputError(f"--num-frames must be an even number from 2 to 512, not {length}.")
    return length


@dataclass(kw_only=True)
class FeatureCacheConfig:
    """The cache of video tokens that train and eval read and fill."""

    cache: Path | None = flag(
        "Folder of the feature cache; missing video tokens are added. Needs a frozen video encoder.",
        None,
        on_resume="presence",  # the folder may change, but a cache rounds the features
    )
    cache_dtype: CacheDtype = flag(
        "Precision of the cached features, in the cache and in the run; fp16 and bf16 take half the space of fp32.",
        "fp16",
    )


@dataclass(kw_only=True)
class TrainConfig(FeatureCacheConfig, DataConfig, ModelConfig):
    """Fine-tunes the model and leaves a run folder."""

    checkpoint_dir: Path = flag(
        "Run folder, for config.yaml, train.log, metrics.jsonl, checkpoints/, best/ and best_model.pth.",
        Path("runs/train"),
        on_resume="free",
    )
    log_file: Path | None = flag("File for the text log. Default: train.log in the run folder.", None, on_resume="free")
    overwrite: bool = flag("Replace an existing run in the run folder.", False, on_resume="free")
    resume: Literal["auto", "never"] = flag(
        "auto: resume an existing run in the run folder from its newest complete checkpoint. never: an existing run is "
        "an error.",
        "auto",
        on_resume="free",
    )
    max_hours: float | None = flag(
        "After this many hours save a checkpoint and exit with code 75; the same command resumes.",
        None,
        least=0,
        on_resume="free",
    )
    pretrained_ckpt: Path | None = flag("Checkpoint to start from, in any form that eval's --checkpoint accepts.", None)
    verify: bool = flag(
        "Verify the checksums of --pretrained-ckpt before it is used; a run that resumes always verifies.",
        True,
        on_resume="free",
    )

    max_steps: int | None = flag("Number of optimiser steps. Default: that of --epochs.", None, least=1, in_card=True)
    epochs: int = flag("Passes over the training questions, if --max-steps is not given.", 1, least=1, in_card=True)
    batch_size: int = flag("Number of questions in a forward pass.", 8, least=1, in_card=True)
    questions_per_frame: int = flag(
        "Maximum number of questions of one frame in a batch; more is faster, fewer gives less correlated gradients.",
        8,
        least=1,
        in_card=True,
    )
    shuffle_frames: int | None = flag(
        "Shuffle the frames, and then the questions of so many frames together, so that each frame is encoded once in "
        "an epoch. Batches near each other then share frames. Default: all questions are shuffled together.",
        None,
        least=1,
        in_card=True,
    )
    gradient_accumulation_steps: int = flag(
        "Number of forward passes per optimiser step.",
        1,
        least=1,
        on_resume="free",  # compared as micro-batches per step: training.resume.compute_fingerprint
        in_card=True,
    )
    lr: float = flag("Peak learning rate, reached after the warm-up.", 5e-4, least=0, in_card=True)
    weight_decay: float = flag("Weight decay of AdamW, applied to matrices only.", 0.01, least=0, in_card=True)
    warmup_steps: int = flag("Linear warm-up steps, limited to a tenth of the run.", 100, least=0, in_card=True)
    schedule: Schedule = flag("Learning rate after the warm-up: cosine decay or constant.", "cosine", in_card=True)
    max_grad_norm: float = flag("Clip the gradients to this norm; 0 disables clipping.", 1.0, least=0, in_card=True)
    fp16: bool = flag("Train in float16 mixed precision with loss scaling; needs a GPU.", False, in_card=True)
    bf16: bool | None = flag(
        "Train in bfloat16 mixed precision. Default: on if the GPU supports it and --fp16 is not given, off on a CPU.",
        None,
        in_card=True,
    )
    tf32: bool = flag("Allow TF32 for products in float32; faster on a GPU and less exact.", False, in_card=True)
    encode_ahead: int | None = flag(
        "Number of forward passes whose frozen encoders run together; 1 runs them one by one. Default: on a GPU as "
        "many as hold 64 frames; with --shuffle-frames those of its frames; otherwise 1.",
        None,
        least=1,
    )
    cuda_graphs: CudaGraphs = flag(
        "Record the decoder's kernels once for each shape of a batch and replay them, if both encoders are frozen. "
        "auto: on a GPU, unless a step cannot be recorded. on: an error if it cannot.",
        "auto",
        on_resume="free",
    )
    gradient_checkpointing: bool = flag(
        "Recompute activations in the backward pass to save memory, about a third slower.", False
    )

    full_finetune: bool = flag("Train all weights of the decoder, without LoRA adapters.", False)
    train_gpt2_full: bool = flag(
        "Train all weights of the decoder, together with the LoRA adapters unless --full-finetune is given.", False
    )
    train_blip: bool = flag("Train the whole BLIP text encoder.", False)
    unfreeze_blip_last_n: int = flag("Train the last N layers of the BLIP text encoder.", 0)
    blank_video: bool = flag(
        "Train and validate on black pictures in place of the frames, so that the model learns from the questions "
        "alone: a baseline for the same model with frames.",
        False,
        in_card=True,
    )
    train_video: TrainVideo = flag(
        "Part of VideoMAE to train. patch-embed: its patch embedding and last LayerNorm, as in the paper.",
        "none",
    )

    cache_text: bool = flag(
        "Also cache the frozen text encoder's outputs for the training questions in --cache, so that training runs the "
        "decoder only.",
        False,
    )

    eval_every_steps: int = flag(
        "Number of steps between validations, with one at the end; 0 validates at the end only.", 2000, least=0
    )
    save_every_steps: int = flag(
        "Number of steps between checkpoints, with one at the end; 0 saves one only when the run is stopped.",
        5000,
        least=0,
        on_resume="free",
    )
    keep_checkpoints: int = flag("Number of checkpoints to keep in checkpoints/.", 2, least=1, on_resume="free")
    val_max_samples: int | None = flag("Maximum number of validation questions, spread over the videos.", 2000, least=0)
    target: Target = flag(
        "What is learned after a prompt. short: the label. long: the data set's long answer with an end-of-text token, "
        "for eval --generate; it needs --best-metric loss.",
        "short",
        in_card=True,
    )
    best_metric: BestMetric = flag("Validation metric that selects best/.", "acc", in_card=True)
    max_train_samples: int | None = flag(
        "Maximum number of training questions, drawn with the seed.", None, least=1, in_card=True
    )
    log_interval: int = flag("Number of steps between two lines of the log.", 50, least=1, on_resume="free")
    report_to: list[str] = flag(
        "Experiment trackers that get the figures of metrics.jsonl too: tensorboard, trackio, wandb; several are "
        "separated by spaces or commas. Default: none.",
        default_factory=list,
        on_resume="free",
    )
    seed: int = flag("Random seed.", 42, least=0, below=2**32, in_card=True)
    debug: bool = flag("Quick trial: ten steps on at most 64 questions, with validation at the end.", False)


def check_ranges(config: Any) -> None:
    """Raises InputError if the value of a flag is outside its bounds."""
    for name, properties in flags_of(type(config)).items():
        value = getattr(config, name, None)
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        bounds = (
            (properties.least, "at least", lambda limit, value=value: value >= limit),
            (properties.most, "at most", lambda limit, value=value: value <= limit),
            (properties.below, "below", lambda limit, value=value: value < limit),
        )
        for limit, words, holds in bounds:
            if limit is not None and (math.isnan(value) or not holds(limit)):
                raise InputError(f"{option(name)} must be {words} {limit}, not {value}.")


def dataset_name(config: DataConfig) -> str:
    """The name of the data set, or the path of its description."""
    return config.dataset or "ssg-qa"


def data_roots(config: DataConfig) -> tuple[Path, Path]:
    """The folders of the questions and of the frames.

    Raises:
        InputError: one is not given, or is not a folder.
    """
    roots = []
    for name, root in (("ssgvqa_root", config.ssgvqa_root), ("image_root", config.image_root)):
        if root is None:
            raise InputError(f"{option(name)} is missing; give it, or set {name.upper()}.")
        may_be_file = name == "ssgvqa_root" and dataset_name(config) != "ssg-qa"
        if not root.is_dir() and not (may_be_file and root.is_file()):
            raise InputError(f"{option(name)} {root} is not a folder.")
        roots.append(root)
    return roots[0], roots[1]


def plain_values(config: Any) -> dict[str, Any]:
    """The flags of a config as plain values by name; paths become text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}


def changed_flags(cls: type, saved: Mapping[str, Any], config: Any) -> dict[str, tuple[Any, Any]]:
    """The flags that prevent a run from being resumed: name to (value of the run, given value).

    Args:
        cls: the config class.
        saved: plain values of the run's flags; a missing flag has its default.
        config: the config of the command that resumes the run.
    """
    given, changed = plain_values(config), dict[str, tuple[Any, Any]]()
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for name, properties in flags_of(cls).items():
        old, new = saved.get(name, defaults[name]), given[name]
        if properties.on_resume == "free":
            continue
        if properties.on_resume == "presence":
            old, new = old is not None, new is not None
        if old != new:
            changed[name] = (old, new)
    return changed


def save_yaml(config: Any, path: Path) -> None:
    """Writes a config as YAML, atomically; paths become text."""
    write_text(path, yaml.safe_dump(plain_values(config), sort_keys=False))


def yaml_arguments(path: Path, cls: type) -> list[str]:
    """A YAML file of flags as command-line arguments, so that the same rules type and check both.

    A class with the attribute ``reads_flags_of`` accepts a file of that class, such as a training run's, and takes the
    flags that it has itself.

    Raises:
        InputError: as ``read_yaml``.
    """
    arguments: list[str] = []
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    wider = getattr(cls, "reads_flags_of", None)
    for name, value in read_yaml(path, wider or cls).items():
        if wider is not None and name not in defaults:
            continue
        if value is not None:
            arguments += _arguments(name, value)
        elif defaults.get(name) is not None and defaults[name] is not MISSING:
            arguments += _arguments(name, value)  # an explicit None replaces the default
    return arguments


def _arguments(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option(name) if value else option(f"no-{name}")]
    return [option(name), *(str(v) for v in value)] if isinstance(value, list) else [option(name), str(value)]


def read_yaml(path: Path, cls: type) -> dict[str, Any]:
    """Reads a YAML file of flags for ``cls``.

    Raises:
        InputError: the file cannot be read, is not a mapping, or has a key that is not a flag (the nearest is named).
    """
    try:
        loaded = plain_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"Config file {path} cannot be read ({str(error).splitlines()[0]}).") from None
    values = {} if loaded is None else loaded
    if not isinstance(values, dict):
        raise InputError(f"Config file {path} must map flag names to values.")
    values = _flattened(values)
    known = flags_of(cls)
    hints = _flat_hints(cls)
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise InputError(f"Config file {path} has the unknown key {key!r}; the nearest one is {nearest[0]!r}.")
        if value is not None and known[name].is_path and not isinstance(value, list):
            value = Path(str(value))
        elif isinstance(value, bool) and {"on", "off"} <= set(get_args(hints[name])):  # YAML 1.1 reads off as False
            value = "on" if value else "off"
        elif isinstance(value, str) and float in (hints[name], *get_args(hints[name])):
            try:  # YAML 1.1 reads 5e-4 as text
                value = float(value)
            except ValueError:
                raise InputError(f"Config file {path}: {key} must be a number, not {value!r}.") from None
        result[name] = value
    return result


def _flattened(values: dict[Any, Any]) -> dict[Any, Any]:
    """``{model: {preset: tiny}}`` is accepted as ``{preset: tiny}``."""
    group = values.get("model")
    if not isinstance(group, dict):
        return values
    return {key: value for key, value in values.items() if key != "model"} | group


def _flat_hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    for hint in list(hints.values()):
        if dataclasses.is_dataclass(hint):
            hints |= get_type_hints(hint)
    return hints
