"""Around every request: its id and trace in the logs, its time and status in the metrics, the end of its connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.http.wsgi import Response as GunicornResponse

from service import logs
from service.metrics import REQUEST_SECONDS, REQUESTS
from service.web import body

log = logs.get(__name__)

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


BODILESS = ("1", "204", "304")  # RFC 9110, 6.4.1
QUIET = ("/health/", "/metrics", "/docs/")  # probes, scrapes and assets would drown the rest


def install(app: Flask) -> None:
    """Watch every request that Flask handles."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(lambda _: logs.end_request())


def begin(environ: dict[str, Any]) -> tuple[float, str]:
    """The moment at which a request began, on the clock of `time.perf_counter`, and its id, from now on in each log line."""
    return time.perf_counter(), logs.begin_request(environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_TRACEPARENT"))


def end(
    environ: dict[str, Any], started: float, request_id: str, endpoint: str, status: int,
) -> tuple[list[tuple[str, str]], list[Callable[[], None]]]:
    """An answer's last headers, and what is to be done once it has been sent, first to last."""
    headers = [("X-Request-Id", request_id), ("X-Content-Type-Options", "nosniff")]
    after: list[Callable[[], None]] = [
        partial(_answered, started, endpoint, environ["REQUEST_METHOD"], status, logs.bound())]
    if body.unread(environ):
        headers.append(("Connection", "close"))
        after.append(partial(body.linger, environ))
    return headers, after


def _begin() -> None:
    g.started, g.request_id = begin(request.environ)


def _end(response: Response) -> Response:
    endpoint = str(request.url_rule) if request.url_rule else "none"
    headers, after = end(request.environ, g.started, g.request_id, endpoint, response.status_code)
    response.headers.extend(headers)
    if response.direct_passthrough:  # a file, whose end Werkzeug tells nobody
        after.pop(0)()
    for each in after:
        response.call_on_close(each)
    return response


def _answered(started: float, endpoint: str, method: str, status: int, ids: dict[str, Any]) -> None:
    seconds = time.perf_counter() - started
    REQUESTS.labels(endpoint, str(status)).inc()
    REQUEST_SECONDS.labels(endpoint).observe(seconds)
    told = log.debug if endpoint.startswith(QUIET) else log.info
    told("answered", method=method, endpoint=endpoint, status=status, ms=round(1000 * seconds, 3), **ids)


def sending(application: Application) -> Application:
    """Make gunicorn send an answer as the application means it.

    It drops an application's own `Connection: close`; its response object, behind `start_response`, has the switch. And it sends
    the head alone first: a call of the system and a packet more for each answer.
    """

    def called(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            response = getattr(start_response, "__self__", None)
            written = start_response(status, headers, *more)
            if not isinstance(response, GunicornResponse):
                return written
            if ("Connection", "close") in headers:
                response.force_close()
            bodiless = environ["REQUEST_METHOD"] == "HEAD" or status.startswith(BODILESS) or not response.response_length
            if not bodiless and not isinstance(response.sock, OnePiece):
                response.sock = OnePiece(response.sock)
            return written

        return application(environ, start)

    return called


class OnePiece:
    """A client's socket for one answer: what is sent first, the head, leaves together with what is sent next."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._head = connection, b""
        self._sent = False

    def sendall(self, data: bytes) -> None:
        """Keep the head; send all else."""
        if self._sent or self._head:
            self._flush(data)
        else:
            self._head = data

    def __getattr__(self, name: str) -> Any:
        """Whatever else is done with it, the head comes first."""
        self._flush()
        return getattr(self._connection, name)

    def _flush(self, data: bytes = b"") -> None:
        head, self._head, self._sent = self._head, b"", True
        if head or data:
            self._connection.sendall(head + data)
