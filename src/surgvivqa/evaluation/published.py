"""Published results on SSG-QA's test split, and whether an evaluation may be set beside them."""

import functools
from dataclasses import dataclass
from importlib import resources

import yaml
from pydantic import TypeAdapter

from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.report import EvaluationReport

# The five videos hold about a tenth of SSG-QA's 960,000 questions; a synthetic or partial copy under the same names
# holds far fewer.
_LEAST_QUESTIONS = 50_000


@dataclass(frozen=True)
class PublishedResult:
    """A published result, a row of ``published.yaml``.

    Attributes:
        name: a unique short name.
        title: the row's name in tables.
        year: year of publication.
        source: where it is published.
        url: address of the source; None if there is none.
        definition: how the metrics are defined.
        split: the videos.
        questions: the questions.
        comparable: whether a run on all questions of the five test videos may be set beside it.
        figures: metrics over all questions, in %, by the names of ``metrics.METRICS``.
        groups: what the source calls F1, in %, by type and reasoning.
        caveats: what a reader has to know, in sentences.
    """

    name: str
    title: str
    year: int
    source: str
    url: str | None
    definition: str
    split: str
    questions: str
    comparable: bool
    figures: dict[str, float]
    groups: dict[str, float]
    caveats: list[str]


@functools.cache
def load_published() -> tuple[PublishedResult, ...]:
    """All published results, in the order of the file."""
    text = (resources.files("surgvivqa.evaluation") / "published.yaml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[PublishedResult, ...]).validate_python(yaml.safe_load(text))


def find_published(name: str) -> PublishedResult:
    """The published result of a name.

    Raises:
        KeyError: there is none.
    """
    return {result.name: result for result in load_published()}[name]


def why_not_comparable(report: EvaluationReport) -> str | None:
    """Why the metrics cannot be compared with those of the standard test split, or None if they can."""
    if not report.label_set.is_ssg_qa:
        return f"the labels are those of {report.label_set.name}, not SSG-QA's"
    if report.synthetic:
        return "the questions are those of the synthetic set"
    if report.synthetic is None:
        return "the questions are not known to be SSG-QA's own"
    if report.crossval is not None:
        return "it is a cross-validation, whose models were trained on other videos than those of the standard split"
    if report.only is not None:
        return f"only the questions that {report.only.file} lists were scored"
    if report.split != "test" or set(report.metrics.by_video) != TEST_VIDEOS:
        return "the videos are not the five test videos of the standard split"
    if report.frames != "own":
        return "the model was not shown the questions' own frames"
    if report.max_samples is not None or report.metrics.overall.n < _LEAST_QUESTIONS:
        return "not all questions of the test split were scored"
    if report.skipped_frames:
        return "questions about frames that cannot be used were left out"
    return None
