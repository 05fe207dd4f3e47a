"""A checkpoint keeps the labels of its data set, in every form; labels of untrusted files are checked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from surgvivqa.auto import SurgViVQAConfig, SurgViVQAModel, SurgViVQAProcessor
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.model_card import write_model_card
from surgvivqa.checkpoints.saving import export_pth, save_adapters, save_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.data.labels import SSG_QA
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from tests.helpers.label_sets import SEVEN
from tests.helpers.parts import config, make_parts, randomize_trainable, settings

QUESTION = "Is there a polyp?"


@pytest.fixture(scope="module")
def trained() -> ModelBundle:
    bundle = build_for_training(TrainConfig(preset="tiny"), SEVEN)
    randomize_trainable(bundle.model, 0.01)
    bundle.model.eval()
    return bundle


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))


def answers(model: SurgViVQAModel, processor: SurgViVQAProcessor) -> list[tuple[str, float]]:
    (row,) = processor.answers(model.score(**processor(picture(), QUESTION)), top=7)
    return row


def test_checkpoint_folders_keep_the_labels(trained: ModelBundle, tmp_path: Path) -> None:
    expected = answers(trained.model, trained.processor())
    save_checkpoint(trained, tmp_path / "best")
    save_adapters(trained, tmp_path / "adapters")
    export_pth(trained, tmp_path / "best_model.pth")  # beside best/, as in a run folder
    for name in ("best", "adapters", "best_model.pth"):
        loaded = load_checkpoint(tmp_path / name, ModelConfig(preset="tiny"))
        assert loaded.label_set == SEVEN, name
        assert answers(loaded.model, loaded.processor()) == expected, name
    content = json.loads((tmp_path / "best" / "config.json").read_text())
    assert content["labels"] == list(SEVEN.labels) and content["label_set_name"] == "colon"


def test_a_checkpoint_of_published_parts_keeps_the_labels(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts")
    bundle = build_for_training(config(parts), SEVEN)
    save_checkpoint(bundle, tmp_path / "best")
    assert load_checkpoint(tmp_path / "best", settings(parts)).label_set == SEVEN


def test_hugging_faces_own_loaders_keep_the_labels(trained: ModelBundle, tmp_path: Path) -> None:
    SurgViVQAModel.from_model(trained.model).save_pretrained(tmp_path / "m")
    trained.processor().save_pretrained(tmp_path / "m")
    model, processor = (
        SurgViVQAModel.from_pretrained(tmp_path / "m"),
        SurgViVQAProcessor.from_pretrained(tmp_path / "m"),
    )
    assert model.config.label_set == processor.label_set == SEVEN
    assert answers(model, processor) == answers(trained.model, trained.processor())
    assert load_checkpoint(tmp_path / "m", ModelConfig()).label_set == SEVEN


def test_the_auto_classes_keep_the_labels(trained: ModelBundle, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path / "best", everything=True)
    model, processor = AutoModel.from_pretrained(tmp_path / "best"), AutoProcessor.from_pretrained(tmp_path / "best")
    assert answers(model, processor) == answers(trained.model, trained.processor())


def test_ssg_qas_checkpoints_do_not_name_labels(tmp_path: Path) -> None:
    bundle = load_checkpoint(Path("tiny"), ModelConfig())
    assert bundle.label_set is SSG_QA
    save_checkpoint(bundle, tmp_path / "best")
    for name in ("config.json", "processor_config.json"):
        assert not [key for key in json.loads((tmp_path / "best" / name).read_text()) if "label" in key], name


HOSTILE = [
    (["yes", "yes"], "has the label 'yes' twice"),
    ("yes, no", "labels are not a list of texts"),
    ([["yes"]], "labels are not a list of texts"),
    ([], "has 0 labels"),
    (["x" * 10_000], "is not a line of text"),
    (["yes\x1b[31m"], "is not a line of text"),
    ([str(n) for n in range(5000)], "has 5,000 labels, not 1 to 1,000"),
    ({"0": "yes"}, "labels are not a list of texts"),
]


@pytest.mark.parametrize(("labels", "message"), HOSTILE)
def test_hostile_labels_are_refused_in_one_sentence(
    labels: object, message: str, trained: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(trained, tmp_path / "best")
    for name in ("config.json", "processor_config.json"):
        file = tmp_path / "best" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": labels}))
    for load in (
        lambda: load_checkpoint(tmp_path / "best", ModelConfig()),
        lambda: SurgViVQAModel.from_pretrained(tmp_path / "best"),
        lambda: SurgViVQAConfig.from_pretrained(tmp_path / "best"),
        lambda: SurgViVQAProcessor.from_pretrained(tmp_path / "best"),
    ):
        with pytest.raises(InputError, match=message):
            load()
    picture().save(tmp_path / "frame.png")
    flags = [f"--checkpoint={tmp_path / 'best'}", f"--image={tmp_path / 'frame.png'}", f"--question={QUESTION}"]
    assert main(["predict", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.isprintable() is False  # it ends a line
    assert len(error.strip().splitlines()) == 1 and "\x1b[31m" not in error


def test_a_hostile_name_of_a_label_set_is_refused(trained: ModelBundle, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path / "best")
    file = tmp_path / "best" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"label_set_name": ["a"]}))
    with pytest.raises(InputError, match="the name of its label set is not a short line of text"):
        load_checkpoint(tmp_path / "best", ModelConfig())


def test_the_model_card_names_the_data_set_and_its_number_of_labels(tmp_path: Path) -> None:
    run = RunRecord({"seed": 1}, ("colon1",), False)
    text = write_model_card(tmp_path, ModelConfig(), run, None, None, label_set=SEVEN).read_text()
    assert "with one of 7 labels" in text and "fine-tuned by surgvivqa on\ncolon." in text
    assert (
        "SSG-QA's" not in text
        and "of SSG-QA" not in text
        and "51" not in text.replace("2511.03325", "")
        and "license: other" in text
    )


def test_predict_prints_other_labels(trained: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(trained, tmp_path / "best")
    picture().save(tmp_path / "frame.png")
    flags = [f"--checkpoint={tmp_path / 'best'}", f"--image={tmp_path / 'frame.png'}", f"--question={QUESTION}"]
    assert main(["predict", *flags, "--json", "--top=60"]) == 0
    found = json.loads(capsys.readouterr().out)["answers"]
    assert sorted(row["answer"] for row in found) == sorted(SEVEN.labels)
    assert torch.tensor([row["probability"] for row in found]).sum() == pytest.approx(1)
