"""The search for the knee, on a made-up service whose knee is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import pytest
from click.testing import CliRunner

from loadtest import curve, run
from loadtest.curve import Point

SAID = """\
64 a second, open loop (Poisson), 15 s, 2 cores x86_64
1,234 requests, 63.2 a second, {failed} failed
p50 14 ms, p95 35 ms, p99 1000 ms
means of the phases: decode 2.5 ms
"""


def queue(capacity: float, failures_from: float = 1e9):
    """A service with one server: latency grows as 1 / (1 - load)."""

    def ask(rate: float) -> Point:
        load = min(rate / capacity, 0.999)
        p50 = 10 / (1 - load)
        return Point(rate, rate, 3 if rate >= failures_from else 0, round(p50), round(2 * p50), round(3 * p50))

    return ask


def test_the_rate_doubles_and_then_the_gap_is_halved():
    """Few points far from the knee, many near it."""
    points, knee, why = curve.explore(queue(100), 5, 2048, 3, 15)
    assert [point.rate for point in points] == [5, 10, 20, 40, 60, 70, 75, 80]
    assert knee == 70
    assert why is not None
    assert why.startswith("p99 is")


def test_a_failure_is_the_end_too():
    """Who refuses early keeps its percentiles and serves nobody."""
    points, knee, why = curve.explore(queue(10_000, failures_from=55), 5, 2048, 2, 15)
    assert knee == 50
    assert why == "3 failed"
    assert max(point.rate for point in points) == 80


def test_a_generator_that_cannot_follow_is_told():
    """Its own limit is not the service's; few arrivals may be fewer by chance."""
    slow = Point(100, 70, 0, 10, 20, 30)
    assert curve.beyond(slow, 10, 15) == "only 70.0 a second were sent"
    assert curve.beyond(slow._replace(sent=90), 10, 15) is None
    assert curve.beyond(Point(2, 1.5, 0, 10, 20, 30), 10, 10) is None


def test_without_a_knee_the_highest_rate_is_the_last():
    """The search ends where it was told to."""
    points, knee, why = curve.explore(queue(1e6), 5, 30, 3, 15)
    assert [point.rate for point in points] == [5, 10, 20, 30]
    assert (knee, why) == (None, None)
    assert "no knee up to the highest rate" in curve.table(points, knee, why)


def test_a_knee_below_the_lowest_rate_is_told():
    """Nothing to halve there."""
    points, knee, why = curve.explore(queue(10_000, failures_from=1), 5, 30, 3, 15)
    assert len(points) == 1
    assert knee is None
    assert "no knee: 3 failed at the lowest rate" in curve.table(points, knee, why)


def test_no_answer_at_all_ends_it():
    """There is no unloaded latency to compare with."""
    with pytest.raises(click.ClickException, match="nothing was answered at 5 a second"):
        curve.explore(lambda rate: Point(rate, 0, 0, None, None, None), 5, 30, 3, 15)


def test_points_are_read_from_what_a_run_prints():
    """Those lines are pinned by the tests of `loadtest.run`."""
    assert curve.read(SAID.format(failed=7), 64) == Point(64, 63.2, 7, 14, 35, 1000)
    assert curve.read("0 requests, 0.0 a second, 0 failed\np50 0 ms, p95 0 ms, p99 0 ms\n", 64).p50_ms is None
    assert curve.read("0 requests, 0.0 a second, 0 failed\np50 N/A ms, p95 N/A ms, p99 N/A ms\n", 64).p50_ms is None
    with pytest.raises(ValueError, match=r"expected loadtest\.run's lines"):
        curve.read("something else", 64)


@pytest.fixture
def nobody_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service, no Locust: the queue above."""

    @contextmanager
    def service(_: str | None) -> Iterator[str]:
        yield "http://127.0.0.1:9"

    monkeypatch.setattr(run, "service", service)
    monkeypatch.setattr(curve, "measure", lambda _, rate, __, ___: queue(100)(rate))


@pytest.mark.usefixtures("nobody_starts")
def test_the_command_prints_a_table_and_writes_json_and_a_plot(tmp_path):
    """As docs/ takes them."""
    result = CliRunner().invoke(curve.main, ["--output", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert "| 5 | 5.0 | 11 ms | 21 ms | 32 ms | 0 |" in result.output
    found = json.loads((tmp_path / "new" / "curve.json").read_text())
    assert found["knee"] == 72.5
    assert f"knee: {found['knee']:g} a second" in result.output
    assert len(found["points"]) == 9
    assert (tmp_path / "new" / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("nobody_starts")
def test_without_matplotlib_the_figures_are_kept(tmp_path, monkeypatch):
    """Minutes of measuring are not thrown away for a plot."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(curve.main, ["--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "matplotlib is not installed" in result.output
    assert (tmp_path / "curve.json").exists()


def test_rates_in_the_wrong_order_are_refused():
    """Before anything is started."""
    result = CliRunner().invoke(curve.main, ["--lowest", "50", "--highest", "5"])
    assert result.exit_code == 1
    assert "--lowest is 50; expected at most --highest, 5" in result.output
