"""The plans of several processes make up one plan, and dropout depends on the position in it."""

import pytest
import torch

from surgvivqa.config import TrainConfig
from surgvivqa.features.batches import plan_micro_batches
from surgvivqa.training.schedule import seed_micro_batch, step_plans


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (2, 3), (3, 2), (7, 1)])
def test_the_plans_of_all_processes_make_up_one_plan(world: int, accumulation: int) -> None:
    counts, total = [5, 9, 4], 7
    config = TrainConfig(batch_size=4, questions_per_frame=3, gradient_accumulation_steps=accumulation)
    plans = [list(step_plans(counts, config, world, rank, total)) for rank in range(world)]
    done = 0
    for shares in zip(*plans, strict=True):
        epoch = shares[0][2]
        whole = plan_micro_batches(counts, 4, 3, config.seed, epoch)
        dealt = [(shares[i % world][0][i // world]) for i in range(world * len(shares[0][0]))]
        assert dealt[: len(whole)] == whole[: len(dealt)]
        for step in range(len(shares[0][1])):
            places = [step * accumulation + micro for micro in range(accumulation)]
            # The losses of all processes are summed, so the weights of a step's questions must add up to 1.
            weight = sum(
                shares[rank][1][step][micro] * len([q for _, chosen in shares[rank][0][place] for q in chosen])
                for rank in range(world)
                for micro, place in enumerate(places)
            )
            assert weight == pytest.approx(1)
            done += 1
    assert done == total


def test_dropout_depends_only_on_the_position() -> None:
    def draw(*position: int) -> float:
        seed_micro_batch(*position)
        return float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(1, 2, 4), draw(1, 3, 3), draw(2, 2, 3)}) == 4
