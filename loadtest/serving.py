"""A service started as a user would, and what is seen of it from outside: time to ready, memory, sizes of batches.

Knows it by its command line, its HTTP answers and what /proc says of its processes. Linux only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import click

from loadtest.memory import memory_mib

ROOT = Path(__file__).parents[1]
START_S, STOP_S, ANSWER_S = 120.0, 60.0, 60.0  # longest ones
POLL_S = 0.005
SAMPLE_S = 0.2  # reading a process's page tables costs it some ms
MB = 2**20 / 1e6  # of a MiB
SIZE = re.compile(r'^quadrant_batch_size_bucket\{(?:.*,)?le="([^"]+)".*\} (\S+)$', re.MULTILINE)


class Service(NamedTuple):
    """One that is ready; `ready_s` are the seconds from its start to the first 200 of `/health/ready`."""

    url: str
    process: subprocess.Popen[str]
    ready_s: float
    log: IO[str]

    def check(self) -> None:
        """Is it still there?

        Raises:
            ClickException: it has ended.
        """
        if self.process.poll() is not None:
            raise click.ClickException(f"the service has ended with {self.process.returncode}:\n{_tail(self.log)}")

    def batches(self) -> dict[str, int]:
        """Engine runs so far by the number of pictures in them: the upper end of each of the metric's ranges → runs."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=ANSWER_S) as reply:
            return sizes(reply.read().decode())

    def engine(self, name: str) -> str:
        """What a model really runs in, as `/info` tells: provider and precision. `/info` of a version that tells no
        precision leaves it at the provider; empty where it tells neither.
        """
        with urllib.request.urlopen(f"{self.url}/info", timeout=ANSWER_S) as reply:
            models = json.load(reply).get("models", [])
        own = next((each for each in models if each.get("name") == name), {})
        return ", ".join(str(own[key]) for key in ("provider", "precision") if own.get(key))

    def settle(self, picture: bytes) -> None:
        """Wait until a picture gets its turn behind all that a load has left in the queue."""
        request = urllib.request.Request(f"{self.url}/classify", picture, {"Content-Type": "application/octet-stream"})
        end = time.monotonic() + ANSWER_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:
                    reply.read()
                return
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > end:
                    raise click.ClickException(f"{self.url}/classify: {error.code} {error.read(500)!r}") from error
                time.sleep(0.1)
            except OSError as error:
                self.check()
                raise click.ClickException(f"{self.url}/classify: {error}") from error


@contextmanager
def service(models: Path, default: str, settings: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Start `python -m service serve` on a free port, wait until it is ready, stop it in the end.

    Args:
        models: folder of models.
        default: the one that answers.
        settings: further `QUADRANT_…` variables; those of this process don't count.
    Raises:
        ClickException: it ends, or isn't ready within two minutes; with the end of its log.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("QUADRANT_", "PROMETHEUS_"))}
    environment |= {"QUADRANT_MODELS": str(models), "QUADRANT_MODEL": default} | dict(settings or {})
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "service", "serve", "--port", "0"], cwd=ROOT, env=environment,
                                   stdout=subprocess.PIPE, stderr=log, text=True)
        guard = threading.Timer(START_S, process.kill)
        guard.start()
        try:
            url = _address(process)
            while url and not _ready(url) and process.poll() is None:
                time.sleep(POLL_S)
            ready_s = time.monotonic() - start
            if not url or process.poll() is not None:
                raise click.ClickException(f"the service with {default} did not become ready:\n{_tail(log)}")
            guard.cancel()
            yield Service(url, process, ready_s, log)
        finally:
            guard.cancel()
            _stop(process)


class Watch:
    """Samples the memory of the service's processes while a block runs; `peak_mb` is the largest sum of their PSS.

    Proportional set size: what processes share counts once. In MB of 10⁶ bytes.
    """

    peak_mb = 0.0

    def __init__(self, pid: int, every_s: float = SAMPLE_S) -> None:
        self._pid, self._every_s, self._end = pid, every_s, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            with suppress(OSError):  # a process ended between two looks
                self.peak_mb = max(self.peak_mb, memory_mib(self._pid) * MB)
            if self._end.wait(self._every_s):
                return


def sizes(page: str) -> dict[str, int]:
    """Engine runs by size of batch, of a page of metrics: upper end of the range → runs; ranges without any are left out."""
    found, below = {}, 0.0
    for end, text in SIZE.findall(page):
        runs, below = float(text) - below, float(text)
        if runs:
            found[end if end == "+Inf" else f"{float(end):g}"] = int(runs)
    return found


def added(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What came between two counts by the same names."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts of several runs together, smallest batches first."""
    names = sorted({name for each in counts for name in each}, key=float)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


def _address(process: subprocess.Popen[str]) -> str:
    """What the first worker that is ready prints; empty if the process ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return found[0].rstrip("/")
    return ""


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-2000:]
