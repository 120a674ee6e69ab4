"""Turns: memory and processors for decoding, and the engine that waits for what is on its way."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from service import turns as module
from service.board import Board
from service.planning import LONE_BATCH, Plan
from service.problems import DeadlineExceeded, TooManyPixels
from service.turns import Turns

PLAN = Plan(workers=1, request_threads=4, engine_threads=2, batch_cap=4, queue_capacity=10, decode_memory=1000, reasons={})
PATIENCE_S = 10.0
SOON_S = 0.02
LARGE = 800  # bytes, here


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", LARGE)
    monkeypatch.setattr(module, "HOLD_S", PATIENCE_S)


@pytest.fixture
def shared() -> Board:
    return Board(2)


@pytest.fixture
def turns(shared: Board) -> Turns:
    return Turns(PLAN, shared.seat(shared.take()), cpus=2)


@pytest.fixture
def pair(shared: Board) -> Turns:
    """Of one of two processes on two processors."""
    return Turns(dataclasses.replace(PLAN, workers=2, engine_threads=1), shared.seat(shared.take()), cpus=2)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def can_decode(turns: Turns, wanted: int = 1, patience_s: float = SOON_S) -> bool:
    try:
        with turns.decode(wanted, time.monotonic() + patience_s):
            return True
    except DeadlineExceeded:
        return False


def engine(turns: Turns, pictures: Callable[[], int] = lambda: 1) -> bool:
    with turns.run(pictures, PLAN.batch_cap) as alone:
        return alone


def test_a_picture_that_never_fits_is_refused(turns):
    """Waiting would not make more memory."""
    with pytest.raises(TooManyPixels, match="picture takes about 0 MiB to decode") as refused:
        turns.decode(1001).__enter__()
    assert refused.value.fields == {"decode_bytes": 1001, "decode_memory": 1000}


def test_memory_is_waited_for_no_longer_than_the_deadline(turns):
    """The caller has gone by then."""
    with turns.decode(600), pytest.raises(DeadlineExceeded):
        turns.decode(600, time.monotonic() + SOON_S).__enter__()
    with turns.decode(1000):
        pass


@pytest.mark.parametrize("waits", [700, 900])
def test_memory_never_runs_out_and_nobody_is_overtaken_for_it(turns, waits, monkeypatch):
    """Small ones that overtake would starve it; one too many at once would end the process."""
    taken, most, lock, order = 0, 0, threading.Lock(), []
    small_is_in, go_on, in_line = threading.Event(), threading.Event(), threading.Semaphore(0)

    class Line(deque[object]):
        def append(self, who: object) -> None:
            super().append(who)
            in_line.release()

    monkeypatch.setattr(turns, "_asking", Line())
    monkeypatch.setattr(turns, "_asking_large", Line())

    def decode(wanted: int, first: bool = False) -> None:
        nonlocal taken, most
        with turns.decode(wanted, time.monotonic() + PATIENCE_S):
            with lock:
                taken += wanted
                most = max(most, taken)
                order.append(wanted)
            if first:
                small_is_in.set()
                assert go_on.wait(PATIENCE_S)
            with lock:
                taken -= wanted

    threads = [threading.Thread(target=decode, args=(400, True))]
    threads[0].start()
    assert in_line.acquire(timeout=PATIENCE_S)
    assert small_is_in.wait(PATIENCE_S)
    for wanted in (waits, 301, 301):
        threads.append(threading.Thread(target=decode, args=(wanted,)))
        threads[-1].start()
        assert in_line.acquire(timeout=PATIENCE_S)  # before the next one comes
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == [400, waits, 301, 301]
    assert most <= PLAN.decode_memory


def test_no_more_pictures_are_decoded_at_once_than_processors_can(turns):
    """Who waits gets his turn when one is done."""
    with turns.decode(1), turns.decode(1):
        assert not can_decode(turns)
    assert can_decode(turns)


def test_a_large_picture_holds_up_no_small_one(turns):
    """It may take seconds; it has a lane of its own, beside the engine."""
    with turns.decode(LARGE + 1):
        assert can_decode(turns)
        assert engine(turns)
        with turns.run(lambda: 1, PLAN.batch_cap):
            assert not can_decode(turns)


def test_the_share_of_a_process_grows_while_the_others_are_idle(shared, pair):
    """All processors are its own then; the moment that the other has a picture, they are not."""
    other = shared.seat(shared.take())
    other.serve()
    with pair.decode(1):
        assert can_decode(pair)
        other.tell_house(1)
        assert not can_decode(pair)
    assert not engine(pair)
    other.tell_house(0)
    assert engine(pair)
    assert not engine(pair, lambda: LONE_BATCH + 1)


def test_the_engine_waits_for_what_is_on_its_way(turns, pool):
    """A batch of all that were let in costs less than two of some."""
    turns.expect(2)
    running = pool.submit(engine, turns)
    turns.arrived()
    time.sleep(SOON_S)
    assert not running.done()
    turns.arrived()
    assert running.result(PATIENCE_S)


def test_the_engine_does_not_wait_once_a_batch_is_full(turns, pool):
    """There is no room for more."""
    ready = 1
    turns.expect(9)
    running = pool.submit(engine, turns, lambda: ready)
    time.sleep(SOON_S)
    assert not running.done()
    ready = PLAN.batch_cap
    turns.poke()
    running.result(PATIENCE_S)


def test_the_engine_does_not_wait_for_a_large_picture(turns):
    """Nor for one that came to nothing, as its time is up."""
    turns.expect(1)
    with turns.decode(LARGE + 1):
        assert engine(turns)
        turns.expect(1)
        with pytest.raises(DeadlineExceeded):
            turns.decode(LARGE + 1, time.monotonic() + SOON_S).__enter__()
        turns.arrived()
        assert engine(turns)
    turns.arrived()
    assert engine(turns)


def test_the_engine_goes_on_when_nothing_arrives_for_a_while(turns, monkeypatch):
    """Whatever keeps the others, those who are there get their answers."""
    monkeypatch.setattr(module, "HOLD_S", SOON_S)
    turns.expect(1)
    start = time.monotonic()
    assert engine(turns)
    assert SOON_S / 2 < time.monotonic() - start < PATIENCE_S


def test_what_is_not_for_this_batch_prolongs_no_wait(turns, pool, monkeypatch):
    """Pictures of other models, and those that are refused, come and go without end on a busy day."""
    monkeypatch.setattr(module, "HOLD_S", SOON_S)
    end = threading.Event()

    def come_and_go() -> None:
        while not end.is_set():
            turns.expect(1)
            with turns.decode(1):
                time.sleep(SOON_S / 8)
            turns.arrived()

    others = [pool.submit(come_and_go) for _ in range(3)]
    try:
        time.sleep(SOON_S)
        pool.submit(engine, turns).result(PATIENCE_S / 2)
    finally:
        end.set()
        for each in others:
            each.result(PATIENCE_S)


def test_two_models_engines_do_not_wait_for_each_others_wish(pair, pool):
    """Both hold decoding back; one runs, then the other."""
    def run() -> None:
        with pair.run(lambda: 1, PLAN.batch_cap):
            time.sleep(SOON_S / 2)

    with pair.decode(1):
        both = [pool.submit(run) for _ in range(2)]
        while pair._reserved < 2:
            time.sleep(0.001)
    start = time.monotonic()
    for each in both:
        each.result(PATIENCE_S)
    assert time.monotonic() - start < PATIENCE_S / 2  # and not once the wait is over


def test_large_pictures_do_not_starve_small_ones_of_memory(turns, pool):
    """Who came first is first, whatever the size."""
    with turns.decode(LARGE + 1):
        small = pool.submit(can_decode, turns, 300, PATIENCE_S)
        while not turns._asking:
            time.sleep(0.001)
        large = pool.submit(lambda: turns.decode(LARGE + 1, time.monotonic() + PATIENCE_S).__enter__())
        while not turns._asking_large:
            time.sleep(0.001)
    assert small.result(PATIENCE_S)
    large.result(PATIENCE_S)


def test_decoding_waits_for_the_engine_and_the_engine_for_decoding(turns, pool):
    """Together they would have more threads than there are processors."""
    with turns.run(lambda: 1, PLAN.batch_cap):
        assert not can_decode(turns)
    assert can_decode(turns)
    with ExitStack() as decoding:
        decoding.enter_context(turns.decode(1))
        running = pool.submit(engine, turns)
        time.sleep(SOON_S)
        assert not running.done()
        assert not can_decode(turns)  # the engine's turn comes first
    assert running.result(PATIENCE_S)


def test_beside_a_gpu_decoding_goes_on(shared):
    """Its engine needs no processor, and waits for nobody."""
    turns = Turns(dataclasses.replace(PLAN, gpu=True), shared.seat(shared.take()), cpus=2)
    turns.expect(1)
    with turns.run(lambda: 1, PLAN.batch_cap) as alone:
        assert not alone
        assert can_decode(turns)


@pytest.mark.parametrize(("workers", "share"), [(1, 2), (2, 1), (1000, 1)])
def test_processors_are_shared_by_the_processes(shared, workers, share):
    """None goes without."""
    assert Turns(dataclasses.replace(PLAN, workers=workers), shared.seat(shared.take()), cpus=2).share == share


def test_threads_keep_to_their_own_processors_while_the_others_are_busy(monkeypatch):
    """Who decodes and who runs the engine; while the others are idle, or two have the same home, any will do."""
    shared, used = Board(4, homes=2), []
    mine, other = shared.seat(shared.take()), shared.seat(shared.take())
    mine.serve()
    other.serve()
    turns = Turns(dataclasses.replace(PLAN, workers=2, engine_threads=1, own_cpus=1), mine, cpus=2)
    monkeypatch.setattr(turns.processors, "use", used.append)

    def both() -> list[bool]:
        used.clear()
        with turns.decode(1):
            pass
        engine(turns)
        return list(used)

    assert both() == [False, False]
    other.tell_house(1)
    assert both() == [True, True]
    used.clear()
    with turns.decode(LARGE + 1):  # beside the engine
        pass
    assert used == [False]
    third = shared.take()  # a reload
    assert both() == [False, False]
    shared.leave(third)
    assert both() == [True, True]
    other.tell_house(0)
    assert both() == [False, False]
