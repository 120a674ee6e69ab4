"""Admission: refused at once or admitted in earnest."""

from __future__ import annotations

import time

import pytest

from service import board
from service.admission import Admission, Line
from service.planning import Plan
from service.problems import Overloaded, TooManyPictures, TooManyPixels

PLAN = Plan(workers=1, request_threads=4, engine_threads=1, batch_cap=4, queue_capacity=10, decode_memory=1000, reasons={})


@pytest.fixture
def admission() -> Admission:
    return Admission(PLAN, cpus=2)


@pytest.fixture
def line(admission: Admission) -> Line:
    return admission.line()


def test_places_are_held_until_the_answer(admission, line):
    """What is counted as waiting must be waiting, or the prediction drifts."""
    with line.admit(3) as places:
        assert (line.ahead, admission.ahead) == (3, 3)
        places.leave()
        assert line.ahead == 2
    assert line.ahead == 0


def test_places_come_back_after_a_problem(line):
    """A bad picture must not shrink the queue for ever."""
    with pytest.raises(TooManyPixels), line.admit(2):
        raise TooManyPixels("too large")
    assert line.ahead == 0


def test_a_full_house_refuses_with_a_time_to_come_back(admission, line):
    """A client that is told when to come back doesn't hammer."""
    line.ran(1, 2.0)
    another = admission.line()
    with line.admit(9):
        with pytest.raises(Overloaded, match=r"9 pictures are already waiting, of 10 that may; try again in 2 s") as refused:
            another.admit(2).__enter__()
        assert refused.value.retry_after_s == 2
        assert refused.value.fields == {"waiting": 9, "queue_capacity": 10}
        with line.admit(1):
            assert admission.ahead == 10


def test_more_than_could_ever_fit_is_the_callers_problem(line):
    """503 would invite it to try again for ever."""
    with pytest.raises(TooManyPictures, match="11 pictures in one call; this server's queue holds 10"):
        line.admit(11).__enter__()


def test_a_wait_beyond_the_deadline_is_refused_before_any_work(line):
    """To decode what can't be answered in time is work taken from the others."""
    line.ran(4, 8.0)  # 2 s an image
    with line.admit(3, time.monotonic() + 5):
        with pytest.raises(Overloaded, match=r"3 pictures are ahead, about 6\.0 s; this one has 5\.0 s: try again in 2 s"):
            line.admit(1, time.monotonic() + 5).__enter__()
        with line.admit(1, time.monotonic() + 7):
            pass


def test_the_prediction_counts_decoding_and_other_models(admission, line):
    """They share the processor."""
    other = admission.line()
    line.ran(2, 1.0)
    line.decoded(0.4)  # of processor time, on two CPUs
    other.ran(1, 3.0)
    assert line.seconds_an_image == pytest.approx(0.7)
    with line.admit(2), other.admit(1):
        assert admission.predicted_wait_s == pytest.approx(2 * 0.7 + 3.0)


def test_the_average_moves(line):
    """The pace of a busy hour is not that of the start."""
    line.ran(1, 1.0)
    for _ in range(60):
        line.ran(10, 1.0)
    assert line.seconds_an_image == pytest.approx(0.1, rel=0.05)


def test_an_empty_house_admits_however_slow_it_was(line):
    """After a machine slept, one absurd measurement would refuse everyone, and never be corrected."""
    line.ran(1, 3600.0)
    with line.admit(1, time.monotonic() + 1):
        pass


def test_others_see_how_full_the_house_is(line):
    """They may take this process's processors only while it is empty."""
    two = board.Board(2)
    mine, other = two.seat(two.take()), two.seat(two.take())
    mine.serve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "_seat", mine)
        door = Admission(PLAN).line()
    with door.admit(2):
        assert not other.alone
    assert other.alone
