"""``surgvivqa export``: the predictions of an evaluated run in the formats of other tools."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surgvivqa.config import flag, folder_from_environment
from surgvivqa.reporting.checklist import build_checklist, format_checklist
from surgvivqa.reporting.exports import (
    FramePaths,
    format_tsv,
    select_questions,
    write_fiftyone,
    write_label_studio,
    write_parquet,
)
from surgvivqa.reporting.results import RunResults, find_image_root, read_results
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError


@dataclass(kw_only=True)
class ExportConfig:
    """Exports the predictions of an evaluated run, or a reporting checklist that is filled from it.

    Frames are named by their paths and never copied.
    """

    run: Annotated[Path, tyro.conf.Positional] = flag(
        "A run folder that eval has evaluated, or the --output folder of an evaluation."
    )
    to: Literal["parquet", "fiftyone", "labelstudio", "tsv", "checklist"] = flag(
        "parquet: a table with typed columns. fiftyone: a folder that FiftyOne imports. labelstudio: tasks with the "
        "answers as pre-annotations, and the labelling interface. tsv: VLMEvalKit's columns. checklist: CLAIM and "
        "TRIPOD+AI, filled from the run, as Markdown."
    )
    output: Path = flag("The file to write; for fiftyone a folder, which must not exist.")
    split: Literal["train", "val", "test"] = flag("Split whose evaluation is read in a run folder.", "test")
    only: Literal["all", "wrong"] = flag("Which questions: all, or those that the model answers wrongly.", "all")
    image_root: Path | None = flag(
        "Folder of the frames, for their paths. Default: the environment variable IMAGE_ROOT, or the folder that the "
        "run was trained with.",
        default_factory=folder_from_environment("IMAGE_ROOT"),
    )
    relative: bool = flag("Write paths of frames relative to the folder of the frames.", False)


def export(config: ExportConfig) -> int:
    """Writes the export and prints where it is.

    Raises:
        InputError: the run cannot be read, the folder of the frames is needed and not known, or the output cannot be
            used.
    """
    if not config.output.parent.is_dir():
        raise InputError(f"--output {config.output}: the folder {config.output.parent} does not exist.")
    if config.output.is_dir() or (config.to == "fiftyone" and config.output.exists()):
        raise InputError(f"--output {config.output} exists already; give another name, or remove it.")
    results = read_results(config.run, config.split)
    if config.to == "checklist":
        write_text(config.output, format_checklist(build_checklist(results), results), durable=False)
        print(f"written: {config.output}")
        return 0
    results = dataclasses.replace(results, predictions=select_questions(results.predictions, config.only))
    hint = _write(results, config)
    print(f"written: {config.output} ({len(results.predictions):,} questions)")
    if hint:
        print(hint)
    return 0


def _write(results: RunResults, config: ExportConfig) -> str:
    """Writes the predictions; returns how to use them, if that is not plain."""
    root = _find_root(results, config)
    paths = FramePaths(None if config.relative else root)
    match config.to:
        case "parquet":
            write_parquet(results, paths, config.output)
        case "tsv":
            write_text(config.output, format_tsv(results, paths), durable=False)
        case "fiftyone":
            write_fiftyone(results, paths, config.output)
            if config.relative:
                kind = "dataset_type=fiftyone.types.LegacyFiftyOneDataset, rel_dir=FOLDER_OF_THE_FRAMES"
            else:
                kind = "dataset_type=fiftyone.types.FiftyOneDataset"
            return f"import: fiftyone.Dataset.from_dir(dataset_dir={str(config.output)!r}, {kind})"
        case "labelstudio":
            if root is None:
                raise InputError("Label Studio needs the name of the folder of the frames; give --image-root.")
            if config.output.suffix == ".xml":
                raise InputError(f"--output {config.output} is the name of the labelling interface; use .json.")
            interface = write_label_studio(results, root.name, config.output)
            return (
                f"written: {interface} (the labelling interface)\n"
                f"start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
                f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root.parent}, and add {root} as local storage"
            )
    return ""


def _find_root(results: RunResults, config: ExportConfig) -> Path | None:
    if config.image_root is not None and not config.image_root.is_dir():
        raise InputError(f"--image-root {config.image_root} is not a folder.")
    root = config.image_root or find_image_root(results)
    if root is None and not config.relative:
        raise InputError("The folder of the frames is not known; give --image-root, or --relative for paths within it.")
    return None if root is None else root.resolve()
