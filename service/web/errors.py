"""Whatever goes wrong becomes a problem document; no traceback leaves."""

from __future__ import annotations

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from service import logs
from service.metrics import REFUSED
from service.problems import BadRequest, Internal, MethodNotAllowed, NotFound, Problem, TooLarge, UnsupportedMediaType
from service.web import answers
from service.web.answers import Reply

log = logs.get(__name__)

SHOWN = 100  # characters of a client's address that a message repeats


def install(app: Flask) -> None:
    """Handle problems, Flask's own errors, and everything else."""
    app.register_error_handler(Problem, _refused)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def refuse(problem: Problem, request_id: str) -> Reply:
    """The reply to a problem, counted and logged."""
    REFUSED.labels(problem.code).inc()
    log.info("refused", code=problem.code, status=int(problem.status), detail=problem.detail)
    return answers.problem(problem, request_id)


def unexpected(error: Exception, path: str, request_id: str) -> Reply:
    """The reply to a fault of ours; only the log says which."""
    log.error("unexpected", path=path[:SHOWN], exc_info=error)
    return refuse(Internal("this request met a fault of ours; the log has more under its id"), request_id)


def _refused(problem: Problem) -> Response:
    return refuse(problem, g.request_id).response()


def _http(error: HTTPException) -> Response:
    """Flask's and werkzeug's own errors; what belongs to the status, such as Allow, is kept."""
    path = request.path[:SHOWN]
    if error.code == 404:
        return _refused(NotFound(f'there is nothing at "{path}"; /docs tells what there is'))
    if error.code == 405:
        allowed = sorted(getattr(error, "valid_methods", None) or [])
        response = _refused(MethodNotAllowed(
            f'"{path}" does not answer to {request.method[:SHOWN]}; expected {", ".join(allowed)}', allowed=allowed))
        response.headers["Allow"] = ", ".join(allowed)
        return response
    if error.code is None or error.code >= 500:
        return _unexpected(error)
    if error.code < 400:  # a redirect
        return Response(status=error.code, headers=dict(error.get_headers()))
    kind = {413: TooLarge, 415: UnsupportedMediaType}.get(error.code, BadRequest)
    return _refused(kind(f"request can't be understood: {error.description}"))


def _unexpected(error: Exception) -> Response:
    return unexpected(error, request.path, g.request_id).response()
