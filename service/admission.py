"""Who may enter: places in the queue, and the predicted wait.

One for each process. Refuses at once what can't be answered in time, before any work is done for it. Knows counts and
seconds; knows nothing of pictures, engines or HTTP.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service import board
from service.planning import Plan
from service.problems import Overloaded, TooManyPictures
from service.turns import Turns

WEIGHT = 0.1  # of a new measurement in the moving averages: some twenty batches, and an old pace is forgotten
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
        self._decode_s = _averaged(self._decode_s, processor_seconds / self._admission.turns.share)

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
        turns: at the processors, for those who are in.
    """

    def __init__(self, plan: Plan, cpus: int | None = None) -> None:
        self.capacity = plan.queue_capacity
        self._seat = board.seat()
        self.turns = Turns(plan, self._seat, cpus)
        self._lines: list[Line] = []
        self._lock = threading.Lock()

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
            self._seat.tell_house(ahead + count)
        return Places(self, line, count)

    def left(self, line: Line, count: int) -> None:
        """`count` pictures of this line are answered, or given up."""
        with self._lock:
            line.ahead -= count
            self._seat.tell_house(self.ahead)


def _averaged(old: float, new: float) -> float:
    return new if old == 0 else old + WEIGHT * (new - old)


def _advice(seconds: float) -> int:
    """Whole seconds for `Retry-After`, from 1 up."""
    return max(1, min(MOST_RETRY_S, math.ceil(seconds)))
