"""Where one request's time goes, by the service's own clocks: its histograms' sums, and `Server-Timing` of some answers.

Phases of one request follow each other, so they add up; what is left of the service's own total is reading the body, options,
admission, JSON and logging; what is left of the caller's time is the HTTP front: gunicorn, sockets, waiting for a thread.
"""

from __future__ import annotations

import http.client
import itertools
import re
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from loadtest import run

PHASES = ("decode", "preprocess", "queue", "inference")
PART = re.compile(r"([a-z]+);dur=([0-9.]+)")
ANSWER_S = 60.0
Timing = dict[str, float]  # milliseconds by phase, with `total`


class Stages(NamedTuple):
    """Mean microseconds of one request.

    Attributes:
        decode, preprocess, queue, inference: of its picture; inference is that of the whole batch, which it waits for.
        application: what the service's own total holds beside them.
        front: what the caller's time holds beside the service's total.
        caller: all of it, the sum of the others.
        batch: pictures in a batch, on average.
    """

    decode: float
    preprocess: float
    queue: float
    inference: float
    application: float
    front: float
    caller: float
    batch: float


def server_timing(header: str) -> Timing:
    """`decode;dur=2.1, total;dur=30` → milliseconds by name.

    Raises:
        ValueError: a phase is missing.
    """
    found = {name: float(value) for name, value in PART.findall(header)}
    if missing := [name for name in (*PHASES, "total") if name not in found]:
        raise ValueError(f'Server-Timing is "{header[:120]}"; expected durations of {", ".join(missing)} too')
    return found


def stages(before: Mapping[str, float], after: Mapping[str, float], caller_ms: float, asked: Sequence[Timing] = ()) -> Stages:
    """Means between two readings of `run.totals`; or of some answers, once batches differ in size.

    How long a request waits for its batch can't be told from a histogram of batches then; and phases of some requests beside the
    total of all would not add up, so that all times are of the same answers.

    Args:
        before, after: sums and counts by name of the metric.
        caller_ms: mean time of a request as its caller saw it.
        asked: `Server-Timing` of some answers, and `caller`: milliseconds as their caller saw them. Without any, batches are
            taken to be of one.
    Raises:
        ValueError: nothing was answered in between.
    """

    def mean_us(name: str) -> float:
        count = after.get(f"{name}_count", 0.0) - before.get(f"{name}_count", 0.0)
        if count <= 0:
            raise ValueError(f"{name} counted nothing in between; expected requests")
        return 1e6 * (after[f"{name}_sum"] - before.get(f"{name}_sum", 0.0)) / count

    batch = mean_us("quadrant_batch_size") / 1e6
    if asked:
        *phases, total, caller = (
            1000 * sum(each[name] for each in asked) / len(asked) for name in (*PHASES, "total", "caller"))
    else:
        phases = [mean_us(f"quadrant_{name}_seconds") for name in ("decode", "preprocess", "queue", "engine")]
        total, caller = mean_us("quadrant_request_seconds"), 1000 * caller_ms
    return Stages(*phases, application=total - sum(phases), front=caller - total, caller=caller, batch=batch)


class Caller:
    """One of the connections of a load, which reads what the answers say; asks again as soon as it has its answer."""

    def __init__(self, url: str, pictures: Sequence[bytes]) -> None:
        """Nothing is asked yet.

        Args:
            url: http://HOST:PORT
            pictures: bodies, taken in turn.
        """
        self.timings: list[Timing] = []
        self.problem: str | None = None
        self._place, self._pictures = urlsplit(url), itertools.cycle(pictures)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="caller", daemon=True)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._place.hostname or "", self._place.port, timeout=ANSWER_S)
        try:
            while not self._end.is_set():
                start = time.perf_counter()
                connection.request("POST", "/classify", next(self._pictures), {"Content-Type": "application/octet-stream"})
                reply = connection.getresponse()
                body = reply.read()
                if reply.status == 200:
                    caller_ms = 1000 * (time.perf_counter() - start)
                    self.timings.append(server_timing(reply.headers.get("Server-Timing", "")) | {"caller": caller_ms})
                else:
                    self.problem = f"{reply.status} {body[:200]!r}"
                    time.sleep(0.1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.problem = str(error)
        finally:
            connection.close()


def read(url: str) -> dict[str, float]:
    """The service's sums and counts now."""
    return run.totals(url)
