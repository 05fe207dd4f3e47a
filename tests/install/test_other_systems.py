"""The package on systems without the modules and signals of Unix, such as Windows: it imports, and it answers."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

# The libraries are imported first: on this system theirs are the modules that are taken away then.
WITHOUT_UNIX = """
import os, pkgutil, signal, sys
import accelerate, filelock, peft, torch, torch.utils.data, transformers
from transformers import AutoModelForCausalLM, BlipForQuestionAnswering, BlipTextModel, VideoMAEModel
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in ((signal, ("SIGUSR1", "SIGCHLD", "pthread_sigmask")), (os, ("sched_getaffinity", "getuid"))):
    for name in names:
        delattr(module, name)
import surgvivqa
names = [m.name for m in pkgutil.walk_packages(surgvivqa.__path__, "surgvivqa.") if m.name != "surgvivqa.__main__"]
for name in names:
    __import__(name)
print(len(names), "modules")
from surgvivqa.cli import main
sys.exit(main(["predict", "--checkpoint=tiny", "--image", sys.argv[1], "--question=How many tools are there?"]))
"""


def test_every_module_imports_and_predict_answers(tmp_path: Path) -> None:
    frame = tmp_path / "frame.png"
    Image.new("RGB", (64, 48), (120, 30, 30)).save(frame)
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX, str(frame)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(" modules") and "%" in done.stdout
