"""The bytes of a request's body: all of them or a problem, within a limit and a time.

gunicorn's threads put no limit on either: a slow sender would hold a thread for ever, and a body cut off before its
Content-Length would look complete.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData

from service.problems import BadRequest, IncompleteBody, Problem, SlowBody, TooManyBytes

# A client that still sends when it is refused would see a reset instead of the refusal: what it sends is taken in for
# a while and forgotten.
DISCARDED_BYTES, DISCARDED_S = 64 * 2**20, 2.0
HURRIED_S = 1.0  # for a head or a body while nearly all threads wait for one
PATIENCE_S = 0.1
READ = "quadrant.body_read"  # in the environ, once the whole body has been taken in


def read(environ: dict[str, Any], limit: int, timeout_s: float) -> bytes:
    """Read the body to its end.

    Args:
        environ: of WSGI.
        limit: most bytes.
        timeout_s: longest time for all of it.
    Raises:
        TooManyBytes: announced or sent more than `limit`.
        IncompleteBody: ended before its Content-Length, or before its last chunk.
        SlowBody: not all there in time.
        BadRequest: a length that is no number, or broken chunks.
    """
    announced = _announced(environ)
    if announced is not None and announced > limit:
        raise _too_many(announced, limit)
    wanted = limit + 1 if announced is None else announced
    with watchdog.watching(environ.get("gunicorn.socket"), timeout_s) as watch:
        try:
            content = _taken(environ, wanted, announced is not None)
        except Exception as error:  # a worker gives up by SystemExit, which passes; all else is the client's doing
            raise _slow(watch.allowed_s) if watch.late else _broken(error) from error
    if announced is None and len(content) > limit:
        raise _too_many(len(content), limit, " or more")
    if announced is not None and len(content) < announced:
        if watch.late:
            raise _slow(watch.allowed_s)
        raise IncompleteBody(
            f"body ended after {len(content):,} bytes; its Content-Length says {announced:,}",
            body_bytes=len(content), content_length=announced)
    environ[READ] = True
    return content


def _taken(environ: dict[str, Any], wanted: int, known: bool) -> bytes:
    """So many bytes, or fewer at the end of the stream.

    Of a body whose length is known in one call of the system, for gunicorn's own reading copies it six times over.
    """
    stream, connection = environ["wsgi.input"], environ.get("gunicorn.socket")
    reader = getattr(stream, "reader", None)
    if (not wanted or not known or type(connection) is not socket.socket or not isinstance(reader, LengthReader)
            or reader.length != wanted or stream.buf.tell()):  # somebody has begun already
        content: bytes = stream.read(wanted) if wanted else b""
        return content
    begun = reader.unreader.take_buffered()  # came with the head
    if len(begun) > wanted:
        reader.unreader.unread(begun[wanted:])  # of the next request
    pieces = [begun[:wanted]]
    reader.length -= len(pieces[0])
    try:
        while reader.length and (piece := connection.recv(reader.length, socket.MSG_WAITALL)):  # a signal ends it early
            pieces.append(piece)
            reader.length -= len(piece)
    except Exception:
        stream.failed = True
        raise
    return b"".join(pieces)


def consumed(request: Any) -> bool:
    """Nothing of this request's body (gunicorn's request) is left on its connection, as far as that shows without a look."""
    content = request.body
    return isinstance(content.reader, LengthReader) and content.reader.length == 0 and not content.failed


def unread(environ: dict[str, Any]) -> bool:
    """The request has a body, and it was not read to its end: the connection can't serve another request."""
    has = environ.get("CONTENT_LENGTH", "") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ
    return has and not environ.get(READ)


def linger(environ: dict[str, Any]) -> None:
    """Say that nothing more will be answered, and take in what the client still sends, until it closes or bounds are met.

    To be called when the answer is out. gunicorn does the same, but for 64 KiB only.
    """
    connection = environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket):
        return
    end, left = time.monotonic() + DISCARDED_S, DISCARDED_BYTES
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (wait_s := end - time.monotonic()) > 0:
            connection.settimeout(wait_s)
            if not (piece := connection.recv(2**16)):
                break
            left -= len(piece)


def now() -> float:
    """The moment from which `gone` counts."""
    return time.monotonic()


def gone(environ: dict[str, Any], since: float) -> bool:
    """Whether the client of a request that has to wait has closed its connection; quick, from any thread.

    A client may close its sending side and still listen: who need not wait is answered without being asked.
    """
    connection = environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket) or time.monotonic() - since < PATIENCE_S:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except (OSError, ValueError) as error:  # ValueError: TLS, where one can't peek
        return isinstance(error, OSError)


class Watch:
    """One head or body that is being read; `late` once its time, `allowed_s` seconds, was up."""

    def __init__(self, connection: socket.socket, allowed_s: float) -> None:
        self.connection, self.allowed_s, self.late = connection, allowed_s, False
        self.started = time.monotonic()

    @property
    def end(self) -> float:
        """On the clock of `time.monotonic`."""
        return self.started + self.allowed_s


class Watchdog:
    """Ends reads that take too long, by closing the connection's reading side; one thread, started by the first body.

    A timeout on the socket would not do: it begins anew with each byte that trickles in.

    Attributes:
        crowd: so many reads at once are nearly all threads; each then has `HURRIED_S`, so that probes and quick senders
            still find a thread. Set by whoever knows the number of threads.
    """

    def __init__(self) -> None:
        self.crowd = sys.maxsize
        self._changed = threading.Condition()
        self._open: set[Watch] = set()
        self._next = float("inf")  # when the thread looks again
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, connection: Any, timeout_s: float) -> Iterator[Watch]:
        """Let reads inside the block find the end of the stream once the time is up."""
        watch = self.start(connection, timeout_s)
        try:
            yield watch
        finally:
            self.stop(watch)

    def start(self, connection: Any, timeout_s: float) -> Watch:
        """Begin to watch; a connection that is no socket (a test client's) is there already, and never late."""
        watch = Watch(connection, timeout_s)
        if not isinstance(connection, socket.socket):
            return watch
        with self._changed:
            self._open.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="slow bodies", daemon=True)
                self._thread.start()
            if watch.end < self._next or len(self._open) >= self.crowd:
                self._changed.notify()
        return watch

    def stop(self, watch: Watch) -> None:
        """What was waited for is there; may be called twice."""
        with self._changed:
            self._open.discard(watch)

    def _watch(self) -> None:
        with self._changed:
            while True:
                if len(self._open) >= self.crowd:
                    for watch in self._open:
                        watch.allowed_s = min(watch.allowed_s, HURRIED_S)
                now = time.monotonic()
                for watch in [each for each in self._open if each.end <= now]:
                    self._open.discard(watch)
                    watch.late = True
                    with suppress(OSError):
                        watch.connection.shutdown(socket.SHUT_RD)
                self._next = min((each.end for each in self._open), default=float("inf"))
                self._changed.wait(None if self._next == float("inf") else max(0.0, self._next - now))


watchdog = Watchdog()


def _announced(environ: dict[str, Any]) -> int | None:
    """The Content-Length; 0 without one; `None` for chunks, which the server takes apart."""
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower() and environ.get("wsgi.input_terminated"):
        return None
    text = environ.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f'Content-Length is "{text[:40]}"; expected a whole number of bytes')
    return int(text)


def _broken(error: Exception) -> Problem:
    ended = isinstance(error, NoMoreData | ConnectionError) or (isinstance(error, ChunkMissingTerminator) and not error.term)
    if ended:
        return IncompleteBody("body ended before its last chunk")
    return BadRequest(f"body can't be read: {error}")


def _slow(timeout_s: float) -> SlowBody:
    return SlowBody(f"body did not arrive within {timeout_s:g} s", body_timeout_s=timeout_s)


def _too_many(found: int, limit: int, more: str = "") -> TooManyBytes:
    return TooManyBytes(
        f"body is {found:,} bytes{more}; this server accepts up to {limit:,}", body_bytes=found, max_body_bytes=limit)
