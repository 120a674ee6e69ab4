"""The processes: several count as one, none is missed, all stop cleanly."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests import models
from tests.running import ROOT, Running, environment, eventually, service

PICTURE = models.png(models.quadrant_picture(2))
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def counters(running: Running) -> dict[str, float]:
    """All counters (and histograms' counts) of /metrics."""
    lines = running.ask("/metrics").body.decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            if re.search(r"_(total|count|bucket|sum)\b", name)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_killed_worker_takes_no_count_with_it(tmp_path: Path, variables: dict[str, str]):
    """Prometheus reads a counter that falls as a restart, and rates computed over it lie."""
    with service(tmp_path / "log", variables) as running:
        eventually(lambda: len(running.workers()) == 2, "there are no two workers")
        for _ in range(20):
            assert running.ask("/classify", PICTURE).status == 200
        before, (victim, survivor) = counters(running), running.workers()
        assert before['quadrant_pictures_total{model="quadrants",outcome="ok"}'] == 20
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(running.workers()) == 2 and victim not in running.workers(), "no worker took its place")
        eventually(lambda: running.ask("/health/ready").status == 200, "it is not ready again")
        after = counters(running)
        assert survivor in running.workers()
        fallen = {name: (value, after.get(name)) for name, value in before.items() if after.get(name, -1.0) < value}
        assert not fallen
        assert running.ask("/classify", PICTURE).status == 200
        assert counters(running)['quadrant_pictures_total{model="quadrants",outcome="ok"}'] == 21


def test_a_model_that_was_added_changes_nothing_for_a_worker_that_starts_again(tmp_path: Path, variables: dict[str, str]):
    """The default was chosen when the service started; a crash later must neither change it nor end the service."""
    folder = tmp_path / "models"
    models.build(folder / "quadrants" / "1" / "model.onnx")
    with service(tmp_path / "log", variables | {"QUADRANT_MODELS": str(folder), "QUADRANT_WORKERS": "1"}) as running:
        models.build(folder / "added" / "1" / "model.onnx", name="added")
        (victim,) = running.workers()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: running.workers() not in ([], [victim]), "no worker took its place")
        eventually(lambda: running.ask("/health/ready").status == 200, "it is not ready again")
        assert running.ask("/classify", PICTURE).json["model"]["name"] == "quadrants"
        assert "added/1" in running.ask("/health/ready").json["states"]
        assert running.ask("/classify?model=added", PICTURE).status == 200
        assert running.stop() == 0


def test_both_workers_are_counted(running_service: Running):
    """A page that shows one process's share is wrong by as many times as there are processes."""
    name = 'quadrant_pictures_total{model="quadrants",outcome="ok"}'
    before = counters(running_service).get(name, 0.0)
    for _ in range(12):
        running_service.ask("/classify", PICTURE)
    assert counters(running_service)[name] == before + 12


def test_connections_are_spread_over_the_workers(running_service: Running):
    """One that happened to take nearly all would be slow while the other is idle."""
    eventually(lambda: len(running_service.workers()) == 2, "there are no two workers")

    def open_files() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in running_service.workers()]

    before, opened = open_files(), []
    try:
        for _ in range(16):
            opened.append(running_service.connect())
            opened[-1].request("GET", "/health/live")
        for connection in opened:
            assert connection.getresponse().read()
        grown = [after - earlier for earlier, after in zip(before, open_files(), strict=True)]
    finally:
        for connection in opened:
            connection.close()
    assert sum(grown) >= 14  # some that earlier tests left may have been closed meanwhile
    assert min(grown) >= 5


def test_sigterm_lets_requests_in_flight_finish(tmp_path: Path, variables: dict[str, str]):
    """A rolling update must not cost a single answer: unready first, serve on, then close, exit code 0."""
    with service(tmp_path / "log", variables | {"QUADRANT_DRAIN_DELAY_S": "1"}) as running:
        eventually(lambda: len(running.workers()) == 2, "there are no two workers")
        slow = running.connect()
        slow.putrequest("POST", "/classify")
        slow.putheader("Content-Length", str(len(PICTURE)))
        slow.endheaders()
        slow.send(PICTURE[:20])  # a thread waits for the rest
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: running.ask("/health/ready").status == 503, "readiness is not 503 during the drain")
        assert running.ask("/health/live").status == 200
        assert running.ask("/classify", PICTURE).status == 200
        slow.send(PICTURE[20:])
        reply = slow.getresponse()
        assert reply.status == 200
        assert b"bottom left" in reply.read()
        slow.close()
        assert running.process.wait(timeout=30) == 0
        assert '"level": "error"' not in running.log.read_text()


def test_sigterm_without_a_delay_ends_at_once(tmp_path: Path, variables: dict[str, str]):
    """A developer who presses Ctrl-C, or a container that is stopped, doesn't want to wait for idle connections."""
    with service(tmp_path / "log", variables) as running:
        silent = socket.create_connection(("127.0.0.1", running.port))
        kept = running.connect()
        kept.request("GET", "/health/live")
        assert kept.getresponse().read()
        assert running.stop() == 0
        silent.close()
        kept.close()


def test_gunicorn_may_be_started_by_hand(tmp_path: Path, variables: dict[str, str]):
    """Whoever has a gunicorn of their own keeps using it; gunicorn.conf.py brings threads, metrics and the drain."""
    port = free_port()
    command = (sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "service.app:create_app()")
    with service(tmp_path / "log", variables, command, f"http://127.0.0.1:{port}") as running:
        eventually(lambda: len(running.workers()) == 2, "there are no two workers")
        for _ in range(6):
            assert running.ask("/classify", PICTURE).json["predictions"][0]["label"] == "bottom left"
        assert counters(running)['quadrant_pictures_total{model="quadrants",outcome="ok"}'] == 6
        assert running.stop() == 0


def test_preloading_ends_the_start(variables: dict[str, str]):
    """A session made before the fork hangs at its first picture; better not to start at all, and say why."""
    command = [sys.executable, "-m", "gunicorn", "--preload", "--bind", f"127.0.0.1:{free_port()}", "service.app:create_app()"]
    ended = subprocess.run(command, cwd=ROOT, env=environment(variables), capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    (line,) = ended.stderr.splitlines()
    assert "leave out --preload" in line


def test_a_worker_that_cannot_start_ends_the_service(tmp_path: Path, variables: dict[str, str]):
    """Starting it again and again would hide the reason and fill the log."""
    models.build(tmp_path / "models" / "liar" / "1" / "model.onnx", wrong_golden=True)
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--port", "0", "--models", str(tmp_path / "models")],
        cwd=ROOT, env=environment(variables), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()  # from the first of two workers; from gunicorn nothing
    assert re.match(r"Error: .*liar/1/model.onnx: golden picture", line)
    assert not ADDRESS.search(ended.stdout)


def test_ctrl_c_ends_all_processes_at_once(tmp_path: Path, variables: dict[str, str]):
    """A terminal sends SIGINT to each of them, the master SIGQUIT on top; both at once made a worker hang."""
    with service(tmp_path / "log", variables) as running:
        eventually(lambda: len(running.workers()) == 2, "there are no two workers")
        for pid in [*running.workers(), running.process.pid]:
            os.kill(pid, signal.SIGINT)
        assert running.process.wait(timeout=15) == 0
        assert "SIGKILL" not in running.log.read_text()


def test_a_worker_whose_batch_thread_dies_is_replaced(tmp_path: Path, variables: dict[str, str]):
    """A process that answers 503 for ever would take its share of the requests for ever."""
    port = free_port()
    command = (sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "tests.http.dying:create_app()")
    with service(tmp_path / "log", variables | {"QUADRANT_WORKERS": "1"}, command, f"http://127.0.0.1:{port}") as running:
        (before,) = running.workers()
        assert running.ask("/die", b"").status == 200
        assert running.ask("/classify", PICTURE).status == 503
        eventually(lambda: before not in running.workers() and running.workers(), "the worker is still the same")
        eventually(lambda: running.ask("/health/ready").status == 200, "the new worker is not ready")
        assert running.ask("/classify", PICTURE).status == 200
        assert "worker_gives_up" in running.log.read_text()
        assert running.stop() == 0
