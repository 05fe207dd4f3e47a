"""The command line: ``surgvivqa COMMAND [flags]``.

Exit codes: 0 done, 1 a check or a run failed, 2 wrong usage or input, 75 stopped by a signal after saving.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from surgvivqa import __version__
from surgvivqa.config import PART_FLAGS, option, yaml_arguments
from surgvivqa.utils.errors import InputError, SurgViVQAError, one_line
from surgvivqa.utils.secrets import holds_secret, mask_secrets
from surgvivqa.utils.signals import exit_on_signal


@dataclass(frozen=True)
class Command:
    """A command.

    ``COMMANDS`` has it by its name, which is one word, or two for a command of a group.

    Attributes:
        config: its config class as ``module:name``, which is imported when the command runs.
        run: its function as ``module:name``.
        help: one line of help.
        resumable: whether the command continues when it is stopped and run again.
    """

    config: str
    run: str
    help: str
    resumable: bool = False


COMMANDS = {
    "synth": Command(
        "surgvivqa.synthetic.write:SynthConfig",
        "surgvivqa.synthetic.write:write_synthetic",
        "make a synthetic data set",
    ),
    "check": Command(
        "surgvivqa.commands.check:CheckConfig",
        "surgvivqa.commands.check:check",
        "check data, model and flags before a run",
    ),
    "train": Command(
        "surgvivqa.config:TrainConfig", "surgvivqa.commands.train:train", "fine-tune the model", resumable=True
    ),
    "cache": Command(
        "surgvivqa.commands.cache:CacheConfig",
        "surgvivqa.commands.cache:cache",
        "encode frames before training and evaluation",
        resumable=True,
    ),
    "eval": Command(
        "surgvivqa.commands.eval_config:EvalConfig",
        "surgvivqa.commands.eval:evaluate",
        "evaluate a checkpoint on a split",
    ),
    "report": Command(
        "surgvivqa.commands.report:ReportConfig",
        "surgvivqa.commands.report:report",
        "write an HTML page about evaluated runs",
    ),
    "compare": Command(
        "surgvivqa.commands.compare:CompareConfig",
        "surgvivqa.commands.compare:compare",
        "compare evaluated runs on the same questions",
    ),
    "export": Command(
        "surgvivqa.commands.export:ExportConfig",
        "surgvivqa.commands.export:export",
        "export a run's predictions to Parquet, FiftyOne, Label Studio or TSV",
    ),
    "crossval": Command(
        "surgvivqa.commands.crossval:CrossvalConfig",
        "surgvivqa.commands.crossval:crossval",
        "train and evaluate the folds of a cross-validation",
        resumable=True,
    ),
    "convert": Command(
        "surgvivqa.commands.convert:ConvertConfig",
        "surgvivqa.commands.convert:convert",
        "convert a checkpoint to Hugging Face's, PEFT's or the published format",
    ),
    "predict": Command(
        "surgvivqa.commands.predict_config:PredictConfig",
        "surgvivqa.commands.predict:predict",
        "answer questions about a frame or a video",
    ),
    "demo": Command(
        "surgvivqa.commands.demo:DemoConfig",
        "surgvivqa.commands.demo:demo",
        "ask a frame or a video on a page in the browser",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. An expected error is printed as one sentence, without a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    configure_logging()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"surgvivqa {__version__}")
        return 0
    group = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if group and arguments[1:2] in ([], ["-h"], ["--help"]):
        print(usage(group))
        return 0 if arguments[1:] else 2
    try:
        name, flags = split_command(arguments)
        command = COMMANDS[name]
        config = parse(name, _import_object(command.config), flags)
        with exit_on_signal() if command.resumable else contextlib.nullcontext():
            result = _import_object(command.run)(config)
        code = result if isinstance(result, int) else 0
        _exit_if_several(code)
        return code
    except SurgViVQAError as error:
        if not error.reported_elsewhere:
            print(f"surgvivqa: {one_line(mask_secrets(error.sentence))}", file=sys.stderr)
        _exit_if_several(error.exit_code)  # while the traceback holds the model: see exit_if_several
        return error.exit_code
    except KeyboardInterrupt:
        print("surgvivqa: interrupted.", file=sys.stderr)
        _exit_if_several(130)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception:
        _exit_if_several(1, traceback.format_exc())
        raise


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Splits arguments into the name of a command, of one word or of two such as ``data verify``, and its flags.

    Raises:
        InputError: there is no such command.
    """
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, list(arguments[words:])
    group = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    name = " ".join(arguments[:2]) if group else arguments[0]
    raise InputError(f"{name!r} is not a command; the commands are {', '.join(group or COMMANDS)}.")


def _exit_if_several(exit_code: int, message: str = "") -> None:
    """Calls ``utils.distributed.exit_if_several`` if a command has imported that module, which imports torch."""
    distributed = sys.modules.get("surgvivqa.utils.distributed")
    if distributed is not None:
        distributed.exit_if_several(exit_code, message)


def _import_object(place: str) -> Any:
    """Imports the object at ``module:name``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def parse(name: str, cls: Any, arguments: list[str]) -> Any:
    """Parses a command's flags into its config class; flags override the values of ``--config FILE.yaml``.

    Raises:
        InputError: the file cannot be used, or a value holds a secret.
        SystemExit: a flag is wrong (code 2), or help was printed (code 0).
    """
    file_arguments: list[str] = []
    flag_arguments: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config" or argument.startswith("--config="):
            path = argument.partition("=")[2] or next(remaining, "")
            if not path:
                raise InputError("--config needs a YAML file.")
            file_arguments += yaml_arguments(_expand(Path(path)), cls)
        else:
            flag_arguments.append(argument)
    normalised = [
        word for argument in (*file_arguments, *flag_arguments) for word in _normalise_argument(cls, argument)
    ]
    check_no_secrets(normalised)
    try:
        config = tyro.cli(cls, prog=f"surgvivqa {name}", args=normalised)
    except SystemExit as stop:
        if stop.code:
            raise SystemExit(2) from None
        raise
    expand_home(config)
    # Once more, for values of environment variables (SSGVQA_ROOT, IMAGE_ROOT).
    check_no_secrets([f"{option(flag)}={value}" for flag, value in vars(config).items()])
    return config


def expand_home(config: Any) -> None:
    """Replaces ``~`` at the beginning of a config's paths and local model parts, in place.

    A shell does this only for words that begin with ``~``, not in ``--flag=~/x``, YAML or environment variables.

    Raises:
        InputError: there is no home folder.
    """
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            expand_home(value)
        elif isinstance(value, Path):
            setattr(config, name, _expand(value))
        elif isinstance(value, list):
            setattr(config, name, [_expand(v) if isinstance(v, Path) else v for v in value])
        elif name in PART_FLAGS and isinstance(value, str):
            setattr(config, name, str(_expand(Path(value))) if value.startswith("~") else value)


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(f"{path} cannot be used, since there is no home folder; set HOME, or give the path.") from None


def _normalise_argument(cls: type, argument: str) -> list[str]:
    """Converts an argument to the form that tyro accepts.

    ``--model.NAME`` becomes ``--NAME``. ``--NAME`` and ``--no-NAME`` of a ``bool | None`` flag become ``--NAME True``
    and ``--NAME False``.
    """
    if not argument.startswith("--"):
        return [argument]
    argument = f"--{argument[2:].removeprefix('model.')}"
    for name, hint in get_type_hints(cls).items():
        if hint == bool | None and argument.replace("_", "-") in (option(name), option(f"no-{name}")):
            return [option(name), str(argument.replace("_", "-") == option(name))]
    return [argument]


def check_no_secrets(arguments: Sequence[str]) -> None:
    """Raises InputError if a flag holds a token or a URL with a login.

    Flags are saved in ``config.yaml``, checkpoints and ``metrics.json``, and written to the log.
    """
    flag = "The command"
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.partition("=")[0]
        if holds_secret(argument):
            raise InputError(
                f"{flag} holds what looks like a token or an address with a login, which would be saved in the run's "
                f"files; log in with `hf auth login` or HF_TOKEN, and download the data to a folder first."
            )


def usage(names: Sequence[str] | None = None) -> str:
    """The text of ``surgvivqa --help``, or of ``surgvivqa GROUP --help`` for the commands of a group."""
    lines = ["surgvivqa COMMAND [flags]      SurgViVQA on SSG-QA: fine-tuning and closed-set evaluation", ""]
    lines += [f"  {name:<16}{COMMANDS[name].help}" for name in names or COMMANDS]
    return "\n".join(
        [*lines, "", "surgvivqa COMMAND --help lists its flags; --config FILE.yaml reads them from a file."]
    )


def configure_logging() -> None:
    """Sets up the log on standard error and silences library warnings that a user cannot act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logger = logging.getLogger("surgvivqa")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(type(h) is logging.StreamHandler for h in logger.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    if mask_record not in logger.filters:
        logger.addFilter(mask_record)  # on the logger, so that it applies to train.log too


def mask_record(record: logging.LogRecord) -> bool:
    """Masks tokens in a log record."""
    record.msg, record.args = mask_secrets(record.getMessage()), ()
    return True


if __name__ == "__main__":
    sys.exit(main())
