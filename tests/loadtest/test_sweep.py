"""Which figures count, and which answers pass: without a clock, on rates that are written down."""

from __future__ import annotations

import click
import numpy as np
import pytest

from loadtest import sweep
from loadtest.engines import Engine
from loadtest.inprocess import Answer
from loadtest.layouts import Found, Task
from loadtest.sweep import Cell, Choice, Sweep

ALONE = np.array([[0.1, 0.4, 0.3, 0.15, 0.03, 0.02]], np.float32)
CPU, F32, BF16 = Engine("cpu", "fp32"), Engine("openvino", "fp32"), Engine("openvino", "bf16")
RIGHT = {0: Answer((1, 2, 3, 0, 4), (0.4, 0.3, 0.15, 0.1, 0.03))}


class Written:
    """A machine whose rates are written down; those that are measured again may be others, those of other engines too."""

    def __init__(self, first: dict[tuple[str, str, int], float], again: dict[tuple[str, str, int], list[float]] | None = None,
                 engines: dict[tuple[str, str, Engine], float] | None = None):  # fmt: skip
        self.first, self.again, self.asked = first, again or {}, list[Cell]()
        self.engines, self.alone = engines or {}, dict[Engine, np.ndarray]()

    def reference(self, engine: Engine, decoding: str) -> np.ndarray:
        return self.alone.get(engine, ALONE)

    def measure(self, layout: str, engine: Engine, spinning: bool, task: Task) -> Found:
        cell = Cell(task.part, layout, task.batch, task.decoding, spinning, engine)
        seen = self.asked.count(cell)
        self.asked.append(cell)
        key = (task.part, layout, task.batch)
        rate = self.again[key][seen - 1] if seen and key in self.again else self.first.get(key, 1.0)
        rate = self.engines.get((task.part, layout, engine), rate)
        return Found(rate, {} if task.part == "decode" else RIGHT)


def swept(machine: Written, choice: Choice) -> Sweep:
    found = Sweep(machine, choice, 0.0)  # type: ignore[arg-type]
    found.run()
    return found


def test_every_layout_and_batch_is_swept_and_spinning_tried_where_it_matters():
    """A ceiling that forgets a layout is too low."""
    choice = Choice([CPU])
    cells = choice.part_cells() + choice.whole_cells(lambda _: [CPU])
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
    found = swept(Written(first, again), Choice([CPU], decodings=["exact"], spinning=[False]))
    assert found.best("all", decoding="exact")[1:3] == ("ahead", 16)
    assert found.rates[found.best("all", decoding="exact")] == 65.0
    assert found.floor("exact") == pytest.approx(0.9 / (1 / 190 + 1 / 100))


def test_one_cell_is_measured_once():
    """`make bench` asks for it between two loads: nothing else may take its time."""
    machine = Written({("all", "threads", 8): 90.0})
    found = swept(machine, Choice([CPU], ["threads"], [8], ["exact"]))
    assert machine.asked == [Cell(part, "threads", 8, "exact", False, CPU) for part in ("decode", "model", "all")]
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
    machine.reference = lambda _, decoding: ALONE if decoding == "exact" else ALONE[:, ::-1]  # type: ignore[method-assign]
    swept(machine, Choice([CPU], ["ahead"], [4], ["exact"]))
    with pytest.raises(click.ClickException, match=r"ahead, batch 4, scaled decoding, cpu, fp32: photo 1"):
        swept(machine, Choice([CPU], ["ahead"], [4], ["exact", "scaled"]))


def test_the_answers_are_kept_by_cell():
    """They are what `--answers` writes."""
    found = swept(Written({}), Choice([CPU], ["threads", "together"], [4], ["exact"], [False]))
    assert {cell.layout for cell in found.answers} == {"threads", "together"}
    assert [*found.answers.values()] == [[RIGHT[0]]] * 2


def test_each_layout_goes_on_with_its_quickest_engine_and_the_cpu_provider():
    """Three engines in every cell would take too long, and a fast engine must not hide what the CPU provider does."""
    machine = Written({}, engines={
        ("model", "threads", F32): 5.0, ("model", "threads", BF16): 9.0,
        ("model", "together", F32): 9.0, ("model", "together", BF16): 5.0,
        ("all", "threads", BF16): 8.0, ("all", "threads", CPU): 3.0})  # fmt: skip
    found = swept(machine, Choice([CPU, F32, BF16], ["threads", "ahead"], [4], ["exact"], [False]))
    asked = {(cell.layout, cell.engine) for cell in machine.asked if cell.part == "all"}
    assert asked == {("threads", CPU), ("threads", BF16), ("ahead", CPU), ("ahead", F32)}
    assert found.best("all", decoding="exact")[-1] == BF16
    assert found.rates[found.best("all", decoding="exact", engine=CPU)] == 3.0


def test_the_cpu_provider_s_best_is_measured_again_too():
    """Its ceiling is a denominator of its own."""
    machine = Written({("all", "processes", 8): 4.0}, engines={("all", "threads", F32): 8.0, ("all", "ahead", F32): 8.0})
    swept(machine, Choice([CPU, F32], decodings=["exact"], spinning=[False]))
    assert machine.asked.count(Cell("all", "processes", 8, "exact", False, CPU)) == 1 + sweep.ROUNDS


def test_spinning_is_the_cpu_providers_alone():
    """The plugin's threads know no such setting: its cells would be measured twice."""
    cells = Choice([CPU, F32], ["together"], [4], ["exact"]).whole_cells(lambda _: [CPU, F32])
    assert [(cell.engine, cell.spinning) for cell in cells] == [(CPU, False), (CPU, True), (F32, False)]


def test_an_engine_that_is_no_fp32_is_left_out():
    """The plugin computes in bf16 unless told not to: where its answers show that, it would be too fast a ceiling."""
    machine = Written({})
    machine.alone = {F32: ALONE + np.float32(1e-3), BF16: ALONE + np.float32(1e-3)}
    found = Sweep(machine, Choice([CPU, F32, BF16], ["threads"], [4], ["exact"]), 0.0)  # type: ignore[arg-type]
    assert found.choice.engines == [CPU, BF16]  # whose gate has measured that
    assert found.left_out == ["openvino, fp32: probabilities are 1.0e-03 from those of the CPU provider; expected at most 1e-05"]


def test_answers_are_held_against_the_same_engine_s():
    """Each precision has its own answers, and its own tolerance."""
    machine = Written({})
    machine.alone = {BF16: ALONE + np.float32(1e-2)}
    swept(machine, Choice([CPU, BF16], ["threads"], [4], ["exact"]))
    machine.alone = {BF16: ALONE + np.float32(2e-2)}
    with pytest.raises(click.ClickException, match="openvino, bf16: photo 1"):
        swept(machine, Choice([CPU, BF16], ["threads"], [4], ["exact"]))


def test_parts_can_be_left_out_of_one_cell():
    """Between two loads of a bench they decide nothing."""
    machine = Written({})
    found = swept(machine, Choice([CPU], ["threads"], [8], ["exact"], parts=False))
    assert [cell.part for cell in machine.asked] == ["all"]
    assert found.floor("exact") is None
