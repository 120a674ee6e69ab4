"""Around every request: its id and trace in the logs, its time and status in the metrics."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request

from service import logs, metrics

log = logs.get(__name__)


def install(app: Flask) -> None:
    """Watch every request of the application."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(lambda _: logs.end_request())


def _begin() -> None:
    g.started = time.perf_counter()
    g.request_id = logs.begin_request(request.headers.get("X-Request-Id"), request.headers.get("traceparent"))


def _end(response: Response) -> Response:
    seconds = time.perf_counter() - g.started
    endpoint = request.endpoint or "none"
    response.headers["X-Request-Id"] = g.request_id
    metrics.REQUESTS.labels(endpoint=endpoint, status=str(response.status_code)).inc()
    metrics.REQUEST_SECONDS.labels(endpoint=endpoint).observe(seconds)
    log.debug("answered", endpoint=endpoint, status=response.status_code, ms=round(1000 * seconds, 2))
    return response
