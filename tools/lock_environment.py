"""Writes requirements.lock: the versions of an environment, for ``make setup LOCKED=1``.

It is a file of constraints, so it names versions and installs nothing by itself. PyTorch and what belongs to its builds
for CUDA are left out: they depend on the machine (``tools/setup_environment.sh``). Run with the environment's Python:
``python tools/lock_environment.py [FILE]``.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

LEFT_OUT = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*|pip|setuptools|wheel|uv|surgvivqa")
HEADER = """\
# Versions in which the tests passed, for `make setup LOCKED=1`; made by `make lock`. PyTorch is chosen by `make setup`.
"""


def locked_versions(installed: dict[str, str]) -> list[str]:
    """The lines ``name==version``, sorted, without what depends on the machine.

    Args:
        installed: the distributions' names and versions.
    """
    names = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed.items()}
    return [f"{name}=={names[name].partition('+')[0]}" for name in sorted(names) if not LEFT_OUT.fullmatch(name)]


def main() -> None:
    """Writes the file."""
    path = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "requirements.lock"
    installed = {found.metadata["Name"]: found.version for found in distributions()}
    path.write_text(HEADER + "\n".join(locked_versions(installed)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
