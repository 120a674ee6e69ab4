"""gunicorn's two kinds of process, with what it lacks: heads within a time, a drain, refusals as problem documents.

`server` configures and starts them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.gthread import ThreadWorker

from service import board, logs
from service.problems import BadRequest
from service.web import body

log = logs.get(__name__)

SPARE_THREADS = 4  # that slow senders leave to probes and to everybody else
HEAD_S = 5.0  # for the head of a request: each that trickles in holds a thread
LINGER_MS = 5  # a client that sends picture after picture needs one
YIELD_S = 0.005  # to a process with fewer connections; it may be busy
FORGOTTEN_S = 0.05  # then it is another connection
LOOK_S = 0.5  # between two looks at the batch threads
KEY = "quadrant"  # under which the application keeps its parts (`web/parts.py`)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A `gthread` worker that is unready before it stops, and serves on in between."""

    alive: bool
    row = -1  # on the board; the master sets it before the fork
    _looks_again = _yields_until = 0.0
    stops_at: float | None = None  # on the clock of `time.monotonic`, once SIGTERM has come

    def init_process(self) -> None:
        """In the worker, before it serves."""
        body.watchdog.crowd = max(1, self.cfg.threads - SPARE_THREADS)
        board.sit(self.row)
        self._seat = board.seat()
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application, with its models."""
        self._seat.give_way(lambda: self.stops_at is not None)
        super().load_wsgi()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, unless another process has fewer: it is awake too, and left to it for a moment.

        A process that happens to take more than its share would be slow while another is idle.
        """
        now = time.monotonic()
        if self.nr_conns > self._seat.fewest_connections:
            if now > self._yields_until + FORGOTTEN_S:
                self._yields_until = now + YIELD_S
            if now < self._yields_until:
                time.sleep(YIELD_S / 10)
                return
        self._yields_until = 0.0
        super().accept(listener)
        self._seat.tell_connections(self.nr_conns)

    def handle(self, conn: Any) -> Any:
        """The requests of a connection, as long as they follow each other at once.

        gunicorn itself would wait for a head for ever, and hand the connection to the main thread and back between two requests:
        a third of the time of all of HTTP.
        """
        while True:
            conn.head = body.watchdog.start(conn.sock, HEAD_S)
            try:
                kept = super().handle(conn)
            finally:
                body.watchdog.stop(conn.head)
            if kept is not True or not self._next_is_here(conn):
                return kept

    def _next_is_here(self, conn: Any) -> bool:
        """The connection's next request begins within `LINGER_MS`, and nobody else waits for this thread.

        A stop needs no look: gunicorn's answers close their connections from then on.
        """
        if not self.tpool._work_queue.empty():
            return False
        if conn.parser.unreader.buf.getvalue():
            return True
        waiting = select.poll()
        try:
            waiting.register(conn.sock, select.POLLIN)
            return bool(waiting.poll(LINGER_MS))
        except (OSError, ValueError):  # closed by now
            return False

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The head is there."""
        body.watchdog.stop(conn.head)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        """gunicorn looks for what is left of a body with four calls of the system; mostly it is known that nothing is."""
        if keepalive and body.consumed(conn.parser.mesg):
            conn.parser.mesg = None
            return True
        return bool(super()._keepalive_after(conn, keepalive))

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Requests that gunicorn itself refuses never reach the application; they get a problem document all the same."""
        page = _Page()
        super().handle_error(req, page, addr, exc)
        if page.content:
            with suppress(OSError):
                client.sendall(as_problem(page.content, exc))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: readiness turns 503 now; new connections are refused after the drain's delay."""
        if self.stops_at is not None:
            return
        delay_s = 0.0
        if application := getattr(self, "wsgi", None):
            parts = application.extensions[KEY]
            parts.catalog.begin_drain()
            delay_s = parts.settings.drain_delay_s
        self.stops_at = time.monotonic() + delay_s
        if not delay_s:
            super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT or SIGQUIT: stop now.

        Ctrl-C sends the one to every process of a terminal, and gunicorn's master the other. gunicorn's own handler takes
        a lock of the thread pool that the interrupted code may hold already: a worker was seen to hang until it was killed.
        """
        self.cfg.worker_int(self)
        os._exit(0)

    def notify(self) -> None:
        """Called from the worker's loop at least once a second."""
        super().notify()
        self._seat.tell_connections(self.nr_conns if self.alive and self.stops_at is None else board.NONE_TAKEN)
        if self.alive and self.stops_at is not None and time.monotonic() >= self.stops_at:
            self.alive = False
            self.method_queue.defer(lambda: None)  # so that the loop doesn't wait another second
        if (now := time.monotonic()) < self._looks_again:
            return  # this comes with every request
        self._looks_again = now + LOOK_S
        if self.alive and self.stops_at is None and (dead := self._dead()):
            log.error("worker_gives_up", reason="a batch thread has died; the master starts another worker", models=dead)
            self.handle_exit(signal.SIGTERM, None)

    def _dead(self) -> list[str]:
        """Models that this worker will never answer for again."""
        if (application := getattr(self, "wsgi", None)) is None:
            return []
        return [each.name for each in application.extensions[KEY].catalog.models() if each.dead]

    def _cap_keepalive(self, deadline: float) -> None:
        """As for connections kept alive, so for those that never said anything: they don't hold up a stop."""
        super()._cap_keepalive(deadline)
        for connection in self.pending_conns:
            connection.timeout = min(connection.timeout, deadline)


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's master; a second worker that can't start while the first one's failure ends the service is no news."""

    _halting = False

    def halt(self, *args: Any, **kwargs: Any) -> None:
        """End the service."""
        self._halting = True
        super().halt(*args, **kwargs)

    def reap_workers(self) -> None:
        """Collect workers that ended; gunicorn raises over one that could not start, in the middle of a halt too."""
        try:
            super().reap_workers()
        except HaltServer:
            if not self._halting:
                raise


class _Page:
    """Takes what gunicorn would send, in the place of the client's socket."""

    def __init__(self) -> None:
        self.content = b""

    def gettimeout(self) -> float:
        """Nothing here ever waits."""
        return 0.0

    def sendall(self, data: bytes) -> None:
        """Keep it."""
        self.content += data


def as_problem(page: bytes, error: Exception) -> bytes:
    """gunicorn's HTML refusal as a whole HTTP answer with a problem document.

    Args:
        page: `HTTP/1.1 STATUS REASON`, headers and HTML.
        error: what gunicorn found.
    """
    status, reason = page.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)[1:]
    request_id = logs.new_id()
    problem = BadRequest(f"the request is not HTTP as this server takes it: {error}"[:300])
    document = problem.document(request_id) | {"status": int(status), "title": reason}
    log.info("refused", code=problem.code, status=int(status), detail=problem.detail, request_id=request_id)
    content = json.dumps(document, ensure_ascii=False).encode()
    head = (f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(content)}\r\n"
            f"X-Request-Id: {request_id}\r\nConnection: close\r\n\r\n")
    return head.encode("latin-1") + content
