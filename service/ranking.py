"""The best classes of each picture of a batch, and how sure the model is: for all of them at once.

Each call into NumPy gives the interpreter's lock away and has to wait to have it back: a dozen for each picture, from as many
threads, cost more than the counting itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RANKED = 10  # classes that are put in order for everybody; whoever asks for more waits for his own
LEAST_SCORE = 1e-300  # in place of 0, whose logarithm is none: 0 times anything adds nothing to the entropy


class Ranked(NamedTuple):
    """What the scores of one picture say.

    Attributes:
        rows: of the best classes, best first, of equal ones the lower row first; `RANKED`, or all where there are fewer.
        scores: theirs, 0-1.
        entropy: of all scores, in nats; never below 0.
    """

    rows: list[int]
    scores: list[float]
    entropy: float


def rank(probabilities: NDArray[np.float32]) -> list[Ranked]:
    """(N, classes) float32 → one entry a picture."""
    count = min(RANKED, probabilities.shape[1])
    rows = np.argpartition(-probabilities, count - 1, axis=1)[:, :count]  # (N, count), in no order
    rows.sort(axis=1)
    scores = np.take_along_axis(probabilities, rows, axis=1)
    best_first = np.argsort(-scores, axis=1, kind="stable")
    rows, scores = np.take_along_axis(rows, best_first, axis=1), np.take_along_axis(scores, best_first, axis=1)
    ties = np.count_nonzero(probabilities >= scores[:, -1:], axis=1) > count  # which of them were taken was chance
    for picture in np.flatnonzero(ties):
        rows[picture] = order(probabilities[picture], count, None)[:count]
    wide = probabilities.astype(np.float64)
    entropies = -np.einsum("nc,nc->n", wide, np.log(np.maximum(wide, LEAST_SCORE)))
    return [Ranked(*each) for each in zip(rows.tolist(), scores.tolist(), np.maximum(entropies, 0.0).tolist(), strict=True)]


def order(probabilities: NDArray[np.float32], count: int, least: float | None) -> NDArray[np.intp]:
    """Rows of one picture's best classes, as in `Ranked`: `count` at least, and all whose score is `least` or more."""
    candidates = np.arange(len(probabilities))
    if count < len(probabilities):
        last = np.partition(probabilities, -count)[-count]
        candidates = np.flatnonzero(probabilities >= (last if least is None else min(last, least)))  # in order of rows
    return candidates[np.argsort(-probabilities[candidates], kind="stable")]
