"""`make curve`: latency percentiles against the rate of Poisson arrivals, up to the knee.

    python -m loadtest.curve

Open loop: pictures come at random times whether or not answers do, as the world asks. Each point is a run of
`loadtest.run --rate` (Locust) of its own. The rate doubles until the service can't follow (p99 beyond ten times the median of
the lowest rate, a failed request, or fewer requests sent than asked for), then the gap is halved a few times.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from loadtest import host, plot, run

ROOT = Path(__file__).parents[1]
BEYOND = 10.0  # times the unloaded p50: the queue grows faster than it is worked off
LEAST_SENT = 0.8  # of the rate asked for; with less, Locust itself can't follow (Poisson counts vary by less than that)
FEW = 30  # arrivals; their number alone may vary by a fifth
GRACE_S = 120  # of a run beyond its seconds: Locust's start, answers that are still out
TOTALS = re.compile(r"^([\d,]+) requests, ([\d.]+) a second, ([\d,]+) failed$", re.MULTILINE)
PERCENTILES = re.compile(r"^p50 (\S+) ms, p95 (\S+) ms, p99 (\S+) ms$", re.MULTILINE)


class Point(NamedTuple):
    """One rate. Percentiles are None where nothing was answered.

    Attributes:
        rate: arrivals a second that were asked for.
        sent: arrivals that there were, a second.
        failed: requests that failed.
    """

    rate: float
    sent: float
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


def read(said: str, rate: float) -> Point:
    """A point from what `loadtest.run` printed.

    Raises:
        ValueError: its lines aren't there.
    """
    totals, percentiles = TOTALS.search(said), PERCENTILES.search(said)
    if totals is None or percentiles is None:
        raise ValueError(f"no figures in {said[-300:]!r}; expected loadtest.run's lines of requests and percentiles")
    requests, failed = (int(totals[place].replace(",", "")) for place in (1, 3))
    p50, p95, p99 = (float(text) if text.replace(".", "").isdigit() and requests else None for text in percentiles.groups())
    return Point(rate, float(totals[2]), failed, p50, p95, p99)


def measure(url: str, rate: float, seconds: int, pictures: Path | None) -> Point:
    """One run of Locust.

    Raises:
        ClickException: it fails for another reason than failed requests, or doesn't end.
    """
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "loadtest.run", "--url", url, "--rate", f"{rate:g}", "--seconds", str(seconds),
                   "--report", f"{place}/report.html", *(["--pictures", str(pictures)] if pictures else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise click.ClickException(f"loadtest.run did not end {GRACE_S} s after its {seconds} s") from error
    try:
        return read(done.stdout, rate)
    except ValueError as error:
        raise click.ClickException(f"loadtest.run ended with {done.returncode}: {done.stderr[-1000:] or error}") from error


def beyond(point: Point, unloaded_ms: float, seconds: int) -> str | None:
    """Why this rate is beyond the knee, in words; None if it isn't."""
    if point.failed:
        return f"{point.failed:,} failed"
    if point.p99_ms is None:
        return "nothing was answered"
    if point.p99_ms > BEYOND * unloaded_ms:
        return f"p99 is {point.p99_ms:,.0f} ms, over {BEYOND:g} × {unloaded_ms:g} ms"
    if point.sent < LEAST_SENT * point.rate and point.rate * seconds > FEW:
        return f"only {point.sent:,.1f} a second were sent"
    return None


def explore(
    ask: Callable[[float], Point], lowest: float, highest: float, refinements: int, seconds: int,
) -> tuple[list[Point], float | None, str | None]:
    """Double the rate until it is beyond the knee, then halve the gap.

    Args:
        ask: measures a rate.
        lowest, highest: arrivals a second; the first counts as unloaded.
        refinements: how often the gap is halved.
    Returns:
        Points by rate; the highest rate before the knee, None if the lowest is beyond it or the highest isn't;
        what the lowest rate beyond it was like.
    Raises:
        ClickException: nothing was answered at the lowest rate.
    """
    points = [ask(lowest)]
    if (unloaded_ms := points[0].p50_ms) is None:
        raise click.ClickException(f"nothing was answered at {lowest:g} a second")
    unloaded_ms = max(unloaded_ms, 1.0)  # Locust rounds to whole ms
    below, above, why = None, None, beyond(points[0], unloaded_ms, seconds)
    if why is None:
        below, rate = lowest, lowest
        while above is None and rate < highest:
            rate = min(2 * rate, highest)
            points.append(ask(rate))
            if why := beyond(points[-1], unloaded_ms, seconds):
                above = rate
            else:
                below = rate
    for _ in range(refinements if below is not None and above is not None else 0):
        assert below is not None
        assert above is not None
        points.append(ask(float(f"{(below + above) / 2:.3g}")))
        if reason := beyond(points[-1], unloaded_ms, seconds):
            above, why = points[-1].rate, reason
        else:
            below = points[-1].rate
    return sorted(points), below if above is not None else None, why


def table(points: list[Point], knee: float | None, why: str | None) -> str:
    """Markdown, and where the knee is."""
    lines = ["| arrivals a second | sent | p50 | p95 | p99 | failed |", "|---" * 6 + "|"]
    for point in points:
        shown = ["none" if each is None else f"{each:,.0f} ms" for each in point[3:]]
        lines.append(f"| {point.rate:g} | {point.sent:,.1f} | {' | '.join(shown)} | {point.failed:,} |")
    if knee is not None:
        lines += ["", f"knee: {knee:g} a second ({why} at the next rate)"]
    else:
        lines += ["", f"no knee: {why} at the lowest rate" if why else "no knee up to the highest rate"]
    return "\n".join(lines)


@click.command()
@click.option("--url", help=f"A service that runs already. [default: {run.USUAL} if it answers, else one is started]")
@click.option("--seconds", default=15, show_default=True, type=click.IntRange(1, 600), help="Of each point.")
@click.option("--lowest", default=5.0, show_default=True, type=click.FloatRange(min=0.1), help="Arrivals a second, unloaded.")
@click.option("--highest", default=2048.0, show_default=True, type=click.FloatRange(min=0.1), help="Arrivals a second.")
@click.option("--refinements", default=4, show_default=True, type=click.IntRange(0, 10), help="How often the gap is halved.")
@click.option("--pictures", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of pictures to post. [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn ones]")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "docs", show_default="docs",
              help="Folder for curve.json and curve.png.")
def main(
    url: str | None, seconds: int, lowest: float, highest: float, refinements: int, pictures: Path | None, output: Path,
) -> None:
    """Measure latency against arrival rate, up to the knee."""
    if lowest > highest:
        raise click.ClickException(f"--lowest is {lowest:g}; expected at most --highest, {highest:g}")

    with run.service(url) as address:

        def ask(rate: float) -> Point:
            print(f"{rate:g} a second", file=sys.stderr, flush=True)
            return measure(address, rate, seconds, pictures)

        points, knee, why = explore(ask, lowest, highest, refinements, seconds)
    print(table(points, knee, why))
    found: dict[str, Any] = {"machine": host.facts(), "commit": host.commit(), "seconds": seconds, "knee": knee, "why": why,
                             "points": [point._asdict() for point in points]}
    output.mkdir(parents=True, exist_ok=True)
    (output / "curve.json").write_text(json.dumps(found, indent=1) + "\n")
    plot.curve(found["points"], knee, output / "curve.png")
    print(f"figures and plot: {os.path.relpath(output / 'curve.json')}, {os.path.relpath(output / 'curve.png')}")


if __name__ == "__main__":
    main()
