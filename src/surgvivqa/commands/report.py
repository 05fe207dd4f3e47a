"""``surgvivqa report``: one HTML page about one or more evaluated runs."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surgvivqa.config import check_ranges, flag, folder_from_environment
from surgvivqa.reporting.report import render_report
from surgvivqa.reporting.results import read_results
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class ReportConfig:
    """Writes a self-contained HTML page about evaluated runs: verdicts, tables, charts, a gallery and a checklist.

    It reads what eval wrote, and computes nothing on a model. Several runs are shown one after the other below a
    table of all; runs that differ only in their seed also get their mean and spread.
    """

    runs: Annotated[list[Path], tyro.conf.Positional] = flag(
        "Run folders that eval has evaluated, or the --output folders of evaluations."
    )
    split: Literal["train", "val", "test"] = flag("Split whose evaluation is read in a run folder.", "test")
    output: Path = flag("The HTML file.", Path("report.html"))
    image_root: Path | None = flag(
        "Folder of the frames for the gallery. Default: the environment variable IMAGE_ROOT, or the folder that the "
        "run was trained with.",
        default_factory=folder_from_environment("IMAGE_ROOT"),
    )
    pictures: int = flag("Number of questions in the gallery.", 120, least=0, most=600)


def report(config: ReportConfig) -> int:
    """Writes the report and prints where it is.

    Raises:
        InputError: no run is given, a run or a folder cannot be used, or the packages for charts are not installed.
    """
    check_ranges(config)
    if not config.runs:
        raise InputError("A report needs at least one run; give its folder.")
    if config.image_root is not None and not config.image_root.is_dir():
        raise InputError(f"--image-root {config.image_root} is not a folder.")
    if not config.output.parent.is_dir():
        raise InputError(f"--output {config.output}: the folder {config.output.parent} does not exist.")
    if config.output.is_dir():
        raise InputError(f"--output {config.output} is a folder; give the name of a file in it.")
    runs = [read_results(path, config.split) for path in config.runs]
    page = render_report(runs, config.image_root, config.pictures)
    write_text(config.output, page, durable=False)
    print(f"written: {config.output} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0
