"""Writes scripts, and submits them with ``sbatch``."""

import logging
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.cluster.batch_script import Job, format_script
from surgvivqa.cluster.run_command import words
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError, RunError, one_line

log = logging.getLogger("surgvivqa")


@dataclass(frozen=True)
class Link:
    """A job, and the condition under which it starts.

    Attributes:
        job: the job.
        after: ``afterok``: once the job before it has succeeded; ``afterany``: once it has ended; None: at once.
        optional: whether the others make sense without it, so that a refusal is only a warning.
    """

    job: Job
    after: str | None = None
    optional: bool = False


def check_folder(folder: Path) -> None:
    """Raises InputError if lines of #SBATCH cannot name files in a folder, or in the folder of the job."""
    for path in (folder, Path.cwd()):
        if not str(path).isprintable() or '"' in str(path) or "\\" in str(path):
            raise InputError(
                f"{str(path)!r} cannot be named in a batch script, because of its quotation mark, backslash or line "
                f"break; use another folder."
            )


def write_scripts(chain: Sequence[Link], files: Mapping[Path, str], write_command: str) -> None:
    """Writes the scripts of a chain of jobs and the files that they read, and prints the scripts.

    Raises:
        InputError: a folder cannot be written, or a script cannot be made of the settings.
    """
    scripts = {link.job.path: format_script(link.job, write_command) for link in chain}
    for link in chain:
        check_folder(link.job.folder)
    for path, text in {**files, **scripts}.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            if path in scripts:
                path.chmod(0o755)
        except OSError as error:
            raise InputError(f"--scripts {path.parent} cannot be written ({error.strerror}).") from None
    print("\n".join(f"# {path}\n{text}" for path, text in scripts.items()), end="")


def describe_submission(chain: Sequence[Link]) -> str:
    """The commands that submit a chain of jobs, as a sentence and lines of bash."""
    lines = ["Nothing is submitted. --submit submits, as these commands do:"]
    for index, link in enumerate(chain):
        ids = f"job{index + 1}=$(sbatch --parsable{_dependency(link, f'$job{index}')} {words(link.job.path)})"
        lines.append(f"  {ids}")
    return "\n".join(lines)


def submit(chain: Sequence[Link]) -> list[str]:
    """Submits a chain of jobs, and logs how to watch, cancel and continue them.

    Returns:
        The ids of the jobs.

    Raises:
        InputError: there is no sbatch.
        RunError: sbatch refused a job; the message names those that are submitted.
    """
    if shutil.which("sbatch") is None:
        raise InputError("sbatch is not on PATH; run this on a machine of the cluster, or leave out --submit.")
    ids: list[str] = []
    for link in chain:
        options = _dependency(link, ids[-1] if ids else "").split()
        command = ["sbatch", "--parsable", *options, str(link.job.path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        job_id = result.stdout.strip().partition(";")[0]  # after a semicolon: the name of the cluster
        if result.returncode or not re.fullmatch(r"\d+", job_id):
            reason = one_line((result.stderr or result.stdout).strip())[:300] or f"exit code {result.returncode}"
            if link.optional:
                log.warning("sbatch refused %s (%s); run it by hand at the end.", link.job.path, reason)
                continue
            before = f" Submitted before: {', '.join(ids)}; scancel {' '.join(ids)} takes it back." if ids else ""
            raise RunError(f"sbatch refused {link.job.path} ({reason}).{before}")
        ids.append(job_id)
        after = f", after job {ids[-2]} ({link.after})" if link.after else ""
        log.info("Submitted job %s: %s%s", job_id, link.job.path, after)
    first, number = chain[0].job, ids[0]
    watched = str(first.folder / first.log.replace("%A", number).replace("%j", number).replace("%a", "0"))
    log.info("  watch:    squeue --jobs=%s", ",".join(ids))
    log.info("            tail -F %s", words(watched))
    log.info("  cancel:   scancel %s", " ".join(ids))
    log.info("  continue: sbatch %s    (a job that was warned requeues itself)", words(first.path))
    return ids


def _dependency(link: Link, job_id: str) -> str:
    """The options of sbatch with which a job waits for another, each after a space; empty if it waits for none."""
    if link.after is None:
        return ""
    # A job whose condition can no longer become true would wait forever.
    return f" --dependency={link.after}:{job_id} --kill-on-invalid-dep=yes"
