"""Who may enter: places in the queue, the predicted wait, and memory for decoding.

One for each process. Refuses at once what can't be answered in time, before any work is done for it. Knows counts,
seconds and bytes; knows nothing of pictures, engines or HTTP.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.planning import Plan, usable_cpus
from service.problems import DeadlineExceeded, Overloaded, TooManyPictures, TooManyPixels

WEIGHT = 0.1  # of a new measurement in the moving averages: some twenty batches, and an old pace is forgotten
LEAST_DECODERS = 2  # so that one large picture doesn't hold up all others on a single processor
MOST_RETRY_S = 60  # longer advice would rest on a pace that is long past by then


class Line:
    """The pictures of one model that are in the house (decoded, waiting, in the engine) and how long one takes.

    Attributes:
        ahead: their number.
    """

    def __init__(self, admission: Admission) -> None:
        self.ahead = 0
        self._admission = admission
        self._engine_s = 0.0  # an image, its share of a batch
        self._decode_s = 0.0  # an image, processor time over the CPUs of this process

    @property
    def seconds_an_image(self) -> float:
        """Moving average; 0 before the first measurement."""
        return self._engine_s + self._decode_s

    def ran(self, images: int, seconds: float) -> None:
        """Take one engine call into the average.

        Args:
            images: in the batch, from 1 up.
            seconds: of the whole call, by the clock.
        """
        self._engine_s = _averaged(self._engine_s, seconds / images)

    def decoded(self, processor_seconds: float) -> None:
        """Take one decoded picture into the average; by processor time, for waiting for a CPU is no work."""
        self._decode_s = _averaged(self._decode_s, processor_seconds / self._admission.cpus)

    @contextmanager
    def admit(self, count: int = 1, deadline: float = math.inf) -> Iterator[Places]:
        """Hold places for `count` pictures.

        Args:
            count: pictures of one request, from 1 up.
            deadline: on the clock of `time.monotonic`.
        Raises:
            Overloaded: no room, or a predicted wait beyond the deadline; with the time after which to try again.
            TooManyPictures: more than the queue could ever hold.
        """
        places = self._admission.enter(self, count, deadline)
        try:
            yield places
        finally:
            places.leave(places.held)


class Places:
    """The places of one request; given back one by one as its pictures are answered."""

    def __init__(self, admission: Admission, line: Line, held: int) -> None:
        self.held = held
        self._admission, self._line = admission, line

    def leave(self, count: int = 1) -> None:
        """Give places back."""
        self.held -= count
        self._admission.left(self._line, count)


class Admission:
    """The door of one process.

    Attributes:
        capacity: pictures in the house, of all models together.
        decode_memory: bytes that pictures being decoded may take together.
        cpus: that share the decoding.
        decoders: pictures that are decoded at once.
    """

    def __init__(self, plan: Plan, cpus: int | None = None) -> None:
        self.capacity = plan.queue_capacity
        self.decode_memory = plan.decode_memory
        self.cpus = cpus or max(1, usable_cpus() // plan.workers)
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._free = plan.decode_memory
        # More decoders than processors finish no sooner together, and the engine would get a small share beside them.
        self.decoders = max(LEAST_DECODERS, self.cpus)
        self._decoding = 0
        self._asking: deque[_Turn] = deque()  # first come, first served: a large picture isn't overtaken for ever

    def line(self) -> Line:
        """A new line, for one model."""
        line = Line(self)
        self._lines.append(line)
        return line

    @property
    def ahead(self) -> int:
        """Pictures in the house."""
        return sum(line.ahead for line in self._lines)

    @property
    def predicted_wait_s(self) -> float:
        """Seconds until what is in the house is done: the models share the processor, so their lines add up."""
        return sum(line.ahead * line.seconds_an_image for line in self._lines)

    def enter(self, line: Line, count: int, deadline: float) -> Places:
        """As `Line.admit`, which gives the places back by itself.

        An empty house admits everyone, however slow the last measurement was: so a bad one heals.
        """
        if count > self.capacity:
            raise TooManyPictures(
                f"{count} pictures in one call; this server's queue holds {self.capacity}", count=count, limit=self.capacity)
        with self._lock:
            ahead, wait_s = self.ahead, self.predicted_wait_s
            if ahead + count > self.capacity:
                retry_s = _advice(wait_s * (ahead + count - self.capacity) / max(ahead, 1))
                raise Overloaded(
                    f"{ahead} pictures are already waiting, of {self.capacity} that may; try again in {retry_s} s",
                    retry_after_s=retry_s, waiting=ahead, queue_capacity=self.capacity)
            left_s = deadline - time.monotonic()
            if ahead and wait_s > left_s:
                retry_s = _advice(wait_s - left_s)
                raise Overloaded(
                    f"{ahead} pictures are ahead, about {wait_s:.1f} s; this one has {left_s:.1f} s: try again in {retry_s} s",
                    retry_after_s=retry_s, waiting=ahead, predicted_wait_s=round(wait_s, 3))
            line.ahead += count
        return Places(self, line, count)

    def left(self, line: Line, count: int) -> None:
        """`count` pictures of this line are answered, or given up."""
        with self._lock:
            line.ahead -= count

    @contextmanager
    def picture(self, wanted: int, deadline: float = math.inf) -> Iterator[None]:
        """Hold memory and a processor while one picture is decoded; waits its turn for them.

        Args:
            wanted: bytes, as `images.decode_bytes` estimates.
            deadline: on the clock of `time.monotonic`.
        Raises:
            TooManyPixels: more than there will ever be.
            DeadlineExceeded: not free in time.
        """
        if wanted > self.decode_memory:
            raise TooManyPixels(
                f"picture takes about {_mib(wanted)} to decode; this server has {_mib(self.decode_memory)} for that",
                decode_bytes=wanted, decode_memory=self.decode_memory)
        self._take(wanted, deadline)
        try:
            yield
        finally:
            with self._lock:
                self._free += wanted
                self._decoding -= 1
                self._hand_on()

    def _take(self, wanted: int, deadline: float) -> None:
        with self._lock:
            turn = _Turn(wanted)
            self._asking.append(turn)
            self._hand_on()
        left_s = -1 if deadline == math.inf else max(0.0, deadline - time.monotonic())
        if turn.granted.acquire(timeout=left_s):
            return
        with self._lock:
            if turn.granted.acquire(blocking=False):  # in the last moment
                return
            self._asking.remove(turn)
            self._hand_on()
        raise DeadlineExceeded(f"no answer in time: a processor and {_mib(wanted)} to decode this picture did not become free")

    def _hand_on(self) -> None:
        """Let those in whose turn it is; each is woken alone. Under the lock."""
        while self._asking and self._asking[0].wanted <= self._free and self._decoding < self.decoders:
            turn = self._asking.popleft()
            self._free -= turn.wanted
            self._decoding += 1
            turn.granted.release()


class _Turn:
    """One who waits to decode a picture of this many bytes."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.granted = threading.Lock()
        self.granted.acquire()


def _averaged(old: float, new: float) -> float:
    return new if old == 0 else old + WEIGHT * (new - old)


def _advice(seconds: float) -> int:
    """Whole seconds for `Retry-After`, from 1 up."""
    return max(1, min(MOST_RETRY_S, math.ceil(seconds)))


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
