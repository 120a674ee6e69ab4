"""Does the candidate answer as the reference does? The rule is decision 9 of the design.

Works on arrays, pictures' bytes and a model; knows neither torch nor where the reference comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from export import calibration
from export.listing import SUFFIXES
from export.refusal import Refusal
from service import images, planning
from service.examples import BATCH_TOLERANCE
from service.problems import Problem
from service.recipe import Recipe

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

BATCH = 16  # pictures at once
MOST_PICTURES = 256


class Unfaithful(Refusal):
    """The candidate doesn't reproduce the reference; one line says by how much."""


class UnusablePictures(Refusal):
    """A folder of pictures to verify with can't be used; one line says why."""


class Tolerance(NamedTuple):
    """Largest allowed difference of a probability, and of a logit relative to max(1, |logit|)."""

    probability: float
    logit: float


LOGITS = {"fp32": 1e-4, "fp16": 4e-3, "int8": 1e-1}
TOLERANCES = {precision: Tolerance(BATCH_TOLERANCE[precision], allowed) for precision, allowed in LOGITS.items()}


class Scores(NamedTuple):
    """What a network says of N pictures.

    Attributes:
        logits: (N, classes), before temperature; None where the reference gives only probabilities.
        probabilities: (N, classes), after temperature and softmax.
    """

    logits: Array | None
    probabilities: Array


@dataclass(frozen=True)
class Agreement:
    """The outcome of a verification that held: worst differences, measured."""

    pictures: int
    classes: int  # different top-1 answers among them; few of them prove little
    probability: float
    logit: float | None

    def words(self) -> str:
        """One line for the reader of the command line."""
        logits = "" if self.logit is None else f", logits within {self.logit:.1e}"
        seen = f"{self.pictures} pictures, {self.classes} different answers"
        return f"{seen}: probabilities within {self.probability:.1e}{logits}"


def load(folder: Path) -> list[bytes]:
    """The pictures of a folder, by name, at most 256.

    Raises:
        UnusablePictures: there are none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:MOST_PICTURES]
    if not files:
        raise UnusablePictures(
            f"{folder} holds no pictures; expected files with the endings {', '.join(sorted(SUFFIXES))}"
        )
    return [file.read_bytes() for file in files]


def prepare(pictures: list[bytes], recipe: Recipe) -> Pixels:
    """Encoded pictures → (N, height, width, 3) uint8, along the service's own path.

    Raises:
        UnusablePictures: one of them can't be decoded.
    """
    rows = []
    for number, picture in enumerate(pictures):
        try:
            prepared = images.prepare(
                picture, recipe.preprocessing, recipe.input.width, recipe.input.height
            )
        except Problem as problem:
            raise UnusablePictures(f"picture {number} can't be used: {problem.detail}") from problem
        rows.append(prepared.pixels)
    return np.stack(rows)


def session(model: Path | bytes, optimised: bool = True) -> onnxruntime.InferenceSession:
    """The model on the CPU, quietly."""
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = planning.usable_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several sessions take turns
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def softmax(logits: Array, temperature: float) -> Array:
    """(N, classes) → probabilities, in double precision on the way."""
    return calibration.softmax(logits, temperature).astype(np.float32)


def in_batches(score: Callable[[Pixels], Scores], pixels: Pixels, size: int = BATCH) -> Scores:
    """The scores of all pictures, `size` at a time; as if they had been asked at once."""
    parts = [score(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    logits = [part.logits for part in parts if part.logits is not None]
    return Scores(np.concatenate(logits) if logits else None, np.concatenate([part.probabilities for part in parts]))


def verify(reference: Scores, candidate: Callable[[Pixels], Scores], pixels: Pixels, precision: str) -> Agreement:
    """Hold a candidate to a reference, each picture alone and in company.

    Args:
        reference: its scores for `pixels`.
        pixels: (N, height, width, 3) uint8.
        precision: `fp32` or `fp16`; decides the tolerance.
    Raises:
        Unfaithful: names the worst difference and the allowed one.
    """
    company = in_batches(candidate, pixels)
    alone = in_batches(candidate, pixels, 1)
    compare(company, alone, precision, "alone and in a batch")
    return compare(reference, company, precision, "reference and model")


def compare(reference: Scores, candidate: Scores, precision: str, between: str) -> Agreement:
    """The worst differences, if they are allowed ones.

    Raises:
        Unfaithful: a shape, a probability, a logit or the first five differ by more than decision 9 allows.
    """
    allowed = TOLERANCES[precision]
    if reference.probabilities.shape != candidate.probabilities.shape:
        raise Unfaithful(
            f"{between}: answers are {candidate.probabilities.shape}; expected {reference.probabilities.shape}"
        )
    probability = _worst(np.abs(reference.probabilities - candidate.probabilities))
    logit = None
    if reference.logits is not None and candidate.logits is not None:
        logit = _worst(np.abs(reference.logits - candidate.logits) / np.maximum(1, np.abs(reference.logits)))
    for what, found, limit in (
        ("probabilities", probability, allowed.probability),
        ("logits", logit or 0, allowed.logit),
    ):
        if not found <= limit:
            raise Unfaithful(f"{between}: {what} differ by {found:.1e}; {precision} allows {limit:.0e}")
    if swapped := _swapped(reference.probabilities, candidate.probabilities, 2 * allowed.probability):
        raise Unfaithful(f"{between}: {swapped} pictures have their first five answers in another order; expected none")
    answers = len(set(reference.probabilities.argmax(axis=1).tolist()))
    return Agreement(len(reference.probabilities), answers, probability, logit)


def _worst(differences: Array) -> float:
    return float(np.nan_to_num(differences, nan=np.inf).max())  # a value that is no number agrees with nothing


def _swapped(reference: Array, candidate: Array, margin: float) -> int:
    """Pictures on which two neighbours of the reference's first five, further apart than `margin`, changed places."""
    order = np.argsort(-reference, axis=1, kind="stable")[:, :5]
    mine, theirs = (np.take_along_axis(scores, order, axis=1) for scores in (reference, candidate))
    apart, changed = mine[:, :-1] - mine[:, 1:] > margin, theirs[:, :-1] <= theirs[:, 1:]
    return int((apart & changed).any(axis=1).sum())
