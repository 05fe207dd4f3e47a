"""The part of ``eval`` about probabilities: their calibration, and the temperature that is fitted or stored."""

import dataclasses
import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from surgvivqa.checkpoints.stored_temperature import (
    find_place,
    hash_weights,
    read_temperature,
    score_settings,
    write_temperature,
)
from surgvivqa.evaluation.calibration import Calibration, compute_calibration
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.temperature import FITTED_ON, Temperature, fit_temperature, mean_log_score
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import normalise_scores
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


def check_fit(fit: bool, split: str, answer_only: bool) -> None:
    """Checks the flags that ``--fit-temperature`` depends on.

    Raises:
        InputError: the split is not the validation split, or not all labels are scored.
    """
    if fit and split != FITTED_ON:
        raise InputError(
            f"--fit-temperature fits on the validation split alone, not on {split}, since figures at a temperature are "
            f"meaningless on the questions that chose it; give --split {FITTED_ON}."
        )
    if fit and answer_only:
        raise InputError("--fit-temperature needs the scores of all labels; leave out --answer-only.")


@dataclass(frozen=True)
class Calibrator:
    """Computes the calibration of an evaluation's probabilities.

    Attributes:
        trie: the labels, whose numbers of tokens ``mean`` scores need.
        settings: what the scores depend on besides the weights, with ``score_norm``.
        stored: the temperature that is stored beside the checkpoint and belongs to these scores.
        place: where a temperature is stored that is fitted on this evaluation's predictions; None to fit none.
        weights: checksum of the weights, for a fit.
        answer_only: whether there are no scores, and so no probabilities.
    """

    trie: LabelTrie
    settings: dict[str, str | int]
    stored: Temperature | None
    place: Path | None
    weights: str
    answer_only: bool

    @classmethod
    def of_evaluation(
        cls, bundle: ModelBundle, checkpoint: Path, score_norm: str, *, fit: bool, answer_only: bool
    ) -> "Calibrator":
        """Prepares the calibration of a loaded checkpoint, whose weights are not yet moved or cast.

        Raises:
            InputError: a temperature is to be fitted, and cannot be stored beside the checkpoint.
        """
        return cls(
            trie=LabelTrie(bundle.prompt_tokenizer().label_ids),
            settings=score_settings(bundle, score_norm),
            stored=None if fit or answer_only else read_temperature(bundle, score_norm),
            place=find_place(checkpoint, bundle) if fit else None,
            weights=hash_weights(bundle.model) if fit else "",
            answer_only=answer_only,
        )

    @property
    def needs_scores(self) -> bool:
        """Whether the predictions must hold the scores of all labels."""
        return self.stored is not None or self.place is not None

    def calibrate(self, predictions: Sequence[Prediction]) -> Calibration | None:
        """Computes the section ``calibration``; None with ``--answer-only``.

        Args:
            predictions: the predictions, with the scores of all labels if they are needed.
        """
        if self.answer_only or not self.needs_scores:
            return compute_calibration(predictions)
        rankings = self._stack_rankings(predictions)
        temperature = self.stored if self.place is None else self._fit(predictions, rankings)
        return compute_calibration(predictions, temperature, rankings)

    def store(self, calibration: Calibration | None) -> None:
        """Stores a temperature that was fitted; the main process calls it.

        Raises:
            RunError: it cannot be written.
        """
        if self.place is not None and calibration is not None and calibration.temperature is not None:
            write_temperature(self.place, calibration.temperature)
            log.info("The temperature is stored in %s.", self.place)

    def _stack_rankings(self, predictions: Sequence[Prediction]) -> NDArray[np.float32]:
        """The ranking scores ``[Q, C]`` of predictions."""
        scores = np.array([p.scores for p in predictions], np.float32)
        return normalise_scores(torch.from_numpy(scores), self.trie, str(self.settings["score_norm"]))[0].numpy()

    def _fit(self, predictions: Sequence[Prediction], rankings: NDArray[np.float32]) -> Temperature | None:
        truth = np.array([p.answer for p in predictions])
        try:
            value = fit_temperature(rankings, truth)
        except ValueError as error:
            log.warning("No temperature is stored, because there is no best one: %s.", error)
            return None
        return Temperature(
            temperature=value,
            split=FITTED_ON,
            questions=len(predictions),
            videos=sorted({p.video for p in predictions}),
            log_score=mean_log_score(rankings, truth),
            log_score_after=mean_log_score(rankings, truth, value),
            settings=self.settings,
            weights=self.weights,
            fitted=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        )


def without_scores(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions without the scores of all labels, which only a temperature needed."""
    return [p if p.scores is None else dataclasses.replace(p, scores=None) for p in predictions]
