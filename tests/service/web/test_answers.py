"""JSON answers and problem documents."""

from __future__ import annotations

import json

from service.problems import NotReady
from service.web import answers


def test_retry_after_is_a_whole_number_of_seconds():
    """The header allows no fraction; rounding down would send clients back too early."""
    reply = answers.problem(NotReady("the models are loading", retry_after_s=0.2), "case-1")
    headers = dict(reply.headers)
    assert headers["Retry-After"] == "1"
    assert json.loads(reply.content) == {
        "type": "/problems#not-ready", "title": "Not ready", "status": 503, "detail": "the models are loading",
        "code": "not-ready", "request_id": "case-1", "retry_after_s": 0.2,
    }
    assert headers["Content-Type"] == answers.PROBLEM
