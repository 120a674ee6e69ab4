"""Where settings are measured for `make tune`: services started with them, in turn, two at most at a time.

The one that waits its turn takes memory and no processor: its threads sleep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import click

from loadtest import arrivals, search, wrk
from loadtest.candidates import Candidate
from loadtest.search import Rung

WARM_CONNECTIONS, WARM_S = 8, 1
SATURATING, SATURATED_S = 32, 3  # connections and seconds of a look at what it can do at all
SHARE = 0.8  # of that, where the search for the limit begins
LOWER = 0.7  # times a rate that isn't held comes the next
LEAST_RATE = 0.5  # pictures a second; what isn't held there is never held
SLOS_A_LOAD = 8  # a load must be longer than answers take, or an overload ends before its queue has grown to the SLO


class Runs(Protocol):
    """What is needed of a started service; `loadtest.serving.Service` is one."""

    @property
    def url(self) -> str:
        """http://HOST:PORT"""

    def settle(self, picture: bytes) -> None:
        """Wait until nothing is left of the last load."""


class Drivers(NamedTuple):
    """What puts load on a service: at a rate, and in a closed loop; as in `arrivals` and `wrk`."""

    arrivals: Callable[[str, Sequence[Path], float, int, float, int], wrk.Load] = arrivals.drive
    closed: Callable[[str, Sequence[Path], int, int], wrk.Load] = wrk.drive


class Arena:
    """Measures candidates; the best so far stays while one rival after the other comes and goes."""

    def __init__(
        self, start: Callable[[Candidate], AbstractContextManager[Runs]], photos: Sequence[Path], slo_ms: float,
        say: Callable[[str], None], drivers: Drivers | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            start: a service with these settings, until the end of the context.
            photos: files of bodies.
            slo_ms: that p99 must keep.
            say: told what is going on.
        """
        self.slo_ms, self.expected, self.wrk_share = slo_ms, 0.0, 0.0
        self.limits: dict[Candidate, list[float]] = {}  # pictures a second, as measured so far
        self._start, self._photos, self._say, self._drivers = start, photos, say, drivers or Drivers()
        self._picture = photos[0].read_bytes()
        self._running: dict[Candidate, tuple[Runs, ExitStack]] = {}  # the one used last is the last
        self._seed = 0

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            running[1].close()
        self._running.clear()

    def begin(self, plan: Candidate) -> float:
        """The limit of the plan, from nothing known.

        Raises:
            ClickException: it holds the SLO at no rate.
        """
        busy = self._drivers.closed(self._service(plan).url, self._photos, SATURATING, SATURATED_S)
        self._say(f"closed loop, {SATURATING} connections: {busy.images_per_s:.1f} images/s, p99 {busy.p99_ms:.0f} ms")
        self.expected = max(LEAST_RATE, SHARE * busy.images_per_s)
        while not search.held(seen := self.load(plan, self.expected, search.RUNGS[-1].seconds), self.slo_ms):
            self._say(f"  {self.expected:.1f}/s: p99 {seen.p99_ms:.0f} ms, {seen.problem or 'no errors'}")
            if self.expected <= LEAST_RATE:
                lone = self._drivers.closed(self._service(plan).url, self._photos, 1, SATURATED_S)
                raise click.ClickException(
                    f"p99 is beyond {self.slo_ms:g} ms at any rate: one client alone sees p50 {lone.p50_ms:.1f} ms and p99 "
                    f"{lone.p99_ms:.1f} ms; expected an SLO well above that")
            self.expected = max(LEAST_RATE, self.expected * LOWER)
        self.expected = self.limit(plan, search.RUNGS[-1].seconds) or self.expected
        return self.expected

    def duel(self, best: Candidate, rival: Candidate, rung: Rung) -> list[float]:
        """Both in turn, as often as the rung says; a ratio a round, above 1 where the rival is better.

        A rival that doesn't start has lost.
        """
        try:
            self._service(rival)
        except click.ClickException as error:
            self._say(f"  {rival}: {' '.join(error.message.split())[:300]}")
            return [0.0]
        ratios = []
        for number in range(rung.rounds):
            order = (best, rival) if number % 2 == 0 else (rival, best)
            self._seed += 1  # the same arrivals for both, others in the next round
            if rung.sieve:
                seen = {each: self.load(each, self.expected, rung.seconds) for each in order}
                ratios.append(search.sieve_ratio(seen[best], seen[rival]))
                self._say(f"  {rival}: p99 {seen[rival].p99_ms:.0f} ms against {seen[best].p99_ms:.0f} at "
                          f"{self.expected:.1f}/s, {seen[rival].errors} errors")
            else:
                found = {each: self.limit(each, rung.seconds) for each in order}
                ratios.append(search.ratio(found[rival], found[best]))
                self.expected = found[best] or self.expected
                self._say(f"  {rival}: holds {found[rival]:.1f}/s against {found[best]:.1f}")
        return ratios

    def limit(self, candidate: Candidate, seconds: int) -> float:
        """The greatest rate that it holds now; images/s."""
        found = search.limit(lambda rate: self.load(candidate, rate, seconds), self.expected, self.slo_ms)
        self.limits.setdefault(candidate, []).append(found)
        return found

    def load(self, candidate: Candidate, rate: float, seconds: int) -> wrk.Load:
        """One load at a rate, on a service that has nothing left to do."""
        service = self._service(candidate)
        service.settle(self._picture)
        seen = self._drivers.arrivals(service.url, self._photos, rate, self.seconds(seconds), self.slo_ms, self._seed)
        self.wrk_share = max(self.wrk_share, seen.cpu_share)
        return seen

    def seconds(self, least: int) -> int:
        """How long a load must be."""
        return max(least, math.ceil(SLOS_A_LOAD * self.slo_ms / 1000))

    def _service(self, candidate: Candidate) -> Runs:
        """Its service, warm; started if it doesn't run, in the place of the one that wasn't used for longest."""
        if candidate in self._running:
            self._running[candidate] = self._running.pop(candidate)
            return self._running[candidate][0]
        while len(self._running) > 1:
            self._running.pop(next(iter(self._running)))[1].close()
        stack = ExitStack()
        started = stack.enter_context(self._start(candidate))
        self._running[candidate] = (started, stack)
        self._drivers.closed(started.url, self._photos, WARM_CONNECTIONS, WARM_S)
        return started
