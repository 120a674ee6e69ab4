"""Whatever goes wrong becomes a problem document; no traceback leaves."""

from __future__ import annotations

import math

from flask import Flask, Response, g, json, request
from werkzeug.exceptions import HTTPException

from service import logs, metrics
from service.problems import BadRequest, Internal, MethodNotAllowed, NotFound, Problem, TooManyBytes
from service.web import body

log = logs.get(__name__)

MEDIA_TYPE = "application/problem+json"


def install(app: Flask) -> None:
    """Handle problems, Flask's own errors, and everything else."""
    app.register_error_handler(Problem, refuse)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def refuse(problem: Problem) -> Response:
    """The response to a problem; what the client still sends is taken in first."""
    if problem.status in (400, 408, 413, 415):
        body.discard(request.environ)
    metrics.REFUSED.labels(code=problem.code).inc()
    document = problem.document(g.get("request_id", ""))
    response = Response(json.dumps(document, ensure_ascii=False), problem.status, content_type=MEDIA_TYPE)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_s)))
    log.info("refused", code=problem.code, status=int(problem.status), detail=problem.detail)
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:  # redirects are exceptions too
        return error.get_response()  # type: ignore[return-value]
    if status == 404:
        return refuse(NotFound(f"there is nothing at {request.path[:200]}; see /docs for what there is"))
    if status == 405:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or []))
        response = refuse(MethodNotAllowed(f"{request.method[:20]} is not allowed at {request.path[:200]}; expected {allowed}"))
        response.headers["Allow"] = allowed
        return response
    if status == 413:
        return refuse(TooManyBytes(f"the request is too large: {error.description}"))
    if status < 500:
        return refuse(BadRequest(f"the request can't be understood: {error.description}"))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected", path=request.path[:200], exc_info=error)
    return refuse(Internal("the cause is in the service's log, under the request's id"))
