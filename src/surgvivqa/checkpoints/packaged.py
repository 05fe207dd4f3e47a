"""The base in the package: the weights of the tiny preset, built by ``experiments/build_base``."""

from pathlib import Path

PACKAGED = "tiny"  # its name for --checkpoint
PACKAGED_BASE = Path(__file__).parents[1] / "base"
