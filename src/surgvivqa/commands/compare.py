"""``surgvivqa compare``: runs side by side on the same questions, with paired differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surgvivqa.config import check_ranges, flag, folder_from_environment
from surgvivqa.reporting.comparison import Comparison, compare_runs
from surgvivqa.reporting.comparison_document import build_document, summarise
from surgvivqa.reporting.comparison_page import render_comparison
from surgvivqa.reporting.results import RunResults, find_image_root, read_results
from surgvivqa.reporting.tables import Document, render_latex, render_markdown, render_text
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

Format = Literal["text", "markdown", "latex", "html"]
_ENDINGS: dict[str, Format] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".tex": "latex",
    ".html": "html",
    ".htm": "html",
}
_RENDER: dict[Format, Callable[[Document], str]] = {
    "text": render_text,
    "markdown": render_markdown,
    "latex": render_latex,
}


@dataclass(kw_only=True)
class CompareConfig:
    """Compares evaluated runs on the same questions: metrics, paired differences over videos, changed answers.

    The first run is the reference. Runs on different questions are refused. HTML has a gallery of the questions on
    which the runs disagree.
    """

    runs: Annotated[list[Path], tyro.conf.Positional] = flag(
        "Run folders that eval has evaluated, or the --output folders of evaluations; two or more."
    )
    reference: Path | None = flag(
        "The run that the others are compared with, one of the runs or another. Default: the first.", None
    )
    split: Literal["train", "val", "test"] = flag("Split whose evaluation is read in a run folder.", "test")
    format: Format | None = flag(
        "Format of the comparison. Default: that of --output's ending (.txt, .md, .tex, .html), or text.", None
    )
    output: Path | None = flag("File to write. Default: the comparison is printed.", None)
    image_root: Path | None = flag(
        "Folder of the frames, for the gallery of HTML. Default: the environment variable IMAGE_ROOT, or the folder "
        "that a run was trained with.",
        default_factory=folder_from_environment("IMAGE_ROOT"),
    )
    pictures: int = flag("Number of questions in the gallery of HTML.", 60, least=0, most=600)


def compare(config: CompareConfig) -> int:
    """Prints or writes the comparison.

    Raises:
        InputError: there are fewer than two runs, a run cannot be read, the runs do not have the same questions, or
            the output cannot be used.
    """
    check_ranges(config)
    format_ = choose_format(config.format, config.output)
    if format_ == "html" and config.output is None:
        raise InputError("An HTML page is not printed; name its file with --output.")
    comparison = compare_runs([read_results(path, config.split) for path in order_runs(config.runs, config.reference)])
    text = _render(comparison, format_, config)
    if config.output is None:
        print(text, end="")
        return 0
    write_text(config.output, text, durable=False)
    print("\n".join(summarise(comparison)))
    print(f"written: {config.output} ({len(text.encode()) / 1e3:,.0f} kB)")
    return 0


def order_runs(runs: list[Path], reference: Path | None) -> list[Path]:
    """The runs with the reference first."""
    if reference is None:
        return runs
    return [reference, *(path for path in runs if path.resolve() != reference.resolve())]


def choose_format(given: Format | None, output: Path | None) -> Format:
    """The format of the output.

    Raises:
        InputError: the output is a folder, its folder does not exist, or its ending names no format and none is given.
    """
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output {output}: the folder {output.parent} does not exist.")
    if output is not None and output.is_dir():
        raise InputError(f"--output {output} is a folder; give the name of a file in it.")
    if given is not None:
        return given
    if output is None:
        return "text"
    if output.suffix.lower() not in _ENDINGS:
        raise InputError(f"--output {output} has none of the endings {', '.join(_ENDINGS)}; give --format.")
    return _ENDINGS[output.suffix.lower()]


def _render(comparison: Comparison, format_: Format, config: CompareConfig) -> str:
    if format_ == "html":
        return render_comparison(comparison, _image_root(config, comparison.runs), config.pictures)
    return _RENDER[format_](build_document(comparison))


def _image_root(config: CompareConfig, runs: Sequence[RunResults]) -> Path | None:
    if config.image_root is not None:
        if not config.image_root.is_dir():
            raise InputError(f"--image-root {config.image_root} is not a folder.")
        return config.image_root
    return next((root for run in runs if (root := find_image_root(run)) is not None), None)
