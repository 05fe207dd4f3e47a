"""The documentation site: pages made from flags, links that work in two places, and a build without a warning."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from surgvivqa.cli import COMMANDS
from tools import docs_pages

ROOT = Path(__file__).resolve().parents[1]


def test_every_flag_of_every_command_has_a_row() -> None:
    listed = [line.split(" ") for line in (ROOT / "tests" / "flags.txt").read_text().splitlines()]
    for command in COMMANDS:
        words = command.split(" ")
        flags = {line[len(words)] for line in listed if line[: len(words)] == words}
        rows = [line for line in docs_pages.build_command_page(command).splitlines() if line.startswith("| `--")]
        assert {line.split("`")[1] for line in rows} == flags != set(), command


@pytest.mark.parametrize(
    "page, link, expected",
    [
        ("evaluation", "[a](../CONTRIBUTING.md#rules)", "[a](project/contributing.md#rules)"),
        ("evaluation", "[a](report.md)", "[a](report.md)"),
        ("evaluation", "[`x.py`](../src/surgvivqa/cli.py)", "[`x.py`](../src/surgvivqa/cli.py)"),
        ("evaluation", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("project/readme", "[a](docs/report.md)", "[a](../report.md)"),
        ("project/readme", "![a](docs/answers.png)", "![a](../answers.png)"),
        ("project/readme", "[`utils/`](src/surgvivqa/utils) has", "`utils/` has"),
        ("project/fine-tune", "[a](../README.md)", "[a](readme.md)"),
    ],
)
def test_links_lead_to_the_same_place_on_the_site(page: str, link: str, expected: str) -> None:
    source = [link]
    docs_pages._rewrite_links(cast(Any, SimpleNamespace(srcdir=str(ROOT / "docs"))), page, source)
    assert source == [expected]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    folders = [str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "How it works" in index and '<script src="http' not in index
