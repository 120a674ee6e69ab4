"""The body is read whole, within its limit, or refused."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkSize, NoMoreData

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
