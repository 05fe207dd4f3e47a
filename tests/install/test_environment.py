"""The environment's tools: which PyTorch ``make setup`` asks for, and what the lock file holds."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"pip install"*) echo "$*" >> {log}; case "$*" in *{refused}*) echo "{reason}"; exit 1;; esac;;
  "-") exec {python} -c 'print("PyTorch")';;
esac
exit 0
"""


MISSING = "ERROR: No matching distribution found for torch==2.13.0+cpu"


@pytest.fixture
def lines() -> list[str]:
    return [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def setup(
    folder: Path, *, gpu: bool = False, refused: str = "nothing", reason: str = MISSING, code: int = 0, **variables: str
) -> list[str]:
    """What ``tools/setup_environment.sh`` installs into a folder whose Python only writes down what it is asked."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    log.write_text("")
    python = folder / "bin" / "python"
    python.write_text(FAKE_PYTHON.format(log=log, refused=refused, reason=reason, python=sys.executable))
    smi = folder / "bin" / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nexit {0 if gpu else 9}\n")
    for script in (python, smi):
        script.chmod(0o755)
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "PYTHON": sys.executable,
        "HOME": str(folder),
        **variables,
    }
    command = ["bash", str(ROOT / "tools" / "setup_environment.sh"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return [line.partition("--disable-pip-version-check ")[2] for line in log.read_text().splitlines()]


def test_without_a_gpu_the_build_for_the_cpu_is_asked_for_first(tmp_path: Path) -> None:
    assert setup(tmp_path)[0] == "torch==2.13.0+cpu"
    (tmp_path / ".ready").unlink()
    assert setup(tmp_path, refused="+cpu")[:2] == ["torch==2.13.0+cpu", "torch==2.13.0"]


def test_another_build_is_not_installed_because_of_a_slow_network(tmp_path: Path) -> None:
    assert setup(tmp_path, refused="+cpu", reason="ReadTimeoutError", code=1) == ["torch==2.13.0+cpu"]


def test_with_a_gpu_the_indexs_own_build_is_asked_for(tmp_path: Path) -> None:
    assert setup(tmp_path, gpu=True)[0] == "torch==2.13.0"


def test_a_variable_changes_the_build_and_the_same_request_installs_nothing(tmp_path: Path) -> None:
    assert setup(tmp_path, TORCH="torch==2.12.0")[0] == "torch==2.12.0"
    assert setup(tmp_path, TORCH="torch==2.12.0") == []
    assert setup(tmp_path, TORCH_INDEX="file:///index")[0] == "--index-url file:///index torch==2.13.0"


def test_a_locked_environment_is_constrained(tmp_path: Path) -> None:
    assert setup(tmp_path, LOCKED="1")[-1] == "--constraint requirements.lock --editable .[dev]"
    assert setup(tmp_path)[-1] == "--editable .[dev]"


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["bash", str(ROOT / "tools" / "setup_environment.sh"), str(tmp_path / "e")]
    done = subprocess.run(command, env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True)
    assert done.returncode == 2 and "is not Python 3.11 or later" in done.stderr


def test_the_lock_names_versions_and_neither_places_nor_pytorch(lines: list[str]) -> None:
    names = [line.partition("==")[0] for line in lines]
    assert len(names) > 50 and names == sorted(names)
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    assert not [line for line in lines if line.startswith(("torch", "nvidia", "triton", "surgvivqa", "pip=="))]


def test_the_lock_holds_every_requirement(lines: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = project["dependencies"] + project["optional-dependencies"]["dev"]
    wanted = {re.split(r"[>=<\[]", text)[0] for text in texts}
    locked = {line.partition("==")[0] for line in lines}
    assert {name.lower() for name in wanted} - locked == {"torch"}


def test_a_lock_is_written_without_builds_and_in_one_spelling() -> None:
    locked = runpy.run_path(str(ROOT / "tools" / "lock_environment.py"))["locked_versions"]
    installed = {"PyYAML": "6.0", "rouge_score": "0.1", "torch": "2.13.0+cpu", "nvidia-cudnn-cu13": "9", "x": "1+local"}
    assert locked(installed) == ["pyyaml==6.0", "rouge-score==0.1", "x==1"]
