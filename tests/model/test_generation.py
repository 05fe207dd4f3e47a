"""Generation with KV caches: the same tokens as a plain loop that runs every whole sequence again."""

from collections.abc import Sequence

import pytest
import torch

from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.generation import generate_answers
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.errors import RunError
from tests.helpers.reference import reference_logits
from tests.helpers.small_models import PROMPTS, clips, small_model


@pytest.fixture(scope="module")
def model() -> SurgViVQAModel:
    """Weights so large that answers differ and do not repeat one token."""
    varied = small_model(lora=True)
    torch.manual_seed(3)
    for parameter in (*varied.decoder.parameters(), *varied.text_encoder.parameters()):
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return varied


@pytest.fixture(scope="module")
def video(model: SurgViVQAModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode_video(clips())


def plain_loop(
    model: SurgViVQAModel, prompt: Sequence[int], video: torch.Tensor, mask: str, end: int | None, most: int
) -> list[int]:
    """Every step runs the whole sequence of one question again."""
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < most:
            token = int(reference_logits(model, prompt, answer, video, mask)[-1].argmax())
            if token == end:
                break
            answer.append(token)
    return answer


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_cached_steps_give_the_tokens_of_a_plain_loop(model: SurgViVQAModel, video: torch.Tensor, mask: str) -> None:
    expected = [
        plain_loop(model, prompt, video[frame : frame + 1], mask, None, 10)
        for frame, row in enumerate(PROMPTS)
        for prompt in row
    ]
    assert len({tuple(answer) for answer in expected}) == 4  # so that equal tokens mean something
    assert min(len(set(answer)) for answer in expected) > 1
    assert generate_answers(model, PROMPTS, video, mask, end=None, max_new_tokens=10) == expected


def test_a_question_that_ends_leaves_the_batch_and_the_others_go_on(model: SurgViVQAModel, video: torch.Tensor) -> None:
    free = generate_answers(model, PROMPTS, video, "prefix", end=None, max_new_tokens=12)
    for end in {token for answer in free for token in answer}:
        expected = [answer[: answer.index(end)] if end in answer else answer for answer in free]
        assert generate_answers(model, PROMPTS, video, "prefix", end=end, max_new_tokens=12) == expected


def test_one_question_at_a_time_gives_the_same_as_all_together(model: SurgViVQAModel, video: torch.Tensor) -> None:
    together = generate_answers(model, PROMPTS, video, "prefix", end=None, max_new_tokens=8)
    alone = [
        generate_answers(model, [[prompt]], video[frame : frame + 1], "prefix", end=None, max_new_tokens=8)[0]
        for frame, row in enumerate(PROMPTS)
        for prompt in row
    ]
    assert together == alone


def test_under_the_bidirectional_mask_every_step_sees_the_whole_sequence(
    model: SurgViVQAModel, video: torch.Tensor
) -> None:
    # The text encoder sees the answer so far, and nothing after it.
    expected = [
        plain_loop(model, prompt, video[frame : frame + 1], "bidirectional", None, 4)
        for frame, row in enumerate(PROMPTS)
        for prompt in row
    ]
    assert generate_answers(model, PROMPTS, video, "bidirectional", end=None, max_new_tokens=4) == expected


def test_an_answer_ends_where_the_model_has_no_more_positions(model: SurgViVQAModel, video: torch.Tensor) -> None:
    found = generate_answers(model, PROMPTS, video, "prefix", end=None, max_new_tokens=9, max_length=7)
    assert [len(answer) for answer in found] == [max(0, 7 - len(prompt)) for row in PROMPTS for prompt in row]
    assert generate_answers(model, [[], []], video, "prefix", end=None) == []
    assert generate_answers(model, [[[1] * 7], []], video, "prefix", end=None, max_length=7) == [[]]


def test_video_keys_are_shared_with_scoring(model: SurgViVQAModel, video: torch.Tensor) -> None:
    cache = CrossAttentionCache(video, reuse=True)
    first = generate_answers(model, PROMPTS, cache, "prefix", end=None, max_new_tokens=3)
    assert generate_answers(model, PROMPTS, cache, "prefix", end=None, max_new_tokens=3) == first


def test_logits_that_are_not_finite_are_an_error(video: torch.Tensor) -> None:
    broken = small_model()
    torch.nn.init.constant_(broken.decoder.transformer.ln_f.weight, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        generate_answers(broken, PROMPTS, video, "prefix", end=None)
