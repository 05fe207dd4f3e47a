"""A scoring pass runs on its device alone: no host read, no tensor of another device.

The device is ``meta``, whose tensors have no values. As on a GPU, an operation with a tensor of the CPU is seen there.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from surgvivqa.data.packing import PackedStream, pack_stream
from surgvivqa.model import scoring
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import (
    _indices,
    _to_device,
    find_best_labels,
    pack_labels,
    score_labels,
    score_packed_labels,
)
from tests.helpers.dispatch import HostReadError, OtherDeviceError, watch_operations
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model

META = torch.device("meta")


@pytest.fixture
def model() -> SurgViVQAModel:
    """A model on ``meta`` that has encoded a clip: its position table is there."""
    model = small_model(lora=True).to(META)
    with torch.no_grad():
        model.encode_video(clips().to(META))
    return model


@pytest.fixture
def trie() -> LabelTrie:
    """A trie whose tables are on ``meta``."""
    trie = LabelTrie(LABEL_IDS)
    trie.path_matrix(META)
    trie.level_tables(META)
    return trie


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda x: bool(x.isfinite().all()), HostReadError),
        (lambda x: x.sum().item(), HostReadError),
        (lambda x: x.nonzero(), HostReadError),
        (lambda x: x[x > 0], HostReadError),
        (lambda x: x.unique(), HostReadError),
        (lambda x: torch.zeros(3), OtherDeviceError),
        (lambda x: torch.tensor([1.0]), OtherDeviceError),
        (lambda x: torch.arange(3).to(x), OtherDeviceError),
        (lambda x: x.to("cpu"), OtherDeviceError),
    ],
)
def test_the_watch_sees_host_reads_and_other_devices(read: Callable[[Tensor], object], error: type) -> None:
    x = torch.ones(3, device=META)
    with pytest.raises(error), watch_operations(META):
        read(x)


def test_the_watch_names_the_operations() -> None:
    with watch_operations("cpu") as names:
        torch.ones(2) @ torch.ones(2)
    assert names == ["aten::ones", "aten::ones", "aten::dot"]


def test_encoding_makes_no_tensor_elsewhere(model: SurgViVQAModel) -> None:
    pixels = clips().to(META)
    with torch.no_grad(), watch_operations(META):
        model.encode_video(pixels)


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_scoring_all_labels_makes_no_tensor_elsewhere(model: SurgViVQAModel, trie: LabelTrie, mask: str) -> None:
    packed = pack_labels(PROMPTS, trie, mask).to(META)
    video = torch.empty(2, 8, 32, device=META)
    with watch_operations(META):
        scores = score_packed_labels(model, packed, video, trie)
    assert scores.shape == (4, len(LABEL_IDS)) and scores.device == META


@pytest.mark.parametrize("mask", ["prefix", "causal", "bidirectional"])
def test_scoring_all_labels_reads_nothing(mask: str) -> None:
    model, trie = small_model(), LabelTrie(LABEL_IDS)
    with torch.no_grad():
        video = model.encode_video(clips())
        with watch_operations("cpu"):
            score_labels(model, PROMPTS, video, trie, mask)


def test_a_stream_goes_to_the_device_as_two_tensors(trie: LabelTrie) -> None:
    packed = pack_labels(PROMPTS, trie, "prefix")
    moved = []
    packed.map_buffers(lambda buffer: moved.append(buffer) or buffer)  # type: ignore[func-returns-value]
    assert len(moved) == 2


def unwatched(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the host does: the device does not see it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


def test_branch_and_bound_reads_once_for_each_level(
    model: SurgViVQAModel, trie: LabelTrie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values that the host reads are made up: every node is open."""
    reads, streams = [], []

    def read(values: Tensor) -> list[list[bool]]:
        reads.append(values)
        return [[True] * values.shape[1] for _ in range(values.shape[0])]

    def pack(*args: Any, **kwargs: Any) -> PackedStream:
        streams.append(pack_stream(*args, **kwargs))
        return streams[-1]

    monkeypatch.setattr(scoring, "_read", read)
    for name, function in (("pack_stream", pack), ("_to_device", _to_device), ("_indices", _indices)):
        monkeypatch.setattr(scoring, name, unwatched(function))
    video = CrossAttentionCache(torch.empty(2, 8, 32, device=META), reuse=True)
    with watch_operations(META):
        labels, scores, nodes_run = find_best_labels(model, PROMPTS, video, trie, "prefix")
    assert len(trie.levels) == len(reads) == len(streams) - 1 == 3
    assert labels.device == scores.device == META
    assert nodes_run >= 4 * len(trie.tokens)


def test_branch_and_bound_reads_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """With values; ``tolist`` of a tensor on the CPU is no operation."""
    model, trie, reads = small_model(), LabelTrie(LABEL_IDS), []

    def read(values: Tensor) -> list[list[bool]]:
        reads.append(values)
        result: list[list[bool]] = values.tolist()
        return result

    monkeypatch.setattr(scoring, "_read", read)
    with torch.no_grad():
        video = model.encode_video(clips())
        expected = score_labels(model, PROMPTS, video, trie, "prefix")
        with watch_operations("cpu"):
            labels, _, _ = find_best_labels(model, PROMPTS, video, trie, "prefix")
    assert labels.tolist() == expected.argmax(1).tolist()
    assert 1 <= len(reads) <= len(trie.levels)
