"""From rounds to rows and a table."""

from __future__ import annotations

import json
import math

from loadtest import report, targets
from loadtest.targets import AMX, DEFAULT, INT8, PLAIN, START
from loadtest.wrk import Load


def run(rate: float, ceiling: float, p50: float = 10.0, p99: float = 20.0, errors: int = 0, one: float | None = 8.0,
        cpu: float | None = None, **sizes: int) -> report.Run:
    return report.Run(Load(rate, p50, p99, 500, errors, "1 refused: 503" if errors else None, 0.02), ceiling,
                      cpu or ceiling, one,
                      {name[1:]: count for name, count in sizes.items()})


def test_ratios_are_paired_within_their_round():
    """On a machine that slows down for a minute, the ratio of two medians would be of different minutes."""
    row = report.load_row(INT8, "32", 32, [run(90, 100), run(40, 50), run(200, 100)])
    assert row["measures"]["ratio"] == {"median": 0.9, "least": 0.8, "greatest": 2.0, "rounds": [0.9, 0.8, 2.0]}
    assert row["images_per_s"]["median"] == 90
    assert [*row["measures"]] == ["ratio", "cpu ratio"]


def test_the_cpu_provider_s_ceiling_has_a_ratio_of_its_own():
    """A fast engine must not hide a slow front end, nor a slow engine a high ratio."""
    row = report.load_row(INT8, "32", 32, [run(90, 100, cpu=45), run(40, 50, cpu=40), run(200, 100, cpu=50)])
    assert row["measures"]["ratio"]["rounds"] == [0.9, 0.8, 2.0]
    assert row["measures"]["cpu ratio"]["rounds"] == [2.0, 1.0, 4.0]


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
    assert targets.missed(report.figures([row]), PLAIN) == [
        "alexnet-int8, 8 connections: refused or failed is 1; must be at most 0"]


def test_a_service_that_answered_nothing_misses_and_is_still_json():
    """NaN is no JSON, and None no median."""
    row = report.load_row(INT8, "256", 256, [run(0, 100, math.nan, math.nan), run(50, 100)])
    assert json.loads(json.dumps(row, allow_nan=False))["p99_ms"] == {
        "median": None, "least": None, "greatest": None, "rounds": [None, 20.0]}
    assert len(targets.missed(report.figures([row]), PLAIN)) == 2
    assert "| none |" in report.table([row], PLAIN)


def test_the_table_has_a_line_for_each_promise_and_its_verdict():
    """Must, aim and what was found stand side by side; both ratios and what the model ran in beside the load."""
    rows = [report.plain_row(DEFAULT, START, {"ready": [1.0, 0.5, 0.75]}),
            report.load_row(INT8, "8", 8, [run(80, 100, cpu=80), run(95, 100, cpu=95), run(85, 100, cpu=50)]),
            report.load_row(INT8, "256", 256, [run(128, 100, p99=3000.0)]),
            report.load_row(DEFAULT, "8", 8, [run(90, 100)])]  # fmt: skip
    for row in rows:
        row["engine"] = "openvino, int8"
    lines = report.table(rows, AMX).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == ("| default | openvino, int8 | start |  |  |  |  |  |  | start to ready | 0.75 s (0.50 s–1.00 s) "
                        "| 0.80 s | 0.50 s | met |")  # fmt: skip
    assert lines[3] == ("| alexnet-int8 | openvino, int8 | 8 | 85.0 (80.0–95.0) | 10.0 ms | 20.0 ms | 0 | 0.85 | 1.00 "
                        "| images/s ÷ ceiling | 0.85 (0.80–0.95) | 1.05 |  | missed |")  # fmt: skip
    assert lines[4].endswith("| 1.28 | 1.28 | p99 ÷ (256 ÷ rate) | 1.50 | 1.30 |  | missed |")
    assert lines[5].endswith("| 0.90 | 0.90 |  |  |  |  |  |")  # promised nothing: its ratios stand in their columns
    plain = report.table(rows, PLAIN).splitlines()
    assert plain[3].endswith("| images/s ÷ the CPU provider's ceiling | 1.00 (1.00–1.70) | 0.89 |  | met |")


def test_the_machine_is_named_with_whose_targets_hold():
    """A verdict without its machine says nothing."""
    machine = {"processor": "AMD EPYC", "cpus": 2, "sort": "AVX-512 VNNI", "features": ["avx2"], "kind": PLAIN,
               "reason": "no AMX"}
    assert report.machine_words(machine) == (
        "AMD EPYC, 2 cores, AVX-512 VNNI (avx2); the targets are those of a machine without AMX: no AMX")
