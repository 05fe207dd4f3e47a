"""Exports: what other tools read has every prediction, typed, with the frames' paths."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.exports import (
    COLUMNS,
    TSV_COLUMNS,
    FramePaths,
    build_fiftyone_samples,
    build_label_studio_tasks,
    format_tsv,
    label_studio_interface,
    select_questions,
    write_fiftyone,
    write_parquet,
)
from surgvivqa.reporting.results import RunResults, read_results
from tests.helpers.evaluations import PREDICTIONS, write_evaluation

SCORED = [
    dataclasses.replace(PREDICTIONS[0], answer_probability=0.9, brier=0.02, scores=[-float(i) for i in range(51)]),
    dataclasses.replace(PREDICTIONS[1], reasoning=None, type=None, probability=None, loss=None, top5=None),
]


@pytest.fixture
def run(tmp_path: Path) -> RunResults:
    write_evaluation(tmp_path / "lora", SCORED, checkpoint="/home/me/runs/lora")
    return read_results(tmp_path / "lora")


def test_parquet_gives_the_predictions_back(run: RunResults, tmp_path: Path) -> None:
    write_parquet(run, FramePaths(), tmp_path / "p.parquet")
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    for row in rows:
        image, correct = row.pop("image"), row.pop("correct")
        row["top5"] = None if row["top5"] is None else [[t["label"], t["probability"]] for t in row["top5"]]
        prediction = Prediction.from_json(row)
        assert image == f"{prediction.video}/{prediction.frame:06d}.png" and correct == prediction.correct
        assert prediction in SCORED
    assert len(rows) == 2


def test_parquet_has_types_and_the_definition_of_every_column(run: RunResults, tmp_path: Path) -> None:
    write_parquet(run, FramePaths(), tmp_path / "p.parquet")
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert schema.names == [*(column.name for column in COLUMNS), "image"]
    assert all(field.metadata[b"definition"].endswith(b".") for field in schema)
    assert schema.field("answer").type == pa.dictionary(pa.int8(), pa.string())
    assert (schema.field("frame").type, schema.field("probability").type) == (pa.int64(), pa.float64())
    about = json.loads(schema.metadata[b"surgvivqa"])
    assert (about["run"], about["split"], about["labels"]) == ("lora", "test", list(LABELS))


def test_every_field_of_a_prediction_has_a_column() -> None:
    elsewhere = {"label_set", "image"}  # in the metadata, and the column of paths
    fields = {field.name for field in dataclasses.fields(Prediction)} - elsewhere
    assert fields <= {column.name for column in COLUMNS}


def test_exports_do_not_name_the_local_folder_of_the_checkpoint(run: RunResults, tmp_path: Path) -> None:
    write_parquet(run, FramePaths(), tmp_path / "p.parquet")
    write_fiftyone(run, FramePaths(), tmp_path / "fo")
    written = (tmp_path / "p.parquet").read_bytes() + (tmp_path / "fo" / "metadata.json").read_bytes()
    assert b"/home/me" not in written


def test_parquet_of_no_questions_keeps_its_types(run: RunResults, tmp_path: Path) -> None:
    write_parquet(dataclasses.replace(run, predictions=[]), FramePaths(), tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.num_rows == 0 and table.schema.field("answer").type == pa.dictionary(pa.int8(), pa.string())


def check_fiftyone_sample(sample: dict[str, Any]) -> None:
    """What FiftyOne 1.22's ``Sample.from_dict`` needs: a path, tags, and labels with their class."""
    assert isinstance(sample["filepath"], str) and isinstance(sample["tags"], list)
    for field, keys in (("ground_truth", {"_cls", "label"}), ("prediction", {"_cls", "label", "confidence"})):
        label = sample[field]
        assert set(label) == keys and label["_cls"] == "Classification" and label["label"] in LABELS
    reserved = {"id", "_id", "metadata", "media_type", "created_at", "last_modified_at"}
    assert not reserved & sample.keys()


def test_fiftyone_samples_have_its_schema(run: RunResults) -> None:
    samples = build_fiftyone_samples(run, FramePaths(Path("/data")))
    for sample in samples:
        check_fiftyone_sample(sample)
    assert [sample["filepath"] for sample in samples] == ["/data/VID02/000001.png", "/data/VID22/000004.png"]
    assert (samples[0]["ground_truth"]["label"], samples[1]["prediction"]) == (
        "True",
        {"_cls": "Classification", "label": "2", "confidence": None},
    )


def test_fiftyones_importer_is_led_to_the_form_without_a_database(run: RunResults, tmp_path: Path) -> None:
    """FiftyOneDatasetImporter reads samples as plain dictionaries where metadata.json has no ``version``."""
    write_fiftyone(run, FramePaths(), tmp_path / "fo")
    assert {path.name for path in (tmp_path / "fo").iterdir()} == {"samples.json", "metadata.json"}
    assert "version" not in json.loads((tmp_path / "fo" / "metadata.json").read_text())
    samples = json.loads((tmp_path / "fo" / "samples.json").read_text())["samples"]
    assert [sample["filepath"] for sample in samples] == ["VID02/000001.png", "VID22/000004.png"]


def test_label_studio_tasks_fit_their_interface(run: RunResults) -> None:
    interface = ElementTree.fromstring(label_studio_interface(LABELS))
    named = {element.get("name"): element for element in interface}
    choices = {choice.get("value") for choice in named["answer"]}
    assert choices == set(LABELS) and named["answer"].get("toName") == "image"
    shown = {str(element.get("value"))[1:] for element in interface if str(element.get("value", "")).startswith("$")}
    for task in build_label_studio_tasks(run, "frames"):
        assert shown <= task["data"].keys()
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"], result["type"]) == ("answer", "image", "choices")
        assert set(result["value"]["choices"]) <= choices
        assert prediction["model_version"] == "lora"


def test_label_studio_tasks_name_frames_in_its_document_root(run: RunResults) -> None:
    tasks = build_label_studio_tasks(run, "my frames")
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=my%20frames/VID02/000001.png"
    assert tasks[0]["predictions"][0]["score"] == 0.9 and "score" not in tasks[1]["predictions"][0]
    ids = [task["predictions"][0]["result"][0]["id"] for task in tasks]
    assert len(set(ids)) == len(ids)


def test_tsv_has_a_line_for_each_question(run: RunResults) -> None:
    odd = dataclasses.replace(SCORED[0], question='Tab\tand "quote"?')
    text = format_tsv(dataclasses.replace(run, predictions=[odd, SCORED[1]]), FramePaths())
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert tuple(rows[0]) == TSV_COLUMNS
    assert [row["index"] for row in rows] == ["0", "1"]
    assert rows[0]["question"] == odd.question and (rows[1]["answer"], rows[1]["prediction"]) == ("1", "2")


def test_only_wrong_answers_can_be_chosen() -> None:
    assert select_questions(SCORED, "wrong") == [SCORED[1]]
    assert select_questions(SCORED, "all") == SCORED
