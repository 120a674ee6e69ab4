"""What a caller may ask of a model, and what it gets: options, held against the model, and the answer's form."""

from __future__ import annotations

import sys
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.modelfile import ModelFile
from service.problems import BadOption

DEFAULT_TOP_K = 5
LEAST_SCORE = 1e-300  # in place of 0, whose logarithm is none: 0 times anything adds nothing to the entropy


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller may choose.

    Attributes:
        top_k: most predictions, from 1 to the number of classes; `None`: 5, or all where there are fewer.
        threshold: least score of a prediction, from 0 to 1.
        coverage: asks for the labels that hold the true one with this probability.
        model, version: `None`: the default model, its highest version.
    """

    top_k: int | None = None
    threshold: float = 0.0
    coverage: float | None = None
    model: str | None = None
    version: str | None = None


DEFAULTS = Options()


class Named(msgspec.Struct, frozen=True):
    """Which model answered; `digest` is the SHA-256 of its file, `precision` what it computed in."""

    name: str
    version: str
    digest: str
    precision: str


class Prediction(msgspec.Struct, frozen=True):
    """One class.

    Attributes:
        label: as in the model's own labels.
        score: probability, 0-1.
        index: row of the output.
        id: stable class id, the wnid for ImageNet.
    """

    label: str
    score: float
    index: int
    id: str


class Shown(msgspec.Struct, frozen=True):
    """The picture as it was sent; width and height as shown, upright."""

    format: str
    mode: str
    width: int
    height: int
    orientation_applied: bool


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds of each phase, and the pictures of the batch that this one was in.

    An answer from the cache was neither decoded nor run: 0 for these and for `batch_size`; `queue` is the wait for an equal
    request that was at work already.
    """

    decode: float
    preprocess: float
    queue: float
    inference: float
    batch_size: int


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller gets for one picture; predictions best first.

    Attributes:
        margin: by how much the best class leads the second, 0-1.
        entropy: of all scores, in nats: 0 when one class has it all.
        abstained: the best score lies below the model's own threshold; null where the model has none.
        prediction_set: the labels that hold the true one with the coverage that was asked for; absent unless asked.
    """

    id: str
    model: Named
    predictions: list[Prediction]
    margin: float
    entropy: float
    abstained: bool | None
    image: Shown
    timing_ms: Timing
    prediction_set: list[Prediction] | None = None

    @property
    def cached(self) -> bool:
        """Nothing was run for it."""
        return self.timing_ms.batch_size == 0

    def again(self, own_id: str, model: Named, waited_ms: float) -> Answer:
        """The same answer for another request, which waited so long for it."""
        return msgspec.structs.replace(self, id=own_id, model=model, timing_ms=Timing(0.0, 0.0, round(waited_ms, 3), 0.0, 0))


class Asked(NamedTuple):
    """Options that were held against a model.

    Attributes:
        least_score: of a class in the prediction set; None where no set was asked for.
    """

    top_k: int
    threshold: float
    least_score: float | None


class Said(NamedTuple):
    """What the scores of one picture say; as in `Answer`."""

    predictions: list[Prediction]
    margin: float
    entropy: float
    abstained: bool | None
    prediction_set: list[Prediction] | None


# With all numbers in them; the texts of a picture's format and mode are Pillow's own.
_NUMBER_BYTES = 32  # float 24, int 28, in steps of 16
_PREDICTION_BYTES = sys.getsizeof(Prediction("", 0.0, 0, "")) + 2 * _NUMBER_BYTES
_TIMING = Timing(0.0, 0.0, 0.0, 0.0, 1)
_SHOWN = Shown("", "", 1, 1, False)
_ANSWER_BYTES = (
    sys.getsizeof(Answer("", Named("", "", "", ""), [], 0.0, 0.0, None, _SHOWN, _TIMING))
    + sys.getsizeof(_TIMING) + sys.getsizeof(_SHOWN) + 9 * _NUMBER_BYTES)


def check(options: Options, model: ModelFile, name: str) -> Asked:
    """Hold options against a model.

    Raises:
        BadOption: out of range, or the model can't do it.
    """
    threshold, classes = options.threshold, len(model.labels)
    if not 0 <= threshold <= 1:  # also what is no number
        raise BadOption(f"threshold is {threshold:g}; expected a number from 0 to 1",
                        option="threshold", value=str(threshold))
    top_k = min(DEFAULT_TOP_K, classes) if options.top_k is None else options.top_k
    if not 1 <= top_k <= classes:
        raise BadOption(
            f"top_k is {top_k}; expected a whole number from 1 to {classes}, the classes of {name}",
            option="top_k", value=top_k, limit=classes)
    return Asked(top_k, threshold, None if options.coverage is None else _least_score(options.coverage, model, name))


def say(probabilities: NDArray[np.float32], asked: Asked, model: ModelFile) -> Said:
    """Put scores into words.

    Args:
        probabilities: (classes,) of one picture.
    """
    order = _order(probabilities, max(2, asked.top_k), asked.least_score)
    best = probabilities[order[:2]].astype(float)
    calibration = model.recipe.calibration
    rule = calibration and calibration.abstention
    scores = probabilities.astype(np.float64)
    members = None
    if asked.least_score is not None:
        members = [_prediction(model, probabilities, int(row)) for row in order if probabilities[row] >= asked.least_score]
    return Said(
        [_prediction(model, probabilities, int(row)) for row in order[: asked.top_k] if probabilities[row] >= asked.threshold],
        margin=_digits(best[0] - best[1]) if len(best) > 1 else 1.0,
        entropy=_digits(max(0.0, -float(scores @ np.log(np.maximum(scores, LEAST_SCORE))))),
        abstained=bool(best[0] < rule.below) if rule else None,
        prediction_set=members,
    )


def _order(probabilities: NDArray[np.float32], count: int, least: float | None) -> NDArray[np.intp]:
    """Rows of the best classes, best first, of equal ones the lower row first: `count` at least, and all that have `least`."""
    candidates = np.arange(len(probabilities))
    if count < len(probabilities):
        last = np.partition(probabilities, -count)[-count]
        candidates = np.flatnonzero(probabilities >= (last if least is None else min(last, least)))  # in order of rows
    return candidates[np.argsort(-probabilities[candidates], kind="stable")]


def weight(found: Answer) -> int:
    """Bytes that an answer holds for itself; `model`, labels and class ids are the model's own."""
    count, lists = len(found.predictions), sys.getsizeof(found.predictions)
    if found.prediction_set is not None:
        count, lists = count + len(found.prediction_set), lists + sys.getsizeof(found.prediction_set)
    return _ANSWER_BYTES + sys.getsizeof(found.id) + lists + count * _PREDICTION_BYTES


def _least_score(coverage: float, model: ModelFile, name: str) -> float:
    calibration = model.recipe.calibration
    conformal = calibration and calibration.conformal
    if not conformal:
        raise BadOption(f"coverage can't be asked of {name}: it was never calibrated; "
                        'run "python -m export calibrate"', option="coverage", value=str(coverage))
    low, high = conformal.coverages[0], conformal.coverages[-1]
    if not low <= coverage <= high:
        raise BadOption(f"coverage is {coverage:g}; expected a number from {low:g} to {high:g}, as {name} was calibrated",
                        option="coverage", value=str(coverage))
    return float(np.interp(coverage, conformal.coverages, conformal.scores))


def _prediction(model: ModelFile, probabilities: NDArray[np.float32], row: int) -> Prediction:
    label = model.labels[row]
    return Prediction(label.label, _digits(probabilities[row]), row, label.id)


def _digits(value: float) -> float:
    """With the 7 digits that float32 has."""
    return float(f"{value:.7g}")
