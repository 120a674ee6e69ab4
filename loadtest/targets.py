"""What `make bench` has to find: the project's promises about speed, a row an entry, in this place alone.

All hold for one configuration, the one that `make run` plans. Ratios are to what the same machine does in the same minutes
without HTTP (`loadtest/limit.py`), so that they mean the same on a slow machine and on a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DEFAULT, FP32, INT8 = "default", "alexnet", "alexnet-int8"  # the models of a bench, in short
LARGE = "8 (12 MP)"  # connections, and the size of what they send
TWO_WORKERS, START = "two workers", "start"


class Measure(NamedTuple):
    """What is held against a target.

    Attributes:
        words: for the table.
        form: how a figure is written.
        at_least: larger is better.
    """

    words: str
    form: str
    at_least: bool


MEASURES = {
    "ratio": Measure("images/s ÷ ceiling", "{:.2f}", True),
    "alone": Measure("p50 ÷ one picture in process", "{:.2f}", False),
    "tail": Measure("p99 ÷ (256 ÷ rate)", "{:.2f}", False),
    "errors": Measure("refused or failed", "{:,.0f}", False),
    "pss": Measure("peak PSS", "{:,.0f} MB", False),
    "further": Measure("PSS of a further worker", "{:,.0f} MB", False),
    "loaded": Measure("PSS once all is loaded", "{:,.0f} MB", False),
    "further loaded": Measure("PSS of a further worker once all is loaded", "{:,.0f} MB", False),
    "ready": Measure("start to ready", "{:.2f} s", False),
}


class Target(NamedTuple):
    """One promise.

    Attributes:
        model: DEFAULT, FP32 or INT8.
        load: number of connections as text, LARGE, TWO_WORKERS or START.
        measure: a key of MEASURES.
        must: what has to be reached, by the median of the rounds.
        aim: what is hoped for; None if nothing beyond.
    """

    model: str
    load: str
    measure: str
    must: float
    aim: float | None = None

    def met(self, value: float) -> bool:
        """The figure is as good as it must be; one that is not a number never is."""
        return self.reached(value, self.must)

    def reached(self, value: float, goal: float) -> bool:
        """The figure is as good as this goal."""
        return value >= goal if MEASURES[self.measure].at_least else value <= goal


TARGETS = (
    Target(INT8, "32", "ratio", 0.96, 1.1),
    Target(INT8, "8", "ratio", 0.78, 0.9),
    Target(INT8, "1", "alone", 1.09, 1.04),
    Target(INT8, "256", "ratio", 0.95),
    Target(INT8, "256", "tail", 1.3),
    Target(INT8, LARGE, "ratio", 1.5, 2.0),
    Target(FP32, "32", "ratio", 0.96, 1.0),
    Target(FP32, "8", "ratio", 0.8, 0.9),
    Target(FP32, "1", "alone", 1.07, 1.03),
    Target(FP32, TWO_WORKERS, "pss", 450.0, 380.0),
    Target(FP32, TWO_WORKERS, "further", 90.0),
    Target(FP32, START, "ready", 1.2, 0.7),
    Target(DEFAULT, "32", "ratio", 1.1, 1.4),
)

Figures = Mapping[tuple[str, str, str], float]  # (model, load, measure) → median of the rounds


def of(model: str, load: str, measure: str) -> Target | None:
    """What was promised about it; None if nothing was. Nothing may be refused or fail, whatever the load."""
    if measure == "errors":
        return Target(model, load, measure, 0.0)
    return next((each for each in TARGETS if each[:3] == (model, load, measure)), None)


def missed(figures: Figures) -> list[str]:
    """A sentence for each figure that misses what it must reach."""
    found = []
    for (model, load, measure), value in figures.items():
        target = of(model, load, measure)
        if target and not target.met(value):
            least = "least" if MEASURES[measure].at_least else "most"
            found.append(f"{named(model, load)}: {MEASURES[measure].words} is {written(measure, value)}; "
                         f"must be at {least} {written(measure, target.must)}")
    return found


def unmeasured(figures: Figures, models: Sequence[str]) -> list[str]:
    """Promises about these models that no figure speaks of."""
    return [f"{named(each.model, each.load)}: {MEASURES[each.measure].words} was not measured"
            for each in TARGETS if each.model in models and each[:3] not in figures]


def written(measure: str, value: float) -> str:
    """A figure in its unit."""
    return "none" if math.isnan(value) else MEASURES[measure].form.format(value)


def named(model: str, load: str) -> str:
    """A row in words."""
    if load in (TWO_WORKERS, START):
        return f"{model}, {load}"
    return f"{model}, {load}{'' if load == LARGE else ' connection' if load == '1' else ' connections'}"
