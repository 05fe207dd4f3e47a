"""The runs of a sweep, and the table of their results."""

import csv
import json
import math
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgvivqa.cli import main
from surgvivqa.cluster.sweep_plan import SweepPlan, plan_runs, read_plan
from surgvivqa.cluster.sweep_table import choose_best, collect_results, format_markdown, group_results
from surgvivqa.utils.errors import InputError
from tests.helpers.evaluations import answer_questions, write_evaluation
from tests.helpers.fake_slurm import FakeSlurm

TINY = ("--preset=tiny", "--max-steps=3", "--gpus=0", "--no-preflight", "--checkpoint-dir=sweep")


def refuse(*vary: str) -> str:
    with pytest.raises(InputError) as raised:
        plan_runs(vary)
    return str(raised.value)


def test_every_combination_is_a_run_with_typed_values() -> None:
    runs = plan_runs(["seed=1,2", "--lora-r=8, 16", "train_blip=true,false"])
    assert [run.task for run in runs] == list(range(8))
    assert runs[0].values == {"seed": 1, "lora_r": 8, "train_blip": True}
    assert runs[7].values == {"seed": 2, "lora_r": 16, "train_blip": False}
    assert runs[0].name == "seed-1_lora-r-8_train-blip-True" and runs[0].label == "lora-r=8, train-blip=True"
    values = plan_runs(["lr=5e-4", "mask=causal", "max-hours=none", "bf16=none", "pretrained-ckpt=a/b"])[0].values
    assert values == {"lr": 5e-4, "mask": "causal", "max_hours": None, "bf16": None, "pretrained_ckpt": "a/b"}


@pytest.mark.parametrize(
    ("vary", "sentence"),
    [
        (["sed=1"], "--vary names the unknown flag 'sed'; the nearest flag of train is 'seed'."),
        (["seed"], "--vary 'seed' must be FLAG=VALUE,VALUE"),
        (["seed="], "--vary 'seed=' must be FLAG=VALUE,VALUE"),
        (["seed=1,,2"], "--vary seed: '' is not a value of --seed (int)."),
        (["seed=1,x"], "--vary seed: 'x' is not a value of --seed (int)."),
        (["mask=causl"], "--vary mask: 'causl' is not a value of --mask (prefix, causal, bidirectional)."),
        (["seed=1", "seed=2"], "--vary gives seed twice"),
        (["seed=1,2,1"], "has the same value twice"),
        (["seed=1,01"], "has the same value twice"),
        (["checkpoint-dir=a,b"], "--vary cannot vary --checkpoint-dir"),
        (["report-to=wandb"], "--vary cannot vary --report-to, whose values are lists."),
        (["seed=" + ",".join(map(str, range(40))), "lora-r=" + ",".join(map(str, range(30)))], "makes 1200 runs"),
        (["decoder-model=a/b,a-b"], "would have the same name"),
    ],
)
def test_wrong_values_are_one_sentence(vary: list[str], sentence: str) -> None:
    assert sentence in refuse(*vary)


def test_each_run_has_its_flags_and_its_folder(slurm: Callable[..., int], tmp_path: Path) -> None:
    assert slurm("sweep", *TINY, "--vary", "seed=1,2", "lora-r=8,16", "--lr=0.1", "--scripts=s") == 0
    names = [run.name for run in read_plan(tmp_path / "sweep").runs]
    saved = [yaml.safe_load((tmp_path / "s" / "runs" / f"{name}.yaml").read_text()) for name in names]
    assert [(run["seed"], run["lora_r"], run["lr"]) for run in saved] == [
        (1, 8, 0.1),
        (1, 16, 0.1),
        (2, 8, 0.1),
        (2, 16, 0.1),
    ]
    assert [run["checkpoint_dir"] for run in saved] == [f"sweep/{name}" for name in names]
    assert "#SBATCH --array=0-3\n" in (tmp_path / "s" / "sweep.sh").read_text()


def test_every_run_of_a_sweep_is_checked(
    slurm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm("sweep", *TINY, "--vary=num-frames=2,3") == 2
    assert "--num-frames must be an even number from 2 to 512, not 3." in capsys.readouterr().err
    assert slurm("sweep", *TINY) == 2
    assert "--vary is missing" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_trains_evaluates_and_makes_its_table(
    slurm: Callable[..., int], fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.plan("0", "75", "0", "2")
    assert slurm("sweep", *TINY, "--vary=seed=1,2,3", f"--python={fake.python}", "--submit") == 0
    runs = [(run["task"], run["code"], run["requeued"]) for run in fake.read("runs")]
    assert runs == [(0, 0, False), (1, 75, True), (1, 0, False), (2, 2, False), (0, 0, False)]
    said = [words[2:] for words in fake.read("python")]
    assert [words[0] for words in said] == ["train", "eval", "eval", "train", "train", "eval", "eval", "train", "slurm"]
    folder = tmp_path / "sweep" / "slurm"
    assert said[1] == [
        "eval",
        "--config",
        f"{folder}/evals/seed-1.yaml",
        "--checkpoint",
        "sweep/seed-1",
        "--split",
        "val",
    ]
    assert said[-1] == ["slurm", "sweep", "--table", "sweep"]
    assert fake.read("sbatch")[1][1:3] == ["--dependency=afterany:101", "--kill-on-invalid-dep=yes"]


def test_an_evaluation_that_is_there_is_not_repeated(
    slurm: Callable[..., int], fake: FakeSlurm, tmp_path: Path
) -> None:
    write_evaluation(tmp_path / "sweep" / "seed-1" / "eval-val")
    assert slurm("sweep", *TINY, "--vary=seed=1", f"--python={fake.python}", "--submit") == 0
    assert [words[-1] for words in fake.read("python")[:2]] == [str(tmp_path / "sweep/slurm/runs/seed-1.yaml"), "test"]


def test_a_run_is_evaluated_with_its_own_data_flags(slurm: Callable[..., int], tmp_path: Path) -> None:
    folds = ("fold-1", "fold-2")
    for fold in folds:
        shutil.copytree(str(files("surgvivqa") / "splits"), tmp_path / fold)
    assert slurm("sweep", *TINY, f"--vary=splits-dir={','.join(folds)}", "--scripts=s") == 0
    for fold in folds:
        for kind in ("runs", "evals"):
            saved = yaml.safe_load((tmp_path / "s" / kind / f"splits-dir-{fold}.yaml").read_text())
            assert saved["splits_dir"] == fold


def test_more_values_do_not_change_the_runs_of_tasks_that_wait(
    slurm: Callable[..., int], fake: FakeSlurm, tmp_path: Path
) -> None:
    """A script is copied when it is submitted, but its job reads the files of flags when it starts."""
    assert slurm("sweep", *TINY, "--vary=seed=1", f"--python={fake.python}") == 0
    waiting = tmp_path / "waiting.sh"
    shutil.copy(tmp_path / "sweep" / "slurm" / "sweep.sh", waiting)
    assert slurm("sweep", *TINY, "--vary=seed=0,1", f"--python={fake.python}") == 0
    subprocess.run(["bash", waiting], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, check=True)
    train, evaluation, _ = (words[2:] for words in fake.read("python"))
    assert yaml.safe_load(Path(train[2]).read_text())["seed"] == 1
    assert train[0] == "train" and evaluation[3:5] == ["--checkpoint", "sweep/seed-1"]


def make_sweep(folder: Path, hits: dict[str, dict[str, str]], vary: list[str]) -> SweepPlan:
    """A sweep on disk: for each run's folder and each split, a 1 or 0 for each question."""
    plan = SweepPlan(
        [v.partition("=")[0].replace("-", "_") for v in vary], plan_runs(vary), ["val", "test"], "acc", "s.sh"
    )
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(plan.to_json()))
    for name, splits in hits.items():
        (folder / name).mkdir()
        (folder / name / "finished.json").write_text("{}")
        for split, answers in splits.items():
            write_evaluation(folder / name / f"eval-{split}", answer_questions({"VID02": answers}))
    return plan


GRID = {
    "lora-r-8_seed-1": {"val": "1100", "test": "1111"},
    "lora-r-8_seed-2": {"val": "1000", "test": "1111"},
    "lora-r-16_seed-1": {"val": "1110", "test": "0001"},
    "lora-r-16_seed-2": {"val": "1100", "test": "0000"},
}
VARY = ["lora-r=8,16", "seed=1,2"]


def test_the_best_is_chosen_on_validation_even_where_test_says_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(tmp_path / "s", GRID, VARY)
    assert main(["slurm", "sweep", f"--table={tmp_path / 's'}"]) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "s" / "sweep.md").read_text()
    assert "Chosen on the validation split: **lora-r=16**, with acc 62.5%." in text
    # Two values: t with one degree of freedom is 12.706; the interval is cut at 0 and 1.
    spread = statistics.stdev([0.75, 0.5])
    assert 12.706 * spread / math.sqrt(2) > 0.625
    assert f"| **lora-r=16** | 2 of 2 | 62.5 ± {100 * spread:.1f} [0.0, 100.0] | 12.5 ± {100 * spread:.1f} " in text
    assert "| lora-r=8 | 2 of 2 | 37.5 ± 17.7 [0.0, 100.0] | 100.0 ± 0.0 [100.0, 100.0] |" in text


def test_the_interval_is_students_t_over_seeds(tmp_path: Path) -> None:
    values = ["1" * n + "0" * (100 - n) for n in (60, 62, 67)]
    hits = {f"seed-{n}": {"val": v, "test": v} for n, v in enumerate(values, 1)}
    plan = make_sweep(tmp_path / "s", hits, ["seed=1,2,3"])
    text = format_markdown(plan, tmp_path / "s", collect_results(plan, tmp_path / "s"))
    reach = 4.30265 * statistics.stdev([60, 62, 67]) / math.sqrt(3)
    assert f"| 3 of 3 | 63.0 ± 3.6 [{63 - reach:.1f}, {63 + reach:.1f}] |" in text
    assert "One configuration, acc 63.0% on the validation split." in text


def test_runs_as_csv(tmp_path: Path) -> None:
    make_sweep(tmp_path / "s", {name: GRID[name] for name in list(GRID)[:3]}, VARY)
    assert main(["slurm", "sweep", f"--table={tmp_path / 's'}"]) == 1
    rows = list(csv.DictReader((tmp_path / "s" / "sweep.csv").open()))
    assert [(r["task"], r["lora_r"], r["seed"], r["val_acc"], r["test_acc"]) for r in rows] == [
        ("0", "8", "1", "0.5", "1.0"),
        ("1", "8", "2", "0.25", "1.0"),
        ("2", "16", "1", "0.75", "0.25"),
        ("3", "16", "2", "", ""),
    ]
    assert (rows[3]["missing"], rows[0]["missing"], rows[0]["val_n"]) == ("not started", "", "4")


def test_missing_runs_are_named_and_left_out_of_the_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    make_sweep(folder, GRID, VARY)
    (folder / "lora-r-16_seed-1" / "finished.json").unlink()
    (folder / "lora-r-16_seed-1" / "metrics.jsonl").write_text('{"step": 20, "loss": 1}\n{"step": 30, "lo')
    assert main(["slurm", "sweep", f"--table={folder}"]) == 1
    text = capsys.readouterr().out
    assert "Chosen on the validation split: **lora-r=8**, with acc 37.5%; 1 of 2 configurations lack runs" in text
    assert "- task 2 (lora-r=16, seed=1): not finished, last figures at step 20\n" in text
    assert "Repeat them: `sbatch --array=2 s.sh`" in text
    shutil.rmtree(folder / "lora-r-8_seed-2")
    (folder / "lora-r-8_seed-1" / "eval-test" / "metrics.json").write_text("{")
    shutil.rmtree(folder / "lora-r-16_seed-2" / "eval-val")
    assert main(["slurm", "sweep", f"--table={folder}"]) == 1
    text = capsys.readouterr().out
    assert "No configuration is chosen yet, because each lacks a run." in text
    for part in ("task 1 (lora-r=8, seed=2): not started", "metrics.json cannot be read", "not evaluated on val"):
        assert part in text
    assert "sbatch --array=0,1,2,3 s.sh" in text


def test_equal_configurations_the_first_is_chosen(tmp_path: Path) -> None:
    plan = make_sweep(tmp_path / "s", dict.fromkeys(GRID, GRID["lora-r-8_seed-1"]), VARY)
    best = choose_best(group_results(collect_results(plan, tmp_path / "s")), "acc")
    assert best is not None and best.label == "lora-r=8"


def test_runs_on_different_questions_are_reported(tmp_path: Path) -> None:
    hits = {"seed-1": {"val": "10", "test": "10"}, "seed-2": {"val": "101", "test": "10"}}
    plan = make_sweep(tmp_path / "s", hits, ["seed=1,2"])
    assert "different numbers of questions" in format_markdown(
        plan, tmp_path / "s", collect_results(plan, tmp_path / "s")
    )


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"varied": ["seed"], "runs": [{"task": 0, "name": "../x", "values": {"seed": 1}}]}']
)
def test_a_file_that_is_not_a_plan(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(InputError, match="is not the plan of a sweep"):
        read_plan(tmp_path)


def test_a_plan_cannot_name_folders_elsewhere(tmp_path: Path) -> None:
    plan = SweepPlan(["seed"], plan_runs(["seed=1"]), ["val"], "acc", "s.sh").to_json()
    plan["runs"][0]["name"] = "../x"
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"is not the plan of a sweep \(run '../x'\)"):
        read_plan(tmp_path)


def test_a_folder_without_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "sweep", f"--table={tmp_path}"]) == 2
    assert "give the --checkpoint-dir that surgvivqa slurm sweep was given" in capsys.readouterr().err


def test_a_cluster_that_refuses_the_job_of_the_table_still_runs_the_sweep(
    slurm: Callable[..., int], fake: FakeSlurm, captured_log: Any
) -> None:
    fake.monkeypatch.setenv("FAKE_REFUSES", "table")
    assert slurm("sweep", *TINY, "--vary=seed=1", f"--python={fake.python}", "--submit", "--mem=64G") == 0
    assert "table.sh (sbatch: error: Batch job submission failed: Invalid account); run it by hand" in captured_log()
    assert len(fake.read("runs")) == 1
