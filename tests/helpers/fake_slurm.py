"""A SLURM of one machine without daemons: ``sbatch``, ``scontrol`` and ``srun`` in a folder for PATH.

``sbatch`` runs each task of a script at once, again when it has requeued itself, and not at all if what it depends on
failed. Everything is recorded, so that a test can look at it.
"""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

_SBATCH = """
import json, os, pathlib, re, signal, subprocess, sys, time

state = pathlib.Path(os.environ["FAKE_SLURM"])


def note(name, value):
    with (state / name).open("a") as file:
        file.write(json.dumps(value) + "\\n")


note("sbatch.jsonl", sys.argv[1:])
refused = os.environ.get("FAKE_REFUSES", "")
script = pathlib.Path(sys.argv[-1])
if refused and refused in script.name:
    sys.exit("sbatch: error: Batch job submission failed: Invalid account")
job = len((state / "sbatch.jsonl").read_text().splitlines()) + 100
options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script.read_text(), flags=re.M))
options |= dict(a[2:].split("=", 1) for a in sys.argv[1:-1] if "=" in a)
if "dependency" in options:
    kind, before = options["dependency"].split(":")
    tasks = map(json.loads, (state / "tasks.jsonl").read_text().splitlines())
    if kind == "afterok" and any(t["code"] for t in tasks if t["job"] == int(before)):
        print(job)
        sys.exit(0)
first, last = (int(n or 0) for n in re.match(r"(\\d+)-?(\\d*)", options.get("array", "0")).groups())
for task in range(first, max(first, last) + 1):
    environment = os.environ | {"SLURM_JOB_ID": str(job + task), "SLURM_JOB_NODELIST": "localhost,localhost"}
    environment |= {"SLURM_NNODES": options["nodes"], "SLURM_CPUS_PER_TASK": options["cpus-per-task"]}
    name = str(job)
    if "array" in options:
        environment |= {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task)}
        name = f"{job}_{task}"
    log = options["output"].strip('"').replace("%%", "%").replace("%j", str(job)).replace("%A", str(job))
    for restart in range(50):
        if restart:
            environment["SLURM_RESTART_COUNT"] = str(restart)
        with open(log.replace("%a", str(task)), "a") as out:
            running = subprocess.Popen(["bash", str(script)], env=environment, stdout=out, stderr=out)
            warn = os.environ.get("FAKE_WARN_WHEN")
            while running.poll() is None:
                if warn and pathlib.Path(warn).exists():
                    pathlib.Path(warn).rename(warn + ".seen")
                    running.send_signal(getattr(signal, os.environ.get("FAKE_SIGNAL", "SIGUSR1")))
                time.sleep(0.01)
        asked = state / "requeue.txt"
        requeued = asked.exists() and name in asked.read_text().split()
        asked.unlink(missing_ok=True)
        code = running.returncode
        note("runs.jsonl", {"job": job, "task": task, "restart": restart, "code": code, "requeued": requeued})
        if not requeued:
            break
    note("tasks.jsonl", {"job": job, "task": task, "code": running.returncode})
print(f"{job};try" if os.environ.get("FAKE_CLUSTER_NAME") else job)
"""

_SCONTROL = """
import os, pathlib, sys

state = pathlib.Path(os.environ["FAKE_SLURM"])
if sys.argv[1] == "requeue":
    if os.environ.get("FAKE_NO_REQUEUE"):
        sys.exit("scontrol: error: requeue is disabled")
    with (state / "requeue.txt").open("a") as file:
        file.write(sys.argv[2] + "\\n")
else:
    assert sys.argv[1:3] == ["show", "hostnames"], sys.argv
    print(sys.argv[3].replace(",", "\\n"))
"""

_SRUN = """
import json, os, pathlib, signal, subprocess, sys

with (pathlib.Path(os.environ["FAKE_SLURM"]) / "srun.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
children = []
signal.signal(signal.SIGUSR1, lambda *_: [child.send_signal(signal.SIGUSR1) for child in children])
children += [subprocess.Popen(words) for _ in range(int(os.environ.get("FAKE_MACHINES", "1")))]
sys.exit(max(child.wait() for child in children))
"""

_PYTHON = """
import json, os, pathlib, signal, sys, time

state = pathlib.Path(os.environ["FAKE_SLURM"])
with (state / "python.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
plan = os.environ.get("FAKE_RUN", "").split()  # what each start does: a code, or wait
starts = [line for line in (state / "python.jsonl").read_text().splitlines() if '"train"' in line or '"cache"' in line]
if "train" in sys.argv or "cache" in sys.argv:
    step = plan[len(starts) - 1] if len(starts) <= len(plan) else "0"
    if step == "wait":
        def stop(number, frame):
            (state / "signals.txt").open("a").write(signal.Signals(number).name + "\\n")
            sys.exit(int(os.environ.get("FAKE_STOPPED", "75")))
        signal.signal(signal.SIGUSR1, stop)
        (state / "waiting").touch()
        time.sleep(60)
        sys.exit(9)
    sys.exit(int(step))
"""


class FakeSlurm:
    """The commands in ``folder / "bin"``, and what they recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        bin_folder = folder / "bin"
        bin_folder.mkdir(parents=True)
        for name, text in {"sbatch": _SBATCH, "scontrol": _SCONTROL, "srun": _SRUN, "run-python": _PYTHON}.items():
            path = bin_folder / name
            path.write_text(f"#!{sys.executable}\n{text}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_SLURM", str(folder))
        self.python = str(bin_folder / "run-python")
        self.waiting = folder / "waiting"

    def warn_when(self, path: Path, name: str = "SIGUSR1") -> None:
        """Sends a signal to the next script that runs once a file exists."""
        self.monkeypatch.setenv("FAKE_WARN_WHEN", str(path))
        self.monkeypatch.setenv("FAKE_SIGNAL", name)

    def plan(self, *steps: str) -> None:
        """What each start of ``train`` or ``cache`` does: exits with a code, or waits for a signal."""
        self.monkeypatch.setenv("FAKE_RUN", " ".join(steps))

    def read(self, name: str) -> list[Any]:
        """The records of a kind: sbatch, srun, python (arguments), runs, tasks."""
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def codes(self) -> list[tuple[int, bool]]:
        """Exit code of each run of a script, and whether it was requeued."""
        return [(run["code"], run["requeued"]) for run in self.read("runs")]
