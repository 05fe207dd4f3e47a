"""The order of questions: each once per epoch, batches of exact size, determined by seed and epoch."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from surgvivqa.config import TrainConfig
from surgvivqa.features.batches import make_windows, plan_epoch, plan_micro_batches
from surgvivqa.training.schedule import rate_factor, step_plans

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any)


@given(COUNTS, st.integers(1, 30), st.integers(1, 40), st.integers(0, 3))
def test_an_epoch_has_each_question_once(sizes: list[int], batch: int, per_frame: int, epoch: int) -> None:
    batches = plan_micro_batches(sizes, batch, per_frame, 7, epoch)
    seen = [(frame, q) for b in batches for frame, chosen in b for q in chosen]
    assert sorted(seen) == [(f, q) for f, n in enumerate(sizes) for q in range(n)]
    assert all(sum(len(chosen) for _, chosen in b) == batch for b in batches[:-1])
    assert all(len(chosen) <= per_frame for b in batches for _, chosen in b)
    assert batches == plan_micro_batches(sizes, batch, per_frame, 7, epoch)


def test_epochs_have_different_orders() -> None:
    assert plan_micro_batches([30, 30], 8, 8, 0, 0) != plan_micro_batches([30, 30], 8, 8, 0, 1)


@given(COUNTS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
def test_processes_share_the_steps_of_an_epoch(sizes: list[int], world: int, accumulation: int, batch: int) -> None:
    config = TrainConfig(batch_size=batch, questions_per_frame=4, gradient_accumulation_steps=accumulation)
    whole = plan_micro_batches(sizes, batch, 4, config.seed, 0)
    steps = -(-len(whole) // (world * accumulation))
    plans = [next(iter(step_plans(sizes, config, world, rank, steps))) for rank in range(world)]
    trained = []
    for step in range(steps):
        total = 0.0
        for micro in range(accumulation):
            for plan, weights, _, _ in plans:
                weight = weights[step][micro]
                micro_batch = plan[step * accumulation + micro]
                if weight:
                    trained.append(micro_batch)
                    total += weight * sum(len(chosen) for _, chosen in micro_batch)
        assert abs(total - 1) < 1e-9
    assert trained == whole


@given(COUNTS, st.integers(1, 30), st.integers(1, 40), st.integers(1, 5), st.integers(1, 9))
def test_the_questions_of_some_frames_are_shuffled_together(
    sizes: list[int], batch: int, per_frame: int, shuffle_frames: int, longest: int
) -> None:
    batches, starts = plan_epoch(sizes, batch, per_frame, 7, 0, shuffle_frames)
    seen = [(frame, q) for b in batches for frame, chosen in b for q in chosen]
    assert sorted(seen) == [(f, q) for f, n in enumerate(sizes) for q in range(n)]
    assert all(sum(len(chosen) for _, chosen in b) == batch for b in batches[:-1])
    assert len(starts) == -(-len(sizes) // shuffle_frames)
    # A block's frames are in no micro-batch before it begins, or after the next one begins.
    first = {frame: min(n for n, b in enumerate(batches) if frame in dict(b)) for frame in {f for f, _ in seen}}
    last = {frame: max(n for n, b in enumerate(batches) if frame in dict(b)) for frame in first}
    for start, end in itertools.pairwise([*starts, len(batches)]):
        inside = [frame for frame in first if start < first[frame] < end]
        assert all(last[frame] <= end for frame in inside)
        assert len(inside) <= shuffle_frames
    windows = make_windows(len(batches), starts, longest)
    assert [n for window in windows for n in window] == list(range(len(batches)))
    assert all(1 <= len(window) <= longest for window in windows)
    assert {start for start in starts if start < len(batches)} <= {window.start for window in windows}


def test_the_learning_rate_warms_up_and_then_decays_to_zero() -> None:
    config = TrainConfig(warmup_steps=10)
    rates = [rate_factor(step, 200, config) for step in range(200)]
    assert rates[0] == 0.1
    assert rates[9] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.001
