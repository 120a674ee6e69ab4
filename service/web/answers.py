"""How answers look: JSON, and problem documents (RFC 9457)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
from flask import Response

from service.problems import Problem

PROBLEM = "application/problem+json"

_encoder = msgspec.json.Encoder()


class Reply(NamedTuple):
    """An answer's status, body and headers, for Flask or for plain WSGI to send."""

    status: int
    content: bytes
    headers: list[tuple[str, str]]

    def response(self) -> Response:
        """The same for Flask."""
        return Response(self.content, self.status, self.headers)


def reply(content: Any, status: int = 200, media_type: str = "application/json") -> Reply:
    """A reply in JSON; content may hold msgspec structures."""
    encoded = _encoder.encode(content)
    return Reply(status, encoded, [
        ("Content-Type", media_type), ("Content-Length", str(len(encoded))),
        ("Cache-Control", "no-store"),  # everything that is answered may differ the next moment
    ])


def json(content: Any) -> Response:
    """A JSON response; content may hold msgspec structures."""
    return reply(content).response()


def problem(found: Problem, request_id: str) -> Reply:
    """The reply that says what went wrong."""
    answer = reply(found.document(request_id), int(found.status), PROBLEM)
    if found.retry_after_s is not None:
        answer.headers.append(("Retry-After", str(max(1, math.ceil(found.retry_after_s)))))
    return answer
