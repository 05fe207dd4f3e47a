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

pytestmark = [pytest.mark.slow, pytest.mark.long]
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
    write_synthetic(SynthConfig(out=folder, videos=VIDEOS, frames_per_video=20, seed=3, workers=1, masks=False))
    return folder


@pytest.fixture(scope="module")
def base(root: Path) -> Evidence:
    return measure(root, with_random_weights=False)


@pytest.fixture(scope="module")
def random(root: Path) -> Evidence:
    return measure(root, with_random_weights=True)


def result(evidence: Evidence, method: str) -> PointingResult:
    return next(m for m in evidence.methods if m.method == method)


def test_answers_depend_on_the_asked_object(base: Evidence) -> None:
    assert base.changed_asked.value > 0.5 and base.changed_elsewhere.value < 0.2
    assert base.changed_difference.low is not None and base.changed_difference.low > 0.2
    assert base.drop_asked.value > 1 > base.drop_elsewhere.value
    assert "the answers depend on the asked object" in base.verdicts[0]


@pytest.mark.parametrize(
    "method, least",
    [("attention", 0.45), ("gradient_attention", 0.6), ("occlusion", 0.35)],
    ids=lambda value: str(value),
)
def test_the_map_points_at_the_asked_object(method: str, least: float, base: Evidence) -> None:
    """Above chance, above the frame's centre, above random weights and above the map of another question."""
    found = result(base, method)
    assert found.pointing > least > max(base.chance, base.centre, found.random_weights) + 0.1
    assert found.points
    assert found.other_question is not None and found.pointing > found.other_question + 0.2


def test_the_maps_change_with_the_weights(base: Evidence) -> None:
    for found in base.methods:
        assert found.randomisation_correlation is not None and abs(found.randomisation_correlation) < 0.3


def test_a_model_with_random_weights_is_not_said_to_look(random: Evidence) -> None:
    """The same measurement can fail: nothing points, and the answers are not shown to depend on the object."""
    assert [m.method for m in random.methods if m.points] == []
    assert all(m.pointing < 0.35 for m in random.methods)
    assert "not shown that the answers depend on the asked object" in random.verdicts[0]
