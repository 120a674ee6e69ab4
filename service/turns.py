"""Whose turn it is to compute: pictures that are decoded and the engine take turns at the processors of this process.

More threads than processors finish no sooner together: each would get a part of one, and the engine would start on one or two
pictures while the rest is being decoded beside it. So as many pictures are decoded at once as there are processors, and the
engine waits until those that are on their way are decoded, or fill a batch; then it runs, and decoding waits. Both go on at once
where this process has more processors than the engine uses.

A large picture would hold up all others: it has a lane of its own, beside the engine. One for each process. Knows counts, seconds
and bytes.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.affinity import Processors
from service.board import Seat
from service.planning import LONE_BATCH, Plan, usable_cpus
from service.problems import DeadlineExceeded, TooManyPixels

LARGE = 48 * 2**20  # bytes to decode it; a JPEG of 6 million pixels
HOLD_S = 0.02  # longest wait of the engine for one more picture; a photo of a camera's size is decoded in that time


class Turns:
    """Of one process.

    Attributes:
        memory: bytes that pictures being decoded may take together.
        share: processors of this process while all are busy.
        cpus: that it may use while the other processes are idle.
        processors: which ones.
    """

    def __init__(self, plan: Plan, seat: Seat, cpus: int | None = None) -> None:
        """All free.

        Args:
            plan: how many processes there are, the memory for decoding, where the engine runs.
            seat: tells whether the others are idle.
            cpus: of all processes together; found out unless given.
        """
        self.memory, self.cpus = plan.decode_memory, cpus or usable_cpus()
        self.share = -(-self.cpus // plan.workers)
        self.processors = Processors(plan.own_cpus, seat.home)
        self._engine = 0 if plan.gpu else min(plan.engine_threads, self.cpus)  # processors of one run
        self._seat = seat
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._free = plan.decode_memory
        self._asking: deque[_Turn] = deque()  # who waits to decode
        self._asking_large: deque[_Turn] = deque()
        self._decoding = self._large = 0
        self._engines = self._reserved = 0  # processors that engines use, and that they wait for
        self._coming = 0  # pictures that were let in and aren't decoded
        self._held = 0  # engines that wait
        self._numbers = itertools.count()

    def expect(self, count: int) -> None:
        """So many pictures are on their way to the engine."""
        with self._lock:
            self._coming += count

    def arrived(self) -> None:
        """One of them is there, or will never be."""
        with self._lock:
            self._coming -= 1
            if self._held and not self._coming:
                self._settled.notify_all()

    @contextmanager
    def decode(self, wanted: int, deadline: float = math.inf) -> Iterator[None]:
        """Hold memory and a processor while one picture is decoded; waits its turn for them.

        Args:
            wanted: bytes, as `images.decode_bytes` estimates.
            deadline: on the clock of `time.monotonic`.
        Raises:
            TooManyPixels: more than there will ever be.
            DeadlineExceeded: not free in time.
        """
        if wanted > self.memory:
            raise TooManyPixels(
                f"picture takes about {_mib(wanted)} to decode; this server has {_mib(self.memory)} for that",
                decode_bytes=wanted, decode_memory=self.memory)
        turn = self._take(wanted, deadline)
        try:
            # A large picture decodes beside the engine: on whichever processor is free.
            self.processors.use(not turn.large and self._seat.at_home)
            yield
        finally:
            with self._lock:
                self._free += wanted
                if turn.large:
                    self._large -= 1
                    self._coming += 1  # as if it had been waited for: now it arrives
                else:
                    self._decoding -= 1
                self._hand_on()

    @contextmanager
    def run(self, pictures: Callable[[], int], cap: int) -> Iterator[bool]:
        """The engine's turn: waits for pictures on their way, then for processors; decoding waits until it ends.

        Args:
            pictures: that would be in the batch now.
            cap: most of a batch.
        Returns:
            Whether all processors are free for it, and few pictures wait.
        """
        if not self._engine:  # a GPU's needs no processor
            yield False
            return
        with self._lock:
            self._wait(lambda: self._coming <= 0 or pictures() >= cap, pictures)
            alone = self._seat.alone and pictures() <= LONE_BATCH
            used = self.cpus if alone else self._engine
            self._reserved += used  # from here on no picture is begun
            self._wait(lambda: self._decoding + self._engines + used <= max(self._width(), used), lambda: self._decoding)
            self._reserved -= used
            self._engines += used
        try:
            self.processors.use(self._seat.at_home)
            yield alone
        finally:
            with self._lock:
                self._engines -= used
                self._hand_on()

    def poke(self) -> None:
        """A batch is full: whoever waits for more needn't."""
        with self._lock:
            if self._held:
                self._settled.notify_all()

    def _wait(self, done: Callable[[], bool], count: Callable[[], int]) -> None:
        """Until it is so, or `count` has not changed for `HOLD_S`. Under the lock."""
        self._held += 1
        seen, until = count(), time.monotonic() + HOLD_S
        try:
            while not done():
                if (left_s := until - time.monotonic()) <= 0:
                    return
                self._settled.wait(left_s)
                if (now := count()) != seen:
                    seen, until = now, time.monotonic() + HOLD_S
        finally:
            self._held -= 1

    def _take(self, wanted: int, deadline: float) -> _Turn:
        turn = _Turn(wanted, next(self._numbers))
        asking = self._asking_large if turn.large else self._asking
        with self._lock:
            self._coming -= turn.large  # nobody waits for it
            asking.append(turn)
            self._hand_on()
        left_s = -1 if deadline == math.inf else max(0.0, deadline - time.monotonic())
        if turn.granted.acquire(timeout=left_s):
            return turn
        with self._lock:
            if turn.granted.acquire(blocking=False):  # in the last moment
                return turn
            self._coming += turn.large
            asking.remove(turn)
            self._hand_on()
        raise DeadlineExceeded(f"no answer in time: a processor and {_mib(wanted)} to decode this picture did not become free")

    def _width(self) -> int:
        return self.cpus if self._seat.alone else self.share

    def _hand_on(self) -> None:
        """Let those in whose turn it is; each is woken alone. Under the lock."""
        width = self._width()
        while True:
            first = []
            if self._asking and self._decoding + self._engines + self._reserved < width:
                first.append(self._asking)
            if self._asking_large and self._large < width:
                first.append(self._asking_large)
            if not first:
                break
            asking = min(first, key=lambda each: each[0].number)
            if asking[0].wanted > self._free:
                break  # for memory nobody is overtaken: a large picture would wait for ever
            turn = asking.popleft()
            self._free -= turn.wanted
            if turn.large:
                self._large += 1
            else:
                self._decoding += 1
            turn.granted.release()
        if self._reserved:
            self._settled.notify_all()


class _Turn:
    """One who waits to decode a picture of this many bytes; numbered in the order of coming."""

    def __init__(self, wanted: int, number: int) -> None:
        self.wanted, self.number, self.large = wanted, number, wanted > LARGE
        self.granted = threading.Lock()
        self.granted.acquire()


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
