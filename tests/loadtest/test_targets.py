"""What is promised about speed, and the verdict on figures."""

from __future__ import annotations

import math

import pytest

from loadtest import targets
from loadtest.targets import DEFAULT, FP32, INT8, LARGE, START, TWO_WORKERS


@pytest.mark.parametrize(("row", "must", "aim"), [
    ((INT8, "32", "ratio"), 0.96, 1.1), ((INT8, "8", "ratio"), 0.78, 0.9), ((INT8, "1", "alone"), 1.09, 1.04),
    ((INT8, "256", "ratio"), 0.95, None), ((INT8, "256", "tail"), 1.3, None), ((INT8, LARGE, "ratio"), 1.5, 2.0),
    ((FP32, "32", "ratio"), 0.96, 1.0), ((FP32, "8", "ratio"), 0.8, 0.9), ((FP32, "1", "alone"), 1.07, 1.03),
    ((FP32, TWO_WORKERS, "pss"), 450, 380), ((FP32, TWO_WORKERS, "further"), 90, None), ((FP32, START, "ready"), 1.2, 0.7),
    ((DEFAULT, "32", "ratio"), 1.1, 1.4), ((DEFAULT, "8", "errors"), 0, None),
])  # fmt: skip
def test_every_promise_is_there(row, must, aim):
    """A row that is left out is never missed."""
    target = targets.of(*row)
    assert target is not None
    assert (target.must, target.aim) == (must, aim)


def test_nothing_else_is_promised():
    """Each of the list above, and no second one for the same figure."""
    assert len({each[:3] for each in targets.TARGETS}) == len(targets.TARGETS) == 13
    assert targets.of(DEFAULT, "1", "alone") is None


@pytest.mark.parametrize("each", targets.TARGETS, ids=lambda each: f"{each.model} {each.load} {each.measure}")
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
    """Who reads it wants to know how far away it is."""
    found = {(INT8, "8", "ratio"): 0.71, (INT8, "32", "ratio"): 0.97, (FP32, TWO_WORKERS, "pss"): 512.0,
             (DEFAULT, "32", "errors"): 3.0, (DEFAULT, "1", "ratio"): 0.1, (INT8, "1", "alone"): math.nan}  # fmt: skip
    assert targets.missed(found) == [
        "alexnet-int8, 8 connections: images/s ÷ ceiling is 0.71; must be at least 0.78",
        "alexnet, two workers: peak PSS is 512 MB; must be at most 450 MB",
        "default, 32 connections: refused or failed is 3; must be at most 0",
        "alexnet-int8, 1 connection: p50 ÷ one picture in process is none; must be at most 1.09",
    ]


def test_a_promise_without_a_figure_is_told_for_the_models_at_hand():
    """A bench that skips a row must not pass for it."""
    assert targets.unmeasured({}, [DEFAULT]) == ["default, 32 connections: images/s ÷ ceiling was not measured"]
    assert targets.unmeasured({(DEFAULT, "32", "ratio"): 0.0}, [DEFAULT]) == []
