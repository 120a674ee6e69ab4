"""The board: what processes see of each other."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import board
from service.board import Board


def test_each_sees_the_others_and_not_itself():
    """Pictures and connections of those that serve; of one that is starting nothing."""
    shared = Board(3)
    first, second, third = (shared.seat(shared.take()) for _ in range(3))
    third.tell_house(1)  # forked, and still loading
    first.serve()
    second.serve()
    assert first.alone
    assert second.fewest_connections == 0
    first.tell_house(4)
    first.tell_connections(9)
    assert first.alone
    assert not second.alone
    assert (first.fewest_connections, second.fewest_connections) == (0, 9)


def test_a_process_without_siblings_has_it_all():
    """As in tests and on the command line."""
    only = Board(1).seat(0)
    only.tell_house(3)
    assert only.alone
    assert only.fewest_connections == sys.maxsize


def test_a_row_is_free_again_when_its_process_has_ended():
    """What it had in the house went with it; a further process has a row of its own or none."""
    shared = Board(2)
    rows = [shared.take(), shared.take()]
    assert (rows, shared.take()) == ([0, 1], -1)
    seat, other = shared.seat(rows[0]), shared.seat(rows[1])
    seat.serve()
    seat.tell_house(7)
    assert not other.alone
    shared.leave(-1)
    assert not other.alone
    shared.leave(rows[0])
    assert other.alone
    assert shared.take() == rows[0]


def test_a_reload_has_rows_for_the_new_before_the_old_have_gone(monkeypatch):
    """gunicorn starts all new processes first."""
    monkeypatch.setattr(board, "_board", None)
    board.open_for(2, 4)
    assert min(board.take() for _ in range(4)) >= 0


def test_a_process_without_a_row_claims_nothing(monkeypatch):
    """There are many more processes than the plan has: they leave the others' processors alone."""
    monkeypatch.setattr(board, "_seat", board.seat())
    board.sit(-1)
    assert not board.seat().alone
    assert board.seat().fewest_connections == sys.maxsize


@pytest.mark.parametrize(("processes", "cpus", "crowded"), [(2, 2, True), (2, 3, True), (2, 4, False), (1, 1, True)])
def test_on_few_processors_one_loads_before_the_others(monkeypatch, processes, cpus, crowded):
    """Two that load at once are late both, and one that serves is enough to be ready."""
    monkeypatch.setattr(board, "_board", None)
    board.open_for(processes, cpus)
    assert board._board.crowded is crowded


def test_the_second_waits_until_the_first_serves_or_is_gone(monkeypatch):
    """Not for ever, and not in a reload, while the old processes serve."""
    shared = Board(4, crowded=True)
    first, second = (shared.seat(shared.take()) for _ in range(2))
    looks = []
    monkeypatch.setattr(board.time, "sleep", looks.append)

    def waits(seat: board.Seat, after: int = 0) -> bool:
        """Until `after` looks have found nothing."""
        looks.clear()
        seat.give_way(lambda: len(looks) > after)
        return len(looks) > after

    assert waits(second, after=3)
    assert not waits(first)
    shared.leave(0)
    assert not waits(second)
    first = shared.seat(shared.take())
    assert waits(second)
    first.serve()
    assert not waits(second)
    assert not waits(shared.seat(shared.take()))
    assert not waits(Board(2).seat(1))
    assert not waits(board.Stranger())


def test_the_second_waits_no_longer_than_five_seconds(monkeypatch):
    """The first may have a large model to load, or hang."""
    shared, now = Board(2, crowded=True), [0.0]
    seats = [shared.seat(shared.take()) for _ in range(2)]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(board.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 0.5))
    seats[1].give_way(lambda: False)
    assert now[0] == board.GIVE_WAY_S


def test_what_one_process_writes_another_reads():
    """The memory outlives a fork and is one for both."""
    shared = Board(2)
    row = shared.take()
    child = os.fork()
    if child == 0:
        shared.seat(row).serve()
        shared.seat(row).tell_connections(5)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert shared.seat(shared.take()).fewest_connections == 5


def test_one_at_a_time_holds_between_processes_and_threads():
    """What needs much memory for a moment must not come together; and who dies inside holds up nobody."""
    shared, (inside, told) = Board(2), os.pipe()
    shared.lock()
    child = os.fork()
    if child == 0:
        with shared.one_at_a_time():
            os.write(told, b"x")
            time.sleep(0.3)
            os._exit(0)
    assert os.read(inside, 1) == b"x"
    start = time.monotonic()
    with shared.seat(1).one_at_a_time():
        assert time.monotonic() - start > 0.1
        assert os.waitpid(child, 0)[1] == 0
        with ThreadPoolExecutor(1) as pool:
            entered = threading.Event()

            def enter() -> None:
                with shared.one_at_a_time():
                    entered.set()

            pool.submit(enter)
            assert not entered.wait(0.1)
            shared._thread.release()
            assert entered.wait(5)
            shared._thread.acquire()
    os.close(inside)
    os.close(told)


def test_homes_are_shared_out_over_reloads_and_deaths():
    """A process that follows another gets the home that is empty, whatever its row; two in one home can't keep to it."""
    shared = Board(8, homes=2)
    rows = [shared.take(), shared.take()]
    seats = [shared.seat(row) for row in rows]
    assert [seat.home for seat in seats] == [0, 1]
    assert all(seat.housed for seat in seats)
    new = [shared.take(), shared.take()]  # a reload: all new ones first
    assert sorted(shared.seat(row).home for row in new) == [0, 1]
    assert not any(shared.seat(row).housed for row in rows + new)
    for row in rows:
        shared.leave(row)
    assert all(shared.seat(row).housed for row in new)
    gone = shared.seat(new[1]).home
    shared.leave(new[1])
    assert shared.seat(shared.take()).home == gone
    third = shared.seat(shared.take())  # TTIN
    assert not third.housed


def test_without_homes_nobody_has_one():
    """One process, or processors that can't be shared out."""
    shared = Board(2)
    assert [shared.seat(shared.take()).home for _ in range(2)] == [-1, -1]
    assert not shared.seat(0).housed
    assert not board.Stranger().housed
