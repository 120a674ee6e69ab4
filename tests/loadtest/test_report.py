"""From rounds to rows and a table."""

from __future__ import annotations

import json
import math

from loadtest import report, targets
from loadtest.targets import DEFAULT, INT8, START
from loadtest.wrk import Load


def run(rate: float, ceiling: float, p50: float = 10.0, p99: float = 20.0, errors: int = 0, one: float | None = 8.0,
        **sizes: int) -> report.Run:
    return report.Run(Load(rate, p50, p99, 500, errors, "1 refused: 503" if errors else None, 0.02), ceiling, one,
                      {name[1:]: count for name, count in sizes.items()})


def test_ratios_are_paired_within_their_round():
    """On a machine that slows down for a minute, the ratio of two medians would be of different minutes."""
    row = report.load_row(INT8, "32", 32, [run(90, 100), run(40, 50), run(200, 100)])
    assert row["measures"]["ratio"] == {"median": 0.9, "least": 0.8, "greatest": 2.0, "rounds": [0.9, 0.8, 2.0]}
    assert row["images_per_s"]["median"] == 90
    assert [*row["measures"]] == ["ratio"]


def test_one_connection_is_held_against_one_picture():
    """Of each round's own, or not at all."""
    row = report.load_row(INT8, "1", 1, [run(90, 100, p50=8.8), run(90, 100, p50=8.0, one=10.0)])
    assert row["measures"]["alone"]["rounds"] == [1.1, 0.8]
    assert math.isnan(report.figures([report.load_row(INT8, "1", 1, [run(90, 100, one=None)])])[INT8, "1", "alone"])


def test_the_tail_of_a_full_queue_is_held_against_its_fair_share():
    """256 at 128 a second: a turn comes every 2 s."""
    row = report.load_row(INT8, "256", 256, [run(128, 128, p99=2500.0)])
    assert row["measures"]["tail"]["median"] == 1.25


def test_errors_and_batches_of_all_rounds_are_added():
    """One failure in three rounds is a failure."""
    row = report.load_row(INT8, "8", 8, [run(90, 100, _1=2, _16=5), run(90, 100, errors=1, _2=1, _16=1)])
    assert row["errors"] == 1
    assert row["problem"] == "1 refused: 503"
    assert row["batch_sizes"] == {"1": 2, "2": 1, "16": 6}
    assert targets.missed(report.figures([row])) == ["alexnet-int8, 8 connections: refused or failed is 1; must be at most 0"]


def test_a_service_that_answered_nothing_misses_and_is_still_json():
    """NaN is no JSON, and None no median."""
    row = report.load_row(INT8, "256", 256, [run(0, 100, math.nan, math.nan), run(50, 100)])
    assert json.loads(json.dumps(row, allow_nan=False))["p99_ms"] == {
        "median": None, "least": None, "greatest": None, "rounds": [None, 20.0]}
    assert len(targets.missed(report.figures([row]))) == 2
    assert "| none |" in report.table([row])


def test_the_table_has_a_line_for_each_promise_and_its_verdict():
    """Must, aim and what was found stand side by side."""
    rows = [report.plain_row(DEFAULT, START, {"ready": [1.0, 0.5, 0.75]}),
            report.load_row(INT8, "8", 8, [run(80, 100), run(95, 100), run(85, 100)]),
            report.load_row(INT8, "256", 256, [run(128, 100, p99=3000.0)])]  # fmt: skip
    lines = report.table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| default | start |  |  |  |  | start to ready | 0.75 s (0.50 s–1.00 s) |  |  |  |"
    assert lines[3] == ("| alexnet-int8 | 8 | 85.0 (80.0–95.0) | 10.0 ms | 20.0 ms | 0 | images/s ÷ ceiling | 0.85 (0.80–0.95) "
                        "| 0.78 | 0.90 | met |")
    assert lines[4].endswith("| images/s ÷ ceiling | 1.28 | 0.95 |  | met |")
    assert lines[5] == "| alexnet-int8 | 256 |  |  |  |  | p99 ÷ (256 ÷ rate) | 1.50 | 1.30 |  | missed |"
