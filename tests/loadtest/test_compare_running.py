"""Servers of the comparison as processes: one that works, one that doesn't start, one that breaks off."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest import wrk
from loadtest.compare import environments, running
from loadtest.compare.environments import Unavailable
from loadtest.compare.peers import Peer, Protocol
from loadtest.compare.rounds import Contestant, Images, Plan, measure
from loadtest.memory import family
from tests.loadtest.test_wrk import installed

IMAGE = b"an image with two halves"
PLAN = Plan(2, {1: 1, 4: 1}, warm_s=1, ceiling_s=0, sweep_s=0)
# Answers class 7 to whatever is whole; a child of its own session has to end with it.
SERVER = f"""
import os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        whole = self.rfile.read(int(self.headers["Content-Length"])) == {IMAGE!r}
        said = b'{{"predictions": [{{"index": 7}}]}}' if whole else b'{{"error": "cut off"}}'
        self.send_response(200 if whole else 400)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_):
        pass
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
ThreadingHTTPServer.request_queue_size = 64  # with 5, some of 16 connections at once are reset
ThreadingHTTPServer(("127.0.0.1", int(os.environ["COMPARE_PORT"])), Handler).serve_forever()
"""
FAILING = "import sys; print('first words'); sys.exit('no engine on this machine')"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An environment whose Python is this one."""
    (tmp_path / "environment" / "bin").mkdir(parents=True)
    python = tmp_path / "environment" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path / "environment"


def peer(code: str) -> Peer:
    return Peer("fake", "Fake", "fake", "none", ("python", "-c", code.replace("{", "{{").replace("}", "}}")), Protocol())


def contestant(name: str, code: str, place: Path) -> Contestant:
    log = place / f"{name}.log"
    return Contestant(name, "", "", Protocol(), lambda: running.peer(peer(code), place, Path("model.onnx"), IMAGE, log))


def test_a_server_is_started_asked_and_stopped_with_all_that_it_started(place):
    """Triton's server begins a session of its own, which no signal to a group reaches."""
    with running.peer(peer(SERVER), place, Path("model.onnx"), IMAGE, place / "log") as server:
        assert server.asker.ask(IMAGE).best == 7
        assert server.start_s > 0
        assert server.asker.broken(IMAGE) == (400, "cut off", 0, 60)
        pids = family(server.pid)
        assert len(pids) == 2
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    """It runs still, and isn't only waiting to be reaped by a lazy init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_that_ends_tells_why(place):
    """Its last words are the reason in the table."""
    with pytest.raises(Unavailable, match="it ended with 1: no engine on this machine"), \
            running.peer(peer(FAILING), place, Path("model.onnx"), IMAGE, place / "log"):
        pass


def test_a_server_that_never_answers_is_stopped(place, monkeypatch):
    """The comparison goes on."""
    monkeypatch.setattr(running, "START_S", 0.3)
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"), \
            running.peer(peer("import time; time.sleep(600)"), place, Path("model.onnx"), IMAGE, place / "log"):
        pass
    assert time.monotonic() - start < 60


def test_a_command_that_is_not_there_is_a_reason_too(tmp_path):
    """An environment may be half installed."""
    with pytest.raises(Unavailable, match=r"not started: .*No such file"), \
            running.peer(peer(SERVER), tmp_path, Path("model.onnx"), IMAGE, tmp_path / "log"):
        pass


@installed
def test_one_that_fails_is_named_and_the_others_are_measured(place, tmp_path):
    """Two rounds; the one that fails is tried once."""
    (tmp_path / "photo.jpg").write_bytes(IMAGE)
    (tmp_path / "bodies").mkdir()
    said: list[str] = []
    everyone = [contestant("failing", FAILING, place), contestant("working", SERVER, place)]
    ceilings = measure(everyone, Images([tmp_path / "photo.jpg"], [7]), PLAN, lambda: 5.0, tmp_path / "bodies", said.append)
    assert ceilings == [5.0, 5.0]
    failing, working = (each.found() for each in everyone)
    assert failing["failure"] == "it ended with 1: no engine on this machine"
    assert failing["loads"] == {}
    assert sum("failing is left out" in line for line in said) == 1
    assert working["failure"] is None
    assert working["agreeing"] == 1
    assert working["broken"]["words"] == "cut off"
    assert [*working["loads"]] == ["1", "4"]
    assert all(len(load["images_per_s"]["rounds"]) == 2 and load["errors"] == 0 for load in working["loads"].values())
    assert len(working["start_s"]["rounds"]) == len(working["peak_pss_mb"]["rounds"]) == 2
    assert working["peak_pss_mb"]["least"] > 5


@installed
def test_a_server_that_ends_between_loads_keeps_what_was_measured(place, tmp_path, monkeypatch):
    """Half of a row is better than none, and says why it is half."""
    (tmp_path / "photo.jpg").write_bytes(IMAGE)
    (tmp_path / "bodies").mkdir()
    everyone = [contestant("dying", SERVER, place)]
    pids: list[int] = []
    start, drive, loads = everyone[0].start, wrk.drive, []

    @contextmanager
    def started():
        with start() as server:
            pids.extend(family(server.pid))
            yield server

    def driven(*args, **keywords):
        loads.append(args)
        if len(loads) == 3:  # the warming, one connection, four
            os.kill(pids[0], signal.SIGKILL)  # its child lives on
        return drive(*args, **keywords)

    everyone[0].start = started
    monkeypatch.setattr(wrk, "drive", driven)
    measure(everyone, Images([tmp_path / "photo.jpg"], [7]), PLAN, lambda: 5.0, tmp_path / "bodies", lambda _: None)
    assert everyone[0].failure
    assert not [pid for pid in pids if alive(pid)]
    assert everyone[0].found()["loads"]["1"]["images_per_s"]["median"] > 0


def test_pip_that_fails_is_a_reason(tmp_path, monkeypatch):
    """No wheel for this machine, no network: the table says so."""
    (tmp_path / "fake.txt").write_text("no-such-package==1 --hash=sha256:nonsense\n")
    monkeypatch.setattr(environments, "LOCKS", tmp_path)
    with pytest.raises(Unavailable, match="not installed: "):
        environments.install(peer(SERVER), tmp_path / "environments")


def test_an_environment_is_installed_once_and_again_with_another_lock(tmp_path, monkeypatch):
    """Installing five takes minutes."""
    calls: list[str] = []

    def ran(command: list[str]) -> None:
        calls.append(command[1])
        (tmp_path / "environments" / "fake").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(environments, "LOCKS", tmp_path)
    monkeypatch.setattr(environments, "_run", ran)
    for text in ("a==1", "a==1", "a==2"):
        (tmp_path / "fake.txt").write_text(text)
        environments.install(peer(SERVER), tmp_path / "environments")
    assert len(calls) == 4


def test_a_python_without_its_shared_library_is_a_reason(tmp_path, monkeypatch):
    """PyTriton's backend embeds Python."""
    variables = {"LIBDIR": str(tmp_path), "INSTSONAME": "libpython3.a"}
    monkeypatch.setattr(environments.sysconfig, "get_config_var", variables.get)
    with pytest.raises(Unavailable, match=r"needs libpython as a shared library; found .*libpython3\.a"):
        environments.install(peer(SERVER)._replace(shared_python=True), tmp_path)
