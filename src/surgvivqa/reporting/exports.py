"""The predictions of a run in the formats of other tools. Frames are named by their paths, never copied."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import pyarrow.parquet as pq

from surgvivqa import __version__
from surgvivqa.checkpoints.public_settings import last_name
from surgvivqa.data.picture_files import is_inside
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.results import RunResults
from surgvivqa.utils.atomic_files import write_file, write_folder, write_text

_LABEL, _WIDE_LABEL = (pa.dictionary(index, pa.string()) for index in (pa.int8(), pa.int16()))
_GROUP = pa.dictionary(pa.int32(), pa.string())
_TOP5 = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))


@dataclass(frozen=True)
class FramePaths:
    """The paths of frames in exported files.

    Attributes:
        root: the folder of the frames; None for paths relative to it.
    """

    root: Path | None = None

    def path(self, prediction: Prediction) -> str:
        """The path of a prediction's frame."""
        relative = PurePosixPath(prediction.video) / f"{prediction.frame:06d}.png"
        if prediction.image is not None and is_inside(prediction.image):  # predictions may be another person's file
            relative = PurePosixPath(prediction.image)
        return str(relative) if self.root is None else str(self.root / relative)


@dataclass(frozen=True)
class Column:
    """A column of ``predictions.parquet``.

    Attributes:
        name: its name.
        type: its Arrow type.
        definition: what it holds, with units.
        value: its value for a prediction.
    """

    name: str
    type: pa.DataType
    definition: str
    value: Callable[[Prediction], Any]


COLUMNS = (
    Column("video", _GROUP, "Name of the video.", lambda p: p.video),
    Column("frame", pa.int64(), "Number of the frame in the video, at one frame per second.", lambda p: p.frame),
    Column("question", pa.string(), "The question.", lambda p: p.question),
    Column("answer", _LABEL, "The true label, one of the metadata's labels.", lambda p: p.answer_label),
    Column("prediction", _LABEL, "The label with the highest score.", lambda p: p.prediction_label),
    Column("correct", pa.bool_(), "Whether the predicted label is the true one.", lambda p: p.correct),
    Column(
        "probability",
        pa.float64(),
        "Softmax of the labels' scores at the predicted label; null where not all labels were scored.",
        lambda p: p.probability,
    ),
    Column(
        "answer_probability",
        pa.float64(),
        "The same at the true label; null where not all labels were scored.",
        lambda p: p.answer_probability,
    ),
    Column(
        "brier",
        pa.float64(),
        "Squared distance of the probabilities from the truth, summed over the labels, 0 to 2; null likewise.",
        lambda p: p.brier,
    ),
    Column(
        "loss",
        pa.float64(),
        "Negative log-likelihood of the true label, in nats; null where not all labels were scored.",
        lambda p: p.loss,
    ),
    Column(
        "top5",
        _TOP5,
        "The five most probable labels with their probabilities, best first; null where not all were scored.",
        lambda p: None if p.top5 is None else [{"label": label, "probability": value} for label, value in p.top5],
    ),
    Column(
        "reasoning",
        _GROUP,
        "Reasoning of the question's template (zero_hop, one_hop, single_and); null for lines without one.",
        lambda p: p.reasoning,
    ),
    Column("type", _GROUP, "Type of the question's template; null for lines without one.", lambda p: p.type),
    Column(
        "long_answer", pa.string(), "The true answer as a sentence; null without --generate.", lambda p: p.long_answer
    ),
    Column("generated", pa.string(), "The answer that eval --generate wrote; null without it.", lambda p: p.generated),
    Column(
        "pair_id",
        pa.string(),
        "What it shares with the same question in another wording; null if it has none.",
        lambda p: p.pair_id,
    ),
    Column("wording", _GROUP, "Name of its wording; null where there is one only.", lambda p: p.wording),
    Column(
        "scores",
        pa.list_(pa.float64()),
        "Summed log-probabilities of the labels, in the order of the metadata's labels; null without --scores.",
        lambda p: p.scores,
    ),
)


def build_table(results: RunResults, paths: FramePaths) -> pa.Table:
    """The predictions as an Arrow table with typed columns.

    Each field's metadata has its ``definition``; the schema's metadata has, under ``surgvivqa``, JSON with the run, the
    checkpoint, the split, the labels in order and the version of this package.
    """
    image = Column("image", pa.string(), "Path of the frame's image.", paths.path)
    columns = [*COLUMNS, image]
    if len(results.report.label_set) > 128:
        columns = [dataclasses.replace(c, type=_WIDE_LABEL) if c.type == _LABEL else c for c in columns]
    about = {
        "run": results.name,
        "checkpoint": last_name(results.report.checkpoint),
        "split": results.report.split,
        "mask": results.report.mask,
        "score_norm": results.report.score_norm,
        "synthetic": results.report.synthetic,
        "labels": results.report.label_set.labels,
        "version": __version__,
    }
    schema = pa.schema(
        [pa.field(c.name, c.type, metadata={"definition": c.definition}) for c in columns],
        metadata={"surgvivqa": json.dumps(about)},
    )
    arrays = [pa.array([c.value(p) for p in results.predictions], _plain_type(c.type)).cast(c.type) for c in columns]
    return pa.table(arrays, schema=schema)


def write_parquet(results: RunResults, paths: FramePaths, output: Path) -> None:
    """Writes ``build_table`` as a Parquet file."""
    table = build_table(results, paths)
    write_file(output, lambda temporary: pq.write_table(table, temporary, compression="zstd"), durable=False)


def build_fiftyone_samples(results: RunResults, paths: FramePaths) -> list[dict[str, Any]]:
    """The samples of a FiftyOne dataset, one for each question, as FiftyOne's ``Sample.from_dict`` takes them.

    ``ground_truth`` and ``prediction`` are classifications, so that ``evaluate_classifications`` works on them.
    """
    return [
        {
            "filepath": paths.path(p),
            "tags": [results.report.split],
            "question": p.question,
            "video": p.video,
            "frame": p.frame,
            "question_type": p.type,
            "reasoning": p.reasoning,
            "correct": p.correct,
            "ground_truth": {"_cls": "Classification", "label": p.answer_label},
            "prediction": {"_cls": "Classification", "label": p.prediction_label, "confidence": p.probability},
        }
        for p in results.predictions
    ]


def write_fiftyone(results: RunResults, paths: FramePaths, output: Path) -> None:
    """Writes a folder that FiftyOne imports as ``fiftyone.types.FiftyOneDataset``.

    It has ``samples.json`` and ``metadata.json`` in the serialised form that the importer reads without a database.
    """
    report = results.report
    metadata = {
        "info": {
            "run": results.name,
            "checkpoint": last_name(report.checkpoint),
            "split": report.split,
            "labels": report.label_set.labels,
            "version": __version__,
        }
    }

    def write(folder: Path) -> None:
        (folder / "samples.json").write_text(
            json.dumps({"samples": build_fiftyone_samples(results, paths)}), encoding="utf-8"
        )
        (folder / "metadata.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")

    write_folder(output, write)


def build_label_studio_tasks(results: RunResults, root_name: str) -> list[dict[str, Any]]:
    """Label Studio tasks, one for each question, with the model's answer as the pre-annotation.

    Args:
        results: the run.
        root_name: name of the folder of the frames, which lies in Label Studio's document root.
    """
    tasks = []
    for number, p in enumerate(results.predictions):
        path = FramePaths().path(p)
        result = {
            "id": f"q{number}",
            "type": "choices",
            "from_name": "answer",
            "to_name": "image",
            "value": {"choices": [p.prediction_label]},
        }
        prediction: dict[str, Any] = {"model_version": results.name, "result": [result]}
        if p.probability is not None:
            prediction["score"] = p.probability
        tasks.append(
            {
                "data": {
                    "image": f"/data/local-files/?d={quote(f'{root_name}/{path}')}",
                    "question": p.question,
                    "recorded_answer": p.answer_label,
                    "video": p.video,
                    "frame": p.frame,
                    "question_type": p.type or "",
                    "reasoning": p.reasoning or "",
                },
                "predictions": [prediction],
            }
        )
    return tasks


def label_studio_interface(labels: Sequence[str]) -> str:
    """The labelling interface of the tasks, to be pasted into a Label Studio project's settings."""
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels)
    return (
        "<View>\n"
        '  <Image name="image" value="$image"/>\n'
        '  <Header value="$question"/>\n'
        '  <Text name="recorded" value="$recorded_answer"/>\n'
        '  <Choices name="answer" toName="image" choice="single" showInLine="true">\n'
        f"{choices}\n"
        "  </Choices>\n"
        "</View>\n"
    )


def write_label_studio(results: RunResults, root_name: str, output: Path) -> Path:
    """Writes the tasks to ``output`` and the labelling interface beside it.

    Returns:
        The path of the interface, ``output`` with the ending ``.xml``.
    """
    write_text(output, json.dumps(build_label_studio_tasks(results, root_name), indent=1) + "\n", durable=False)
    interface = output.with_suffix(".xml")
    write_text(interface, label_studio_interface(results.report.label_set.labels), durable=False)
    return interface


def format_tsv(results: RunResults, paths: FramePaths) -> str:
    """The predictions as tab-separated values with VLMEvalKit's column names, for its tables of predictions."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(TSV_COLUMNS)
    for index, p in enumerate(results.predictions):
        groups = (p.type or "", p.reasoning or "", results.report.split)
        writer.writerow([index, paths.path(p), p.question, p.answer_label, *groups, p.prediction_label])
    return file.getvalue()


TSV_COLUMNS = ("index", "image_path", "question", "answer", "category", "l2-category", "split", "prediction")


def select_questions(predictions: Sequence[Prediction], only: str) -> list[Prediction]:
    """The predictions to export: ``all``, or those that are ``wrong``."""
    return [p for p in predictions if only == "all" or not p.correct]


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary type, from which Arrow builds the dictionary."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_
