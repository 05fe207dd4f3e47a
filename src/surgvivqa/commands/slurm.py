"""``surgvivqa slurm train``, ``slurm eval`` and ``slurm cache``: batch scripts for the commands of those names.

::

    run/slurm/                 or --scripts
      train.sh  train.yaml     the script, and the flags that its job reads with --config
      eval-test.sh  ...        with --then-eval
      train-123.log            what job 123 printed
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from surgvivqa.cluster.batch_script import Job
from surgvivqa.cluster.run_command import check_several, launch_command, named_folders, python_command, words
from surgvivqa.cluster.settings import ClusterConfig, JobSettings, resolve_settings
from surgvivqa.cluster.submission import Link, describe_submission, submit, write_scripts
from surgvivqa.commands.cache import CacheConfig
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.commands.slurm_config import (
    SlurmCacheConfig,
    SlurmEvalConfig,
    SlurmTrainConfig,
    format_flags,
    narrow,
)
from surgvivqa.config import (
    DataConfig,
    FeatureCacheConfig,
    TrainConfig,
    changed_flags,
    check_ranges,
    clip_length,
    data_roots,
    dataset_name,
    flags_of,
    option,
)
from surgvivqa.data.splits import SPLIT_NAMES, Splits, load_splits
from surgvivqa.model.freezing import check_cache_flags
from surgvivqa.training.data import open_run_dataset
from surgvivqa.training.machine_defaults import limit_for_debug, resolve_machine_defaults
from surgvivqa.training.run_folder import FINISHED, OVERWRITE
from surgvivqa.training.trackers import parse_trackers
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_yaml import plain_yaml

log = logging.getLogger("surgvivqa")
_FRAMES_TO_CHECK = 50  # that the check in a job decodes: enough to find wrong folders


def slurm_train(config: SlurmTrainConfig) -> int:
    """Writes the script of a training run, with ``--then-eval`` that of its evaluation, and submits on request.

    Raises:
        InputError: a flag of train or of the job cannot be used.
        RunError: sbatch refused a job.
    """
    run, settings = narrow(config, TrainConfig), resolve_settings(config)
    check_training(run, settings, config)
    folder = (config.scripts or run.checkpoint_dir / "slurm").absolute()
    saved = folder / "train.yaml"
    python = python_command(settings, list_folders(run, folder))
    replaces = replaces_run(run)
    steps = training_steps(python, settings, words(saved), words(run.checkpoint_dir), replaces)
    job = Job("train", name_job(config, run.checkpoint_dir), settings, folder, steps, list_folders(run, folder))
    chain, files = [Link(job)], {saved: format_flags(dataclasses.replace(run, overwrite=False))}
    if config.then_eval:
        splits = parse_splits(config.eval_splits)
        evaluation = evaluation_of(run, run.checkpoint_dir)
        saved = folder / "eval.yaml"
        files[saved] = format_flags(evaluation)
        steps = [run_evaluation(python, settings, words(saved), words(run.checkpoint_dir), split) for split in splits]
        job = Job("eval", job.name, settings, folder, steps, job.folders, warns=False)
        chain.append(Link(job, after="afterok"))
    if replaces:
        files[run.checkpoint_dir / OVERWRITE] = ""
    return write_and_submit(chain, files, "slurm train", config)


def slurm_eval(config: SlurmEvalConfig) -> int:
    """Writes the script of an evaluation, and submits it on request.

    Raises:
        InputError: a flag of eval or of the job cannot be used.
        RunError: sbatch refused the job.
    """
    run, settings = narrow(config, EvalConfig), resolve_settings(config)
    check_ranges(run)
    check_several(settings, run)
    if run.fp16 and run.bf16:
        raise InputError("--fp16 and --bf16 cannot be combined; give one of them.")
    if not config.paths_on_nodes and run.ssgvqa_root is not None and run.image_root is not None:
        data_roots(run)
    beside = run.output or (run.checkpoint if run.checkpoint.is_dir() else Path())
    folder = (config.scripts or beside / "slurm").absolute()
    saved = folder / f"eval-{run.split}.yaml"
    folders = list_folders(run, folder)
    python = python_command(settings, folders)
    steps = [f"run_step {launch_command(settings, python, f'eval --config {words(saved)}')}"]
    name = name_job(config, run.checkpoint)
    job = Job(f"eval-{run.split}", name, settings, folder, steps, folders, warns=False)
    return write_and_submit([Link(job)], {saved: format_flags(run)}, "slurm eval", config)


def slurm_cache(config: SlurmCacheConfig) -> int:
    """Writes the script of an array of tasks that fill the feature cache, and submits it on request.

    Each task names its share of the videos, so that single tasks can be submitted again.

    Raises:
        InputError: a flag of cache or of the job cannot be used.
        RunError: sbatch refused the job.
    """
    run, settings = narrow(config, CacheConfig), resolve_settings(config)
    check_ranges(config)
    clip_length(run)
    if settings.is_distributed:
        raise InputError("A task of the cache is one process; give --gpus 1, --nodes 1, and more --tasks.")
    if run.shard is not None or run.num_shards is not None:
        raise InputError("--shard and --num-shards follow from --tasks; leave them out.")
    if run.checkpoint is not None and run.pretrained_ckpt is not None:
        raise InputError("--checkpoint and --pretrained-ckpt exclude each other; give one of them.")
    if not config.paths_on_nodes:
        data_roots(run)
    splits = read_splits(run)
    videos = [video for name in parse_splits(run.splits) for video in splits.videos(name)]
    tasks = min(config.tasks, len(videos))
    if tasks == 0:
        raise InputError(f"--splits {run.splits} has no video to cache.")
    if tasks < config.tasks:
        log.info("The array has %d tasks, one for each video.", tasks)
    folder = (config.scripts or run.cache / "slurm").absolute()
    saved = folder / "cache.yaml"
    folders = list_folders(run, folder)
    arguments = f'cache --config {words(saved)} --shard "$SLURM_ARRAY_TASK_ID" --num-shards {tasks}'
    steps = [
        f"run_step {launch_command(settings, python_command(settings, folders), arguments)}",
    ]
    array = f"0-{tasks - 1}{'' if config.max_parallel is None else f'%{config.max_parallel}'}"
    job = Job("cache", name_job(config, run.cache), settings, folder, steps, folders, array=array)
    return write_and_submit([Link(job)], {saved: format_flags(run)}, "slurm cache", config)


def check_training(run: TrainConfig, settings: JobSettings, config: ClusterConfig) -> None:
    """Checks what ``train`` checks before it loads anything, as far as this machine can know it.

    Raises:
        InputError: a flag cannot be used, data are missing, or the run folder holds a run with other flags.
    """
    check_ranges(run)
    check_several(settings, run)
    clip_length(run)
    check_cache_flags(run)
    parse_trackers(run.report_to)
    read_splits(run)
    if run.fp16 and run.bf16:
        raise InputError("--fp16 and --bf16 cannot be combined; give one of them.")
    if run.fp16 and not settings.gpus:
        raise InputError("--fp16 needs a GPU; give --gpus, or leave --fp16 out.")
    if config.paths_on_nodes:
        _check_roots_are_given(run)
    else:
        try:
            data_roots(run)
        except InputError as error:
            raise InputError(f"{error} --paths-on-nodes leaves this check to the job.") from None
    _check_older_run(run)


def _check_roots_are_given(run: DataConfig) -> None:
    for name in ("ssgvqa_root", "image_root"):
        if getattr(run, name) is None:
            raise InputError(f"{option(name)} is missing; give it, or set {name.upper()}.")


def _check_older_run(run: TrainConfig) -> None:
    saved = run.checkpoint_dir / "config.yaml"
    if run.overwrite or not saved.is_file():
        return
    if (run.checkpoint_dir / FINISHED).is_file():
        log.warning("The run in %s is finished; the job would find that and end.", run.checkpoint_dir)
    run = limit_for_debug(run) if run.debug else run
    try:
        changed = changed_flags(TrainConfig, plain_yaml(saved), resolve_machine_defaults(run))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(f"{saved} cannot be read; give another --checkpoint-dir, or --overwrite.") from None
    if changed:
        shown = ", ".join(f"{option(name)} was {was}, is {now}" for name, (was, now) in changed.items())
        raise InputError(
            f"--checkpoint-dir {run.checkpoint_dir} holds a run with other flags ({shown}); give the same flags to "
            f"resume it, or another folder, or --overwrite."
        )


def replaces_run(run: TrainConfig) -> bool:
    """Whether a job replaces the run in its folder.

    It does so where it finds the file ``OVERWRITE``, which training removes together with the old run: a second start
    then continues the new one.
    """
    return run.overwrite and (run.checkpoint_dir / "config.yaml").is_file()


def training_steps(python: str, settings: JobSettings, saved: str, run_folder: str, replaces: bool) -> list[str]:
    """The lines of bash that check and train.

    Args:
        python: Python as words of bash.
        settings: the values of the job.
        saved: the file of flags, as words of bash.
        run_folder: the run folder, as words of bash.
        replaces: whether an older run is replaced (``replaces_run``).
    """
    lines, more = [], ""
    if settings.preflight:
        check = f"run_step {python} -m surgvivqa check --config {saved} --frames-to-open {_FRAMES_TO_CHECK}"
        lines += ["if ((${SLURM_RESTART_COUNT:-0} == 0)); then", f"  {check}", "fi"]
    if replaces:
        lines += ["replace=()", f"if [[ -e {run_folder}/{OVERWRITE} ]]; then replace=(--overwrite); fi"]
        more = ' "${replace[@]}"'
    return [*lines, f"run_step {launch_command(settings, python, f'train --config {saved}{more}')}"]


def evaluation_of(run: TrainConfig, checkpoint: Path) -> EvalConfig:
    """The flags of the evaluation of a run: its data and its feature cache."""
    shared = {name: getattr(run, name) for cls in (DataConfig, FeatureCacheConfig) for name in flags_of(cls)}
    return EvalConfig(checkpoint=checkpoint, **shared)


def run_evaluation(python: str, settings: JobSettings, saved: str, run_folder: str, split: str) -> str:
    """The line of bash that evaluates a run on a split."""
    arguments = f"eval --config {saved} --checkpoint {run_folder} --split {split}"
    return f"run_step {launch_command(settings, python, arguments)}"


def read_splits(run: DataConfig) -> Splits:
    """The splits of a run's data set.

    Raises:
        InputError: they cannot be read, or share a video.
    """
    if dataset_name(run) == "ssg-qa":  # its splits are not in the data, which may be on the nodes only
        return load_splits(run.splits_dir)
    return open_run_dataset(run).splits


def parse_splits(text: str) -> list[str]:
    """The splits that a text names, separated by commas.

    Raises:
        InputError: one is unknown, or there is none.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or set(names) - set(SPLIT_NAMES):
        raise InputError(f"{text!r} must be some of the splits {', '.join(SPLIT_NAMES)}, separated by commas.")
    return names


def name_job(config: ClusterConfig, folder: Path) -> str:
    """The name of a job: ``--job-name``, or that of a folder in the characters of a single word."""
    name = config.job_name or folder.absolute().name
    return "".join(c if c.isascii() and (c.isalnum() or c in ".,=+-_") else "-" for c in name) or "surgvivqa"


def list_folders(run: object, *more: Path) -> list[Path]:
    """The folders that a job's container must see: those of its flags, the current one, and ``more``."""
    return [*named_folders(run), Path.cwd(), *more]


def write_and_submit(chain: Sequence[Link], files: Mapping[Path, str], command: str, config: ClusterConfig) -> int:
    """Writes the scripts and files of a chain of jobs, and submits it or says how.

    Returns:
        0.

    Raises:
        InputError: a folder cannot be written, or there is no sbatch.
        RunError: sbatch refused a job.
    """
    write_scripts(chain, files, command)
    log.info("Scripts and logs are in %s.", chain[0].job.folder)
    if config.submit:
        for job_id in submit(chain):
            print(job_id)
    else:
        log.info("%s", describe_submission(chain))
    return 0
