"""How far scores can be trusted: temperature, calibration error, abstention, prediction sets. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.recipe import Abstention, Calibration, Conformal

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]

BINS = 15
COVERAGES = tuple(round(0.5 + 0.005 * step, 3) for step in range(99))  # 50 to 99 %: fewer pictures can't tell 99.5
REPORTED = (0.8, 0.9, 0.95)
RANGE = (0.05, 20.0)  # of temperatures; nothing trained in earnest lies outside


class Scored(NamedTuple):
    """What a network says of N labelled pictures.

    Attributes:
        logits: (N, classes), before temperature; a constant added to a row changes nothing.
        truth: (N,) row of the right class.
    """

    logits: Floats
    truth: Rows


def softmax(logits: Floats, temperature: float) -> Floats:
    """(N, classes) → probabilities, float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def top_k(logits: Floats, truth: Rows, k: int) -> float:
    """Share of rows whose right class is among the k highest, 0 to 1."""
    own = np.take_along_axis(logits, truth[:, None], axis=1)
    return float(((logits > own).sum(axis=1) < k).mean())


def fit_temperature(scored: Scored) -> float:
    """The divisor of the logits that gives the least cross entropy.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    return _least(lambda temperature: _cross_entropy(scored, temperature))


def fit_temperature_to(logits: Floats, probabilities: Floats) -> float:
    """The divisor that brings a network's answers nearest to another's, where nobody knows the right ones.

    Args:
        logits: (N, classes).
        probabilities: (N, classes) of the other network.
    """
    return _least(lambda temperature: float(-(probabilities * _log_softmax(logits, temperature)).sum(axis=1).mean()))


def _least(loss: Callable[[float], float]) -> float:
    """Golden-section search over the logarithm of the temperature, in which cross entropy has one valley."""
    golden = (5**0.5 - 1) / 2
    low, high = float(np.log(RANGE[0])), float(np.log(RANGE[1]))
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(float(np.exp(left))) < loss(float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def expected_calibration_error(probabilities: Floats, truth: Rows, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over equally wide bins of confidence, weighted by their pictures; 0 to 1.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    gaps = np.abs(np.bincount(places, confidence, bins) - np.bincount(places, right, bins))
    return float(gaps[counts > 0].sum() / len(truth))


def abstain_below(probabilities: Floats, truth: Rows, precision: float) -> float | None:
    """Least score of the best class from which on answers are right often enough; None if no score is.

    Args:
        precision: share of right answers among those that are given.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    order = np.argsort(-confidence, kind="stable")
    reached = np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= precision
    # A handful of sure pictures at the top proves nothing.
    reached[: min(len(order), 20) - 1] = False
    return float(confidence[order][np.flatnonzero(reached)[-1]]) if reached.any() else None


def least_scores(probabilities: Floats, truth: Rows, coverages: tuple[float, ...] = COVERAGES) -> tuple[float, ...]:
    """For each coverage the score from which a class belongs to the prediction set.

    Source: Sadinle, Lei, Wasserman, "Least ambiguous set-valued classifiers", 2019; the (n + 1) of split conformal
        prediction: Vovk, Gammerman, Shafer, 2005.
    """
    own = np.sort(np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0])  # rising
    places = [int(np.floor((len(own) + 1) * (1 - coverage))) for coverage in coverages]
    return tuple(float(own[place - 1]) if place else 0.0 for place in places)


def measure(fitted: Scored, held_out: Scored, temperature: float, precision: float) -> Calibration:
    """Choose thresholds on one set of pictures, and measure everything on another.

    Args:
        temperature: of the model that is described.
        precision: share of right answers among those on which the model does not abstain.
    """
    mine, theirs = softmax(fitted.logits, temperature), softmax(held_out.logits, temperature)
    below = abstain_below(mine, fitted.truth, precision)
    scores = least_scores(mine, fitted.truth)
    own = np.take_along_axis(theirs, held_out.truth[:, None], axis=1)[:, 0]
    return Calibration(
        fitted_on=len(fitted.truth),
        measured_on=len(held_out.truth),
        top1=top_k(held_out.logits, held_out.truth, 1),
        top5=top_k(held_out.logits, held_out.truth, 5),
        ece_before=expected_calibration_error(softmax(held_out.logits, 1.0), held_out.truth),
        ece_after=expected_calibration_error(theirs, held_out.truth),
        abstention=None if below is None else _abstention(theirs, held_out.truth, below, precision),
        conformal=Conformal(
            COVERAGES,
            scores,
            tuple(
                (level, float((own >= score).mean()), float((theirs >= score).sum(axis=1).mean()))
                for level, score in zip(COVERAGES, scores, strict=True)
                if level in REPORTED
            ),
        ),
    )


def _abstention(probabilities: Floats, truth: Rows, below: float, asked: float) -> Abstention:
    given = probabilities.max(axis=1) >= below
    right = probabilities.argmax(axis=1) == truth
    return Abstention(below, asked, float(right[given].mean()) if given.any() else 0.0, float(given.mean()))


def _cross_entropy(scored: Scored, temperature: float) -> float:
    return float(-np.take_along_axis(_log_softmax(scored.logits, temperature), scored.truth[:, None], axis=1).mean())


def _log_softmax(logits: Floats, temperature: float) -> Floats:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    logarithms: Floats = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return logarithms


def words(found: Calibration) -> str:
    """A few lines for the reader of the command line."""
    lines = [
        f"fitted on {found.fitted_on:,} pictures, measured on {found.measured_on:,} others:",
        f"top-1 {found.top1:.2%}, top-5 {found.top5:.2%}; "
        f"calibration error {found.ece_before:.4f} before, {found.ece_after:.4f} after",
    ]
    if found.abstention:
        rule = found.abstention
        lines.append(
            f"abstains below {rule.below:.3f}: {rule.precision:.2%} right (asked: {rule.asked:.0%}) "
            f"on the {rule.coverage:.1%} that it answers"
        )
    for asked, covered, size in found.conformal.measured if found.conformal else ():
        lines.append(f"prediction sets for {asked:.0%}: hold the true label {covered:.2%} of the time, {size:.1f} labels each")
    return "\n".join(lines)
