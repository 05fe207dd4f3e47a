"""The number of frames and questions of a pass follows from the GPU's free memory and the model's sizes."""

import pytest
from transformers import BlipTextConfig, GPT2Config, LlamaConfig, VideoMAEConfig

from surgvivqa.evaluation.pass_size import PassMemory, PassSize, choose_pass_size
from surgvivqa.model.configuration import SurgViVQAConfig

GB = 10**9
TOKENS = 70  # a prompt of 41 tokens and 29 nodes
FULL_SIZE = SurgViVQAConfig(VideoMAEConfig(), BlipTextConfig(encoder_hidden_size=768), GPT2Config())


def memory(value_bytes: int = 2, tokens: int = TOKENS, config: SurgViVQAConfig = FULL_SIZE) -> PassMemory:
    return PassMemory.of_model(config, tokens, value_bytes)


def test_a_frame_has_the_keys_and_values_of_all_layers() -> None:
    """116 MB per frame in float32 at full size, half in 16 bits."""
    pooled = SurgViVQAConfig(FULL_SIZE.video_config, FULL_SIZE.text_config, FULL_SIZE.decoder_config)
    pooled.video_pool = "temporal"  # 196 tokens and not 1568
    for value_bytes in (2, 4):
        saved = memory(value_bytes).per_frame - memory(value_bytes, config=pooled).per_frame
        assert saved == 2 * 12 * (1568 - 196) * 768 * value_bytes
    assert pytest.approx(116e6, rel=0.01) == 2 * 12 * 1568 * 768 * 4


def test_a_question_has_the_keys_and_values_of_its_tokens() -> None:
    assert memory().per_question > 2 * 2 * 12 * TOKENS * 768 * 2
    assert memory(tokens=2 * TOKENS).per_question > 2 * memory().per_question
    assert memory(value_bytes=4).per_question > memory().per_question


def test_a_large_gpu_takes_the_largest_pass() -> None:
    for value_bytes in (2, 4):
        assert choose_pass_size(78 * GB, memory(value_bytes)) == PassSize(1280, 32)


def test_a_smaller_gpu_takes_fewer_frames_and_16_bits_take_more() -> None:
    frames = [choose_pass_size(free * GB, memory()).frames for free in (8, 16, 24, 80)]
    assert frames == sorted(set(frames)) and 1 <= frames[0] < 32 and frames[-1] == 32
    half, whole = choose_pass_size(16 * GB, memory(2)), choose_pass_size(16 * GB, memory(4))
    assert half.frames > whole.frames
    assert half.questions == 40 * half.frames


@pytest.mark.parametrize("free", [2, 8, 16, 24, 40])
def test_a_pass_fits_into_the_free_memory(free: int) -> None:
    taken, size = memory(), choose_pass_size(free * GB, memory())
    used = taken.fixed + size.frames * taken.per_frame + size.questions * taken.per_question
    assert used < 0.6 * free * GB or size == PassSize(1, 1)


def test_without_room_for_a_frame_a_pass_has_few_questions() -> None:
    taken = memory()
    room = taken.fixed + taken.per_frame + 10.5 * taken.per_question
    assert choose_pass_size(int(room / 0.6), taken) == PassSize(10, 1)
    assert choose_pass_size(0, taken) == PassSize(1, 1)


def test_other_decoders_have_sizes_too() -> None:
    config = SurgViVQAConfig(FULL_SIZE.video_config, FULL_SIZE.text_config, LlamaConfig(intermediate_size=11008))
    assert memory(config=config).per_question > memory().per_question
