"""A running page for tests: one server in this process, whose environment is restored afterwards."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from surgvivqa.auto import SurgViVQA
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import ModelConfig
from surgvivqa.demo.facts import describe_model
from surgvivqa.demo.limits import Limits
from surgvivqa.demo.questions import SSG_QA_QUESTIONS
from surgvivqa.demo.server import Address, open_page
from surgvivqa.demo.visits import LoadedModel


@dataclass(frozen=True)
class Running:
    """A running page.

    Attributes:
        url: its address.
        temporary: the folder in which it makes its private folder.
        model: what answers.
    """

    url: str
    temporary: Path
    model: SurgViVQA

    def uploads(self) -> list[Path]:
        """The files of visitors that are on the disk."""
        (folder,) = self.temporary.glob("surgvivqa-demo-*")
        own = ("examples", ".lock")
        return [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in own]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def run_page(
    temporary: Path,
    limits: Limits,
    questions: Mapping[str, Sequence[str]] = SSG_QA_QUESTIONS,
    logins: tuple[tuple[str, str], ...] = (),
) -> Iterator[Running]:
    """Runs a page with the packaged base."""
    bundle = load_checkpoint(Path("tiny"), ModelConfig())
    model = SurgViVQA(bundle)

    def load() -> LoadedModel:
        return LoadedModel(model, describe_model(Path("tiny"), bundle), 51, 1.0, questions)

    address = Address("127.0.0.1", free_port(), logins)
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(tempfile, "tempdir", str(temporary)),
        open_page(load, address, limits) as url,
    ):
        yield Running(url, temporary, model)
