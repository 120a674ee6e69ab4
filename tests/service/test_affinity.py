"""Whose processors are whose."""

from __future__ import annotations

import os
import threading

import pytest

from service import affinity
from service.affinity import Processors

ALL = {2, 3, 5, 7}


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """A machine of four processors; what threads were bound to, in order."""
    calls: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(ALL))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: calls.append(set(cpus)))
    return calls


@pytest.mark.parametrize(("count", "home", "own"), [
    (2, 0, {2, 3}), (2, 1, {5, 7}), (1, 3, {7}), (0, 0, ALL), (2, -1, ALL), (2, 2, ALL), (3, 1, ALL)])
def test_each_home_has_as_many_and_none_is_shared(bound, count, home, own):
    """Where there is none, or too few are left since it was planned: all."""
    assert Processors(count, home).own == own


def test_a_thread_is_bound_only_when_that_changes(bound):
    """It costs a call of the system; each thread has its own state."""
    processors = Processors(1, 2)
    for own in (False, True, True, False, False, True):
        processors.use(own)
    assert bound == [{5}, ALL, {5}]
    other = threading.Thread(target=processors.use, args=(True,))
    other.start()
    other.join()
    assert bound[3:] == [{5}]
    processors.use(True)
    assert len(bound) == 4


def test_without_homes_nothing_is_asked_of_the_system(bound):
    """One process, or a quota."""
    processors = Processors(0, -1)
    processors.use(True)
    processors.use(False)
    assert bound == []


def test_threads_that_are_started_inside_inherit_it():
    """The engine's own ones; really, on this machine. Who starts them is free again."""
    every = os.sched_getaffinity(0)
    processors, found = Processors(1, 0), []

    def run() -> None:
        thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()

    with processors.inherited():
        run()
    run()
    assert found == [{min(every)}, every]
    assert os.sched_getaffinity(0) == every


def test_where_it_fails_all_goes_on_without(monkeypatch, bound):
    """A container's processors may be taken away while it runs."""
    def fail(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", fail)
    told = []
    monkeypatch.setattr(affinity.log, "warning", lambda event, **more: told.append((event, more["processors"])))
    processors = Processors(1, 0)
    for _ in range(3):
        processors.use(True)
        processors.use(False)
    assert told == [("processors_not_kept", [2])]


def test_a_system_without_it_has_all(monkeypatch):
    """As macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    processors = Processors(1, 0)
    processors.use(True)
    assert processors.own == processors.every == frozenset()
