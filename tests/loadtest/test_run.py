"""The load run itself: Locust in a process of its own, since it changes the sockets and threads of the one it is in."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from loadtest import run
from tests.running import ROOT, environment, service


class Liar(BaseHTTPRequestHandler):
    """Answers 200 to everything, with nothing in it."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"" if self.path == "/metrics" else b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def liar() -> Iterator[str]:
    """The address of a server that answers 200 whatever it is asked."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def load(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest.run", *options], cwd=ROOT, env=environment({}), capture_output=True, text=True,
        timeout=120, check=False)


@pytest.mark.parametrize("arrivals", [pytest.param((), id="closed loop"), pytest.param(("--rate", "20"), id="open loop")])
def test_a_run_prints_rate_percentiles_failures_and_phases(arrivals, model_folder, tmp_path):
    """These lines are what one compares before and after a change."""
    report = tmp_path / "report.html"
    with service(tmp_path / "log", {"QUADRANT_MODELS": str(model_folder), "QUADRANT_PROVIDER": "cpu"}) as running:
        done = load("--url", running.url, "--users", "2", "--seconds", "2", "--report", str(report), *arrivals)
        assert run.totals(running.url)["quadrant_request_seconds_count"] > 5  # counts those of /classify alone
    assert done.returncode == 0, done.stdout + done.stderr
    requests = re.search(r"^(\d[\d,]*) requests, [\d.]+ a second, 0 failed$", done.stdout, re.MULTILINE)
    assert requests is not None, done.stdout
    assert int(requests[1].replace(",", "")) > 5
    assert re.search(r"^p50 \d+ ms, p95 \d+ ms, p99 \d+ ms$", done.stdout, re.MULTILINE)
    assert re.search(r"decode \d+\.\d ms, .*engine \d+\.\d ms \(a batch of \d+\.\d\)$", done.stdout, re.MULTILINE)
    assert "<html" in report.read_text()[:200]


def test_wrong_bodies_end_the_run_with_1(liar, tmp_path):
    """Load without a look into the answers measures how fast nonsense comes."""
    done = load("--url", liar, "--users", "1", "--seconds", "3", "--report", str(tmp_path / "report.html"))
    assert done.returncode == 1
    assert "expected 1 to 5 predictions" in done.stderr


def test_nobody_at_the_address_is_said_before_any_load():
    """A run of failures only would look like a slow service."""
    result = CliRunner().invoke(run.main, ["--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no ready service answers at http://127.0.0.1:9" in result.output


def test_phases_are_means_between_two_readings():
    """What came before the run is not the run's."""
    before = {"quadrant_queue_seconds_sum": 1.0, "quadrant_queue_seconds_count": 10.0}
    after = {"quadrant_queue_seconds_sum": 1.2, "quadrant_queue_seconds_count": 20.0}
    assert "queue 20.0 ms" in run.phases(before, after)
