"""A worker leaves connections to those who have fewer."""

from __future__ import annotations

from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker

from service import worker as module
from service.board import Board
from service.worker import YIELD_S, Worker


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Connections that gunicorn would have accepted."""
    found: list[Any] = []

    def accept(self: Worker, listener: Any) -> None:
        found.append(listener)
        self.nr_conns += 1

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    return found


def test_a_connection_is_left_to_a_process_with_fewer_for_a_moment(taken, monkeypatch):
    """That one is awake too; if it does not come, it is busy, and the connection must not wait for it."""
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    board = Board(2)
    mine, other = board.seat(board.take()), board.seat(board.take())
    mine.serve()
    other.serve()
    worker = object.__new__(Worker)
    worker._seat, worker.nr_conns = mine, 0
    worker.accept("first")
    assert other.fewest_connections == 1
    worker.accept("second")
    assert taken == ["first"]
    other.tell_connections(1)
    worker.accept("second")
    assert taken == ["first", "second"]
    for _ in range(100):
        worker.accept("third")
        if len(taken) > 2:
            break
    assert taken[2:] == ["third"]
    assert YIELD_S <= clock[0] - 100.0 < 3 * YIELD_S
    worker.accept("fourth")  # left to the other, which takes it
    assert len(taken) == 3
    clock[0] += 60.0
    worker.accept("fifth")  # much later: patience begins anew
    assert len(taken) == 3
