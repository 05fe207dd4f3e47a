"""The wheel and the source archive hold the whole package and nothing else, and work outside the repository."""

import fnmatch
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "surgvivqa"


def package_files() -> set[str]:
    """The package's files in the tree, as names in a wheel."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"surgvivqa/{path.relative_to(PACKAGE).as_posix()}" for path in files}


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that sees neither the repository nor its environment, and returns its output."""
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_data_file_is_named_as_package_data() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = [f"surgvivqa/{pattern}" for pattern in setuptools["package-data"]["surgvivqa"]]
    data = {name for name in package_files() if not name.endswith(".py")}
    left_out = [name for name in sorted(data) if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert not left_out, "add them to package-data in pyproject.toml"
    assert {"surgvivqa/base/model.safetensors", "surgvivqa/reporting/templates/report.html"} <= data


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from a copy of the tree."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    shutil.copytree(PACKAGE, copy / "src" / "surgvivqa", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    run(sys.executable, "-c", build, cwd=copy)
    return out


@pytest.mark.slow
def test_the_wheel_and_the_source_archive_hold_the_package_and_nothing_else(built: Path) -> None:
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    with tarfile.open(archive) as opened:
        inside = {name.partition("/src/")[2] for name in opened.getnames() if "/src/surgvivqa/" in name}
        assert {name for name in inside if Path(name).suffix} >= package_files()
        assert not [name for name in opened.getnames() if "/tests/" in name or "/runs/" in name]
    assert wheel.stat().st_size < 15e6


@pytest.mark.slow
def test_the_installed_wheel_works_in_an_empty_folder(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    binaries = tmp_path / "venv" / "bin"
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    python = binaries / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    # The dependencies are those of this environment. Its own .pth files, such as the editable install's, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    where = run(python, "-c", "import surgvivqa; print(surgvivqa.__file__)", cwd=empty)
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    command = binaries / "surgvivqa"
    assert "quickstart" in run(command, "--help", cwd=empty)
    frame = tmp_path / "frame.png"
    Image.new("RGB", (64, 48), (120, 30, 30)).save(frame)
    flags = ("--checkpoint=tiny", "--image", frame, "--question=How many tools are there?", "--json")
    assert '"answers"' in run(command, "predict", *flags, cwd=empty)
    assert not list(empty.iterdir())
    assert "3 videos" in run(command, "synth", "--out=set", "--videos=3", "--frames-per-video=1", cwd=empty)
