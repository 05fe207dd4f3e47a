"""``surgvivqa export`` writes every format, and refuses to guess where frames are."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from surgvivqa.cli import main
from tests.helpers.evaluations import answer_questions, write_evaluation


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("IMAGE_ROOT", raising=False)
    (tmp_path / "frames").mkdir()
    write_evaluation(tmp_path / "lora" / "eval-test", answer_questions({"VID02": "110"}))
    return str(tmp_path / "lora")


def test_parquet_has_absolute_paths_by_default(run: str, tmp_path: Path) -> None:
    output = tmp_path / "p.parquet"
    assert main(["export", run, "--to=parquet", f"--output={output}", f"--image-root={tmp_path / 'frames'}"]) == 0
    images = pq.read_table(output)["image"].to_pylist()
    assert images[0] == str((tmp_path / "frames").resolve() / "VID02" / "000000.png") and len(images) == 3


def test_relative_paths_need_no_folder(run: str, tmp_path: Path) -> None:
    assert main(["export", run, "--to=tsv", f"--output={tmp_path / 'p.tsv'}", "--relative"]) == 0
    assert "\tVID02/000000.png\t" in (tmp_path / "p.tsv").read_text()


def test_the_runs_own_folder_of_frames_is_used(run: str, tmp_path: Path) -> None:
    (tmp_path / "lora" / "config.yaml").write_text(f"image_root: {tmp_path / 'frames'}\n")
    (tmp_path / "lora" / "metrics.jsonl").write_text("")
    assert main(["export", run, "--to=tsv", f"--output={tmp_path / 'p.tsv'}"]) == 0
    assert str(tmp_path / "frames") in (tmp_path / "p.tsv").read_text()


def test_only_the_wrong_answers_are_exported(run: str, tmp_path: Path) -> None:
    flags = ["--to=parquet", f"--output={tmp_path / 'p.parquet'}", "--relative", "--only=wrong"]
    assert main(["export", run, *flags]) == 0
    assert pq.read_table(tmp_path / "p.parquet")["frame"].to_pylist() == [2]


@pytest.mark.parametrize(
    ("relative", "hint"), [(False, "fiftyone.types.FiftyOneDataset)"), (True, "LegacyFiftyOneDataset, rel_dir=")]
)
def test_fiftyone_gets_a_folder_and_the_call_that_imports_it(
    run: str, tmp_path: Path, relative: bool, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--relative"] if relative else [f"--image-root={tmp_path / 'frames'}"]
    assert main(["export", run, "--to=fiftyone", f"--output={tmp_path / 'fo'}", *flags]) == 0
    samples = json.loads((tmp_path / "fo" / "samples.json").read_text())["samples"]
    assert len(samples) == 3 and samples[0]["filepath"].startswith("VID02") == relative
    assert hint in capsys.readouterr().out


def test_label_studio_gets_tasks_and_an_interface(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--to=labelstudio", f"--output={tmp_path / 'tasks.json'}", f"--image-root={tmp_path / 'frames'}"]
    assert main(["export", run, *flags]) == 0
    assert len(json.loads((tmp_path / "tasks.json").read_text())) == 3
    assert (tmp_path / "tasks.xml").read_text().startswith("<View>")
    assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={tmp_path.resolve()}," in capsys.readouterr().out


def test_the_checklist_is_markdown(run: str, tmp_path: Path) -> None:
    assert main(["export", run, "--to=checklist", f"--output={tmp_path / 'checklist.md'}"]) == 0
    assert (tmp_path / "checklist.md").read_text().startswith("# Reporting checklist of lora")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to=parquet", "--output={tmp}/p.parquet"], "give --image-root, or --relative"),
        (["--to=labelstudio", "--output={tmp}/t.json", "--relative"], "needs the name of the folder of the frames"),
        (["--to=labelstudio", "--output={tmp}/t.xml", "--image-root={tmp}/frames"], "use .json"),
        (["--to=tsv", "--output={tmp}/no/p.tsv"], "does not exist"),
        (["--to=tsv", "--output={tmp}/p.tsv", "--image-root={tmp}/no"], "is not a folder"),
        (["--to=fiftyone", "--output={tmp}/frames", "--relative"], "exists already"),
        (["--to=tsv", "--output={tmp}/frames", "--relative"], "exists already"),
    ],
)
def test_wrong_input_is_reported_in_one_sentence(
    run: str, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", run, *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out
