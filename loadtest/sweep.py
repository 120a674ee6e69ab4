"""The figures behind a ceiling: each layout, batch size and decoding in turn, then the best of them again and in turns."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from loadtest.inprocess import Answer
from loadtest.layouts import LAYOUTS, SPUN, Task
from loadtest.machine import Machine

BATCHES = (4, 8, 16, 32)
SHARE = 0.9  # of decoding and model one after the other, each at its best
PART_S = 2.0  # at most, for decoding alone, the model alone, one picture alone
FINALISTS, ROUNDS = 2, 3
# On probabilities, alone against in a batch: the project's rule of tolerance (docs/decisions.md, 6).
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-3}


class Cell(NamedTuple):
    """What one figure is of; `part` is all, decode or model."""

    part: str
    layout: str
    batch: int
    decoding: str
    spinning: bool

    def __str__(self) -> str:
        return f"{self.layout}, batch {self.batch}, {self.decoding} decoding{', spinning' if self.spinning else ''}"


class Choice(NamedTuple):
    """What is swept over."""

    layouts: Sequence[str] = LAYOUTS
    batches: Sequence[int] = BATCHES
    decodings: Sequence[str] = ("exact", "scaled")
    spinning: Sequence[bool] = (False, True)

    @property
    def whole(self) -> bool:
        """Its best is a ceiling; that of a part of it is a figure only."""
        return set(self.layouts) >= set(LAYOUTS) and set(self.batches) >= set(BATCHES)

    def cells(self) -> list[Cell]:
        """All figures to find, decoding alone and the model alone first."""
        found = []
        for layout in dict.fromkeys("together" if each == "ahead" else each for each in self.layouts):  # alike in their parts
            found += [Cell("decode", layout, max(self.batches), decoding, False) for decoding in self.decodings]
            found += [Cell("model", layout, batch, self.decodings[0], spins)
                      for batch in self.batches for spins in self._spins(layout)]  # fmt: skip
        found += [Cell("all", layout, batch, decoding, spins) for decoding in self.decodings for layout in self.layouts
                  for batch in self.batches for spins in self._spins(layout)]
        return found

    def _spins(self, layout: str) -> Sequence[bool]:
        return self.spinning if layout in SPUN else (False,)


class Sweep:
    """Measures the cells of a choice.

    Attributes:
        rates: photos a second.
        answers: of each photo, in the order of the photos; of cells whose part is all.
        reference: a decoding → (photos, classes) probabilities of each photo alone.
    """

    def __init__(self, machine: Machine, choice: Choice, seconds: float) -> None:
        """Classify each photo alone, as what the others are held against.

        Args:
            seconds: of a cell.
        Raises:
            ClickException: a photo can't be decoded, or the model be run.
        """
        self.choice = choice
        self.rates: dict[Cell, float] = {}
        self.answers: dict[Cell, list[Answer]] = {}
        self.reference = {decoding: machine.reference(decoding) for decoding in choice.decodings}
        self._machine, self._seconds = machine, seconds
        self._tolerance = TOLERANCE.get(machine.model().recipe.precision, TOLERANCE["fp32"])
        self._settled: list[Cell] = []

    def run(self) -> None:
        """Every cell once; of a whole choice the best ones again, in turns: medians of these count.

        Raises:
            ClickException: an answer is not the photo's own, or a process of the layouts fails.
        """
        cells = self.choice.cells()
        again = len(self.choice.decodings) * (FINALISTS + 1) + 1 if self.choice.whole else 0
        with click.progressbar(length=len(cells) + ROUNDS * again, label="measuring", file=sys.stderr,
                               hidden=not sys.stderr.isatty()) as bar:
            self.rates = self._round(cells, bar.update)
            if again:
                finalists = [*self._finalists()]
                rounds = [self._round(finalists, bar.update) for _ in range(ROUNDS)]
                self.rates |= {cell: statistics.median(each[cell] for each in rounds) for cell in finalists}
                self._settled = finalists

    def best(self, part: str, **wanted: Any) -> Cell:
        """The quickest cell of a part whose fields are as wanted; among those measured again if there are such."""
        def among(cells: Iterable[Cell]) -> list[Cell]:
            return [cell for cell in cells if cell.part == part and all(getattr(cell, key) == wanted[key] for key in wanted)]

        return max(among(self._settled) or among(self.rates), key=self.rates.__getitem__)

    def floor(self, decoding: str) -> float:
        """Photos a second that the best must reach."""
        decode, model = self.best("decode", decoding=decoding), self.best("model")
        return floor(self.rates[decode], self.rates[model])

    def _finalists(self) -> Iterator[Cell]:
        for decoding in self.choice.decodings:
            own = [cell for cell in self.rates if cell.part == "all" and cell.decoding == decoding]
            yield from sorted(own, key=self.rates.__getitem__, reverse=True)[:FINALISTS]
            yield self.best("decode", decoding=decoding)
        yield self.best("model")

    def _round(self, cells: Sequence[Cell], tick: Callable[[int], object]) -> dict[Cell, float]:
        found = {}
        for cell in cells:
            found[cell] = self._measure(cell)
            tick(1)
        return found

    def _measure(self, cell: Cell) -> float:
        seconds = self._seconds if cell.part == "all" else min(self._seconds, PART_S)
        found = self._machine.measure(cell.layout, cell.spinning, Task(cell.part, cell.batch, cell.decoding, seconds))
        compare(found.answers, self.reference[cell.decoding], self._tolerance, str(cell))
        if cell.part == "all":
            self.answers[cell] = [found.answers[photo] for photo in range(len(self.reference[cell.decoding]))]
        return found.images_per_s


def floor(decode: float, model: float) -> float:
    """Photos a second that a ceiling must reach, from those of decoding alone and of the model alone."""
    return SHARE / (1 / decode + 1 / model)


def compare(answers: Mapping[int, Answer], reference: NDArray[np.float32], tolerance: float, name: str) -> None:
    """Hold answers against each photo alone: the same five classes in the same order, but for ties within the tolerance.

    Args:
        answers: by the number of the photo.
        reference: (photos, classes) probabilities.
        tolerance: of a probability, absolute.
        name: whose answers these are.
    Raises:
        ClickException: one is different.
    """
    for photo, (classes, scores) in answers.items():
        alone = reference[photo]
        found, best = np.asarray(scores), np.sort(alone)[::-1][: len(classes)]
        # Each class has the probability that it has alone, and each rank the one that belongs there.
        if not ((np.abs(found - alone[[*classes]]) <= tolerance) & (np.abs(found - best) <= tolerance)).all():
            expected = np.argsort(-alone, kind="stable")[: len(classes)].tolist()
            raise click.ClickException(
                f"{name}: photo {photo + 1} gets the classes {[*classes]} with {_written(scores)}; expected {expected} with "
                f"{_written(best)}, as alone")


def _written(values: Iterable[float]) -> str:
    return f"[{', '.join(f'{value:.6f}' for value in values)}]"
