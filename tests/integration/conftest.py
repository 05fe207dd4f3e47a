"""A run that is never stopped, for comparison."""

from pathlib import Path

import pytest
import torch

from tests.helpers.runs import train


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, synthetic_set: Path) -> Path:
    """The folder of a tiny run that was never stopped."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    roots = {"ssgvqa-root": "ssg-qa", "image-root": "frames", "splits-dir": "splits"}
    assert train(folder, [f"--{flag}={synthetic_set / name}" for flag, name in roots.items()]) == 0
    return folder
