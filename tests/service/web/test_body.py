"""The body is read whole, within its limit, or refused."""

from __future__ import annotations

import io
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkSize, NoMoreData
from gunicorn.http.parser import RequestParser

from service.problems import BadRequest, IncompleteBody, SlowBody, TooManyBytes
from service.web import body


class Broken(io.BytesIO):
    """A stream that fails as gunicorn's do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, *_: Any) -> bytes:
        raise self.error


class Trickle:
    """A stream over a socket that asks for one byte after the other, as gunicorn's does until it has all."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def read(self, size: int) -> bytes:
        content = b""
        while len(content) < size and (piece := self.connection.recv(1)):
            content += piece
        return content


def environ(content: io.BytesIO | Trickle, length: str | None = None, **more: Any) -> dict[str, Any]:
    found = {"wsgi.input": content, "wsgi.input_terminated": True, **more}
    return found | ({"HTTP_TRANSFER_ENCODING": "chunked"} if length is None else {"CONTENT_LENGTH": length})


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Server's and client's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("length", ["5", None], ids=["announced", "chunked"])
def test_a_whole_body_is_read_and_the_connection_stays_usable(length: str | None):
    """Keeping the connection saves the next request a handshake."""
    found = environ(io.BytesIO(b"hello"), length)
    assert body.read(found, 5, 1) == b"hello"
    assert not body.unread(found)


def test_too_many_bytes_are_refused_unread():
    """The length alone tells; nothing is read for it."""
    stream = io.BytesIO(b"hello!")
    found = environ(stream, "6")
    with pytest.raises(TooManyBytes, match="body is 6 bytes; this server accepts up to 5") as refusal:
        body.read(found, 5, 1)
    assert refusal.value.fields == {"body_bytes": 6, "max_body_bytes": 5}
    assert stream.tell() == 0
    assert body.unread(found)


def test_chunks_are_read_no_further_than_the_limit():
    """A body without a length could be endless."""
    stream = io.BytesIO(b"x" * 1000)
    with pytest.raises(TooManyBytes, match="body is 6 bytes or more; this server accepts up to 5"):
        body.read(environ(stream), 5, 1)
    assert stream.tell() == 6


def test_a_body_shorter_than_announced_is_incomplete():
    """gunicorn hands it over as if it were whole; PNG would even decode."""
    with pytest.raises(IncompleteBody, match="body ended after 3 bytes; its Content-Length says 5"):
        body.read(environ(io.BytesIO(b"hel"), "5"), 5, 1)


@pytest.mark.parametrize(("error", "problem"), [
    pytest.param(NoMoreData(), IncompleteBody, id="end within a chunk"),
    pytest.param(ConnectionResetError(), IncompleteBody, id="reset"),
    pytest.param(ChunkMissingTerminator(b""), IncompleteBody, id="end before the last chunk's end"),
    pytest.param(ChunkMissingTerminator(b"ab"), BadRequest, id="chunk too long"),
    pytest.param(InvalidChunkSize(b"zz"), BadRequest, id="chunk size that is no number"),
])
def test_broken_chunks_are_the_clients_fault(error: Exception, problem: type[Exception]):
    """gunicorn raises while the application reads; that must not become a 500."""
    with pytest.raises(problem) as refusal:
        body.read(environ(Broken(error)), 5, 1)
    assert type(refusal.value) is problem


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "²"])
def test_a_length_that_is_no_number_is_refused(length: str):
    """Servers other than gunicorn let such pass."""
    with pytest.raises(BadRequest, match="expected a whole number of bytes"):
        body.read(environ(io.BytesIO(), length), 5, 1)


@pytest.mark.parametrize("length", ["5", None], ids=["announced", "chunked"])
def test_a_slow_body_is_ended_however_it_trickles(connection: tuple[socket.socket, socket.socket], length: str | None):
    """A timeout a byte would let a sender hold a thread for days."""
    ours, theirs = connection
    theirs.send(b"hel")
    stream = Trickle(ours) if length else Chunks(ours)
    with pytest.raises(SlowBody, match=r"body did not arrive within 0\.05 s"):
        body.read(environ(stream, length, **{"gunicorn.socket": ours}), 5, 0.05)


class Chunks(Trickle):
    """As `Trickle`; the end is an error, as within a chunk."""

    def read(self, size: int) -> bytes:
        content = super().read(size)
        if len(content) < size:
            raise NoMoreData
        return content


def test_who_need_not_wait_is_not_gone(connection: tuple[socket.socket, socket.socket]):
    """A client may close its sending side and listen; only under load is that taken for leaving."""
    ours, theirs = connection
    found = {"gunicorn.socket": ours}
    assert not body.gone(found, body.now() - 60)
    theirs.shutdown(socket.SHUT_WR)
    assert not body.gone(found, body.now())
    assert body.gone(found, body.now() - 60)


def test_lingering_takes_in_what_the_client_still_sends(connection: tuple[socket.socket, socket.socket]):
    """Closing at once would reset the connection, and the client might never see its refusal."""
    ours, theirs = connection
    theirs.sendall(b"x" * 100_000)
    theirs.shutdown(socket.SHUT_WR)
    body.linger({"gunicorn.socket": ours})
    assert ours.recv(1) == b""
    assert theirs.recv(1) == b""


def requests(connection: socket.socket) -> Iterator[tuple[Any, dict[str, Any]]]:
    """gunicorn's own parser over a connection: each request, and as much of its environ as is needed."""
    for request in RequestParser(Config(), connection, ("127.0.0.1", 1)):
        headers = dict(request.headers)
        length = {"CONTENT_LENGTH": headers["CONTENT-LENGTH"]} if "CONTENT-LENGTH" in headers else {}
        yield request, {"wsgi.input": request.body, "gunicorn.socket": connection, **length}


@pytest.mark.parametrize("length", [0, 1, 5, 8000, 9000, 100_000, 3_000_000])
def test_bodies_that_follow_each_other_at_once_are_told_apart(connection: tuple[socket.socket, socket.socket], length: int):
    """gunicorn reads ahead: a part of a body comes with its head, and of the next request with the body before."""
    ours, theirs = connection
    sent = [bytes([number]) * (length + number) for number in range(3)]
    stream = b"".join(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(each), each) for each in sent)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (theirs.sendall(stream), theirs.shutdown(socket.SHUT_WR)))
        for expected, (request, found) in zip(sent, requests(ours), strict=False):
            assert body.read(found, 4_000_000, 5) == expected
            assert body.consumed(request)
            assert not body.unread(found)


def test_a_body_that_is_not_read_is_not_consumed(connection: tuple[socket.socket, socket.socket]):
    """What is left of it would be taken for the next request."""
    ours, theirs = connection
    theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
    (request, _) = next(requests(ours))
    assert not body.consumed(request)
    assert request.body.read() == b"hello"
    assert body.consumed(request)


def test_chunks_are_left_to_gunicorn(connection: tuple[socket.socket, socket.socket]):
    """Whether all of them were read shows only when the last one is asked for."""
    ours, theirs = connection
    theirs.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    (request, found) = next(requests(ours))
    found |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    assert body.read(found, 10, 5) == b"hello"
    assert not body.consumed(request)


def test_a_call_that_returns_early_is_no_end(connection: tuple[socket.socket, socket.socket]):
    """A signal ends a wait for all bytes with those that are there."""
    ours, theirs = connection
    theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 40_000)
    (_, found) = next(requests(ours))
    before = signal.signal(signal.SIGUSR1, lambda *_: theirs.sendall(b"x" * 60_000))
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: (time.sleep(0.1), signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)))
            assert len(body.read(found, 100_000, 5)) == 100_000
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_was_read_before_is_not_read_again(connection: tuple[socket.socket, socket.socket]):
    """The bytes behind a body are the next request's."""
    ours, theirs = connection
    theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /next HTTP/1.1\r\n\r\n")
    found = requests(ours)
    _, environ_ = next(found)
    assert environ_["wsgi.input"].read(2) == b"he"
    with pytest.raises(IncompleteBody):
        body.read(environ_, 10, 5)
    with pytest.raises(IncompleteBody):
        body.read(environ_, 10, 5)
    assert next(found)[0].path == "/next"
