"""A model that is loaded at its first request, in a real service."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import models
from tests.http.slow import VARIABLE
from tests.running import Running, eventually, service

PICTURE = models.png(models.quadrant_picture(2))


@pytest.fixture
def two(variables: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Settings of one worker with two models."""
    for name in ("first", "later"):
        models.build(tmp_path / "models" / name / "1" / "model.onnx", name=name)
    models.choose(tmp_path / "models", "first")
    return variables | {"QUADRANT_MODELS": str(tmp_path / "models"), "QUADRANT_WORKERS": "1"}


def states(running: Running) -> dict[str, str]:
    found: dict[str, str] = running.ask("/health/ready").json["states"]
    return found


def test_the_first_request_for_a_model_loads_it(tmp_path: Path, two: dict[str, str]):
    """It is ready without it, says so, and answers for it all the same."""
    with service(tmp_path / "log", two) as running:
        assert states(running) == {"first/1": "loaded", "later/1": "on first request"}
        together = threading.Barrier(4)

        def ask(_: int) -> str:
            together.wait(20)
            reply = running.ask("/classify?model=later", PICTURE)
            return f"{reply.status} {reply.json['model']['name']} {reply.json['predictions'][0]['label']}"

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == ["200 later bottom left"] * 4
        assert states(running) == {"first/1": "loaded", "later/1": "loaded"}
        page = running.ask("/metrics").body.decode()
        assert 'quadrant_model_load_seconds_count{model="later/1",outcome="ok"} 1.0' in page
        assert running.stop() == 0


def test_all_are_loaded_at_the_start_where_that_is_asked_for(tmp_path: Path, two: dict[str, str]):
    """Whoever can wait at the start but not at the first request chooses so."""
    with service(tmp_path / "log", two | {"QUADRANT_LOAD": "all"}) as running:
        assert states(running) == {"first/1": "loaded", "later/1": "loaded"}


def test_a_stop_in_the_middle_of_a_load_is_clean(tmp_path: Path, two: dict[str, str]):
    """The request that waits is answered, the process ends by itself with 0, and no worker has to be killed."""
    hold = tmp_path / "hold"
    hold.touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "tests.http.slow:create_app()")
    environ = two | {VARIABLE: str(hold)}
    with service(tmp_path / "log", environ, command, f"http://127.0.0.1:{port}") as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, "/classify?model=later", PICTURE)
        eventually(lambda: states(running)["later/1"] == "loading", "it is not being loaded")
        assert running.ask("/classify", PICTURE).status == 200  # the default model answers meanwhile
        running.process.send_signal(signal.SIGTERM)
        hold.unlink()
        assert asked.result(30).status == 200
        assert running.process.wait(timeout=30) == 0
        log = (tmp_path / "log").read_text()
        assert "SIGKILL" not in log
        assert '"level": "error"' not in log
