"""The section ``generation``: how generated answers compare with the data set's long answers.

Five figures, all as fractions and all of the questions that have a long answer:

* BLEU-4: corpus BLEU of sacrebleu (Papineni et al., ACL 2002; Post, WMT 2018) with its default tokenizer ``13a`` and
  exponential smoothing, case-sensitive.
* ROUGE-L: mean F-measure of the longest common subsequence of words (Lin, 2004), as the package ``rouge-score``
  computes it, with stemming.
* keyword accuracy (K-ACC): the share of questions whose short answer occurs in the generated text. The short answer is
  the label, or another spelling of it in the label set. It occurs if its words stand in the text one after another, in
  any case; punctuation and underscores separate words. ``no`` occurs in ``No, there is none.`` but not in ``None.``
* exact match: the share of texts that equal the long answer, apart from case, punctuation and white space.
* closed-set accuracy of the same questions, from the labels' scores, to be set beside them.

METEOR is not computed: it needs WordNet's data, which no maintained package brings along, and which NLTK downloads.
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from surgvivqa.data.labels import LabelSet
from surgvivqa.evaluation.estimates import Counts, Estimate, count_by_video, estimate
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.utils.errors import InputError

_NEEDED = "Figures of generated answers need sacrebleu and rouge-score; pip install 'surgvivqa[generation]'."
_NAMES = {"bleu4": "BLEU-4", "rouge_l": "ROUGE-L", "keyword_accuracy": "K-ACC", "exact_match": "exact", "acc": "acc"}


@dataclass(frozen=True)
class GenerationFigures:
    """The figures of one group of questions, as fractions.

    Attributes:
        n: number of questions.
        bleu4: corpus BLEU-4.
        rouge_l: mean ROUGE-L F-measure.
        rouge_l_interval: its 95% t-interval over the videos; None with fewer than two videos.
        keyword_accuracy: share of texts with the short answer in them.
        keyword_accuracy_interval: its 95% t-interval over the videos.
        exact_match: share of texts that equal the long answer.
        exact_match_interval: its 95% t-interval over the videos.
        acc: closed-set accuracy of the same questions.
    """

    n: int
    bleu4: float
    rouge_l: float
    rouge_l_interval: tuple[float, float] | None
    keyword_accuracy: float
    keyword_accuracy_interval: tuple[float, float] | None
    exact_match: float
    exact_match_interval: tuple[float, float] | None
    acc: float


@dataclass(frozen=True)
class Generation:
    """The section ``generation`` of ``metrics.json``.

    Attributes:
        figures: of all questions with a long answer.
        by_type: by type of question, for data sets that have types.
        without_long_answer: number of questions that were left out, because they have no long answer.
        distinct: number of distinct generated texts.
        signature: sacrebleu's description of how BLEU was computed.
        rouge_version: version of rouge-score.
    """

    figures: GenerationFigures
    by_type: dict[str, GenerationFigures]
    without_long_answer: int
    distinct: int
    signature: str
    rouge_version: str


def check_packages() -> None:
    """Checks that the packages are there, before answers are generated.

    Raises:
        InputError: one is missing.
    """
    _load_packages()


def _load_packages() -> tuple[Any, Any]:
    """A sacrebleu scorer and a ROUGE-L scorer."""
    try:
        rouge, sacrebleu = (importlib.import_module(name) for name in ("rouge_score.rouge_scorer", "sacrebleu.metrics"))
    except ImportError:
        raise InputError(_NEEDED) from None
    return sacrebleu.BLEU(), rouge.RougeScorer(["rougeL"], use_stemmer=True)


def compute_generation(predictions: Sequence[Prediction]) -> Generation | None:
    """Computes the section.

    Args:
        predictions: the predictions.

    Returns:
        The section; None where nothing was generated, or no question has a long answer.

    Raises:
        InputError: a package is missing.
    """
    generated = [p for p in predictions if p.generated is not None]
    compared = [p for p in generated if p.long_answer]
    if not compared:
        return None
    bleu, rouge = _load_packages()
    scores = [rouge.score(p.long_answer, p.generated)["rougeL"].fmeasure for p in compared]
    kinds: dict[str, list[int]] = {}
    for index, prediction in enumerate(compared):
        if prediction.type:
            kinds.setdefault(prediction.type, []).append(index)
    everything = list(range(len(compared)))
    by_type = {kind: _figures(compared, scores, kinds[kind], bleu) for kind in sorted(kinds)}
    figures = _figures(compared, scores, everything, bleu)  # last, so that the signature is of all questions
    return Generation(
        figures=figures,
        by_type=by_type,
        without_long_answer=len(generated) - len(compared),
        distinct=len({p.generated for p in compared}),
        signature=str(bleu.get_signature()),
        rouge_version=metadata.version("rouge-score"),
    )


def _figures(
    predictions: Sequence[Prediction], rouge: Sequence[float], selected: Sequence[int], bleu: Any
) -> GenerationFigures:
    """The figures of the selected questions."""
    chosen = [predictions[i] for i in selected]
    texts, references = [p.generated or "" for p in chosen], [p.long_answer or "" for p in chosen]
    columns: list[Sequence[float]] = [
        [rouge[i] for i in selected],
        [has_keywords(p.generated or "", p.answer_label, p.label_set) for p in chosen],
        [is_same_text(*pair) for pair in zip(texts, references, strict=True)],
    ]
    counts = count_by_video([p.video for p in chosen], columns)
    rouge_l, keywords, exact = (_mean_of_column(counts, column) for column in (1, 2, 3))
    return GenerationFigures(
        n=len(chosen),
        bleu4=min(1.0, bleu.corpus_score(texts, [references]).score / 100),
        rouge_l=rouge_l.value or 0.0,
        rouge_l_interval=rouge_l.interval,
        keyword_accuracy=keywords.value or 0.0,
        keyword_accuracy_interval=keywords.interval,
        exact_match=exact.value or 0.0,
        exact_match_interval=exact.interval,
        acc=sum(p.correct for p in chosen) / len(chosen),
    )


def _mean_of_column(counts: Counts, column: int) -> Estimate:
    """The mean over the questions of a column of ``count_by_video``, with its interval over the videos."""
    return estimate(counts, lambda c: c[..., column] / c[..., 0], 0, 1)


def has_keywords(text: str, label: str, label_set: LabelSet) -> bool:
    """Whether a label, or another spelling of it, occurs in a text as whole words one after another."""
    spellings = [label, *(alias for alias, name in label_set.aliases.items() if name == label)]
    padded = f" {plain_words(text)} "
    return any(f" {words} " in padded for spelling in spellings if (words := plain_words(spelling)))


def is_same_text(text: str, reference: str) -> bool:
    """Whether two texts are equal apart from case, punctuation and white space."""
    return plain_words(text) == plain_words(reference)


def plain_words(text: str) -> str:
    """The words of a text in lower case, separated by single spaces."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def format_generation(generation: Generation) -> str:
    """Formats the section as a table, in %."""
    lines = [f"{'generated answers':<36}{'n':>7}" + "".join(f"{name:>9}" for name in _NAMES.values())]
    rows = {"all": generation.figures} | generation.by_type
    for name, row in rows.items():
        figures = "".join(f"{100 * getattr(row, key):>9.1f}" for key in _NAMES)
        lines.append(f"{name[:35]:<36}{row.n:>7}{figures}")
    interval = generation.figures.keyword_accuracy_interval
    if interval is not None:
        lines.append(f"95% of K-ACC: {100 * interval[0]:.1f} to {100 * interval[1]:.1f}")
    notes = [f"{generation.distinct:,} distinct texts", "acc: the closed-set answers to the same questions"]
    if generation.without_long_answer:
        notes.append(f"{generation.without_long_answer:,} questions without a long answer left out")
    return "\n".join([*lines, "; ".join(notes)])
