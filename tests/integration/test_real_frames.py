"""The same run on real frames, where they are at hand: check, a short train, eval, predict."""

import json
from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.conftest import SHARED

REAL = SHARED / "real"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not here")
def test_all_commands_run_on_real_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, videos in (("train", ["VID68", "VID70", "VID73"]), ("val", []), ("test", ["VID75"])):
        (tmp_path / f"{name}_videos.json").write_text(json.dumps(videos))
    flags = [f"--ssgvqa-root={REAL}/ssg-qa", f"--image-root={REAL}/frames", f"--splits-dir={tmp_path}"]
    flags += ["--preset=tiny", "--workers=0", f"--checkpoint-dir={tmp_path}/run"]
    assert main(["check", *flags, "--frames-to-open=20"]) == 0, capsys.readouterr().out
    assert main(["train", *flags, "--max-steps=10", "--batch-size=26"]) == 0
    assert main(["eval", f"--checkpoint={tmp_path}/run", "--max-samples=200", "--workers=0"]) == 0
    metrics = json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())
    assert 150 < metrics["n"] <= 200
    assert set(metrics["by_video"]) == {"VID75"}
    image = next((REAL / "frames" / "VID75").glob("*.png"))
    question = ["--question", "What is the hook doing?"]
    assert main(["predict", f"--checkpoint={tmp_path}/run", "--image", str(image), *question]) == 0
    assert "%" in capsys.readouterr().out
