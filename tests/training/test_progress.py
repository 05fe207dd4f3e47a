"""``training.json``: its keys, which older checkpoints have too, and values of the wrong type."""

import json
from typing import Any

import pytest

from surgvivqa.data.frames import BadFrame
from surgvivqa.training.resume import Progress

KEYS = ["step", "best", "losses", "questions", "scaler", "of", "bad", "validated"]


def test_progress_is_read_back_under_the_keys_on_disk() -> None:
    progress = Progress(step=3, best=0.5, losses=[1.5], fingerprint={"steps": 9}, bad=[BadFrame("VID01", 2, "why")])
    values = progress.to_dict()
    assert list(values) == KEYS
    read = Progress.from_dict(json.loads(json.dumps(values)))
    assert read.to_dict() == json.loads(json.dumps(values))
    assert read.fingerprint == {"steps": 9}


@pytest.mark.parametrize(
    "change",
    [
        *({"step": "3"}, {"step": 1.5}, {"best": "x"}, {"losses": 5}, {"losses": ["x"]}, {"scaler": 1}, {"of": []}),
        *({"bad": [[1]]}, {"validated": 1}, {"unknown": 1}),
    ],
    ids=str,
)
def test_values_of_the_wrong_type_are_an_error(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Progress.from_dict(Progress().to_dict() | change)
