"""``eval --only FILE``, and what ``eval`` and ``check`` say about videos that were seen before."""

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.cli import main
from surgvivqa.commands.check import CheckConfig, Result, run_checks
from surgvivqa.evaluation.published import why_not_comparable
from surgvivqa.reporting.results import read_results
from surgvivqa.reporting.run_view import build_run_view
from tests.helpers.runs import sentence


@pytest.fixture(scope="module")
def real_set(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic set without its marker, so that its questions count as SSG-QA's own."""
    root = tmp_path_factory.mktemp("real")
    for name in ("ssg-qa", "frames", "splits"):
        (root / name).symlink_to(synthetic_set / name)
    return root


def flags_of(root: Path) -> list[str]:
    return [
        f"--ssgvqa-root={root / 'ssg-qa'}",
        f"--image-root={root / 'frames'}",
        f"--splits-dir={root / 'splits'}",
        "--workers=0",
    ]


def evaluate(*flags: str) -> int:
    return main(["eval", "--checkpoint=tiny", "--check-samples=0", *flags])


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_only_the_listed_questions_are_evaluated(
    real_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(*flags_of(real_set)) == 0
    everything = predictions(tmp_path / "runs" / "tiny" / "eval-test")
    lines = everything[::3]
    others = [{"video": "VID02", "frame": 1, "question": "Is it raining?"}]
    (tmp_path / "few ones.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines + others))
    capsys.readouterr()
    assert evaluate(*flags_of(real_set), "--only=few ones.jsonl") == 0
    folder = tmp_path / "runs" / "tiny" / "eval-test-only-few-ones"
    answers = ("video", "frame", "question", "answer", "prediction")
    assert [[p[k] for k in answers] for p in predictions(folder)] == [[p[k] for k in answers] for p in lines]

    content = json.loads((folder / "metrics.json").read_text())
    assert content["n"] == len(lines)
    assert {key: content["only"][key] for key in ("file", "listed", "missing", "selected", "of")} == {
        "file": "few ones.jsonl",
        "listed": len({(p["frame"], p["question"]) for p in lines}) + 1,
        "missing": 1,
        "selected": len(lines),
        "of": len(everything),
    }
    printed = capsys.readouterr().out
    first = f"All figures are about the questions that few ones.jsonl lists: {len(lines):,} of the {len(everything):,}"
    assert first in printed and "only few ones.jsonl  " in printed and "\nall  " not in printed
    assert first in " ".join(content["verdicts"])

    results = read_results(folder)
    assert why_not_comparable(results.report) == "only the questions that few ones.jsonl lists were scored"
    view = build_run_view(results, 1, [results], None, 0)
    assert "only those of few ones.jsonl" in view.byline
    assert next(p for p in view.trust if p.title == "All questions").mark == "warn"
    assert next(p for p in view.trust if p.title == "Not seen in pretraining").mark == "pass"

    # The same list on other pictures can be compared; all questions cannot.
    assert evaluate(*flags_of(real_set), "--only=few ones.jsonl", "--frames=black") == 0
    capsys.readouterr()
    assert main(["compare", str(folder), f"{folder}-black"]) == 0
    assert "Only the questions that few ones.jsonl lists were asked (--only)." in capsys.readouterr().out
    assert main(["compare", str(folder), str(folder.parent / "eval-test")]) == 2
    assert "do not answer the same questions" in capsys.readouterr().err


def test_a_temperature_needs_all_questions(real_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--split=val", "--fit-temperature", f"--only={tmp_path / 'l.jsonl'}", f"--output={tmp_path / 'o'}")
    assert evaluate(*flags_of(real_set), *flags) == 2
    assert "--fit-temperature needs all questions of the validation split; leave out --only." in sentence(capsys)


def result(root: Path, **flags: Any) -> Result:
    config = CheckConfig(ssgvqa_root=root / "ssg-qa", image_root=root / "frames", **flags)
    config.splits_dir = root / "splits"
    return next(found for found in run_checks(config) if found.name == "pretraining")


def test_check_warns_of_parts_that_have_seen_a_test_video(synthetic_set: Path, real_set: Path) -> None:
    assert result(synthetic_set, video_model="endovit_SPR.pth").status == "PASS"
    assert result(real_set).status == "PASS"
    assert result(real_set, preset="tiny").status == "PASS"
    seen = result(real_set, video_model="endovit_SPR.pth")
    assert seen.status == "WARN"
    assert "Of the test videos VID02: --video-model endovit_SPR.pth has seen VID02 (EndoViT for" in seen.message
    unknown = result(real_set, text_model="me/mine")
    assert unknown.status == "WARN" and "--text-model me/mine is not in the table" in unknown.message


def test_check_looks_into_the_checkpoint_that_a_run_starts_from(
    real_set: Path, tmp_path: Path, synthetic_set: Path
) -> None:
    for name, videos in (("train", ["VID02_clean"]), ("val", ["VID01"]), ("test", [])):
        (tmp_path / f"{name}_videos.json").write_text(json.dumps(videos))
    assert main(["convert", "--checkpoint=tiny", f"--output={tmp_path / 'hf'}"]) == 0
    record = tmp_path / "hf" / "surgvivqa.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"run": {**content.get("run", {}), "train_videos": ["VID02_clean"]}}))
    found = result(real_set, preset="tiny", pretrained_ckpt=tmp_path / "hf", workers=0, verify=False)
    assert found.status == "WARN" and "has seen VID02 (trained on 1 videos of ssg-qa)" in found.message
