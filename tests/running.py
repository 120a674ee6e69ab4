"""A real service in processes of its own, asked over a real socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
LONGEST_START_S = 60.0  # then it is killed, and the test fails with what it wrote
SERVE = (sys.executable, "-m", "service", "serve", "--port", "0")


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A started service.

    Attributes:
        url: http://HOST:PORT
        process: gunicorn's master.
        said: what it printed when it began to serve.
        log: the file that its standard error goes to.
    """

    def __init__(self, url: str, process: subprocess.Popen[str], said: str, log: Path) -> None:
        self.url, self.process, self.said, self.log = url, process, said, log

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def connect(self, timeout_s: float = 20.0) -> http.client.HTTPConnection:
        """A connection of one's own; close it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(self, path: str, body: bytes | None = None, method: str | None = None, **headers: str) -> Reply:
        """One request on a new connection; underscores in the names of headers stand for hyphens."""
        connection = self.connect()
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def service(
    log: Path, environ: Mapping[str, str], command: tuple[str, ...] = SERVE, url: str | None = None,
) -> Iterator[Running]:
    """Start a service and stop it at the end.

    Args:
        log: file for its standard error.
        environ: variables, beside those that this process has.
        command: that starts it.
        url: where it serves, for a command that doesn't say.
    """
    with log.open("w") as stream, subprocess.Popen(
        command, cwd=ROOT, env=environment(environ), stdout=subprocess.PIPE, stderr=stream, text=True,
    ) as process:
        guard = threading.Timer(LONGEST_START_S, process.kill)
        guard.start()
        try:
            said = _first_words(process) if url is None else ""
            address = url or said.split("Quadrant serves ")[1].split()[0]
            running = Running(address, process, said, log)
            eventually(lambda: _answers(running), "it does not answer")
            guard.cancel()
            yield running
        except IndexError:
            raise AssertionError(f"it did not start: {log.read_text()}") from None
        finally:
            guard.cancel()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's variables without settings of its own and without its metrics, and more."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("QUADRANT_", "PROMETHEUS_"))}
    return ours | {"PYTHONUNBUFFERED": "1"} | dict(more)


def eventually(claim: Callable[[], bool], otherwise: str, within_s: float = 30.0) -> None:
    """Wait for another process to make something true; there is no event to wait for."""
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def _first_words(process: subprocess.Popen[str]) -> str:
    """What it prints up to the plan's last line."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "queue capacity" in line:
            break
    return said


def _answers(running: Running) -> bool:
    try:
        return running.ask("/health/ready").status == 200
    except OSError:
        return False
