"""Same picture twice: answers that are kept, and equal requests in flight of which one does the work for all.

One for each process, bounded in bytes. Knows keys, values, bytes and futures; knows nothing of pictures, models or HTTP.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Generic, NamedTuple, TypeVar

from service.metrics import CACHE_BYTES, CACHE_EVICTIONS, CACHE_LOOKUPS
from service.problems import DeadlineExceeded, Problem

V = TypeVar("V")

# Of one kept value, beside the value: key with digest and options, and its places in the order (held against tracemalloc).
ENTRY_BYTES = 512


class Key(NamedTuple):
    """All that a value depends on."""

    content: bytes  # SHA-256
    model: str  # its digest
    options: Hashable

    @classmethod
    def of(cls, data: bytes, model: str, options: Hashable) -> Key:
        """The key of these bytes; hashing them lets other threads run."""
        return cls(hashlib.sha256(data).digest(), model, options)


class Given(NamedTuple, Generic[V]):
    """What one key got."""

    result: V | Problem
    waited_ms: float | None  # for an equal request's result; 0 for a kept one; None: no other's result was used


class Hit(NamedTuple, Generic[V]):
    """It is there."""

    value: V


class Follow(NamedTuple, Generic[V]):
    """An equal request is at work; `None` in the future: it ended without a result that is anyone else's."""

    flight: Future[V | Problem | None]


class Lead(Generic[V]):
    """The one that does the work; those who follow wait until one of `finish` and `abandon` is called. The first counts."""

    def __init__(self, cache: Cache[V], key: Key, flight: Future[V | Problem | None]) -> None:
        self._cache, self._key, self._flight = cache, key, flight

    def finish(self, result: V | Problem) -> None:
        """Keep a value; share it, or a problem that every equal request would meet, with those who wait."""
        if isinstance(result, Problem) and result.status >= 500:  # this request's own: its deadline, its client, the load
            return self.abandon()
        self._end(result)

    def abandon(self) -> None:
        """Let one of those who wait take over."""
        self._end(None)

    def _end(self, result: V | Problem | None) -> None:
        if not self._flight.done():  # only the leader's thread ends a flight
            self._cache.land(self._key, result)
            self._flight.set_result(result)


Claim = Hit[V] | Follow[V] | Lead[V]
Work = Callable[[list[int]], Generator[V | Problem, None, None]]


class Cache(Generic[V]):
    """Values by key, the least recently used given up first; equal requests at the same time are worked for once.

    Every method may be called from any thread. Only values are kept. A problem below 500 belongs to the key, since every
    equal request meets it: those who wait get it too, and nobody later. Any other problem is the request's own, and nobody
    else's.

    Who waits holds nothing but its own thread, and no longer than until its own deadline.

    Attributes:
        limit: most bytes.
        held: bytes of what is kept, with `ENTRY_BYTES` for each.
    """

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        """Begin empty.

        Args:
            limit: bytes, from 1 up.
            weigh: bytes that a value holds for itself alone.
        """
        self.limit, self.held = limit, 0
        self._weigh = weigh
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, tuple[V, int]] = OrderedDict()  # value, bytes; the least recently used first
        self._flights: dict[Key, Future[V | Problem | None]] = {}  # no more than the pictures of all request threads

    def __len__(self) -> int:
        return len(self._kept)

    def answers(
        self, keys: Sequence[Key], work: Work[V], deadline: float = math.inf, gone: Callable[[], bool] | None = None,
    ) -> list[Given[V]]:
        """Get a value for each key: the one that is kept, an equal request's, or one's own work.

        One's own comes first, so that no request waits for one that waits itself: a circle can't arise.

        Args:
            keys: of one request; equal ones are worked for once.
            work: given the positions of keys that must be worked for, yields their results in that order, each as soon
                as it is there.
            deadline: on the clock of `time.monotonic`.
            gone: tells whether the client went away.
        Returns:
            One entry a key, in order.
        Raises:
            Problem: as `work` does at its first call; of a key that is taken over from another request it becomes the result.
        """
        given: dict[int, Given[V]] = {}
        leads: dict[int, Lead[V]] = {}
        follows: dict[int, Follow[V]] = {}
        try:
            for position, key in enumerate(keys):
                claim = self.claim(key)
                if isinstance(claim, Hit):
                    given[position] = _counted("hit", claim.value, 0.0)
                elif isinstance(claim, Lead):
                    leads[position] = claim
                else:
                    follows[position] = claim
            if leads:
                given |= _lead(leads, work)
            for position, follow in follows.items():
                given[position] = self._follow(follow, keys[position], position, work, deadline, gone)
        finally:
            for lead in leads.values():  # whatever happened, nobody is left waiting
                lead.abandon()
        return [given[position] for position in range(len(keys))]

    def claim(self, key: Key) -> Claim[V]:
        """What there is for this key. A `Lead` must be ended."""
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return Hit(kept[0])
            if (flight := self._flights.get(key)) is not None:
                return Follow(flight)
            flight = self._flights[key] = Future()
            return Lead(self, key, flight)

    def land(self, key: Key, result: V | Problem | None) -> None:
        """End a flight; a value is kept, if it fits at all. For `Lead`."""
        entry = None if result is None or isinstance(result, Problem) else (result, ENTRY_BYTES + self._weigh(result))
        with self._lock:
            del self._flights[key]
            if entry is not None and entry[1] <= self.limit:
                self._kept[key] = entry
                self.held += entry[1]
                while self.held > self.limit:
                    _, (_, freed) = self._kept.popitem(last=False)
                    self.held -= freed
                    CACHE_EVICTIONS.inc()
                CACHE_BYTES.set(self.held)

    def _follow(
        self, claim: Claim[V], key: Key, position: int, work: Work[V], deadline: float, gone: Callable[[], bool] | None,
    ) -> Given[V]:
        """Wait for an equal request; where it ends without a result, take its place, or wait for the one that did."""
        start = time.monotonic()
        while isinstance(claim, Follow):
            left_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            try:
                result = claim.flight.result(left_s)
            except TimeoutError:
                return _counted("miss", _late(start), None)
            if result is not None:
                # An exception of one's own: raising it writes to it.
                own = copy.copy(result) if isinstance(result, Problem) else result
                return _counted("coalesced", own, _ms_since(start))
            if gone is not None and _went(gone):
                left = DeadlineExceeded("the client closed the connection before the picture's turn came")
                return _counted("miss", left, None)
            claim = self.claim(key)
        if isinstance(claim, Hit):
            return _counted("coalesced", claim.value, _ms_since(start))
        try:
            return _lead({position: claim}, work)[position]
        except Problem as problem:  # no room for this one now; its neighbours have their answers already
            return Given(problem, None)
        finally:
            claim.abandon()


def _lead(leads: dict[int, Lead[V]], work: Work[V]) -> dict[int, Given[V]]:
    """Do the work, and end each flight as soon as its result is there; the caller ends those that are left."""
    CACHE_LOOKUPS.labels("miss").inc(len(leads))
    given: dict[int, Given[V]] = {}
    with closing(work([*leads])) as results:
        for (position, lead), result in zip(leads.items(), results, strict=True):
            lead.finish(result)
            given[position] = Given(result, None)
    return given


def _counted(outcome: str, result: V | Problem, waited_ms: float | None) -> Given[V]:
    CACHE_LOOKUPS.labels(outcome).inc()
    return Given(result, waited_ms)


def _went(gone: Callable[[], bool]) -> bool:
    try:
        return gone()
    except OSError:  # asking a socket that is closed by now
        return True


def _late(start: float) -> DeadlineExceeded:
    waited_ms = round(_ms_since(start))
    return DeadlineExceeded(f"no answer in time; an equal request was waited for, {waited_ms:,} ms", waited_ms=waited_ms)


def _ms_since(start: float) -> float:
    return 1000 * (time.monotonic() - start)
