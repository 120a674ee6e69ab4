"""What is promised about speed, and the verdict on figures."""

from __future__ import annotations

import math

import pytest

from loadtest import targets
from loadtest.targets import AMX, DEFAULT, FP32, INT8, LARGE, MODELS, PLAIN, SMALL, SMALL_INT8, START, TWO_WORKERS

MEMORY = [((SMALL_INT8, TWO_WORKERS, "pss"), 200, None), ((SMALL, TWO_WORKERS, "pss"), 260, None),
          ((DEFAULT, TWO_WORKERS, "pss"), 380, None), ((INT8, TWO_WORKERS, "pss"), 380, None),
          ((FP32, TWO_WORKERS, "pss"), 560, None), *(((model, TWO_WORKERS, "further"), 90, None) for model in MODELS)]
WITH_AMX = [
    ((SMALL_INT8, "8", "ratio"), 1.25, None), ((SMALL_INT8, "32", "ratio"), 1.45, 1.6), ((SMALL_INT8, "256", "ratio"), 1.4, None),
    ((SMALL_INT8, "1", "alone"), 0.95, 0.85), ((INT8, "8", "ratio"), 1.05, None), ((INT8, "32", "ratio"), 1.35, 1.5),
    ((INT8, "1", "alone"), 1.0, 0.95), ((INT8, "256", "tail"), 1.3, None), ((INT8, LARGE, "ratio"), 1.5, 2.0),
    ((FP32, "8", "ratio"), 1.0, None), ((FP32, "32", "ratio"), 1.3, 1.5), ((FP32, "1", "alone"), 1.05, None),
    ((DEFAULT, "32", "ratio"), 1.15, 1.3), ((DEFAULT, "1", "alone"), 1.0, 0.95), ((DEFAULT, START, "ready"), 0.8, 0.5), *MEMORY,
]  # fmt: skip
WITHOUT_AMX = [
    ((INT8, "32", "cpu ratio"), 1.0354, None), ((INT8, "8", "cpu ratio"), 0.89, None), ((INT8, "256", "cpu ratio"), 1.0323, None),
    ((INT8, "256", "tail"), 1.1597, None), ((INT8, LARGE, "cpu ratio"), 2.0222, None), ((INT8, "1", "alone"), 1.0546, None),
    ((FP32, START, "ready"), 0.9518, None), ((DEFAULT, START, "ready"), 0.8045, None),
    ((SMALL_INT8, "32", "cpu ratio"), 0.95, None), ((SMALL_INT8, "8", "cpu ratio"), 0.82, None),
    *(((model, "32", "cpu ratio"), 1.0, None) for model in (DEFAULT, SMALL, FP32)),
    *(((model, "8", "cpu ratio"), 0.8, None) for model in (DEFAULT, SMALL, FP32)),
    *(((model, "1", "alone"), 1.07, None) for model in (DEFAULT, SMALL, FP32)), *MEMORY,
]  # fmt: skip
ROWS = [pytest.param(kind, *each, id=f"{kind}: {' '.join(each[0])}") for kind, some in ((AMX, WITH_AMX), (PLAIN, WITHOUT_AMX))
        for each in some]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "must", "aim"), ROWS)
def test_every_promise_is_there(kind, row, must, aim):
    """A row that is left out is never missed."""
    target = targets.of(kind, *row)
    assert target is not None
    assert (target.must, target.aim) == (pytest.approx(must, abs=1e-4), aim)


@pytest.mark.parametrize(("kind", "rows"), [(AMX, WITH_AMX), (PLAIN, WITHOUT_AMX)])
def test_nothing_else_is_promised(kind, rows):
    """Each of the lists above, and no second one for the same figure; failures in no row at all."""
    assert {each[:3] for each in targets.TARGETS[kind]} == {row for row, *_ in rows}
    assert len(targets.TARGETS[kind]) == len(rows)
    assert targets.of(kind, DEFAULT, "8", "errors").must == 0


@pytest.mark.parametrize("each", [*targets.WITH_AMX, *targets.WITHOUT_AMX], ids=lambda each: " ".join(each[:3]))
def test_the_must_itself_is_enough_and_an_aim_is_beyond_it(each):
    """The sense of each measure, ratio up and latency down, decides on which side."""
    better = 1.01 if targets.MEASURES[each.measure].at_least else 0.99
    assert each.met(each.must)
    assert each.met(each.must * better)
    assert not each.met(each.must / better)
    assert not each.met(math.nan)
    assert each.aim is None or each.met(each.aim)
    assert each.aim is None or not each.reached(each.must, each.aim)


def test_a_miss_is_named_with_both_figures():
    """Who reads it wants to know how far away it is; only the machine's own targets count."""
    found = {(INT8, "8", "cpu ratio"): 0.71, (INT8, "32", "cpu ratio"): 1.04, (FP32, TWO_WORKERS, "pss"): 612.0,
             (DEFAULT, "32", "errors"): 3.0, (DEFAULT, "1", "ratio"): 0.1, (INT8, "1", "alone"): math.nan,
             (INT8, "32", "ratio"): 0.5}  # fmt: skip
    assert targets.missed(found, PLAIN) == [
        "alexnet-int8, 8 connections: images/s ÷ the CPU provider's ceiling is 0.71; must be at least 0.89",
        "alexnet, two workers: peak PSS is 612 MB; must be at most 560 MB",
        "default, 32 connections: refused or failed is 3; must be at most 0",
        "alexnet-int8, 1 connection: p50 ÷ one picture in process is none; must be at most 1.05",
    ]
    assert "alexnet-int8, 32 connections: images/s ÷ ceiling is 0.50; must be at least 1.35" in targets.missed(found, AMX)
    assert not any("the CPU provider's" in each for each in targets.missed(found, AMX))


def test_a_promise_without_a_figure_is_told_for_the_models_at_hand():
    """A bench that skips a row must not pass for it."""
    missing = targets.unmeasured({}, [SMALL_INT8], AMX)
    assert len(missing) == 6
    assert "alexnet64-int8, 32 connections: images/s ÷ ceiling was not measured" in missing
    assert len(targets.unmeasured({(SMALL_INT8, "32", "ratio"): 0.0}, [SMALL_INT8], AMX)) == 5
