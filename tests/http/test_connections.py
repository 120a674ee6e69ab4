"""Connections that are kept: each picture gets its own answer, nobody starves, and none holds up a stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service import worker
from tests import models
from tests.running import Running, service

PICTURES = [models.png(models.quadrant_picture(bright)) for bright in range(4)]
PATIENCE_S = 30.0


def best(connection: http.client.HTTPConnection, picture: bytes) -> int:
    """Index of the first label."""
    connection.request("POST", "/classify", picture)
    response = connection.getresponse()
    content = json.loads(response.read())
    assert response.status == 200, content
    index: int = content["predictions"][0]["index"]
    return index


@pytest.mark.parametrize("pause_s", [0.0, 5 * worker.LINGER_MS / 1000])
def test_each_picture_on_a_connection_gets_its_own_answer(running_service: Running, pause_s: float):
    """Whether the thread that answered the last one still waits for it, or it comes by way of the main thread."""
    connection = running_service.connect()
    for turn in range(12):
        assert best(connection, PICTURES[turn % 4]) == turn % 4
        time.sleep(pause_s)
    connection.close()


def test_busy_connections_leave_threads_to_the_others(tmp_path: Path, variables: dict[str, str]):
    """Two threads, six clients that never pause: a thread that only ever took its own connection's requests would starve four."""
    one = variables | {"QUADRANT_WORKERS": "1", "QUADRANT_REQUEST_THREADS": "2"}
    with service(tmp_path / "log", one) as running:
        stop, served = threading.Event(), [0] * 6

        def client(number: int) -> None:
            connection = running.connect()
            while not stop.is_set():
                assert best(connection, PICTURES[number % 4]) == number % 4
                served[number] += 1
            connection.close()

        with ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(client, number) for number in range(6)]
            end = time.monotonic() + PATIENCE_S
            while min(served) < 5 and time.monotonic() < end and not any(each.done() for each in clients):
                time.sleep(0.02)
            stop.set()
            for each in clients:
                each.result(PATIENCE_S)
        assert min(served) >= 5, served


def test_a_client_that_never_pauses_holds_up_no_stop(tmp_path: Path, variables: dict[str, str]):
    """Its thread would go on for ever."""
    with service(tmp_path / "log", variables) as running:
        asked = threading.Event()

        def client() -> None:
            with contextlib.closing(running.connect()) as connection, contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    best(connection, PICTURES[0])
                    asked.set()

        thread = threading.Thread(target=client, daemon=True)
        thread.start()
        assert asked.wait(PATIENCE_S)
        assert running.stop() == 0
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
