"""Batching: everyone gets an answer, one's own, in time or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service import batching
from service.batching import Batcher, Ticket
from service.problems import DeadlineExceeded, Internal, NotReady, Overloaded

SHAPE = (2, 2, 3)
PATIENCE_S = 10.0  # for events that always come; a test that needs it has failed


def picture(number: int) -> np.ndarray:
    """Pixels that carry a number up to 65,535."""
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = number // 256, number % 256
    return pixels


class Reader:
    """An engine whose answer to a picture is the number in it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.inside = threading.Lock()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        assert self.inside.acquire(blocking=False), "the engine was called from two threads at once"
        try:
            self.sizes.append(len(pixels))
            rows = pixels.astype(np.float32)  # (N, 2, 2, 3)
            return rows[:, 0, 0, :1] * 256 + rows[:, 0, 0, 1:2]  # (N, 1)
        finally:
            self.inside.release()


class Blocked(Reader):
    """It stops at its first batch, until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        return super().run(pixels)


class Failing(Blocked):
    """It raises what it is given, at every batch that holds the number 13."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def run(self, pixels: np.ndarray) -> np.ndarray:
        found = super().run(pixels)
        if 13 in found:
            raise self.error
        return found


@pytest.fixture
def blocked_engine() -> Iterator[Blocked]:
    engine = Blocked()
    yield engine
    engine.release.set()


def answer(ticket: Ticket) -> int:
    return int(ticket.result().probabilities[0])


def held(batcher: Batcher, engine: Blocked, number: int = 0) -> Ticket:
    """Submit a picture and wait until the engine has it in hand."""
    ticket = batcher.submit(picture(number), time.monotonic() + PATIENCE_S)
    assert engine.entered.wait(PATIENCE_S)
    return ticket


@hypothesis_settings(max_examples=30, deadline=None)
@given(callers=st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=6), min_size=1, max_size=12),
       cap=st.integers(1, 9), expired=st.sets(st.integers(0, 65_535)))
def test_each_caller_gets_its_own_answer(callers, cap, expired):
    """Batches that mix up their callers give a stranger's answer in silence; also where neighbours dropped out."""
    engine = Reader()
    batcher = Batcher(engine, cap, capacity=1000)
    start = threading.Barrier(len(callers))

    def call(numbers: list[int]) -> list[tuple[int, int | None]]:
        start.wait(PATIENCE_S)
        until = time.monotonic() + PATIENCE_S
        tickets = [(number, batcher.submit(picture(number), 0.0 if number in expired else until)) for number in numbers]
        found: list[tuple[int, int | None]] = []
        for number, ticket in tickets:
            try:
                found.append((number, answer(ticket)))
            except DeadlineExceeded:
                found.append((number, None))
        return found

    try:
        with ThreadPoolExecutor(len(callers)) as pool:
            for found in pool.map(call, callers):
                assert all(got == (None if number in expired else number) for number, got in found)
        answer(batcher.submit(picture(0)))  # all before it are taken by then, those too that nobody waits for any more
        assert max(engine.sizes) <= cap
        assert batcher.waiting == 0
    finally:
        batcher.close()


def test_a_lone_picture_does_not_wait_for_company(blocked_engine):
    """Greedy: no timer holds back the only picture there is."""
    blocked_engine.release.set()
    batcher = Batcher(blocked_engine, cap=16, capacity=16)
    outcome = batcher.submit(picture(7)).result()
    assert (int(outcome.probabilities[0]), outcome.batch_size) == (7, 1)
    batcher.close()


def test_the_engine_runs_when_it_has_its_turn():
    """Until then the batch fills; it is told when there is no room for more, and whether all processors are free."""
    told: list[str] = []
    mine = threading.Event()

    class Turn:
        @contextmanager
        def run(self, pictures, cap):
            assert mine.wait(PATIENCE_S)
            told.append(f"{pictures()} of {cap}")
            yield "full" in told[-2:]
            told.append("over")

        def poke(self):
            told.append("full")
            mine.set()

    class Wide(Reader):
        def run(self, pixels, alone=False):
            told.append("alone" if alone else "not alone")
            return super().run(pixels)

    batcher = Batcher(Wide(), cap=3, capacity=16, turn=Turn())
    tickets = [batcher.submit(picture(number)) for number in range(3)]
    assert [answer(ticket) for ticket in tickets] == [0, 1, 2]
    answer(batcher.submit(picture(0)))
    batcher.close()
    assert told == ["full", "3 of 3", "alone", "over", "1 of 3", "not alone", "over"]


def test_batches_of_one_are_explained_once(monkeypatch):
    """Whoever wonders why the machine isn't used finds it in the log; a batch of two says that all is well."""
    monkeypatch.setattr(batching, "ADVICE_AFTER", 3)
    batcher = Batcher(Reader(), cap=4, capacity=16)
    with capture_logs() as lines:
        for pictures in (1, 1, 2, 1, 1):
            batcher._advise(pictures)
        assert lines == []
        for _ in range(9):
            batcher._advise(1)
    batcher.close()
    (line,) = lines
    assert (line["event"], line["batches"]) == ("every_batch_is_of_one", 3)
    assert "several connections" in line["advice"]


def test_what_waits_runs_together(blocked_engine):
    """While the engine is busy the next batch fills, up to the cap, in order."""
    batcher = Batcher(blocked_engine, cap=3, capacity=16)
    first = held(batcher, blocked_engine)
    rest = [batcher.submit(picture(number)) for number in range(1, 6)]
    assert batcher.waiting == 5
    blocked_engine.release.set()
    assert [answer(ticket) for ticket in [first, *rest]] == [0, 1, 2, 3, 4, 5]
    assert blocked_engine.sizes == [1, 3, 2]
    assert rest[0].result().batch_size == 3
    batcher.close()


def test_a_full_queue_refuses_at_once(blocked_engine):
    """A caller never waits in line for a place in the line."""
    batcher = Batcher(blocked_engine, cap=1, capacity=1)
    held(batcher, blocked_engine)
    batcher.submit(picture(1))  # the queue holds the second
    with pytest.raises(Overloaded, match="1 pictures are already waiting; try again in 1 s") as refused:
        batcher.submit(picture(2))
    assert refused.value.retry_after_s == 1
    blocked_engine.release.set()
    batcher.close()


def test_expired_and_vanished_are_dropped_and_counted(blocked_engine, dropped):
    """Work that nobody waits for takes the engine from those who do."""
    batcher = Batcher(blocked_engine, cap=4, capacity=16)
    first = held(batcher, blocked_engine)
    expired = batcher.submit(picture(1), time.monotonic())
    vanished = batcher.submit(picture(2), gone=lambda: True)
    closed = batcher.submit(picture(3), gone=_closed_socket)
    kept = batcher.submit(picture(4), gone=lambda: False)
    before = dropped()
    blocked_engine.release.set()
    assert (answer(first), answer(kept)) == (0, 4)
    assert kept.result().batch_size == 1
    for ticket in (expired, vanished, closed):
        with pytest.raises(DeadlineExceeded):
            ticket.result()
    after = dropped()
    assert (after["expired"] - before["expired"], after["gone"] - before["gone"]) == (1, 2)
    batcher.close()


def _closed_socket() -> bool:
    raise OSError("Bad file descriptor")


def test_a_caller_waits_no_longer_than_its_deadline(blocked_engine):
    """An engine that hangs must not hold the threads that answer."""
    batcher = Batcher(blocked_engine, cap=1, capacity=4)
    held(batcher, blocked_engine)
    with pytest.raises(DeadlineExceeded, match=r"no answer in time; the picture waited [\d,]+ ms") as late:
        batcher.submit(picture(1), time.monotonic() + 0.02).result()
    assert late.value.fields["waited_ms"] >= 20
    blocked_engine.release.set()
    batcher.close()


def test_a_failing_batch_fails_its_own_callers_only():
    """One fault of the engine is no reason to refuse the next batch."""
    engine = Failing(RuntimeError("out of registers"))
    batcher = Batcher(engine, cap=2, capacity=16)
    first = held(batcher, engine)
    unlucky = [batcher.submit(picture(13)), batcher.submit(picture(1))]
    lucky = batcher.submit(picture(2))
    engine.release.set()
    assert answer(first) == 0
    for ticket in unlucky:
        with pytest.raises(Internal, match="the engine failed"):
            ticket.result()
    assert answer(lucky) == 2
    assert batcher.alive
    batcher.close()


def test_too_few_rows_fail_the_batch():
    """A row for another picture is worse than none."""

    class Short(Reader):
        def run(self, pixels: np.ndarray) -> np.ndarray:
            return super().run(pixels)[1:]

    batcher = Batcher(Short(), cap=2, capacity=4)
    with pytest.raises(Internal):
        batcher.submit(picture(1)).result()
    batcher.close()


class Death(BaseException):
    """What no handler of ordinary errors catches."""


def test_a_dead_thread_leaves_nobody_waiting():
    """Silence would hold each caller until its deadline, and readiness would lie."""
    engine = Failing(Death())
    batcher = Batcher(engine, cap=1, capacity=16, name="quadrants/1")
    first = held(batcher, engine, 13)
    waiting = batcher.submit(picture(1))
    engine.release.set()
    for ticket in (first, waiting):
        with pytest.raises(NotReady, match="batch thread of quadrants/1 has died"):
            ticket.result()
    with pytest.raises(NotReady):
        batcher.submit(picture(2))
    assert not batcher.alive
    assert batcher.waiting == 0


def test_closing_finishes_what_is_in_the_engine(blocked_engine):
    """A stop costs no answer that is already being computed; what only waits is told."""
    batcher = Batcher(blocked_engine, cap=1, capacity=4)
    first = held(batcher, blocked_engine)
    waiting = batcher.submit(picture(1))
    closer = threading.Thread(target=batcher.close)
    closer.start()
    blocked_engine.release.set()
    closer.join(PATIENCE_S)
    assert answer(first) == 0
    with pytest.raises(NotReady, match="is being closed"):
        waiting.result()
    assert not batcher.alive


@pytest.mark.parametrize("wrong", [
    pytest.param(np.zeros((2, 2, 1), np.uint8), id="NumPy would spread it"),
    pytest.param(np.zeros(SHAPE, np.float32), id="NumPy would cut it"),
    pytest.param(np.zeros((3, 2, 3), np.uint8), id="another size"),
])
def test_pixels_of_another_kind_are_refused(wrong):
    """NumPy would fit some of them in without a word."""
    batcher = Batcher(Reader(), cap=2, capacity=4)
    assert answer(batcher.submit(picture(5))) == 5
    with pytest.raises(ValueError, match=r"expected uint8 \(2, 2, 3\)"):
        batcher.submit(wrong)
    assert answer(batcher.submit(picture(6))) == 6
    batcher.close()


def test_each_run_is_reported(blocked_engine):
    """Admission predicts from it."""
    reports: list[tuple[int, float]] = []
    batcher = Batcher(blocked_engine, 4, 16, ran=lambda images, seconds: reports.append((images, seconds)))
    first = held(batcher, blocked_engine)
    more = [batcher.submit(picture(number)) for number in (1, 2)]
    blocked_engine.release.set()
    assert [answer(ticket) for ticket in (first, *more)] == [0, 1, 2]
    batcher.close()
    assert [images for images, _ in reports] == [1, 2]
    assert all(seconds >= 0 for _, seconds in reports)
