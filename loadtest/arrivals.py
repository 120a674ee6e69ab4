"""Load at a given rate by wrk: as many users as it takes, each thinking for a random time before it asks again.

A closed loop asks less as the service slows: a few connections never see the queue that they would have to stand in.
Here a hundred connections or more pause, exponentially distributed, so that requests arrive at about Poisson times and queue
up behind each other as those of independent callers do. Locust's open loop does the same with a Python program, which
would take half of a small machine from the service and so decide which settings look best; wrk takes a few per cent.
"""

from __future__ import annotations

import math
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import click

from loadtest import wrk
from loadtest.cpus import usable_cpus
from loadtest.wrk import Load

SCRIPT = Path(__file__).with_name("arrivals.lua")
LEAST_CONNECTIONS = 128
MOST_CONNECTIONS = 900  # a worker takes 1,000
GREETING_S = 1.0  # left out: while all connections open at once
CROWD = 4  # connections for each request that may be out at once, so that waiting ones hardly slow the arrivals


def connections(rate: float, slo_ms: float) -> int:
    """How many connections ask at this rate (a second) while each may wait up to `slo_ms` for its answer."""
    return min(MOST_CONNECTIONS, max(LEAST_CONNECTIONS, math.ceil(CROWD * rate * slo_ms / 1000)))


def drive(url: str, photos: Sequence[Path], rate: float, seconds: int, slo_ms: float, seed: int = 1) -> Load:
    """Ask `url`/classify at about Poisson times.

    Args:
        url: http://HOST:PORT
        photos: files of bodies, taken in turn.
        rate: pictures a second; where answers stay out, somewhat fewer are asked (`Load.images_per_s` tells).
        seconds: whole ones.
        slo_ms: how long answers may take; decides on the number of connections.
        seed: of the pauses; the same seed gives the same pauses, so that a pair of settings meets the same arrivals.
    Raises:
        ClickException: wrk is missing, fails or doesn't end.
    """
    held = connections(rate, slo_ms)
    command = [wrk.find(), "--threads", "1", "--connections", str(held), "--duration", f"{seconds + math.ceil(GREETING_S)}s",
               "--timeout", f"{wrk.ANSWER_S}s", "--script", str(SCRIPT), f"{url}/classify", "--",
               f"{1000 * held / rate:.3f}", str(seed), str(GREETING_S), str(held), *map(str, photos)]
    before, start = _cpu_s(), time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds + GREETING_S + wrk.GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"wrk did not end {wrk.GRACE_S:g} s after its time against {url}") from error
    share = (_cpu_s() - before) / (time.monotonic() - start) / usable_cpus()
    said, complaint = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()
    if done.returncode or not said.rstrip().endswith("}"):
        raise click.ClickException(f"wrk ended with {done.returncode} and no figures: {(complaint or said)[-500:]}")
    return wrk.read(said, held, share)


def _cpu_s() -> float:
    """Processor time of children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
