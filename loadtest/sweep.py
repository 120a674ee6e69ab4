"""The figures behind a ceiling: each layout, engine, batch size and decoding in turn, then the best of them again and in turns.

In each layout the model alone decides which engine goes on beside the CPU provider, whose own ceiling is always found.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from loadtest.engines import Engine
from loadtest.inprocess import Answer
from loadtest.layouts import LAYOUTS, SPUN, Task
from loadtest.machine import Machine

BATCHES = (4, 8, 16, 32)
SHARE = 0.9  # of decoding and model one after the other, each at its best
PART_S = 2.0  # at most, for decoding alone, the model alone, one picture alone
FINALISTS, ROUNDS = 2, 3
# On probabilities, alone against in a batch: the project's rule of tolerance (docs/decisions.md, 6). bf16 keeps three bits
# less than fp16, which makes its steps 8 times as large.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2, "int8": 2e-3}


class Cell(NamedTuple):
    """What one figure is of; `part` is all, decode or model."""

    part: str
    layout: str
    batch: int
    decoding: str
    spinning: bool
    engine: Engine

    def __str__(self) -> str:
        return (f"{self.layout}, batch {self.batch}, {self.decoding} decoding{', spinning' if self.spinning else ''}, "
                f"{self.engine}")


class Choice(NamedTuple):
    """What is swept over.

    Attributes:
        engines: the CPU provider first, unless another one alone is wanted.
        parts: measure decoding alone and the model alone, even where nothing is decided by them.
    """

    engines: Sequence[Engine]
    layouts: Sequence[str] = LAYOUTS
    batches: Sequence[int] = BATCHES
    decodings: Sequence[str] = ("exact", "scaled")
    spinning: Sequence[bool] = (False, True)
    parts: bool = True

    @property
    def whole(self) -> bool:
        """Its best is a ceiling; that of a part of it is a figure only."""
        return set(self.layouts) >= set(LAYOUTS) and set(self.batches) >= set(BATCHES)

    def part_cells(self) -> list[Cell]:
        """Decoding alone and the model alone, by each engine."""
        found = []
        for layout in dict.fromkeys(_alike(each) for each in self.layouts):
            found += [Cell("decode", layout, max(self.batches), decoding, False, self.engines[0]) for decoding in self.decodings]
            found += [Cell("model", layout, batch, self.decodings[0], spins, engine) for engine in self.engines
                      for batch in self.batches for spins in self._spins(layout, engine)]  # fmt: skip
        return found

    def whole_cells(self, engines: Callable[[str], Sequence[Engine]]) -> list[Cell]:
        """All of it together, by the engines that each layout goes on with."""
        return [Cell("all", layout, batch, decoding, spins, engine) for decoding in self.decodings for layout in self.layouts
                for engine in engines(layout) for batch in self.batches for spins in self._spins(layout, engine)]

    def _spins(self, layout: str, engine: Engine) -> Sequence[bool]:
        return self.spinning if layout in SPUN and engine.provider == "cpu" else (False,)


class Sweep:
    """Measures the cells of a choice.

    Attributes:
        rates: photos a second.
        answers: of each photo, in the order of the photos; of cells whose part is all.
        reference: an engine and a decoding → (photos, classes) probabilities of each photo alone.
        left_out: engines whose answers aren't those of the CPU provider, and why.
    """

    def __init__(self, machine: Machine, choice: Choice, seconds: float) -> None:
        """Classify each photo alone, as what the others are held against.

        Args:
            seconds: of a cell.
        Raises:
            ClickException: a photo can't be decoded, or the model be run.
        """
        self.rates: dict[Cell, float] = {}
        self.answers: dict[Cell, list[Answer]] = {}
        self.reference = {(engine, decoding): machine.reference(engine, decoding)
                          for engine in choice.engines for decoding in choice.decodings}  # fmt: skip
        self.left_out: list[str] = []
        self._machine, self._seconds = machine, seconds
        self._settled: list[Cell] = []
        self.choice = choice._replace(engines=[engine for engine in choice.engines if self._agrees(choice.engines[0], engine)])

    def run(self) -> None:
        """Every cell once; of a whole choice the best ones again, in turns: medians of these count.

        Raises:
            ClickException: an answer is not the photo's own, or a process of the layouts fails.
        """
        choice = self.choice
        parts = choice.part_cells() if choice.parts or choice.whole or len(choice.engines) > 1 else []
        most = len(choice.whole_cells(lambda _: choice.engines[:2]))
        again = len(choice.decodings) * (2 * FINALISTS + 1) + 2 if choice.whole else 0
        with click.progressbar(length=len(parts) + most + ROUNDS * again, label="measuring", file=sys.stderr,
                               hidden=not sys.stderr.isatty()) as bar:
            self.rates = self._round(parts, bar.update)
            self.rates |= self._round(choice.whole_cells(self._engines), bar.update)
            if again:
                finalists = [*dict.fromkeys(self._finalists())]
                rounds = [self._round(finalists, bar.update) for _ in range(ROUNDS)]
                self.rates |= {cell: statistics.median(each[cell] for each in rounds) for cell in finalists}
                self._settled = finalists

    def best(self, part: str, **wanted: Any) -> Cell | None:
        """The quickest cell of a part whose fields are as wanted; among those measured again if there are such."""
        def among(cells: Iterable[Cell]) -> list[Cell]:
            return [cell for cell in cells if cell.part == part and all(getattr(cell, key) == wanted[key] for key in wanted)]

        return max(among(self._settled) or among(self.rates), key=self.rates.__getitem__, default=None)

    def floor(self, decoding: str, **wanted: Any) -> float | None:
        """Photos a second that the best must reach; None where the parts weren't measured."""
        decode, model = self.best("decode", decoding=decoding), self.best("model", **wanted)
        return floor(self.rates[decode], self.rates[model]) if decode and model else None

    def _agrees(self, first: Engine, engine: Engine) -> bool:
        """In fp32 an engine must give the CPU provider's probabilities; other precisions are the gates' business."""
        if engine == first or engine.precision != "fp32":
            return True
        apart = max(float(np.abs(self.reference[engine, decoding] - self.reference[first, decoding]).max())
                    for (_, decoding) in self.reference)  # fmt: skip
        if agrees := apart <= TOLERANCE["fp32"]:
            return agrees
        self.left_out.append(f"{engine}: probabilities are {apart:.1e} from those of the CPU provider; "
                             f"expected at most {TOLERANCE['fp32']:g}")
        return False

    def _engines(self, layout: str) -> list[Engine]:
        """The CPU provider, and of the others the one that is quickest with the model alone."""
        first, *others = self.choice.engines
        if not others:
            return [first]
        return [first, max(others, key=lambda each: self.rates[self._sure("model", layout=_alike(layout), engine=each)])]

    def _sure(self, part: str, **wanted: Any) -> Cell:
        """`best` of what has been measured."""
        found = self.best(part, **wanted)
        assert found is not None
        return found

    def _finalists(self) -> Iterator[Cell]:
        first = self.choice.engines[0]
        for decoding in self.choice.decodings:
            own = [cell for cell in self.rates if cell.part == "all" and cell.decoding == decoding]
            own.sort(key=self.rates.__getitem__, reverse=True)
            yield from own[:FINALISTS]
            yield from [cell for cell in own if cell.engine == first][:FINALISTS]
            yield self._sure("decode", decoding=decoding)
        yield self._sure("model")
        yield self._sure("model", engine=first)

    def _round(self, cells: Sequence[Cell], tick: Callable[[int], object]) -> dict[Cell, float]:
        found = {}
        for cell in cells:
            found[cell] = self._measure(cell)
            tick(1)
        return found

    def _measure(self, cell: Cell) -> float:
        seconds = self._seconds if cell.part == "all" else min(self._seconds, PART_S)
        task, alone = Task(cell.part, cell.batch, cell.decoding, seconds), self.reference[cell.engine, cell.decoding]
        found = self._machine.measure(cell.layout, cell.engine, cell.spinning, task)
        compare(found.answers, alone, TOLERANCE.get(cell.engine.precision, TOLERANCE["fp32"]), str(cell))
        if cell.part == "all":
            self.answers[cell] = [found.answers[photo] for photo in range(len(alone))]
        return found.images_per_s


def _alike(layout: str) -> str:
    """The layout that does decoding alone and the model alone in the same way."""
    return "together" if layout == "ahead" else layout


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
