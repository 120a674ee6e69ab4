"""One thread a model: takes all that waits, runs it as one batch, hands each caller its own row.

Knows arrays, deadlines and an engine with a `run`; knows nothing of pictures' formats or of HTTP.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service import logs
from service.metrics import BATCH_SIZE, DROPPED, ENGINE_SECONDS, QUEUE_DEPTH, QUEUE_SECONDS
from service.problems import DeadlineExceeded, Internal, NotReady, Overloaded, Problem

log = logs.get(__name__)

ADVICE_AFTER = 1000  # batches of one picture in a row
SPARE_BUFFERS = 2  # one in the engine, one being filled; more are given back after a rush


class Runs(Protocol):
    """What an engine must be able to do."""

    def run(self, pixels: NDArray[np.uint8], alone: bool = False) -> NDArray[np.float32]:
        """(N, height, width, 3) uint8 → (N, classes) float32; alone: all processors are free."""


class Turn(Protocol):
    """Who decides when the engine runs."""

    def run(self, pictures: Callable[[], int], cap: int) -> AbstractContextManager[bool]:
        """Entered when it may; gives whether all processors are free."""

    def poke(self) -> None:
        """A batch is full."""


class Outcome(NamedTuple):
    """What a caller gets back."""

    probabilities: NDArray[np.float32]  # (classes,)
    queue_ms: float  # from submit to engine start
    inference_ms: float  # of the whole batch
    batch_size: int  # pictures in it


class Ticket:
    """One picture's claim to an answer; made by `Batcher.submit`."""

    def __init__(self, deadline: float, gone: Callable[[], bool] | None) -> None:
        self.deadline = deadline
        self.submitted = time.monotonic()
        self._gone = gone
        self._answer: Future[Outcome] = Future()

    def result(self) -> Outcome:
        """Wait for the answer, no longer than until the deadline.

        Raises:
            DeadlineExceeded: it didn't come in time, or the client went away before its turn.
            Internal: the engine failed on this batch.
            NotReady: the batch thread died, or was closed.
        """
        left_s = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
        try:
            return self._answer.result(left_s)
        except TimeoutError:
            raise self._late() from None

    def unwanted(self, now: float) -> str | None:
        """Why there is no point in running this one (`expired` or `gone`), or `None`."""
        if now >= self.deadline:
            return "expired"
        try:
            return "gone" if self._gone is not None and self._gone() else None
        except OSError:  # asking a socket that is closed by now
            return "gone"

    def drop(self, reason: str) -> None:
        """End it without an answer."""
        if reason == "expired":
            self.fail(self._late())
        else:
            self.fail(DeadlineExceeded("the client closed the connection before the picture's turn came"))

    def finish(self, outcome: Outcome) -> None:
        """Hand the answer over; the first of `finish` and `fail` counts."""
        if not self._answer.done():
            self._answer.set_result(outcome)

    def fail(self, problem: Problem) -> None:
        """Let the caller's `result` raise this problem."""
        if not self._answer.done():
            self._answer.set_exception(problem)

    def _late(self) -> DeadlineExceeded:
        waited_ms = round(1000 * (time.monotonic() - self.submitted))
        return DeadlineExceeded(f"no answer in time; the picture waited {waited_ms:,} ms for the engine", waited_ms=waited_ms)


class _Batch:
    """A buffer and the tickets of its first rows."""

    def __init__(self, cap: int, shape: tuple[int, ...]) -> None:
        self.pixels = np.empty((cap, *shape), np.uint8)  # (cap, height, width, 3)
        self.tickets: list[Ticket] = []


class _Answers(NamedTuple):
    """What the engine said to a batch: when it began (on the clock of `time.monotonic`), and how long it took."""

    tickets: list[Ticket]
    found: NDArray[np.float32]  # (N, classes)
    start: float
    seconds: float


class Batcher:
    """Groups waiting pictures into one engine call.

    A free engine takes what waits, up to `cap`, as soon as it has its turn; nobody waits for company by the clock.
    `submit` may be called from any thread; the engine is called from exactly one.
    A failing batch fails its own callers and no others.
    """

    def __init__(
        self, engine: Runs, cap: int, capacity: int, name: str = "model", ran: Callable[[int, float], Any] | None = None,
        turn: Turn | None = None,
    ) -> None:
        """Start the thread.

        Args:
            engine: runs one batch at a time.
            cap: most pictures in a batch.
            capacity: most pictures waiting.
            name: of the model, for messages.
            ran: told of every engine call: pictures, seconds.
            turn: decides when the engine runs; at once unless given.
        """
        self.cap, self.capacity, self.name = cap, capacity, name
        self._engine, self._ran, self._turn = engine, ran, turn
        self._arrived = threading.Condition()
        self._line: deque[_Batch] = deque()  # only the last one may have room
        self._spare: list[_Batch] = []
        self._shape: tuple[int, ...] = ()  # of a picture; the first one settles it
        self._waiting = 0
        self._ones: float = 0  # batches of one picture in a row; infinite once that was said
        self._end: str | None = None  # why there are no more answers
        self._thread = threading.Thread(target=self._serve, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that the engine hasn't taken yet."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """The thread runs and takes pictures."""
        return self._end is None and self._thread.is_alive()

    @property
    def end(self) -> str | None:
        """Why there are no more answers, in words; `None` while there are."""
        return self._end

    def submit(self, pixels: NDArray[np.uint8], deadline: float = math.inf, gone: Callable[[], bool] | None = None) -> Ticket:
        """Write a picture into the next batch.

        Args:
            pixels: (height, width, 3) uint8, the same shape from everyone.
            deadline: on the clock of `time.monotonic`; past it the picture is dropped.
            gone: tells, quickly and from any thread, whether the client went away; the picture is dropped then.
        Raises:
            Overloaded: the queue is full.
            NotReady: the thread died, or was closed.
            ValueError: another shape or type than those before.
        """
        ticket = Ticket(deadline, gone)
        with self._arrived:
            if self._end is not None:
                raise NotReady(self._end)
            if self._waiting >= self.capacity:
                raise Overloaded(f"{self._waiting} pictures are already waiting; try again in 1 s",
                                 retry_after_s=1, waiting=self._waiting, queue_capacity=self.capacity)
            batch = self._open(pixels)
            # Under the lock: 150 KB take about 10 µs, and no half-written row ever reaches the engine.
            batch.pixels[len(batch.tickets)] = pixels
            batch.tickets.append(ticket)
            self._waiting += 1
            full = len(batch.tickets) == self.cap
            self._arrived.notify()
        if full and self._turn:
            self._turn.poke()
        QUEUE_DEPTH.inc()
        return ticket

    def close(self, timeout_s: float = 5.0) -> None:
        """Let the engine finish what it has in hand, fail what waits, end the thread."""
        with self._arrived:
            self._end = self._end or f"{self.name} is being closed"
            self._arrived.notify()
        self._thread.join(timeout_s)

    def _open(self, pixels: NDArray[np.uint8]) -> _Batch:
        """The batch that is being filled, or a new one at the end of the line."""
        self._shape = self._shape or pixels.shape
        if pixels.shape != self._shape or pixels.dtype != np.uint8:  # NumPy would fit some of them in, silently
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 {self._shape}")
        if self._line and len(self._line[-1].tickets) < self.cap:
            return self._line[-1]
        batch = self._spare.pop() if self._spare else _Batch(self.cap, self._shape)
        self._line.append(batch)
        return batch

    def _serve(self) -> None:
        """The thread. Whatever ends it leaves no caller waiting and shows in `alive`."""
        batch: _Batch | None = None
        try:
            while self._wanted_at_all():
                with self._turn.run(self._ready, self.cap) if self._turn else nullcontext(False) as alone:
                    if (batch := self._next()) is None:
                        continue
                    answers = self._run(batch, alone)
                self._hand_out(answers)
                batch.tickets.clear()
                with self._arrived:
                    if len(self._spare) < SPARE_BUFFERS:
                        self._spare.append(batch)
        except BaseException as error:  # also what nobody expects: a silent death would leave callers waiting
            log.error("batch_thread_died", model=self.name, error=repr(error), exc_info=True)
            with self._arrived:
                self._end = f"the batch thread of {self.name} has died"
        finally:
            with self._arrived:
                left = [*self._line, *([batch] if batch else [])]
                self._line.clear()
                QUEUE_DEPTH.dec(self._waiting)
                self._waiting = 0
            for each in left:
                for ticket in each.tickets:
                    ticket.fail(NotReady(self._end or f"{self.name} is being closed"))

    def _ready(self) -> int:
        """Pictures that the next batch would have."""
        line = self._line
        return len(line[0].tickets) if line else 0

    def _wanted_at_all(self) -> bool:
        """Wait for a picture; False at the end."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._line or self._end is not None)
            return self._end is None

    def _next(self) -> _Batch | None:
        """Take the pictures that wait; `None` at the end."""
        with self._arrived:
            if self._end is not None:
                return None
            batch = self._line.popleft()
            self._waiting -= len(batch.tickets)
        QUEUE_DEPTH.dec(len(batch.tickets))
        return batch

    def _run(self, batch: _Batch, alone: bool) -> _Answers | None:
        """Ask the engine; a batch that fails fails its own callers."""
        tickets = self._wanted(batch)
        if not tickets:
            return None
        pixels, start = batch.pixels[: len(tickets)], time.monotonic()
        try:
            found = self._engine.run(pixels, alone=True) if alone else self._engine.run(pixels)  # (N, classes)
            if len(found) != len(tickets):
                raise ValueError(f"engine returned {len(found)} rows for {len(tickets)} pictures")
        except Exception as error:  # whatever it is, these callers hear of it and the thread lives on
            log.error("batch_failed", model=self.name, images=len(tickets), error=str(error), exc_info=True)
            for ticket in tickets:
                ticket.fail(Internal("the engine failed on this picture's batch; the log tells why"))
            return None
        return _Answers(tickets, found, start, time.monotonic() - start)

    def _hand_out(self, answers: _Answers | None) -> None:
        if answers is None:
            return
        tickets, found, start, seconds = answers
        for ticket, row in zip(tickets, found, strict=True):
            ticket.finish(Outcome(row, 1000 * (start - ticket.submitted), 1000 * seconds, len(tickets)))
        for ticket in tickets:  # now that nobody waits for it
            QUEUE_SECONDS.observe(start - ticket.submitted)
        ENGINE_SECONDS.observe(seconds)
        BATCH_SIZE.observe(len(tickets))
        if self._ran:
            self._ran(len(tickets), seconds)
        self._advise(len(tickets))
        log.debug("batch_done", model=self.name, images=len(tickets), engine_ms=round(1000 * seconds, 3))

    def _advise(self, pictures: int) -> None:
        """Once: whoever wonders why more processors don't give more images/s finds the reason in the log."""
        if self._ones == math.inf:
            return
        self._ones = self._ones + 1 if pictures == 1 else 0
        if self._ones == ADVICE_AFTER:
            self._ones = math.inf
            log.info("every_batch_is_of_one", model=self.name, batches=ADVICE_AFTER,
                     advice="pictures come one after the other; a batch costs less for each: ask over several connections at "
                            "once, or send several pictures in one request")

    def _wanted(self, batch: _Batch) -> list[Ticket]:
        """Drop what expired or went away; the rows of the others move up."""
        now = time.monotonic()
        wanted: list[Ticket] = []
        for row, ticket in enumerate(batch.tickets):
            if reason := ticket.unwanted(now):
                DROPPED.labels(reason).inc()
                ticket.drop(reason)
                continue
            if row != len(wanted):
                batch.pixels[len(wanted)] = batch.pixels[row]
            wanted.append(ticket)
        return wanted
