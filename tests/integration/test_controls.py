"""Two controls: random labels are not learned unless the answer leaks; labels that depend on the question are."""

import math

import pytest
import torch

from surgvivqa.data.packing import pack_training
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import score_labels
from tests.helpers.small_models import small_model

# 51 labels over 60 tokens: 40 of one token, 11 of two with a shared beginning.
LABEL_IDS = [[i] for i in range(5, 45)] + [[45, i] for i in range(46, 57)]
QUESTIONS = [[1, 2, i, 3] for i in range(5, 56)]
ROW = 34


def train(mask: str, labels: torch.Tensor, steps: int) -> tuple[float, float]:
    """Trains on ``labels[:steps]``; returns the loss per label and the closed-set accuracy on the rest."""
    model = small_model()
    for parameter in model.parameters():
        parameter.data.mul_(0.5) if parameter.ndim > 1 else None
    model.visual_encoder.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    video = model.encode_video(torch.zeros(1, 4, 3, 32, 32))
    held_out = len(labels) - steps
    asked = torch.randint(len(QUESTIONS), (len(labels), ROW), generator=torch.Generator().manual_seed(5))

    def row(step: int) -> tuple[list[list[int]], list[int]]:
        chosen = asked[step].tolist()
        return [QUESTIONS[q] for q in chosen], [int(labels[step, q]) for q in chosen]

    for step in range(steps):
        prompts, truth = row(step)
        packed = pack_training([prompts], [[LABEL_IDS[t] for t in truth]], mask)
        loss = model.question_losses(packed, video).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        losses, right = 0.0, 0
        for step in range(steps, steps + held_out):
            prompts, truth = row(step)
            packed = pack_training([prompts], [[LABEL_IDS[t] for t in truth]], mask)
            losses += float(model.question_losses(packed, video).mean())
            scores = score_labels(model, [prompts], video, LabelTrie(LABEL_IDS), mask)
            right += int((scores.argmax(1) == torch.tensor(truth)).sum())
    return losses / held_out, right / (held_out * ROW)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["prefix", "causal", "bidirectional"])
def test_random_labels_stay_at_chance_unless_they_leak(mask: str) -> None:
    steps = 400
    labels = torch.randint(51, (steps + 12, len(QUESTIONS)), generator=torch.Generator().manual_seed(3))
    loss, accuracy = train(mask, labels, steps)
    assert accuracy < 0.06  # chance is 0.02, of 408 questions
    if mask == "bidirectional":
        assert loss < 0.5 * math.log(51)
    else:
        assert loss >= math.log(51)


@pytest.mark.slow
def test_labels_that_depend_on_the_question_are_learned() -> None:
    steps = 500
    labels = torch.randperm(51, generator=torch.Generator().manual_seed(4)).expand(steps + 2, -1)
    loss, accuracy = train("prefix", labels, steps)
    assert accuracy == 1.0
    assert loss < 0.5
