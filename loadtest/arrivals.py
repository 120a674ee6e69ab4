"""Load at a given rate by wrk: as many users as it takes, each thinking for a random time before it asks again.

A closed loop asks less as the service slows: a few connections never see the queue that they would have to stand in.
Here a hundred connections or more pause, exponentially distributed, so that requests arrive at about Poisson times and queue
up behind each other as those of independent callers do. Locust's open loop does the same with a Python program, which
would take half of a small machine from the service and so decide which settings look best; wrk takes a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from loadtest import wrk
from loadtest.wrk import Load

SCRIPT = Path(__file__).with_name("arrivals.lua")
LEAST_CONNECTIONS = 128
MOST_CONNECTIONS = 900  # a worker takes 1,000
GREETING_S = 1  # left out: while all connections open at once
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
    words = [f"{1000 * held / rate:.3f}", str(seed), str(GREETING_S), str(held), *map(str, photos)]
    return wrk.run(SCRIPT, words, url, held, seconds + GREETING_S)
