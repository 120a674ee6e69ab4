"""The generator of closed-loop load: what it sends, what it counts."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

from loadtest import wrk

installed = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
GOOD = b'{"predictions": [{"label": "cat"}]}'
COUNTS = {
    "duration": 2_000_000, "skipped": 0, "requests": 200, "early": 0, "sent": 208, "refused": 0, "wrong": 0,
    "connect": 0, "read": 0, "write": 0, "timeout": 0, "status": 0,
    "p50": 40_000, "p90": 50_000, "p99": 60_500, "longest": 70_000, "first": "",
}  # fmt: skip


def said(**counts: object) -> str:
    return f"Running 2s test\n  Requests/sec: 100\n\n{json.dumps(COUNTS | counts)}\n"


def test_figures_are_in_their_units():
    """wrk counts in microseconds."""
    load = wrk.read(said(), 8, 0.02)
    assert load == wrk.Load(100.0, 40.0, 60.5, 200, 0, None, 0.02)


def test_the_first_second_does_not_count():
    """The queue is empty then, and the first batch is still to come."""
    load = wrk.read(said(duration=3_000_000, skipped=1_000_000, requests=200, early=20), 8, 0.0)
    assert load.images_per_s == 90.0
    assert load.requests == 200


def test_answers_that_hold_nothing_are_no_images():
    """A service that refuses quickly would look fast."""
    load = wrk.read(said(refused=100, wrong=50, first='503 {"code": "overloaded"}'), 8, 0.0)
    assert load.images_per_s == 25.0
    assert load.errors == 150
    assert load.problem == '100 refused, 50 wrong: 503 {"code": "overloaded"}'


@pytest.mark.parametrize(("counts", "errors"), [
    pytest.param({"sent": 208}, 0, id="one a connection still out at the end"),
    pytest.param({"sent": 211}, 3, id="hung up in silence"),
    pytest.param({"sent": 211, "read": 3}, 3, id="counted by wrk already"),
    pytest.param({"connect": 4, "timeout": 1}, 5, id="connections"),
])
def test_requests_without_an_answer_are_errors(counts, errors):
    """wrk itself connects again and says nothing."""
    assert wrk.read(said(**counts), 8, 0.0).errors == errors


def test_a_run_without_answers_has_no_percentiles():
    """0 ms would be the best of all."""
    without = {name: value for name, value in COUNTS.items() if not name.startswith("p")}
    load = wrk.read(json.dumps(without | {"requests": 0, "sent": 8}), 8, 0.0)
    assert load.images_per_s == 0
    assert load.p50_ms != load.p50_ms
    assert load.p99_ms != load.p99_ms


def test_without_wrk_the_package_is_named(monkeypatch):
    """It is a package of the system, which nobody looks for in a lock file."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(click.ClickException, match='the Debian package "wrk"'):
        wrk.find()


@contextmanager
def server(
    answer: Callable[[bytes], tuple[int, bytes]], path: str = "/classify", kind: str = "application/octet-stream",
) -> Iterator[str]:
    """Answers each body of this kind over connections that are kept alive; hangs up on all else."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self) -> None:
            assert self.path == path
            assert self.headers["Content-Type"] == kind
            status, body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """wrk leaves in the middle of its last requests."""

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def bodies(tmp_path: Path) -> list[Path]:
    """Files as different as photos, of any bytes."""
    files = [tmp_path / f"a photo {number}.jpg" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number, 0, 13, 10, 255]) * (1000 + number))
    return files


@installed
def test_all_photos_take_their_turn(bodies):
    """A single one again and again would be in every cache."""
    seen: Counter[bytes] = Counter()
    with server(lambda body: (seen.update([body]), (200, GOOD))[1]) as url:
        load = wrk.drive(url, bodies, 4, 1)
    assert load.errors == 0
    assert load.problem is None
    assert load.requests > 0
    assert load.images_per_s > 0
    assert load.p99_ms >= load.p50_ms > 0
    assert 0 <= load.cpu_share <= 1
    assert load.images_per_s < load.requests  # those of the first of two seconds are not in it
    assert {*seen} == {file.read_bytes() for file in bodies}
    assert max(seen.values()) - min(seen.values()) <= 4  # in turn, but for those that were out at the end


@installed
def test_other_servers_are_asked_at_their_own_address_in_their_own_form(bodies):
    """A comparison sends forms, and Triton's protocol."""
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with server(lambda _: (200, GOOD), "/v2/infer", headers["Content-Type"]) as url:
        load = wrk.drive(url, bodies, 2, 1, "/v2/infer", headers)
        assert load.errors == 0
        assert load.requests > 0
        assert wrk.drive(url, bodies, 2, 1).images_per_s == 0


@installed
@pytest.mark.parametrize(("answer", "told"), [
    pytest.param((503, b'{"code": "over\xffloaded"}'), '503 {"code": "over\u00ffloaded"}', id="refused"),
    pytest.param((200, b'{"nothing": "\\"\n"}'), '200 {"nothing": "\\"\n"}', id="without predictions"),
])
def test_other_answers_are_counted_and_the_first_is_told(answer, told, bodies):
    """A figure alone helps nobody to find out why."""
    with server(lambda _: answer) as url:
        load = wrk.drive(url, bodies, 2, 1)
    assert load.images_per_s == 0
    assert load.errors == load.requests > 0
    assert load.problem is not None
    assert load.problem.endswith(told)


@installed
def test_a_file_that_is_not_there_ends_the_run(tmp_path):
    """wrk itself would send empty bodies."""
    with server(lambda _: (200, GOOD)) as url, pytest.raises(click.ClickException, match=r"no figures.*absent\.jpg"):
        wrk.drive(url, [tmp_path / "absent.jpg"], 1, 1)
