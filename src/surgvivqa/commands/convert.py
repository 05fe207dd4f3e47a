"""``surgvivqa convert``: writes a checkpoint in another form, and uploads it to the hub."""

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surgvivqa.checkpoints.adapters import ADAPTER_CONFIG, merge_adapters
from surgvivqa.checkpoints.hub import is_name, push
from surgvivqa.checkpoints.model_card import is_licence, trained_parts, write_model_card
from surgvivqa.checkpoints.published import Names
from surgvivqa.checkpoints.saving import export_pth, save_adapters, save_checkpoint
from surgvivqa.checkpoints.settings import SETTINGS_FILE
from surgvivqa.checkpoints.stored_temperature import carry_temperature
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig, flag, option
from surgvivqa.evaluation.report import EvaluationReport, read_report
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class ConvertConfig:
    """Reads a checkpoint of any form and writes it in another.

    Model flags apply to a checkpoint without settings (a lone .pth, or adapters of another tool).
    """

    checkpoint: Path = flag(
        "Checkpoint to read: a run folder, its best/, a folder in Hugging Face's or PEFT's format, a .pth or "
        ".safetensors file in the published form, a hub name, or tiny (the packaged base)."
    )
    output: Path = flag("Folder to write, or file for --to published.")
    to: Literal["huggingface", "peft", "published"] = flag(
        "huggingface: a folder for from_pretrained, with processor and model card. peft: the adapters in PEFT's "
        "format. published: a .pth state dict for SurgViVQA's original code.",
        "huggingface",
    )
    tensors: Literal["all", "trained"] | None = flag(
        "all: every tensor. trained: only the tensors that differ from the published parts. Default: all for "
        "huggingface, trained for published.",
        None,
    )
    merge: bool = flag("Merge the LoRA adapters into the decoder's weights.", False)
    names: Names = flag("VideoMAE's parameter names in --to published: those of Transformers 4 or 5.", "transformers4")
    max_shard_size: str = flag("Maximum size of a file of weights; larger weights are split into several files.", "5GB")
    metrics: Path | None = flag(
        "metrics.json for the model card. Default: the one in the run folder's eval-test.", None
    )
    licence: str | None = flag("Licence of the weights for the model card. Default: the data's, cc-by-nc-sa-4.0.", None)
    push_to_hub: str | None = flag(
        "Repository on the hub to upload the folder to, USER/MODEL; needs hf auth login.", None
    )
    private: bool = flag("Create the repository of --push-to-hub as private.", False)
    verify: bool = flag("Verify the checksums of the checkpoint.", True)
    overwrite: bool = flag("Replace an existing checkpoint at --output.", False)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )


def convert(config: ConvertConfig) -> int:
    """Converts a checkpoint.

    Raises:
        InputError: the checkpoint cannot be read, the output cannot be written, or flags contradict each other.
    """
    _check_values(config)
    _check_combinations(config)
    _check_output(config)
    report = _read_report(config) if config.to != "published" else None
    bundle = load_model(config.checkpoint, config.model, overridable=(), verify=config.verify)
    trained = trained_parts(bundle)
    if config.merge:
        if not bundle.model.config.lora:
            raise InputError(f"--merge: {config.checkpoint} has no adapters to merge; leave the flag out.")
        bundle = merge_adapters(bundle)
        bundle.settings.lora_r = 0
    try:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        _write_checkpoint(config, bundle)
        if temperature := carry_temperature(bundle, config.output):
            log.info("The temperature of the checkpoint's probabilities is carried along: %s", temperature)
    except OSError as error:
        raise InputError(f"--output {config.output} cannot be written ({error.strerror or error}).") from None
    if config.to != "published":
        repo = config.push_to_hub or "USER/MODEL"
        write_model_card(
            config.output,
            bundle.settings,
            bundle.run,
            report,
            trained,
            repo=repo,
            licence=config.licence,
            label_set=bundle.label_set,
        )
    print(f"written: {config.output} ({_disk_usage(config.output) / 1e6:,.1f} MB)")
    if config.push_to_hub:
        print(f"pushed: {push(config.output, config.push_to_hub, config.private)}")
    return 0


def _write_checkpoint(config: ConvertConfig, bundle: ModelBundle) -> None:
    if config.to == "published":
        tensors = config.tensors or ("all" if config.merge else "trained")
        export_pth(bundle, config.output, everything=tensors == "all", names=config.names)
    elif config.to == "peft":
        save_adapters(bundle, config.output)
    else:
        everything = config.tensors != "trained"
        save_checkpoint(bundle, config.output, everything=everything, max_shard_size=config.max_shard_size)


def _check_values(config: ConvertConfig) -> None:
    """Raises InputError if the value of a flag is invalid."""
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]B", config.max_shard_size):
        raise InputError(f"--max-shard-size {config.max_shard_size} must be a number with KB, MB, GB or TB after it.")
    if float(config.max_shard_size[:-2]) == 0:
        raise InputError(f"--max-shard-size {config.max_shard_size} leaves no room for a tensor; give more.")
    if config.licence is not None and not is_licence(config.licence):
        raise InputError(
            f"--licence {config.licence!r} is not a licence identifier of the hub; give one such as cc-by-nc-sa-4.0."
        )
    if config.push_to_hub is not None and (not is_name(config.push_to_hub) or "@" in config.push_to_hub):
        raise InputError(f"--push-to-hub {config.push_to_hub} is not a repository name; a name looks like USER/MODEL.")
    if config.to == "published" and config.output.suffix not in (".pth", ".pt", ".bin"):
        raise InputError(f"--output {config.output} must end in .pth for --to published.")
    if config.to != "published" and config.output.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise InputError(f"--output {config.output} must be a folder for --to {config.to}; or use --to published.")


def _check_combinations(config: ConvertConfig) -> None:
    """Raises InputError if flags contradict each other, or a flag has no effect."""
    if config.to == "peft" and (config.merge or config.tensors == "all"):
        other = "--merge" if config.merge else "--tensors all"
        raise InputError(f"--to peft writes only adapters, so it cannot be used with {other}; leave one of them out.")
    if config.merge and config.tensors == "trained":
        raise InputError("--merge changes the decoder's weights, which --tensors trained would not save; leave it out.")
    if config.push_to_hub and config.to == "published":
        raise InputError("--push-to-hub uploads a folder; use --to huggingface or --to peft with it.")
    if config.private and not config.push_to_hub:
        raise InputError("--private applies to the repository on the hub; give --push-to-hub USER/MODEL with it.")
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    for name in ("licence", "metrics", "max_shard_size") if config.to == "published" else ("names",):
        if getattr(config, name) != defaults[name]:
            raise InputError(f"{option(name)} has no effect with --to {config.to}; leave it out.")


def _check_output(config: ConvertConfig) -> None:
    """Raises InputError unless ``--output`` is new, empty, or a checkpoint that ``--overwrite`` may replace.

    A run folder, a link, and the checkpoint that is read are never replaced.
    """
    output = config.output
    if output.is_symlink():
        raise InputError(f"--output {output} is a link, which is not written through; give the folder itself.")
    if _overlaps(output.resolve(), config.checkpoint.resolve()):
        raise InputError(f"--output {output} overlaps with --checkpoint {config.checkpoint}; give another folder.")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if output.is_dir() and not any((output / name).is_file() for name in (SETTINGS_FILE, ADAPTER_CONFIG)):
        raise InputError(f"--output {output} holds other files; give another folder.")
    if not config.overwrite:
        raise InputError(f"--output {output} exists already; give another path, or --overwrite.")
    if output.is_dir() and any((output / name).exists() for name in ("best", "checkpoints", "config.yaml")):
        raise InputError(f"--output {output} is a run folder, which is never replaced; give another folder.")


def _overlaps(output: Path, checkpoint: Path) -> bool:
    """Whether one of two resolved paths contains the other one, or the output is inside the run's ``best/``."""
    # A run replaces its best/ as a whole, including anything that was written into it.
    for folder in (checkpoint, checkpoint / "best"):
        if output.is_relative_to(folder) and (folder / SETTINGS_FILE).is_file():
            return True
    contains = checkpoint.is_relative_to(output) or output.is_relative_to(checkpoint)
    return output.exists() and checkpoint.exists() and contains


def _read_report(config: ConvertConfig) -> EvaluationReport | None:
    """Reads the evaluation for the model card: ``--metrics``, or the run's evaluation on the test split."""
    if config.metrics is not None:
        return read_report(config.metrics)
    is_best = config.checkpoint.name in ("best", "best_model.pth")
    run = config.checkpoint.parent if is_best else config.checkpoint
    path = run / "eval-test" / "metrics.json"
    if not ((run / "config.yaml").is_file() and path.is_file()):
        return None
    try:
        report = read_report(path)
    except InputError as error:
        log.warning("%s The model card shows no metrics.", error)
        return None
    if not Path(report.checkpoint).resolve().is_relative_to(run.resolve()):
        log.info("%s is of another checkpoint, so the model card shows no metrics; give --metrics to use it.", path)
        return None
    return report


def _disk_usage(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size
