"""The page says what its model was trained on, and what its answers are not worth."""

import dataclasses
from pathlib import Path

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import ModelConfig
from surgvivqa.demo.facts import describe_model
from surgvivqa.model.bundle import RunRecord

TINY = load_checkpoint(Path("tiny"), ModelConfig())


def test_the_packaged_base_is_said_to_know_drawings_only() -> None:
    facts = describe_model(Path("tiny"), TINY)
    assert facts.trained_on == "synthetic scenes" and "mean nothing" in facts.warnings[0]


def test_a_run_on_synthetic_data_is_said_to_know_drawings_only(tmp_path: Path) -> None:
    bundle = dataclasses.replace(TINY, run=RunRecord({"lr": 0.1}, ("VID01",), True))
    (tmp_path / "best").mkdir()
    facts = describe_model(tmp_path / "best", bundle)
    assert facts.name == tmp_path.name and "drawn scenes only" in facts.warnings[0]


def test_a_run_on_real_data_names_it_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "lora" / "best").mkdir(parents=True)
    settings = dataclasses.replace(TINY.settings, preset="base")
    bundle = dataclasses.replace(TINY, settings=settings, run=RunRecord({"lr": 0.1}, ("VID01", "VID02"), False))
    facts = describe_model(tmp_path / "lora" / "best", bundle)
    assert (facts.name, facts.trained_on, facts.warnings) == ("lora", "SSG-QA, 2 videos", ())


def test_a_model_trained_on_black_pictures_says_so() -> None:
    settings = dataclasses.replace(TINY.settings, preset="base")
    bundle = dataclasses.replace(TINY, settings=settings, run=RunRecord({"blank_video": True}, (), False))
    assert "question alone" in describe_model(Path("somebody/model"), bundle).warnings[0]
