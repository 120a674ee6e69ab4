"""Servers started, watched and stopped, one at a time: the peers, each in its own environment, and this service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import click

from loadtest import serving
from loadtest.compare import environments
from loadtest.compare.asking import Asker
from loadtest.compare.environments import Unavailable
from loadtest.compare.peers import Peer, Protocol

ROOT = Path(__file__).parents[2]
KILL_S = 10.0  # until what was killed is gone
START_S, STOP_S = 90.0, 15.0  # Triton leaves shared memory behind if it is killed while it unloads
PORTS = ("COMPARE_PORT", "COMPARE_GRPC_PORT", "COMPARE_METRICS_PORT")


class Running(NamedTuple):
    """A server that has answered once; `start_s` are the seconds until then, `alive` says whether it still runs."""

    url: str
    pid: int
    start_s: float
    asker: Asker
    alive: Callable[[], bool]


@contextmanager
def quadrant(models: Path, name: str, image: bytes) -> Iterator[Running]:
    """This service, as `make run` starts it.

    Raises:
        Unavailable: it doesn't start or doesn't answer.
    """
    try:
        with serving.service(models, name) as service:
            asker, ready = Asker(service.url, Protocol()), time.monotonic()

            def alive() -> bool:
                return service.process.poll() is None

            if not asker.wait(image, alive, START_S):
                raise Unavailable(f"no answer: {asker.ask(image).text[:200]}")
            yield Running(service.url, service.process.pid, service.ready_s + time.monotonic() - ready, asker, alive)
    except click.ClickException as error:
        raise Unavailable(environments.last_line(error.message)) from error


@contextmanager
def peer(who: Peer, place: Path, model: Path, image: bytes, log: Path) -> Iterator[Running]:
    """A peer, from its start until the end of the block.

    Args:
        place: its environment.
        model: the ONNX file.
        image: that it has to classify to count as started.
        log: file for all that it writes.
    Raises:
        Unavailable: it ends or gives no good answer within 90 s.
    """
    ports = free_ports(len(PORTS))
    home = place / "home"
    home.mkdir(parents=True, exist_ok=True)
    filled = {"port": str(ports[0]), "home": str(home.resolve())}
    variables = {name: value.format(**filled) for name, value in who.variables.items()}
    variables |= dict(zip(PORTS, map(str, ports), strict=True)) | {"COMPARE_MODEL": str(model.resolve()), "PYTHONUNBUFFERED": "1"}
    if who.shared_python:
        variables["LD_LIBRARY_PATH"] = str(environments.shared_library().parent)
    command = [str(place.resolve() / "bin" / who.command[0]), *(word.format(**filled) for word in who.command[1:])]
    with process(command, variables, log) as started:
        url, start = f"http://127.0.0.1:{ports[0]}", time.monotonic()
        asker = Asker(url, who.protocol)

        def alive() -> bool:
            return started.poll() is None

        if not asker.wait(image, alive, START_S):
            ended = f"no answer within {START_S:g} s" if alive() else f"it ended with {started.returncode}"
            raise Unavailable(f"{ended}: {environments.last_line(log.read_text(errors='replace'))}")
        yield Running(url, started.pid, time.monotonic() - start, asker, alive)


@contextmanager
def process(command: Sequence[str], variables: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, with a temporary folder; in the end nothing is left of it and of all that it started.

    Raises:
        Unavailable: it can't be started.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("QUADRANT_", "PYTHON", "VIRTUAL_ENV"))}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        try:
            with log.open("wb") as stream:
                started = subprocess.Popen(
                    command, cwd=ROOT, env=inherited | variables | {"TMPDIR": place}, stdin=subprocess.DEVNULL, stdout=stream,
                    stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_interruptible)
        except OSError as error:
            raise Unavailable(f"not started: {error}") from error
        try:
            yield started
        finally:
            _stop(started, place)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _stop(started: subprocess.Popen[bytes], place: str) -> None:
    """SIGINT to the first process, SIGKILL to whatever of its family is still there after a while.

    SIGINT is what each of them documents; after SIGTERM, Triton's server leaves its shared memory behind.
    """
    if started.poll() is None:
        started.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        started.wait(STOP_S)
    end = time.monotonic() + KILL_S
    # A killed process is still there for a moment, and may have started another just before.
    while (left := _marked(place)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    started.wait()


def _interruptible() -> None:
    """In the child: shells let their background jobs ignore SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _marked(place: str) -> list[int]:
    """Processes whose environment names this temporary folder: all that inherited it, in whatever group, orphans included."""
    found, mark = [], f"TMPDIR={place}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found
