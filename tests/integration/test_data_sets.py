"""The same commands on SSG-QA's layout, SurgCheck's, REAL-Colon-VQA's and a table of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.cli import main
from surgvivqa.synthetic.layouts import LAYOUTS
from surgvivqa.synthetic.write import SynthConfig, write_synthetic


def make_set(folder: Path, layout: str) -> list[str]:
    """Writes a set; returns the flags that name it."""
    seconds = 12 if layout == "real-colon-vqa" else 4
    write_synthetic(SynthConfig(out=folder, layout=layout, videos=4, frames_per_video=seconds, workers=1))  # type: ignore[arg-type]
    splits = folder / "splits"
    if layout == "ssg-qa":
        splits.mkdir()
        videos = sorted(path.name for path in (folder / "ssg-qa").iterdir())
        named = {"test": [v for v in videos if v == "VID02"], "val": [v for v in videos if v == "VID01"]}
        named["train"] = [v for v in videos if v not in ("VID01", "VID02")]
        for split, names in named.items():
            (splits / f"{split}_videos.json").write_text(json.dumps(names))
        flags = [f"--ssgvqa-root={folder / 'ssg-qa'}"]
    else:
        name = LAYOUTS[layout].dataset
        dataset = folder / "questions" / name if name.endswith(".yaml") else name
        flags = [f"--dataset={dataset}", f"--question-root={folder / 'questions'}"]
    return [*flags, f"--image-root={folder / 'frames'}", f"--splits-dir={splits}"]


def run_all(folder: Path, flags: list[str]) -> dict[str, Any]:
    """Checks, trains, caches, evaluates and reports; returns ``metrics.json``."""
    run, cache = folder / "run", f"--cache={folder / 'cache'}"
    tiny = ["--preset=tiny", "--num-frames=2", "--workers=0"]
    assert main(["check", *tiny, "--frames-to-open=4", *flags]) == 0
    assert main(["cache", *tiny, cache, *flags]) == 0
    steps = ["--max-steps=2", "--batch-size=8", "--val-max-samples=16"]
    assert main(["train", *tiny, *steps, cache, f"--checkpoint-dir={run}", *flags]) == 0
    assert main(["eval", f"--checkpoint={run}", "--check-samples=8", "--workers=0"]) == 0
    assert main(["report", str(run), f"--output={folder / 'report.html'}", "--pictures=4"]) == 0
    return dict(json.loads((run / "eval-test" / "metrics.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ssg-qa", "real-colon-vqa", "csv", "surgcheck", "endovis18-vqa"])
def test_the_same_commands_run_on_every_layout(tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run_all(tmp_path, make_set(tmp_path, layout))
    out = capsys.readouterr().out
    assert metrics["n"] > 0 and metrics["by_type"]
    assert [row["name"] for row in metrics["baselines"]][-1] == "question_only"
    assert all(row["metrics"] for row in metrics["baselines"])
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/webp") >= 1, "the gallery finds the pictures"
    if layout == "ssg-qa":
        assert metrics["dataset"] is None and metrics["wordings"] is None
        return
    assert metrics["dataset"]["name"] == metrics["label_set"]["name"]
    assert "most frequent answer per question" in out and "SSG-VQA-Net" not in out
    if layout in ("surgcheck", "real-colon-vqa"):
        (pair,) = metrics["wordings"]["pairs"]
        assert pair["overall"]["n"] == metrics["n"] / 2 and pair["unpaired"] == 0
        assert "robust to wording" in out and "Accuracy by wording" in page


@pytest.mark.slow
def test_a_checkpoint_knows_its_labels_and_refuses_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, other = make_set(tmp_path / "csv", "csv"), make_set(tmp_path / "other", "endovis18-vqa")
    run = tmp_path / "run"
    tiny = ["--preset=tiny", "--workers=0", "--max-steps=1", "--val-max-samples=8"]
    assert main(["train", *tiny, f"--checkpoint-dir={run}", *flags]) == 0
    evaluate = ["eval", f"--checkpoint={run}", "--check-samples=0", "--workers=0"]
    assert main([*evaluate, *other]) == 2
    message = capsys.readouterr().err
    assert "was trained on the" in message and "train on endovis18-vqa first" in message
    # Answers that appear later change the labels of the data set, and not those of the checkpoint.
    with (tmp_path / "csv" / "questions" / "questions.csv").open("a") as file:
        file.write("train-1,train-1/frame_0000.jpg,What else?,aaa,other,train\n")
    assert main(evaluate) == 0
    recorded = json.loads((run / "best" / "config.json").read_text())["labels"]
    assert json.loads((run / "eval-test" / "metrics.json").read_text())["label_set"]["labels"] == recorded
    # The packaged base learned no data set, so it is asked for any set's labels.
    assert (
        main(["eval", "--checkpoint=tiny", "--check-samples=0", "--workers=0", f"--output={tmp_path / 'o'}", *other])
        == 0
    )


def test_crossval_refuses_other_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset=surgcheck", f"--question-root={tmp_path}", f"--image-root={tmp_path}"]
    assert main(["crossval", f"--checkpoint-dir={tmp_path / 'x'}", *flags]) == 2
    assert "crossval needs SSG-QA's layout and labels, not --dataset surgcheck" in capsys.readouterr().err
