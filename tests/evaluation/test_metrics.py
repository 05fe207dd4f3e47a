"""The figures equal their definition, written out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgvivqa.evaluation.metrics import accuracy_error, compute_metrics

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=60)


@given(pairs)
def test_equal_to_the_definition(data: list[tuple[int, int]]) -> None:
    truth, guess = [t for t, _ in data], [g for _, g in data]
    precision, recall, f1, weighted = [], [], [], 0.0
    for c in sorted(set(truth)):
        hit = sum(t == g == c for t, g in data)
        p, r = hit / guess.count(c) if c in guess else 0.0, hit / truth.count(c)
        f = 2 * p * r / (p + r) if hit else 0.0
        precision.append(p)
        recall.append(r)
        f1.append(f)
        weighted += f * truth.count(c) / len(truth)
    n = len(precision)
    expected = {"n": len(data), "acc": sum(t == g for t, g in data) / len(data), "mAP": sum(precision) / n}
    expected |= {"mAR": sum(recall) / n, "mAF1": sum(f1) / n, "wF1": weighted}
    assert compute_metrics(truth, guess) == pytest.approx(expected)


def test_the_standard_error_is_over_videos() -> None:
    def record(video: str, hit: bool) -> dict[str, str]:
        return {"video": video, "answer": "liver", "prediction": "liver" if hit else "hook"}

    records = [record("a", True)] * 9 + [record("b", False)] * 1
    assert accuracy_error(records) == pytest.approx(0.5)  # videos at 1 and 0: deviation 0.7071 over the root of 2
