"""The description of a data set: one YAML file, which says where its questions are and how they are read."""

import difflib
import re
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.picture_files import is_inside
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import check_regular_file
from surgvivqa.utils.safe_yaml import plain_yaml

DEFAULT = "ssg-qa"
"""The data set that commands read if ``--dataset`` is not given."""

Reader = Literal["ssg-qa", "pipe", "table", "cholect50", "coco"]
ROW_FIELDS = (
    "id",
    "video",
    "frames",
    "question",
    "answer",
    "long_answer",
    "type",
    "group",
    "box",
    "split",
    "pair_id",
    "wording",
)
"""The columns of the table that every data set becomes."""
_REQUIRED = ("video", "frames", "question", "answer")
_FOLDER = resources.files("surgvivqa.datasets") / "packaged"


def _as_text(value: Any) -> Any:
    """Text for a number, which YAML reads from unquoted digits. YAML reads yes, no, on and off as booleans."""
    if isinstance(value, bool):
        raise ValueError('YAML reads yes, no, true and false as booleans; put it in quotes, such as "yes"')
    return str(value) if isinstance(value, int | float) else value


def _as_pattern(value: Any) -> Any:
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise ValueError(f"it is not a regular expression ({error})") from None
    return value


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | Mapping) else value


Text = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
Pattern = Annotated[str, BeforeValidator(_as_pattern)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class QuestionFile(_Part):
    """A file of questions, or several with a common pattern.

    Attributes:
        path: below the root of the questions; ``*`` stands for any name, ``{video}`` and ``{frame}`` for the fields of
            these names, which are then taken from the path.
        split: the split of its videos; None where the description or a field says it.
        wording: the wording of its questions, in a data set that asks each question in several.
    """

    path: Text
    split: Literal["train", "val", "test"] | None = None
    wording: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> "QuestionFile":
        if not is_inside(self.path):
            raise ValueError(f"{self.path!r} is not a path below the root of the questions")
        return self


class FieldRule(_Part):
    """Where the value of a column is in a line.

    Attributes:
        name: a name in the line; dots lead into nested values, such as ``conversations.0.value``.
        match: a regular expression; the value is its first group, or all that it matches.
        value: the value itself, the same for all lines, in place of ``name``.
    """

    name: Text | None = Field(None, alias="from")
    match: Pattern | None = None
    value: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str | int) else value

    @model_validator(mode="after")
    def _check(self) -> "FieldRule":
        if (self.name is None) == (self.value is None):
            raise ValueError("it needs either from or value")
        return self


class SplitRule(_Part):
    """The videos of the splits.

    Attributes:
        train: names of the training videos; None takes those that no other split names.
        val: names of the validation videos, or their share of the training videos.
        test: names of the test videos.
    """

    train: tuple[Text, ...] | None = None
    val: tuple[Text, ...] | float = ()
    test: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "SplitRule":
        if isinstance(self.val, float) and not 0 <= self.val < 1:
            raise ValueError(f"the share val of the training videos must be at least 0 and below 1, not {self.val}")
        return self


class PublishedFigure(_Part):
    """A published result on the test split.

    Attributes:
        title: the model.
        source: where it is published.
        figures: metrics in %, by their names in metrics.json.
        wordings: accuracy in % by wording.
        note: what a reader has to know.
    """

    title: Text
    source: Text
    figures: Mapping[str, float] = Field(default_factory=dict)
    wordings: Mapping[str, float] = Field(default_factory=dict)
    note: str = ""


class DatasetDescription(_Part):
    """A data set's description, the content of its YAML file.

    Attributes:
        name: a short name; that of its label set too.
        title: its name in tables; by default ``name``.
        reader: how its files are read: ``table`` (CSV, JSON, JSON lines), ``pipe`` (lines of fields with bars between
            them), ``cholect50`` and ``coco`` (questions are generated from labels), or ``ssg-qa``.
        files: its files of questions, below ``--question-root``.
        columns: the fields of a line with bars, in order; ``-`` leaves one out.
        fields: where each column of the table is in a line; by default in the field of the same name.
        skip_lines: number of lines at the beginning of each file that are no questions.
        every: only frames whose number is divisible by this.
        drop_answers: answers whose questions are left out.
        types: the type of questions without a field for it: name to a regular expression in the question; the first
            one that is found gives the type.
        labels: the answers in order, or ``from-train``: the different answers of the training questions, sorted.
        labels_file: a text file beside the description with an answer on each line, in place of ``labels``.
        aliases: other spellings to labels, whatever their case.
        splits: the videos of the splits; None takes them from the files or the field ``split``.
        pairs: the columns whose values two wordings of a question share, or ``line``: their lines' numbers.
        pictures: the path of a frame below ``--image-root`` (``data.picture_files.fill_path``); by default the value of
            ``frames``, or CholecT45's layout if that is a number.
        clip: number of pictures of each question; None for any number.
        protocol: how the set's authors evaluate, in a sentence.
        licence: its licence.
        source: where it is published.
        homepage: an address.
        checked: against which files this description was checked, in a sentence.
        published: published results on its test split.
    """

    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: str = ""
    reader: Reader = "table"
    files: Annotated[tuple[QuestionFile, ...], BeforeValidator(_as_tuple)] = ()
    columns: tuple[str, ...] = ("question", "answer")
    fields: Mapping[str, FieldRule] = Field(default_factory=dict)
    skip_lines: int = Field(0, ge=0)
    every: int = Field(1, ge=1)
    drop_answers: tuple[Text, ...] = ()
    types: Mapping[str, Pattern] = Field(default_factory=dict)
    labels: tuple[Text, ...] | Literal["from-train"] = "from-train"
    labels_file: Text | None = None
    aliases: Mapping[str, Text] = Field(default_factory=dict)
    splits: SplitRule | None = None
    pairs: tuple[str, ...] | Literal["line"] | None = None
    pictures: Text | None = None
    clip: int | None = Field(None, ge=1, le=512)
    protocol: str = ""
    licence: str = ""
    source: str = ""
    homepage: str = ""
    checked: str = ""
    published: tuple[PublishedFigure, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "DatasetDescription":
        if self.reader != "ssg-qa" and not self.files:
            raise ValueError("files is missing; name the files of questions below the root")
        for name in self.fields:
            _check_name(name, ROW_FIELDS, "fields")
        for name in self.pairs if isinstance(self.pairs, tuple) else ():
            _check_name(name, ROW_FIELDS, "pairs")
        if isinstance(self.labels, tuple):
            if repeated := sorted({label for label in self.labels if self.labels.count(label) > 1}):
                raise ValueError(f"labels names {repeated[0]!r} more than once")
            if unknown := [label for label in self.aliases.values() if label not in self.labels]:
                raise ValueError(f"aliases leads to {unknown[0]!r}, which is not one of the labels")
        if self.reader == "pipe":
            paths = "".join(file.path for file in self.files)
            found = {*self.columns, *self.fields, *re.findall(r"\{(\w+)\}", paths.replace("{frame}", "{frames}"))}
            if lacking := [name for name in _REQUIRED if name not in found]:
                raise ValueError(f"columns and the paths of files do not name {', '.join(lacking)}")
        return self

    @cached_property
    def wordings(self) -> tuple[str, ...]:
        """The wordings that its files name, in order; the first one is the reference."""
        return tuple(dict.fromkeys(file.wording for file in self.files if file.wording is not None))

    @property
    def has_fixed_labels(self) -> bool:
        """Whether the labels are listed; otherwise they follow from the training questions."""
        return isinstance(self.labels, tuple)

    def accepts(self, learned: LabelSet) -> bool:
        """Whether a model that was trained on these labels can be evaluated on the data set."""
        if self.reader == "ssg-qa":
            return learned.is_ssg_qa
        if isinstance(self.labels, tuple):
            return learned.labels == self.labels
        return learned.name == self.name

    def label_set(self, answers: tuple[str, ...] = ()) -> LabelSet:
        """The label set: the listed labels, or else ``answers``."""
        if self.reader == "ssg-qa":
            return SSG_QA
        labels = self.labels if isinstance(self.labels, tuple) else answers
        aliases = {folded.lower(): label for folded, label in self.aliases.items() if label in labels}
        return LabelSet(self.name, labels, aliases)


def packaged_names() -> tuple[str, ...]:
    """The names of the descriptions in the package, SSG-QA's first."""
    names = sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def load_description(name_or_path: str) -> DatasetDescription:
    """Loads a description: one of the package by its name, or a YAML file.

    Raises:
        InputError: there is no such data set, or the file is not a description; the message names the key and the
            nearest one that exists.
    """
    if name_or_path in packaged_names():
        return _read_description(Path(str(_FOLDER / f"{name_or_path}.yaml")))
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        nearest = difflib.get_close_matches(name_or_path, packaged_names(), n=1, cutoff=0.0)[0]
        raise InputError(
            f"--dataset {name_or_path} is not a data set of the package ({', '.join(packaged_names())}; the nearest is "
            f"{nearest}), nor a YAML file that describes one."
        )
    return _read_description(path)


def _read_description(path: Path) -> DatasetDescription:
    """Reads and validates a YAML file; ``labels_file`` is read too."""
    try:
        content = plain_yaml(path)
    except FileNotFoundError:
        raise InputError(f"--dataset {path} does not exist; give a data set's name, or a YAML file.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"Description {path} cannot be read ({str(error).splitlines()[0]}).") from None
    if not isinstance(content, dict):
        raise InputError(f"Description {path} must map keys, such as name and files, to values.")
    if content.get("labels_file") is not None:
        if "labels" in content:
            raise InputError(f"Description {path} has labels and labels_file; leave out one of them.")
        if not is_inside(str(content["labels_file"])):
            raise InputError(f"Description {path}: labels_file is not a path below the description's folder.")
        content = content | {"labels": _read_labels(path.parent / str(content["labels_file"]), path)}
    try:
        return DatasetDescription.model_validate(content)
    except ValidationError as error:
        raise InputError(f"Description {path}: {_describe_error(error.errors()[0])}.") from None


def _read_labels(path: Path, description: Path) -> list[str]:
    try:
        check_regular_file(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Description {description}: labels_file {path} cannot be read ({reason}).") from None
    return [line.strip() for line in lines if line.strip()]


def _describe_error(error: ErrorDetails) -> str:
    """A phrase for a validation error, with the key and, if the key is unknown, the nearest known one."""
    keys = [str(part) for part in error["loc"] if not str(part).startswith(("tuple[", "literal[", "function-"))]
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        known = _keys_beside(keys[:-1])
        nearest = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.0)[0]
        return f"the key {key} is unknown; the nearest one is {nearest}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"the key {key} is missing"
    return f"{key}: {message}" if key else message


def _keys_beside(parents: list[str]) -> list[str]:
    """The keys that a part of a description can have, by the keys that lead to it."""
    parts: dict[str, type[BaseModel]] = {
        "files": QuestionFile,
        "fields": FieldRule,
        "splits": SplitRule,
        "published": PublishedFigure,
    }
    model = parts.get(parents[0], DatasetDescription) if parents else DatasetDescription
    return [field.alias or name for name, field in model.model_fields.items()]


def _check_name(name: str, known: tuple[str, ...], key: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"{key} names the unknown column {name!r}; the nearest one is {nearest!r}")
