"""One small synthetic set for all tests that need data, and the split files that go with it."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from tests.helpers import chromium

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos (one a split, VID04, VID01, VID02) of four frames, with a ``splits`` folder."""
    from surgvivqa.synthetic.write import SynthConfig, write_synthetic

    root = tmp_path_factory.mktemp("synthetic")
    write_synthetic(SynthConfig(out=root, videos=3, frames_per_video=4, workers=1))
    (root / "splits").mkdir()
    for split, video in (("train", "VID04"), ("val", "VID01"), ("test", "VID02")):
        (root / "splits" / f"{split}_videos.json").write_text(json.dumps([video]))
    return root


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test leaves an index in the home folder, and the commands that tests start inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGVIVQA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _a_process_of_its_own() -> None:
    """Accelerate keeps devices and precision for the life of a process; each test is like a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def data_flags(synthetic_set: Path) -> list[str]:
    """The flags that name the synthetic set."""
    return [
        f"--ssgvqa-root={synthetic_set / 'ssg-qa'}",
        f"--image-root={synthetic_set / 'frames'}",
        f"--splits-dir={synthetic_set / 'splits'}",
    ]


class CapturedLog(logging.Handler):
    """The log messages since the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __call__(self) -> str:
        text, self.lines = "\n".join(self.lines), []
        return text


@pytest.fixture
def captured_log() -> Iterator[CapturedLog]:
    handler, logger = CapturedLog(), logging.getLogger("surgvivqa")
    level = logger.level
    logger.setLevel(logging.INFO)  # as the commands set it
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for tests with the marks ``chromium.NEEDS_CHROMIUM``."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.PATH, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
