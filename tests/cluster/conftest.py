"""A command line that writes scripts into a folder of its own, and a fake SLURM."""

from collections.abc import Callable
from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.helpers.fake_slurm import FakeSlurm


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "fake", monkeypatch)


@pytest.fixture
def slurm(tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``surgvivqa slurm COMMAND`` with the synthetic set, in an empty folder and without a site file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SURGVIVQA_SITE", raising=False)

    def run(command: str, *flags: str) -> int:
        return main(["slurm", command, *data_flags, *flags])

    return run
