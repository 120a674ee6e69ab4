"""Requests that are too large, too slow, cut short or framed wrongly: a clear refusal each, and a service that goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.running import Running, service
from tests.service import pictures

PICTURE = models.png(models.quadrant_picture(2))
LIMIT = 2**20  # bytes, as set for the running service
HEAD = b"POST /classify HTTP/1.1\r\nHost: quadrant\r\n"


@pytest.fixture
def raw(running_service: Running) -> Iterator[socket.socket]:
    """A bare connection, for what HTTP clients refuse to send."""
    with socket.create_connection(("127.0.0.1", running_service.port), timeout=20) as connection:
        yield connection


@pytest.fixture(autouse=True)
def still_serving(running_service: Running) -> Iterator[None]:
    """Whatever came, the next honest client is served."""
    yield
    assert running_service.ask("/classify", PICTURE).status == 200


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of what comes until the server closes."""
    received = b""
    while piece := connection.recv(2**16):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


def test_too_many_bytes_are_refused_before_they_are_sent(raw: socket.socket):
    """The length alone tells; the client is spared the upload."""
    raw.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
    status, headers, problem = answer(raw)
    assert (status, problem["code"]) == (413, "too-many-bytes")
    assert (problem["body_bytes"], problem["max_body_bytes"]) == (LIMIT + 1, LIMIT)
    assert headers["connection"] == "close"


def test_a_client_that_sends_on_sees_its_refusal(running_service: Running):
    """Most clients send all before they read; a reset would hide the 413 from them."""
    reply = running_service.ask("/classify", b"\xff\xd8\xff" + b"x" * (8 * LIMIT))
    assert (reply.status, reply.json["code"]) == (413, "too-many-bytes")


def test_chunks_are_counted_while_they_arrive(running_service: Running):
    """Without a length only counting helps."""
    connection = running_service.connect()
    connection.request("POST", "/classify", iter([b"x" * 2**16] * 20), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["code"]) == (413, "too-many-bytes")
    connection.close()


def test_a_body_of_exactly_the_limit_is_read(running_service: Running):
    """The limit itself is allowed."""
    reply = running_service.ask("/classify", PICTURE + b"\0" * (LIMIT - len(PICTURE)))
    assert reply.status == 200


@pytest.mark.parametrize(("sent", "code"), [
    pytest.param(b"Content-Length: 500\r\n\r\n" + PICTURE, "incomplete-body", id="shorter than announced"),
    pytest.param(b"Content-Length: 500\r\n\r\n", "incomplete-body", id="nothing of it"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n20\r\nabc", "incomplete-body", id="end within a chunk"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "incomplete-body", id="end before the last chunk"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "incomplete-body", id="end within the last chunk"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", "malformed-request", id="chunk size that is no number"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", "malformed-request", id="chunk longer than said"),
])
def test_a_body_cut_short_is_never_classified(raw: socket.socket, sent: bytes, code: str):
    """Half a photo decodes in some formats, and would be answered with confidence."""
    raw.sendall(HEAD + sent)
    raw.shutdown(socket.SHUT_WR)
    status, headers, problem = answer(raw)
    assert (status, problem["code"]) == (400, code)
    assert headers["content-type"] == "application/problem+json"


def test_a_slow_body_is_ended(raw: socket.socket):
    """A sender that stops in the middle must not hold a thread for ever."""
    raw.sendall(HEAD + b"Content-Length: 500\r\n\r\n" + PICTURE[:20])
    status, headers, problem = answer(raw)
    assert (status, problem["code"], problem["body_timeout_s"]) == (408, "slow-body", 2)
    assert headers["connection"] == "close"


def test_a_head_that_trickles_in_is_ended(running_service: Running):
    """Each holds a thread; byte by byte, no timeout of a socket ever strikes."""
    connection = socket.create_connection(("127.0.0.1", running_service.port), timeout=20)
    ended = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"POST /classify HTTP/1.1\r\n")
            while not ended.wait(0.2):
                connection.sendall(b"X: y\r\n")

    sender = threading.Thread(target=trickle)
    sender.start()
    with contextlib.suppress(ConnectionError), connection:  # without an end, recv gives up by its own timeout
        while connection.recv(4096):
            pass
        ended.set()
    ended.set()
    sender.join()


def test_probes_are_answered_while_all_threads_wait_for_slow_senders(tmp_path: Path, variables: dict[str, str]):
    """Two workers of eight threads each: forty bodies that stall for minutes must not make a healthy service look dead."""
    patient = variables | {"QUADRANT_BODY_TIMEOUT_S": "600"}
    with service(tmp_path / "log", patient) as running, contextlib.ExitStack() as senders:
        for _ in range(40):
            connection = senders.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20))
            connection.sendall(HEAD + b"Content-Length: 500\r\n\r\n" + PICTURE[:20])
        assert running.ask("/health/live").status == 200


def test_a_client_that_closes_its_side_is_answered(raw: socket.socket):
    """Some simple clients say "that was all" by closing; their request is whole."""
    raw.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE)
    raw.shutdown(socket.SHUT_WR)
    status, _, found = answer(raw)
    assert (status, found["predictions"][0]["index"]) == (200, 2)


@pytest.mark.parametrize("sent", [
    pytest.param(b"Content-Length: -1\r\n\r\n", id="negative length"),
    pytest.param(b"Content-Length: five\r\n\r\n", id="length in words"),
    pytest.param(b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", id="two lengths"),
    pytest.param(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="length and chunks"),
    pytest.param(b"Transfer-Encoding: rot13\r\n\r\nabc", id="unknown coding"),
    pytest.param(b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="compressed"),
])
def test_odd_framing_is_refused(raw: socket.socket, sent: bytes):
    """Two readings of one request are how requests are smuggled past a gateway; gunicorn refuses them itself."""
    raw.sendall(HEAD + sent)
    raw.shutdown(socket.SHUT_WR)
    received = b""
    while piece := raw.recv(2**16):
        received += piece
    assert 400 <= int(received.split()[1]) < 600
    assert b" 200 " not in received.split(b"\r\n")[0]
    assert b"Traceback" not in received


def test_what_follows_an_unread_body_is_not_taken_for_a_request(raw: socket.socket):
    """The bytes of a refused body are data, whatever they look like."""
    inner = b"GET /health/live HTTP/1.1\r\nHost: quadrant\r\n\r\n"
    raw.sendall(b"POST /models HTTP/1.1\r\nHost: quadrant\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    status, headers, problem = answer(raw)
    assert (status, problem["code"], headers["connection"]) == (405, "method-not-allowed", "close")
    assert "POST" not in headers["allow"]


@pytest.mark.parametrize(("body", "status", "code"), [
    pytest.param(b"", 400, "empty-body", id="nothing sent"),
    pytest.param(b"%PDF-1.7", 415, "unsupported-format", id="not a picture"),
    pytest.param(pictures.jpeg()[:-200], 422, "undecodable-picture", id="cut short"),
    pytest.param(pictures.claiming("PNG", 2000, 1000), 413, "too-many-pixels", id="too many pixels"),
    pytest.param(pictures.claiming("WebP", 2000, 1000), 413, "too-many-pixels", id="too many pixels in WebP"),
    pytest.param(pictures.with_scans(1000), 422, "undecodable-picture", id="a thousand scans"),
])
def test_bad_pictures_are_refused(running_service: Running, body: bytes, status: int, code: str):
    """Each with its own code; the limit and the value where there is one."""
    reply = running_service.ask("/classify", body)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["X-Request-Id"] == reply.json["request_id"]


@pytest.mark.parametrize(("head", "status"), [
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nno header at all\r\n\r\n", 400, id="a line that is no header"),
    pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="an address too long"),
    pytest.param(b"nonsense\r\n\r\n", 400, id="no HTTP"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="two lengths"),
])
def test_what_gunicorn_refuses_itself_is_a_problem_document_too(raw: socket.socket, head: bytes, status: int):
    """A client that reads problems must not meet a page of HTML."""
    raw.sendall(head)
    found, headers, problem = answer(raw)
    assert (found, problem["status"], problem["code"]) == (status, status, "malformed-request")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]
