"""Which figures count, and which answers pass: without a clock, on rates that are written down."""

from __future__ import annotations

from types import SimpleNamespace

import click
import numpy as np
import pytest

from loadtest import sweep
from loadtest.inprocess import Answer
from loadtest.layouts import Found, Task
from loadtest.sweep import Cell, Choice, Sweep

ALONE = np.array([[0.1, 0.4, 0.3, 0.15, 0.03, 0.02]], np.float32)
RIGHT = {0: Answer((1, 2, 3, 0, 4), (0.4, 0.3, 0.15, 0.1, 0.03))}


class Written:
    """A machine whose rates are written down; those that are measured again may be others."""

    def __init__(self, first: dict[tuple[str, str, int], float], again: dict[tuple[str, str, int], list[float]] | None = None):
        self.first, self.again, self.asked = first, again or {}, list[Cell]()

    def model(self) -> SimpleNamespace:
        return SimpleNamespace(recipe=SimpleNamespace(precision="fp32"))

    def reference(self, decoding: str) -> np.ndarray:
        return ALONE

    def measure(self, layout: str, spinning: bool, task: Task) -> Found:
        cell = Cell(task.part, layout, task.batch, task.decoding, spinning)
        seen = self.asked.count(cell)
        self.asked.append(cell)
        key = (task.part, layout, task.batch)
        rate = self.again[key][seen - 1] if seen and key in self.again else self.first.get(key, 1.0)
        return Found(rate, {} if task.part == "decode" else RIGHT)


def swept(machine: Written, choice: Choice) -> Sweep:
    found = Sweep(machine, choice, 0.0)  # type: ignore[arg-type]
    found.run()
    return found


def test_every_layout_and_batch_is_swept_and_spinning_tried_where_it_matters():
    """A ceiling that forgets a layout is too low."""
    cells = Choice().cells()
    whole = [cell for cell in cells if cell.part == "all"]
    assert {(cell.layout, cell.batch, cell.decoding) for cell in whole} == {
        (layout, batch, decoding) for layout in ("threads", "processes", "together", "ahead") for batch in (4, 8, 16, 32)
        for decoding in ("exact", "scaled")}
    assert {cell.layout for cell in whole if cell.spinning} == {"together", "ahead"}
    assert {cell.batch for cell in cells if cell.part == "model"} == {4, 8, 16, 32}
    assert len(cells) == len({*cells})


def test_the_best_are_measured_again_and_medians_count():
    """The highest of many noisy figures is too high; no service would ever reach it."""
    first = {("all", "threads", 8): 90.0, ("all", "ahead", 16): 80.0,
             ("decode", "processes", 32): 200.0, ("model", "threads", 4): 100.0}
    again = {("all", "threads", 8): [50.0, 70.0, 60.0], ("all", "ahead", 16): [65.0, 64.0, 99.0],
             ("decode", "processes", 32): [180.0, 210.0, 190.0]}
    found = swept(Written(first, again), Choice(decodings=["exact"], spinning=[False]))
    assert found.best("all", decoding="exact")[1:3] == ("ahead", 16)
    assert found.rates[found.best("all", decoding="exact")] == 65.0
    assert found.floor("exact") == pytest.approx(0.9 / (1 / 190 + 1 / 100))


def test_one_cell_is_measured_once():
    """`make bench` asks for it between two loads: nothing else may take its time."""
    machine = Written({("all", "threads", 8): 90.0})
    found = swept(machine, Choice(["threads"], [8], ["exact"]))
    assert machine.asked == [Cell(part, "threads", 8, "exact", False) for part in ("decode", "model", "all")]
    assert found.rates[machine.asked[-1]] == 90.0


@pytest.mark.parametrize("answer", [
    pytest.param(RIGHT[0], id="the same"),
    pytest.param(Answer((1, 2, 3, 0, 4), (0.400005, 0.299995, 0.15, 0.1, 0.03)), id="within the tolerance"),
])  # fmt: skip
def test_the_same_answers_pass(answer):
    """Sums in another order differ in the last digits."""
    sweep.compare({0: answer}, ALONE, 1e-5, "threads")


def test_ties_may_come_in_any_order():
    """Two classes of equal probability have no order."""
    sweep.compare({0: Answer((1, 0), (0.5, 0.5))}, np.array([[0.5, 0.5]], np.float32), 1e-5, "threads")


@pytest.mark.parametrize("answer", [
    pytest.param(Answer((5, 2, 3, 0, 4), (0.4, 0.3, 0.15, 0.1, 0.03)), id="another class"),
    pytest.param(Answer((2, 1, 3, 0, 4), (0.3, 0.4, 0.15, 0.1, 0.03)), id="another order"),
    pytest.param(Answer((1, 2, 3, 0, 5), (0.4, 0.3, 0.15, 0.1, 0.02)), id="the sixth for the fifth"),
    pytest.param(Answer((1, 2, 3, 0, 4), (0.41, 0.3, 0.15, 0.1, 0.03)), id="another probability"),
    pytest.param(Answer((1, 2, 3, 0, 4), (float("nan"), 0.3, 0.15, 0.1, 0.03)), id="no number"),
])  # fmt: skip
def test_other_answers_fail(answer):
    """A layout that mixes up its photos would be a quick ceiling of nothing."""
    with pytest.raises(click.ClickException, match=r"threads: photo 1 gets .* expected \[1, 2, 3, 0, 4\] with \[0.400000"):
        sweep.compare({0: answer}, ALONE, 1e-5, "threads")


def test_a_sweep_compares_each_cell():
    """Each with the photos alone, by its own decoding."""
    machine = Written({})
    machine.reference = lambda decoding: ALONE if decoding == "exact" else ALONE[:, ::-1]  # type: ignore[method-assign]
    swept(machine, Choice(["ahead"], [4], ["exact"]))
    with pytest.raises(click.ClickException, match=r"ahead, batch 4, scaled decoding: photo 1"):
        swept(machine, Choice(["ahead"], [4], ["exact", "scaled"]))


def test_the_answers_are_kept_by_cell():
    """They are what `--answers` writes."""
    found = swept(Written({}), Choice(["threads", "together"], [4], ["exact"], [False]))
    assert {cell.layout for cell in found.answers} == {"threads", "together"}
    assert [*found.answers.values()] == [[RIGHT[0]]] * 2
