"""``surgvivqa slurm sweep``: one run for each combination of flag values, as an array, and a table of their results.

::

    sweep/                        --checkpoint-dir
      sweep.json                  the runs
      seed-1_lora-r-8/            a run folder, with eval-val and eval-test
      sweep.md  sweep.csv         the table
      slurm/                      or --scripts
        sweep.sh  table.sh        the scripts of the array, and of the job that makes the table once it has ended
        runs/seed-1_lora-r-8.yaml   the flags of a run, and in evals/ those of its evaluation. They have the names of
                                    runs and not of tasks, which a sweep with more values gives to other runs
"""

import dataclasses
import json

from surgvivqa.cluster.batch_script import Job
from surgvivqa.cluster.run_command import launch_command, python_command, words
from surgvivqa.cluster.settings import JobSettings, flatten, resolve_settings
from surgvivqa.cluster.submission import Link
from surgvivqa.cluster.sweep_plan import PLAN_FILE, SweepPlan, plan_runs, read_plan
from surgvivqa.cluster.sweep_table import collect_results, format_csv, format_markdown
from surgvivqa.commands.slurm import (
    check_training,
    evaluation_of,
    list_folders,
    name_job,
    parse_splits,
    replaces_run,
    run_evaluation,
    training_steps,
    write_and_submit,
)
from surgvivqa.commands.slurm_config import SlurmSweepConfig, format_flags, narrow
from surgvivqa.config import TrainConfig
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.training.run_folder import OVERWRITE
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError


def slurm_sweep(config: SlurmSweepConfig) -> int:
    """Writes the scripts of a sweep and submits on request, or with ``--table`` makes the table of one.

    Returns:
        0; with ``--table`` 1 if a run is missing.

    Raises:
        InputError: a flag, or a value of ``--vary``, cannot be used.
        RunError: sbatch refused a job.
    """
    if config.table is not None:
        return write_table(config)
    if not config.vary:
        raise InputError("--vary is missing; give a flag and its values, such as --vary seed=1,2,3, or --table DIR.")
    base, settings, planned = narrow(config, TrainConfig), resolve_settings(config), plan_runs(flatten(config.vary))
    folder, splits = (config.scripts or base.checkpoint_dir / "slurm").absolute(), parse_splits(config.eval_splits)
    metric = base.best_metric if base.best_metric in METRICS else METRICS[0]
    plan = SweepPlan(list(planned[0].values), planned, splits, metric, str(folder / "sweep.sh"))
    files = {base.checkpoint_dir / PLAN_FILE: json.dumps(plan.to_json(), indent=2) + "\n"}
    runs = []
    for planned_run in planned:
        run = dataclasses.replace(base, checkpoint_dir=base.checkpoint_dir / planned_run.name)
        for name, value in planned_run.values.items():
            setattr(run, name, value)
        check_training(run, settings, config)
        flags_file = f"{planned_run.name}.yaml"
        files[folder / "runs" / flags_file] = format_flags(dataclasses.replace(run, overwrite=False))
        files[folder / "evals" / flags_file] = format_flags(evaluation_of(run, run.checkpoint_dir))
        if replaces_run(run):
            files[run.checkpoint_dir / OVERWRITE] = ""
        runs.append(run)
    folders = list(dict.fromkeys(place for run in runs for place in list_folders(run, folder, base.checkpoint_dir)))
    folders = [place for place in folders if base.checkpoint_dir.absolute() not in place.parents]
    python = python_command(settings, folders)
    of_run, run_folder = '"${run##*/}".yaml', '"$run"'
    saved, saved_eval = (f"{words(folder / kind)}/{of_run}" for kind in ("runs", "evals"))
    steps = [
        f"runs=({words(*(run.checkpoint_dir for run in runs))})",
        "run=${runs[$SLURM_ARRAY_TASK_ID]}",
        *training_steps(python, settings, saved, run_folder, any(map(replaces_run, runs))),
    ]
    for split in splits:
        line = run_evaluation(python, settings, saved_eval, run_folder, split)
        steps += [f'if [[ ! -e "$run/eval-{split}/metrics.json" ]]; then', f"  {line}", "fi"]
    array = f"0-{len(runs) - 1}{'' if config.max_parallel is None else f'%{config.max_parallel}'}"
    name = name_job(config, base.checkpoint_dir)
    sweep = Job("sweep", name, settings, folder, steps, folders, array=array)
    table = _table_job(config, settings, sweep)
    # afterany: the table also names the runs that failed.
    chain = [Link(sweep), Link(table, after="afterany", optional=True)]
    return write_and_submit(chain, files, "slurm sweep", config)


def _table_job(config: SlurmSweepConfig, settings: JobSettings, sweep: Job) -> Job:
    memory = "4G" if settings.mem else None
    single = dataclasses.replace(
        settings, nodes=1, gpus=0, processes=1, cpus=1, mem=memory, gpu_type=None, constraint=None
    )
    arguments = f"slurm sweep --table {words(config.checkpoint_dir)}"
    python = python_command(single, sweep.folders)
    steps = [f"run_step {launch_command(single, python, arguments)}"]
    return Job("table", f"{sweep.name}-table", single, sweep.folder, steps, sweep.folders, warns=False)


def write_table(config: SlurmSweepConfig) -> int:
    """Prints the table of a sweep and writes ``sweep.md`` and ``sweep.csv``; returns 1 if a run is missing.

    Raises:
        InputError: the folder does not hold a sweep, or cannot be written.
    """
    assert config.table is not None
    folder = config.table
    plan = read_plan(folder)
    results = collect_results(plan, folder)
    markdown = format_markdown(plan, folder, results)
    print(markdown, end="")
    try:
        write_text(folder / "sweep.md", markdown)
        write_text(folder / "sweep.csv", format_csv(plan, results))
    except OSError as error:
        raise InputError(f"--table {folder} cannot be written ({error.strerror}).") from None
    return 1 if any(result.fault is not None for result in results) else 0
