"""The parts of the server that can be held without starting one; the rest is in tests/http."""

from __future__ import annotations

import dataclasses
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from service import board, planning, server
from service.problems import StartError
from service.settings import Settings


def test_an_address_in_use_is_one_line(settings):
    """gunicorn would try five times and end with a code that says nothing."""
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{port} can't be listened on: Address already in use"):
            server.listen("127.0.0.1", port)


def test_a_host_that_is_not_here_is_one_line():
    """A typo in QUADRANT_HOST."""
    with pytest.raises(StartError, match='QUADRANT_HOST is "no such host"'):
        server.listen("no such host", 0)


def test_the_address_is_one_to_click_on():
    """IPv6 goes in brackets."""
    with server.listen("127.0.0.1", 0) as listener:
        assert server.address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        try:
            listener = server.listen("::1", 0)
        except StartError:
            return  # a machine without it
        with listener:
            assert server.address(listener).startswith("http://[::1]:")


def test_only_the_first_process_does_it():
    """Two workers that announce themselves would look like two services."""
    once = server.Once()
    assert [once.mine() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_gunicorn_accepts_the_configuration(settings, host):
    """It refuses unknown names and wrong types, but only at the start."""
    settings = dataclasses.replace(settings, host=host, drain_delay_s=0.5, drain_timeout_s=1.2)
    config = Config()
    for name, value in server.configuration(settings, planning.plan(settings)).items():
        config.set(name, value)
    assert config.address == [(host, 0)]
    assert config.worker_class is server.Worker
    assert config.graceful_timeout >= 0.5 + 1.2
    assert config.workers == 1


def test_the_plan_is_shown_with_its_reasons():
    """Whoever wonders about a number finds why."""
    lines = server.plan_lines(planning.plan(Settings(batch_cap=3), cpus=8, memory=2**30))
    assert "  workers           2 (8 usable CPUs, a process for every 4)" in lines
    assert "  batch cap         3 (set by QUADRANT_BATCH_CAP)" in lines
    assert any(line.startswith("  decode memory     256 MiB (half of 1.0 GiB") for line in lines)


@pytest.mark.parametrize(("own_cpus", "started", "homes"), [(1, 2, True), (0, 2, False), (1, 3, False)])
def test_processes_get_homes_where_as_many_start_as_were_planned(monkeypatch, own_cpus, started, homes):
    """Whoever starts gunicorn by its own command line may say another number."""
    monkeypatch.setattr(board, "_board", board.Board(1))
    plan = dataclasses.replace(planning.plan(Settings(workers=2), cpus=2, memory=2**33), own_cpus=own_cpus)
    server.configuration(Settings(), plan)["on_starting"](SimpleNamespace(cfg=SimpleNamespace(workers=started)))
    assert (board._board.seat(board.take()).home >= 0) == homes
