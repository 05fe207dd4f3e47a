"""Command line: ``python -m experiments.build_base --out runs/base``."""

import sys

import tyro

from experiments.build_base.build import build_base
from experiments.build_base.config import BuildConfig
from surgvivqa.cli import configure_logging
from surgvivqa.utils.errors import SurgViVQAError, one_line


def main() -> int:
    """Runs the build; returns its exit code."""
    configure_logging()
    try:
        return build_base(tyro.cli(BuildConfig, prog="python -m experiments.build_base"))
    except SurgViVQAError as error:
        print(f"build_base: {one_line(error.sentence)}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
