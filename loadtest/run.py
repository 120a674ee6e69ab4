"""`make load`: Locust without its page, for a bounded time, against a service that runs or one started for it.

Prints requests a second, p50, p95, p99, failures and where the time went; writes Locust's HTML report; exits 1 if a
request failed or a threshold that was asked for is broken.
"""

from __future__ import annotations

import csv
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from loadtest.pictures import VARIABLE

HERE = Path(__file__).parent
USUAL = f"http://127.0.0.1:{os.environ.get('QUADRANT_PORT') or 8000}"  # where `make run` serves
PHASES = ("decode", "preprocess", "queue", "engine")


def answers(url: str) -> bool:
    """The service at this address says that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """The address of a ready service: the one given, the one of `make run`, or one that is started and stopped here.

    Raises:
        ClickException: the one given does not answer, or the one started does not become ready.
    """
    if url is not None or answers(USUAL):
        url = (url or USUAL).rstrip("/")
        if not answers(url):
            raise click.ClickException(f"no ready service answers at {url}")
        print(f"the running service at {url}")
        yield url
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen([sys.executable, "-m", "service", "serve", "--port", str(port)], stdout=log, stderr=log)
        try:
            own, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while not answers(own):
                if server.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise click.ClickException(f"the service did not become ready:\n{log.read()[-2000:]}")
                time.sleep(0.05)
            yield own
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def totals(url: str) -> dict[str, float]:
    """The service's own counters, summed over their labels; those of requests for `/classify` alone."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    sums: dict[str, float] = {}
    for line in lines:
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and ("endpoint=" not in name or 'endpoint="/classify"' in name):
            base = name.partition("{")[0]
            sums[base] = sums.get(base, 0.0) + float(value)
    return sums


def phases(before: dict[str, float], after: dict[str, float]) -> str:
    """Mean time of each phase between two readings, in words."""

    def mean(name: str) -> float:
        count = after.get(f"{name}_count", 0) - before.get(f"{name}_count", 0)
        return (after.get(f"{name}_sum", 0) - before.get(f"{name}_sum", 0)) / count if count else float("nan")

    parts = [f"{phase} {1000 * mean(f'quadrant_{phase}_seconds'):.1f} ms" for phase in PHASES]
    return f"{', '.join(parts)} (a batch of {mean('quadrant_batch_size'):.1f})"


@click.command()
@click.option("--url", help=f"A service that runs already. [default: {USUAL} if it answers, else one is started]")
@click.option("--users", default=32, show_default=True, type=click.IntRange(1, 1024))
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1, 3600))
@click.option("--rate", type=click.FloatRange(min=0.1), help="Open loop: this many pictures a second, at Poisson times.")
@click.option("--pictures", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of pictures to post. [default: LOADTEST_PICTURES, ../shared/data/photos, or drawn ones]")
@click.option("--p99-ms", type=click.FloatRange(min=0), help="Fail if p99 is beyond this.")
@click.option("--report", type=click.Path(path_type=Path), default=HERE / "report.html", show_default="loadtest/report.html")
def main(
    url: str | None, users: int, seconds: int, rate: float | None, pictures: Path | None, p99_ms: float | None, report: Path,
) -> None:
    """Load the service for a while and print what its users saw."""
    kind = "ClosedLoop" if rate is None else "OpenLoop"
    with service(url) as address, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), kind, "--headless", "--only-summary",
                   "--host", address, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s",
                   "--html", str(report), "--csv", f"{folder}/load", "--loglevel", "WARNING", "--exit-code-on-error", "0"]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)} | ({"LOADTEST_RATE": str(rate)} if rate else {})
        environment |= {VARIABLE: str(pictures)} if pictures else {}
        before = totals(address)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"Locust ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
        after = totals(address)
        with open(f"{folder}/load_stats.csv", newline="") as file:
            row = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
        with open(f"{folder}/load_failures.csv", newline="") as file:
            failures = list(csv.DictReader(file))
    total, failed = int(row["Request Count"]), int(row["Failure Count"])
    load = f"{users} users, closed loop" if rate is None else f"{rate:g} a second, open loop (Poisson)"
    print(f"{load}, {seconds} s, {os.cpu_count()} cores {platform.machine()}")
    print(f"{total:,} requests, {float(row['Requests/s']):.1f} a second, {failed} failed")
    print(f"p50 {row['50%']} ms, p95 {row['95%']} ms, p99 {row['99%']} ms")
    print(f"means of the phases: {phases(before, after)}")
    print(f"report: {report}")
    for failure in failures[:5]:
        print(f"failed {failure['Occurrences']} ×: {failure['Error']}", file=sys.stderr)
    if slow := p99_ms is not None and float(row["99%"]) > p99_ms:
        print(f"p99 is {row['99%']} ms; allowed {p99_ms:g} ms", file=sys.stderr)
    sys.exit(1 if failed or slow or not total else 0)


if __name__ == "__main__":
    main()
