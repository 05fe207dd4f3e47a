"""The door: ``surgvivqa COMMAND --flags``. Exit codes: 0 done, 1 failed, 2 wrong input, 75 stopped by a signal."""

import contextlib
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from surgvivqa import __version__
from surgvivqa.checkpoints.public_settings import holds_secret, masked
from surgvivqa.config import yaml_arguments
from surgvivqa.utils.errors import InputError, SurgViVQAError, one_line
from surgvivqa.utils.signals import exit_on_signal

# command: (its dataclass, the module and function that do it, one line of help)
COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "synth": (
        "surgvivqa.synthetic.write:SynthConfig",
        "surgvivqa.synthetic.write",
        "write_synthetic",
        "make the synthetic set",
    ),
    "check": (
        "surgvivqa.config:CheckConfig",
        "surgvivqa.commands.check",
        "check",
        "look at data, model and flags before a run",
    ),
    "train": ("surgvivqa.config:TrainConfig", "surgvivqa.training.trainer", "train", "fine-tune"),
    "cache": ("surgvivqa.config:CacheConfig", "surgvivqa.commands.cache", "cache", "fill the cache of video tokens"),
    "eval": ("surgvivqa.config:EvalConfig", "surgvivqa.commands.eval", "evaluate", "score the 51 labels on a split"),
    "convert": (
        "surgvivqa.commands.convert:ConvertConfig",
        "surgvivqa.commands.convert",
        "convert",
        "write a checkpoint in another form: Hugging Face, PEFT, published",
    ),
    "predict": ("surgvivqa.config:PredictConfig", "surgvivqa.commands.eval", "predict", "answer one question"),
}


RESUMABLE = ("train", "cache")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. An expected error is printed as one sentence, without a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    quiet_libraries()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"surgvivqa {__version__}")
        return 0
    try:
        command = arguments[0]
        if command not in COMMANDS:
            raise InputError(f"{command!r} is no command; there are {', '.join(COMMANDS)}.")
        where, module, function, _ = COMMANDS[command]
        cls_module, cls_name = where.split(":")
        cls = getattr(importlib.import_module(cls_module), cls_name)
        parsed = parse(command, cls, arguments[1:])
        with exit_on_signal() if command in RESUMABLE else contextlib.nullcontext():
            result = getattr(importlib.import_module(module), function)(parsed)
        code = result if isinstance(result, int) else 0
        leave(code)
        return code
    except SurgViVQAError as error:
        if not error.reported_elsewhere:
            print(f"surgvivqa: {one_line(masked(error.sentence))}", file=sys.stderr)
        leave(error.exit_code)  # here, while the traceback still holds the model: see leave_if_several
        return error.exit_code
    except KeyboardInterrupt:
        print("surgvivqa: stopped by hand.", file=sys.stderr)
        leave(130)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception:
        leave(1, traceback.format_exc())
        raise


def leave(exit_code: int, last_words: str = "") -> None:
    """``processes.leave_if_several``, where a command has loaded it."""
    processes = sys.modules.get("surgvivqa.utils.distributed")
    if processes is not None:
        processes.leave_if_several(exit_code, last_words)


def parse(command: str, cls: Any, arguments: list[str]) -> Any:
    """Flags into the command's dataclass; ``--config FILE.yaml`` gives defaults that flags override."""
    given: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--config" or argument.startswith("--config="):
            path = argument.partition("=")[2] or next(waiting, "")
            if not path:
                raise InputError("--config needs a YAML file.")
            given += yaml_arguments(Path(path), cls)
        else:
            rest.append(argument)
    refuse_secrets([*given, *rest])
    try:
        parsed = tyro.cli(cls, prog=f"surgvivqa {command}", args=[*given, *rest])
    except SystemExit as stop:
        if stop.code:
            raise SystemExit(2) from None
        raise
    # What the environment stands in for (SSGVQA_ROOT, IMAGE_ROOT).
    refuse_secrets([f"--{name.replace('_', '-')}={value}" for name, value in vars(parsed).items()])
    return parsed


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Raises InputError where a flag holds a token, or an address with a login: flags are kept in ``config.yaml``,
    checkpoints and figures, and told in the log."""
    flag = "The command"
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.partition("=")[0]
        if holds_secret(argument):
            raise InputError(
                f"{flag} holds what looks like a token or an address with a login, which would be kept in the run's "
                f"files; log in with `hf auth login` or HF_TOKEN, and fetch data to a folder first."
            )


def usage() -> str:
    """What ``surgvivqa --help`` prints."""
    lines = ["surgvivqa COMMAND [flags]      SurgViVQA on SSG-QA: fine-tuning and closed-set evaluation", ""]
    lines += [f"  {name:<12}{text}" for name, (_, _, _, text) in COMMANDS.items()]
    return "\n".join(
        [*lines, "", "surgvivqa COMMAND --help lists its flags; --config FILE.yaml reads them from a file."]
    )


def quiet_libraries() -> None:
    """Our own log on standard error; of the libraries' warnings, only what the user can act on."""
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
        logger.addFilter(mask_record)  # of the logger, so before every handler: train.log's too


def mask_record(record: logging.LogRecord) -> bool:
    """Takes tokens out of a record of the log."""
    record.msg, record.args = masked(record.getMessage()), ()
    return True


if __name__ == "__main__":
    sys.exit(main())
