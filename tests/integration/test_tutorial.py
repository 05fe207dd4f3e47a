"""The tutorial's commands run as written, on fewer frames and steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
SMALLER = {"--frames-per-video 12": "--frames-per-video 1", "--max-steps 300": "--max-steps 6"}
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    script = ["set -euo pipefail"]
    for language, block in BLOCK.findall(text):
        for given, smaller in SMALLER.items():
            block = block.replace(given, smaller)
        script.append(block if language == "bash" else f"python - <<'PYTHON'\n{block}PYTHON\n")
    assert all(smaller in "".join(script) for smaller in SMALLER.values())
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "report.html").stat().st_size > 100_000
    label, probability = done.stdout.splitlines()[-1].split()
    assert label and 0 < float(probability) <= 1
    assert (tmp_path / "data" / "ssg-qa" / "VID02" / "0.txt").read_text().splitlines()[0].startswith("Which anatomical")
