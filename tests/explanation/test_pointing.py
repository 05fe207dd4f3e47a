"""On the synthetic set, where the asked object's box is known, the packaged base looks at the object."""

from pathlib import Path

import pytest

from surgvivqa.commands.evidence import measure_evidence
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig
from surgvivqa.data.ssgqa import read_split
from surgvivqa.evaluation.evidence import Evidence, PointingResult
from surgvivqa.explanation.map_checks import randomise_weights
from surgvivqa.synthetic.write import SynthConfig, select_videos, write_synthetic

pytestmark = pytest.mark.slow
QUESTIONS, VIDEOS = 48, 6


def measure(root: Path, *, with_random_weights: bool) -> Evidence:
    bundle = load_model(Path("tiny"), OptionalModelConfig())
    bundle.model.requires_grad_(False)
    if with_random_weights:
        bundle.model = randomise_weights(bundle.model, seed=7)
    frames, _ = read_split(root / "ssg-qa", select_videos(VIDEOS))
    store = bundle.frame_store(root / "frames")
    evidence, _ = measure_evidence(bundle, frames, store, root / "scene_graph", QUESTIONS)
    return evidence


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pointing")
    write_synthetic(SynthConfig(out=folder, videos=VIDEOS, frames_per_video=12, seed=3, workers=1, masks=False))
    return folder


@pytest.fixture(scope="module")
def base(root: Path) -> Evidence:
    return measure(root, with_random_weights=False)


@pytest.fixture(scope="module")
def random(root: Path) -> Evidence:
    return measure(root, with_random_weights=True)


def result(evidence: Evidence, method: str) -> PointingResult:
    return next(m for m in evidence.methods if m.method == method)
