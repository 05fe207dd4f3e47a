"""``eval`` on other pictures: ``--frames``, ``--check-samples``, ``--corrupt``, ``--strata``; caches and bad frames."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.cli import main
from surgvivqa.evaluation.published import why_not_comparable
from surgvivqa.evaluation.report import read_report
from tests.conftest import CapturedLog
from tests.helpers.runs import sentence


@pytest.fixture(scope="module")
def roots(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of the data, with a test split of three videos."""
    splits = tmp_path_factory.mktemp("splits")
    for name, videos in (("train", []), ("val", []), ("test", ["VID01", "VID02", "VID04"])):
        (splits / f"{name}_videos.json").write_text(json.dumps(videos))
    return [
        *(f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--splits-dir={splits}"),
        f"--image-root={synthetic_set / 'frames'}",
    ]


def evaluate(roots: list[str], output: Path, *flags: str) -> dict[str, Any]:
    """Evaluates the packaged base on a few questions; returns the content of ``metrics.json``."""
    given = ["--checkpoint=tiny", "--workers=0", "--max-samples=120", f"--output={output}"]
    assert main(["eval", *given, *roots, *flags]) == 0
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return content


def predictions(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def chosen(output: Path) -> list[tuple[str, int, str, str]]:
    return [(p["video"], p["frame"], p["question"], p["prediction"]) for p in predictions(output)]


def test_every_evaluation_asks_again_on_black_and_other_frames(
    roots: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = evaluate(roots, tmp_path / "own")
    picture = content["picture"]["overall"]
    assert content["frames"] == "own" and (picture["n"], picture["videos"]) == (content["n"], 3)
    assert picture["own"]["value"] == pytest.approx(content["acc"])
    printed = capsys.readouterr().out
    assert "black frames the model gives the same answer to" in printed
    assert json.loads(json.dumps(read_report(tmp_path / "own" / "metrics.json").to_json())) == content
    for shown in ("black", "shuffled"):
        other = evaluate(roots, tmp_path / shown, f"--frames={shown}")
        assert other["frames"] == shown
        assert other["acc"] == pytest.approx(picture[shown]["acc"]["value"])
        assert other["picture"] == content["picture"], shown
        changed = [a != b for a, b in zip(chosen(tmp_path / "own"), chosen(tmp_path / shown), strict=True)]
        assert picture[shown]["changed"]["value"] == pytest.approx(sum(changed) / len(changed))


def test_the_number_of_questions_is_a_flag(roots: list[str], tmp_path: Path) -> None:
    assert evaluate(roots, tmp_path / "none", "--check-samples=0")["picture"] is None
    content = evaluate(roots, tmp_path / "some", "--check-samples=30")
    assert content["picture"]["overall"]["n"] <= 30 < content["n"]
    assert chosen(tmp_path / "none") == chosen(tmp_path / "some")


def test_on_black_frames_equal_questions_have_equal_answers(roots: list[str], tmp_path: Path) -> None:
    evaluate(roots, tmp_path / "black", "--frames=black", "--check-samples=0")
    lines = predictions(tmp_path / "black")
    answers: dict[str, set[tuple[str, float]]] = {}
    for line in lines:
        answers.setdefault(line["question"], set()).add((line["prediction"], line["probability"]))
    assert all(len(found) == 1 for found in answers.values()) and len(answers) < len(lines)


def test_an_evaluation_of_other_frames_is_not_comparable(roots: list[str], tmp_path: Path) -> None:
    content = evaluate(roots, tmp_path / "black", "--frames=black", "--check-samples=0")
    groups = dict.fromkeys(("VID02", "VID22", "VID43", "VID60", "VID74"), content["by_video"]["VID02"])
    standard = content | {"synthetic": False, "max_samples": None, "n": 90_000, "by_video": groups}
    (tmp_path / "metrics.json").write_text(json.dumps(standard))
    assert why_not_comparable(read_report(tmp_path / "metrics.json")) == (
        "the model was not shown the questions' own frames"
    )
    (tmp_path / "metrics.json").write_text(json.dumps(standard | {"frames": "own"}))
    assert why_not_comparable(read_report(tmp_path / "metrics.json")) is None


def test_a_cache_holds_the_frames_on_disk_only_and_changes_no_figure(roots: list[str], tmp_path: Path) -> None:
    cached = [f"--cache={tmp_path / 'cache'}", "--cache-dtype=fp32"]
    plain = evaluate(roots, tmp_path / "plain", "--corrupt=smoke:3")
    for name in ("fills", "reads"):
        content = evaluate(roots, tmp_path / name, "--corrupt=smoke:3", *cached)
        for section in ("picture", "robustness"):
            assert content[section] == plain[section], (name, section)
    (folder,) = (tmp_path / "cache").iterdir()
    assert "pictures" not in json.loads((folder / "manifest.json").read_text())["made_of"]
    shuffled = evaluate(roots, tmp_path / "shuffled", "--frames=shuffled", *cached)
    assert shuffled["acc"] == pytest.approx(plain["picture"]["overall"]["shuffled"]["acc"]["value"])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_bad_frames_are_left_out_of_every_figure(roots: list[str], synthetic_set: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(synthetic_set / "frames", frames)
    (frames / "VID02" / "000002.png").write_bytes(b"no picture")
    (frames / "VID01" / "000001.png").unlink()
    flags = [*roots, f"--image-root={frames}", "--max-samples=1000", "--on-bad-frame=skip", "--max-bad-frames=0.5"]
    content = evaluate(flags, tmp_path / "eval", "--corrupt=blur:2")
    assert {(f["video"], f["frame"]) for f in content["skipped_frames"]} == {("VID02", 2), ("VID01", 1)}
    figures = content["picture"]["overall"]
    assert figures["n"] == content["robustness"]["n"] == content["robustness"]["rows"][0]["n"] == content["n"]


@pytest.mark.parametrize("shown", ["black", "shuffled"])
def test_a_missing_frame_is_left_out_whatever_is_shown(
    shown: str, roots: list[str], synthetic_set: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(synthetic_set / "frames", frames)
    (frames / "VID01" / "000001.png").unlink()
    flags = [*roots, f"--image-root={frames}", "--max-samples=1000", "--on-bad-frame=skip", "--max-bad-frames=0.5"]
    asked = [
        [(p["video"], p["frame"], p["question"]) for p in predictions(tmp_path / name)]
        for name in ("own", shown)
        if evaluate(flags, tmp_path / name, f"--frames={name}", "--check-samples=0")
    ]
    assert asked[0] == asked[1] and not any(question[:2] == ("VID01", 1) for question in asked[1])


def test_corruptions_have_one_row_each(roots: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluate(roots, tmp_path / "eval", "--corrupt", "cut_corners:5", "noise", "--check-samples=60")
    rows = content["robustness"]["rows"]
    assert [(r["corruption"], r["severity"]) for r in rows] == [
        *(("noise", severity) for severity in range(1, 6)),
        ("cut_corners", 5),
    ]
    for row in rows:
        assert row["drop"]["value"] == pytest.approx(row["own"] - row["acc"]["value"])
        assert row["changed"]["value"] >= abs(row["drop"]["value"]) - 1e-9
    assert rows[4]["changed"]["value"] > rows[0]["changed"]["value"]
    assert "cut_corners:5" in capsys.readouterr().out


def test_strata_compare_frames_with_and_without_a_flag(
    roots: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "flags.csv"
    table.write_text(
        "video,frame,smoke\n" + "".join(f"{v},{n},{n % 2}\n" for v in ("VID01", "VID02") for n in range(4))
    )
    content = evaluate(roots, tmp_path / "eval", "--max-samples=1000", "--check-samples=0", f"--strata={table}")
    (row,) = content["strata"]["rows"]
    lines = predictions(tmp_path / "eval")
    inside = [p for p in lines if p["video"] != "VID04" and p["frame"] % 2]
    assert (row["flag"], row["n_inside"], row["videos"]) == ("smoke", len(inside), 2)
    assert row["inside"]["value"] == pytest.approx(sum(p["answer"] == p["prediction"] for p in inside) / len(inside))
    assert content["strata"]["frames_not_listed"] == 4
    assert "4 frames that flags.csv does not name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--corrupt=fog"], "'fog' is not one of all, smoke"),
        (["--corrupt=smoke:1", "--check-samples=0"], "--corrupt asks the questions of --check-samples, which is 0"),
        (["--corrupt=smoke:1", "--frames=black"], "which --frames black does not show"),
        (["--strata=nowhere.csv"], "--strata nowhere.csv cannot be read"),
    ],
)
def test_flags_that_cannot_be_used_are_an_error_before_the_evaluation(
    flags: list[str], fault: str, roots: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--checkpoint=tiny", *roots, f"--output={tmp_path / 'eval'}", *flags]) == 2
    assert fault in sentence(capsys) and not (tmp_path / "eval").exists()


def test_one_video_cannot_be_shuffled(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", "--checkpoint=tiny", "--workers=0", "--max-samples=20", f"--output={tmp_path / 'eval'}"]
    assert main([*given, *data_flags, "--frames=shuffled"]) == 2
    assert "about one video only; evaluate a split with several" in sentence(capsys)
    assert main([*given, *data_flags]) == 0
    content = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert content["picture"]["overall"]["shuffled"] is None and "one video only" in content["picture"]["note"]


def test_clips_of_several_frames_are_shuffled_and_corrupted(roots: list[str], tmp_path: Path) -> None:
    """The base was not trained on such clips, but reads them."""
    flags = ["--num-frames=2", "--clip-mode=past", "--preset=tiny"]
    run = tmp_path / "run"
    splits = tmp_path / "splits"
    splits.mkdir()
    for name, videos in (("train", ["VID04"]), ("val", []), ("test", ["VID01", "VID02"])):
        (splits / f"{name}_videos.json").write_text(json.dumps(videos))
    data = [*roots[:1], *roots[2:], f"--splits-dir={splits}"]
    assert main(["train", *flags, *data, f"--checkpoint-dir={run}", "--workers=0", "--max-steps=1"]) == 0
    given = ["eval", f"--checkpoint={run}", *data, "--workers=1", "--max-samples=60", "--corrupt=defocus:5"]
    assert main(given) == 0
    content = json.loads((run / "eval-test" / "metrics.json").read_text())
    assert content["picture"]["overall"]["videos"] == 2 and content["robustness"]["rows"][0]["n"] == content["n"]


def test_a_run_on_black_pictures_is_evaluated_on_them(
    data_flags: list[str], synthetic_set: Path, tmp_path: Path, captured_log: CapturedLog
) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(synthetic_set / "frames", frames)
    for path in frames.rglob("*.png"):
        Image.new("RGB", (43, 24), (200, 30, 30)).save(path)
    run = tmp_path / "run"
    train = ["train", "--preset=tiny", "--workers=0", "--max-steps=2", "--val-max-samples=30", "--blank-video"]
    assert main([*train, *data_flags, f"--checkpoint-dir={run}"]) == 0
    captured_log()
    given = ["eval", f"--checkpoint={run}", "--workers=0", "--max-samples=40", "--check-samples=0", *data_flags]
    assert main(given) == 0
    assert "evaluated on black pictures, as it was trained" in captured_log()
    black = json.loads((run / "eval-test" / "metrics.json").read_text())
    assert black["frames"] == "black"
    assert main([*given, f"--image-root={frames}", f"--output={tmp_path / 'other'}"]) == 0
    assert chosen(tmp_path / "other") == chosen(run / "eval-test")
    assert main([*given, "--frames=own"]) == 0
    assert json.loads((run / "eval-test-own" / "metrics.json").read_text())["frames"] == "own"
