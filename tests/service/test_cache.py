"""The cache: bounded in bytes; one works for all who ask the same; nobody inherits another's misfortune or waits for ever."""

from __future__ import annotations

import gc
import os
import threading
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service import answer
from service.answer import Answer, Asked, Named, Prediction, Shown, Timing
from service.cache import ENTRY_BYTES, Cache, Follow, Given, Hit, Key, Lead
from service.metrics import CACHE_BYTES, CACHE_EVICTIONS, CACHE_LOOKUPS
from service.problems import DeadlineExceeded, Internal, Overloaded, Problem, UndecodablePicture

PATIENCE_S = 10.0  # for events that always come; a test that needs it has failed
WEIGHT = 100  # of each value here
ENTRY = ENTRY_BYTES + WEIGHT


def key(name: object) -> Key:
    return Key.of(str(name).encode(), "model", "options")


def cache(entries: int = 3) -> Cache[str]:
    return Cache(entries * ENTRY, lambda _: WEIGHT)


class Worker:
    """Does the work of one request; can be held in the middle of it, and made to fail."""

    def __init__(self, result: str | Problem = "done", held: bool = False, refuses: Problem | None = None) -> None:
        self.result, self.refuses = result, refuses
        self.asked: list[list[int]] = []
        self.entered, self.release = threading.Event(), threading.Event()
        if not held:
            self.release.set()

    def __call__(self, positions: list[int]) -> Generator[str | Problem, None, None]:
        self.asked.append(positions)
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        if self.refuses:
            raise self.refuses
        for _ in positions:
            yield self.result


def ask(
    found: Cache[str], name: object, work: Worker, deadline: float | None = None, gone: Callable[[], object] | None = None,
) -> Given[str]:
    until = time.monotonic() + PATIENCE_S if deadline is None else deadline  # a fault ends a test, and doesn't hang it
    (one,) = found.answers([key(name)], work, until, gone)
    return one


def lookups() -> dict[str, float]:
    return {each: CACHE_LOOKUPS.labels(each)._value.get() for each in ("hit", "coalesced", "miss")}


@pytest.fixture
def counted() -> Callable[[], dict[str, float]]:
    """Lookups since the test began, by outcome."""
    before = lookups()
    return lambda: {each: count - before[each] for each, count in lookups().items()}


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns when so many followers have begun to wait, or to wait again, since the test began."""
    arrived = threading.Semaphore(0)
    original = Future.result

    def result(self: Future[object], timeout: float | None = None) -> object:
        arrived.release()
        return original(self, timeout)

    monkeypatch.setattr("service.cache.Future", type("Watched", (Future,), {"result": result}))

    def wait(count: int) -> None:
        for _ in range(count):
            assert arrived.acquire(timeout=PATIENCE_S)

    return wait


def test_a_second_time_costs_no_work(counted):
    """What all of this is for."""
    found, work = cache(), Worker()
    assert ask(found, "a", work) == ("done", None)
    assert ask(found, "a", work) == ("done", 0.0)
    assert len(work.asked) == 1
    assert counted() == {"hit": 1, "coalesced": 0, "miss": 1}


@pytest.mark.parametrize("other", [
    pytest.param(Key.of(b"b", "model", "options"), id="content"),
    pytest.param(Key.of(b"a", "newer", "options"), id="model"),
    pytest.param(Key.of(b"a", "model", "others"), id="options"),
])
def test_whatever_the_answer_depends_on_is_in_the_key(other):
    """An answer of the wrong model is worse than none."""
    found = cache()
    found.answers([Key.of(b"a", "model", "options")], Worker("first"))
    (again,) = found.answers([other], Worker("second"))
    assert again == ("second", None)


def test_the_least_recently_used_goes_first():
    """What is asked for often stays."""
    found, evicted = cache(2), CACHE_EVICTIONS._value.get()
    for name in ("a", "b", "a", "c"):
        ask(found, name, Worker(name))
    assert [isinstance(found.claim(key(name)), Hit) for name in ("a", "b", "c")] == [True, False, True]
    assert CACHE_EVICTIONS._value.get() - evicted == 1
    assert CACHE_BYTES._value.get() == found.held == 2 * ENTRY


def test_what_is_larger_than_the_whole_cache_drives_nothing_out():
    """One giant must not cost all others their place."""
    found = Cache(3 * ENTRY, lambda value: 10 * ENTRY if value == "giant" else WEIGHT)
    ask(found, "a", Worker("a"))
    ask(found, "giant", Worker("giant"))
    assert (len(found), found.held) == (1, ENTRY)
    assert ask(found, "giant", Worker("giant")).waited_ms is None


@given(limit=st.integers(1, 8 * ENTRY), steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=40))
@hypothesis_settings(deadline=None)
def test_the_bound_holds_and_the_order_is_that_of_use(limit, steps):
    """Held against a plain model, after every step."""
    found: Cache[tuple[int, int]] = Cache(limit, lambda value: value[1])
    model: OrderedDict[int, int] = OrderedDict()
    for name, weight in steps:
        (got,) = found.answers([key(name)], lambda _, value=(name, weight): (each for each in [value]))
        if name in model:
            model.move_to_end(name)
            assert got == ((name, model[name]), 0.0)
        else:
            assert got == ((name, weight), None)
            if ENTRY_BYTES + weight <= limit:
                model[name] = weight
                while sum(model.values()) + len(model) * ENTRY_BYTES > limit:
                    model.popitem(last=False)
        assert found.held == sum(model.values()) + len(model) * ENTRY_BYTES <= limit
        assert list(found._kept) == [key(each) for each in model]
        assert not found._flights


@pytest.mark.parametrize(("predictions", "members"), [(0, None), (5, None), (5, 0), (5, 40), (600, 600)])
def test_the_bytes_of_an_answer_are_estimated_honestly(predictions, members):
    """A limit in bytes that holds twice as many is no limit; held against what Python allocates."""
    labels = [(f"n{row:08}", f"label {row}") for row in range(2000)]  # the model's own, as in `answer.say`
    named = Named("model", "1", "d" * 64, "fp32")

    def best(count: int) -> list[Prediction]:
        return [Prediction(labels[row][1], row / 7, row, labels[row][0]) for row in range(1000, 1000 + count)]

    def work(positions: list[int]) -> Generator[Answer | Problem, None, None]:
        for _ in positions:
            one = float(os.getpid())
            yield Answer(
                os.urandom(8).hex(), named, best(predictions), one / 3, one / 5, True, Shown("JPEG", "RGB", 1000, 2000, False),
                Timing(one / 7, one / 9, one / 11, one / 13, 4), None if members is None else best(members))

    def filled(count: int) -> tuple[Cache[Answer], int]:
        """A cache, and the bytes that were allocated for what it holds."""
        found = Cache(2**30, answer.weight)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(count):
                found.answers([Key.of(str(number).encode(), named.digest, Asked(5, number / 7, number / 9))], work)
            gc.collect()
            return found, tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    count = 350 if predictions < 100 else 20  # just behind a growth of the dictionary: the most that a place can cost
    # Threads that other tests left behind may allocate meanwhile, and so add to one of the figures.
    found, allocated = min((filled(count) for _ in range(3)), key=lambda each: each[1])
    assert len(found) == count
    assert allocated <= found.held <= 1.5 * allocated


def test_equal_requests_at_once_are_worked_for_once(waiting, counted):
    """A picture that goes viral arrives many times before its first answer."""
    found, work, never = cache(), Worker(held=True), Worker("never")
    with ThreadPoolExecutor(5) as callers:
        first = callers.submit(ask, found, "a", work)
        assert work.entered.wait(PATIENCE_S)
        others = [callers.submit(ask, found, "a", never) for _ in range(4)]
        waiting(4)
        work.release.set()
        assert first.result(PATIENCE_S) == ("done", None)
        given = [other.result(PATIENCE_S) for other in others]
    assert [each.result for each in given] == ["done"] * 4
    assert all(each.waited_ms > 0 for each in given)
    assert never.asked == []
    assert counted() == {"hit": 0, "coalesced": 4, "miss": 1}


def test_equal_ones_in_one_request_are_worked_for_once():
    """It must not wait for itself."""
    found, work = cache(), Worker()
    given = found.answers([key("a"), key("b"), key("a")], work)
    assert work.asked == [[0, 1]]
    assert [each.result for each in given] == ["done"] * 3
    assert [each.waited_ms is None for each in given] == [True, True, False]


def test_a_result_is_shared_before_the_rest_of_its_request_is_done():
    """Who asked for one picture doesn't wait for the thirty-one behind it."""
    found, shared, release = cache(), threading.Event(), threading.Event()

    def work(positions: list[int]) -> Generator[str | Problem, None, None]:
        yield "first"
        shared.set()
        assert release.wait(PATIENCE_S)
        yield "second"

    with ThreadPoolExecutor(1) as callers:
        both = callers.submit(found.answers, [key("a"), key("b")], work)
        assert shared.wait(PATIENCE_S)
        assert ask(found, "a", Worker("never")).result == "first"
        assert isinstance(found.claim(key("b")), Follow)
        release.set()
        assert [each.result for each in both.result(PATIENCE_S)] == ["first", "second"]


@pytest.mark.parametrize("failure", [
    pytest.param({"result": DeadlineExceeded("no answer in time")}, id="its deadline, or its client went"),
    pytest.param({"result": Internal("the engine failed")}, id="a fault of ours"),
    pytest.param({"refuses": Overloaded("too much")}, id="no room for it"),
])
def test_a_failure_of_its_own_is_nobody_elses(waiting, counted, failure):
    """One of those who wait takes over, and the others wait for that one."""
    found, work, second = cache(), Worker(held=True, **failure), Worker("second")
    with ThreadPoolExecutor(4) as callers:
        first = callers.submit(ask, found, "a", work)
        assert work.entered.wait(PATIENCE_S)
        others = [callers.submit(ask, found, "a", second) for _ in range(3)]
        waiting(3)
        work.release.set()
        assert [other.result(PATIENCE_S).result for other in others] == ["second"] * 3
        assert isinstance(first.exception(PATIENCE_S) or first.result().result, Problem)
    assert len(second.asked) == 1
    assert counted() == {"hit": 0, "coalesced": 2, "miss": 2}


def test_failures_are_not_kept():
    """The next one may be luckier."""
    found = cache()
    for problem in (Overloaded("too much"), Internal("ours"), DeadlineExceeded("late"), UndecodablePicture("cut short")):
        assert ask(found, "a", Worker(problem)) == (problem, None)
    assert (len(found), found.held, found._flights) == (0, 0, {})
    assert ask(found, "a", Worker()) == ("done", None)


def test_a_problem_of_the_picture_is_shared_with_those_who_wait(waiting):
    """All would meet it, one after the other; each gets an exception of its own, for raising it writes to it."""
    problem = UndecodablePicture("cut short", format="JPEG")
    found, work = cache(), Worker(problem, held=True)
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(ask, found, "a", work)
        assert work.entered.wait(PATIENCE_S)
        other = callers.submit(ask, found, "a", Worker("never"))
        waiting(1)
        work.release.set()
        shared = other.result(PATIENCE_S).result
        assert first.result(PATIENCE_S).result is problem
    assert isinstance(shared, UndecodablePicture)
    assert shared is not problem
    assert shared.document("id") == problem.document("id")


def test_a_follower_waits_no_longer_than_its_own_deadline(waiting, counted):
    """The other one's may lie far behind it."""
    found, work = cache(), Worker(held=True)
    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(ask, found, "a", work)
        assert work.entered.wait(PATIENCE_S)
        late = ask(found, "a", Worker("never"), deadline=time.monotonic() + 0.01)
        assert isinstance(late.result, DeadlineExceeded)
        assert late.waited_ms is None
        assert not first.done()
        work.release.set()
        assert first.result(PATIENCE_S).result == "done"
    assert counted() == {"hit": 0, "coalesced": 0, "miss": 2}


@pytest.mark.parametrize("gone", [pytest.param(lambda: True, id="gone"), pytest.param(lambda: os.fstat(-1), id="socket closed")])
def test_a_follower_whose_client_went_does_not_take_over(waiting, gone):
    """To decode for nobody is work taken from the others."""
    found, work, never = cache(), Worker(DeadlineExceeded("late"), held=True), Worker("never")
    with ThreadPoolExecutor(2) as callers:
        callers.submit(ask, found, "a", work)
        assert work.entered.wait(PATIENCE_S)
        follower = callers.submit(ask, found, "a", never, gone=gone)
        waiting(1)
        work.release.set()
        assert isinstance(follower.result(PATIENCE_S).result, DeadlineExceeded)
    assert never.asked == []
    assert found._flights == {}


def test_one_that_takes_over_and_finds_no_room_fails_alone(waiting):
    """Its neighbours in the request have their answers, and the next one that waits has its turn."""
    found, work = cache(), Worker(DeadlineExceeded("late"), held=True)

    def crowded(positions: list[int]) -> Generator[str | Problem, None, None]:
        if positions != [0]:  # what it took over
            raise Overloaded("too much")
        yield "own"

    with ThreadPoolExecutor(2) as callers:
        callers.submit(ask, found, "a", work)
        assert work.entered.wait(PATIENCE_S)
        both = callers.submit(found.answers, [key("b"), key("a")], crowded, time.monotonic() + PATIENCE_S)
        waiting(1)
        work.release.set()
        own, taken = both.result(PATIENCE_S)
    assert own.result == "own"
    assert isinstance(taken.result, Overloaded)
    assert ask(found, "a", Worker("later")).result == "later"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_work_leaves_nobody_waiting(error):
    """A flight that is never ended would let every later request for this picture wait until its deadline."""
    found = cache()

    def broken(positions: list[int]) -> Generator[str | Problem, None, None]:
        yield "first"
        raise error

    with pytest.raises(error):
        found.answers([key("a"), key("b"), key("c")], broken)
    assert ask(found, "a", Worker("never")).result == "first"
    assert isinstance(found.claim(key("b")), Lead)
    assert isinstance(found.claim(key("c")), Lead)


def test_a_value_that_can_not_be_weighed_leaves_nobody_waiting():
    """Even our own mistake in here must not block a picture for ever."""
    found: Cache[str] = Cache(10 * ENTRY, lambda value: len(value) // 0)
    with pytest.raises(ZeroDivisionError):
        ask(found, "a", Worker())
    assert isinstance(found.claim(key("a")), Lead)


@given(orders=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=2, max_size=5))
@hypothesis_settings(deadline=None, max_examples=40)
def test_requests_that_share_pictures_in_any_order_never_wait_in_a_circle(orders):
    """Two that each wait for the other would both end at their deadline; here and there one fails, so that some take over."""
    found: Cache[int] = Cache(2 * ENTRY, lambda _: WEIGHT)  # too small: some are worked for twice
    start = threading.Barrier(len(orders))
    lock, worked = threading.Lock(), [0, 0, 0, 0]

    def request(names: list[int]) -> list[int | Problem]:
        def work(positions: list[int]) -> Generator[int | Problem, None, None]:
            for position in positions:
                with lock:
                    worked[names[position]] += 1
                    fails = worked[names[position]] == 1  # the first of each picture
                yield DeadlineExceeded("late") if fails else names[position]

        start.wait(PATIENCE_S)
        return [each.result for each in found.answers([key(name) for name in names], work, time.monotonic() + PATIENCE_S)]

    with ThreadPoolExecutor(len(orders)) as callers:
        results = [future.result(PATIENCE_S) for future in [callers.submit(request, names) for names in orders]]
    failed = 0
    for names, given_results in zip(orders, results, strict=True):
        for name, result in zip(names, given_results, strict=True):
            failed += isinstance(result, Problem)
            assert isinstance(result, Problem) or result == name
    assert failed == len({name for names in orders for name in names})
    assert found._flights == {}
