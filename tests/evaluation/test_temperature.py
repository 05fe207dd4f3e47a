"""The temperature with the least log score, against a search over a grid."""

import numpy as np
import pytest
from numpy.typing import NDArray

from surgvivqa.evaluation import temperature
from surgvivqa.evaluation.temperature import fit_temperature, mean_log_score, temper


def rankings(n: int = 400, classes: int = 51, sharpness: float = 1.0, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Scores whose best temperature is about ``sharpness``, with labels drawn from their softmax at it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([rng.choice(classes, p=row) for row in shares])
    return (logits * sharpness - 700).astype(np.float32), truth


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 3.0, 12.0])
def test_the_temperature_is_that_of_a_grid(sharpness: float) -> None:
    scores, truth = rankings(sharpness=sharpness)
    found = fit_temperature(scores, truth)
    grid = found * np.linspace(0.98, 1.02, 4001)  # steps of 1e-5
    wide = np.geomspace(0.05, 50, 60)
    losses = [mean_log_score(scores, truth, t) for t in grid[::20]]
    coarse = grid[::20][int(np.argmin(losses))]
    fine = grid[(grid > coarse * 0.999) & (grid < coarse * 1.001)]
    best = fine[int(np.argmin([mean_log_score(scores, truth, t) for t in fine]))]
    assert found == pytest.approx(best, rel=1e-4)
    assert mean_log_score(scores, truth, found) <= min(mean_log_score(scores, truth, t) for t in wide)
    assert found == pytest.approx(sharpness, rel=0.15)


def test_the_log_score_equals_its_definition() -> None:
    scores, truth = rankings(20)
    plain = []
    for row, label in zip(scores.astype(np.float64), truth, strict=True):
        shares = np.exp((row - row.max()) / 1.7)
        plain.append(-np.log(shares[label] / shares.sum()))
    assert mean_log_score(scores, truth, 1.7) == pytest.approx(np.mean(plain))


def test_parts_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truth = rankings(50)
    found, tempered = fit_temperature(scores, truth), temper(scores, scores.argmax(1), truth, 2.0)
    monkeypatch.setattr(temperature, "_ROWS", 7)
    assert fit_temperature(scores, truth) == pytest.approx(found)
    assert all(np.allclose(a, b) for a, b in zip(temper(scores, scores.argmax(1), truth, 2.0), tempered, strict=True))


def test_a_temperature_of_one_changes_nothing() -> None:
    scores, truth = rankings(30)
    exact = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    hot = np.eye(51)[truth]
    found = temper(scores, scores.argmax(1), truth, 1.0)
    assert found.confidence == pytest.approx(exact.max(1))
    assert found.answer_probability == pytest.approx(exact[np.arange(30), truth])
    assert found.brier == pytest.approx(((exact - hot) ** 2).sum(1))


@pytest.mark.parametrize("sign, message", [(1, "too few answers are wrong"), (-1, "the scores say nothing")])
def test_scores_without_a_best_temperature_are_an_error(sign: int, message: str) -> None:
    scores = sign * np.eye(51, dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        fit_temperature(scores, np.arange(51))


def test_no_questions_are_an_error() -> None:
    with pytest.raises(ValueError, match="no questions"):
        fit_temperature(np.zeros((0, 51), np.float32), np.zeros(0, np.int64))
