"""How answers look: JSON, and problem documents (RFC 9457)."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
from flask import Response, g

from service.problems import Problem

PROBLEM = "application/problem+json"

_encoder = msgspec.json.Encoder()


def json(content: Any, status: int = 200, media_type: str = "application/json") -> Response:
    """A JSON response; content may hold msgspec structures."""
    response = Response(_encoder.encode(content), status, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"  # everything that is answered may differ the next moment
    return response


def problem(found: Problem) -> Response:
    """The response that says what went wrong."""
    response = json(found.document(g.request_id), int(found.status), PROBLEM)
    if found.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(found.retry_after_s)))
    return response


def elapsed_ms() -> float:
    """Milliseconds since the head of the current request was read."""
    return 1000 * (time.perf_counter() - float(g.started))
