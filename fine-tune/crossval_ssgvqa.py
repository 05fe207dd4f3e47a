"""Runs `surgvivqa crossval` beside the published recipe's scripts; its folder is fine-tune/crossval by default."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from surgvivqa.cli import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not any(a.split("=")[0].replace("_", "-") in ("--checkpoint-dir", "--config") for a in arguments):
        arguments += ["--checkpoint-dir", str(Path(__file__).resolve().parent / "crossval")]
    sys.exit(main(["crossval", *arguments]))
