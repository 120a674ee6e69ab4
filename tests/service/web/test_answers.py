"""JSON answers and problem documents."""

from __future__ import annotations

from flask import Flask, g

from service.problems import NotReady
from service.web import answers


def test_retry_after_is_a_whole_number_of_seconds(app: Flask):
    """The header allows no fraction; rounding down would send clients back too early."""
    with app.app_context():
        g.request_id = "case-1"
        reply = answers.problem(NotReady("the models are loading", retry_after_s=0.2))
    assert reply.headers["Retry-After"] == "1"
    assert reply.json == {
        "type": "/problems#not-ready", "title": "Not ready", "status": 503, "detail": "the models are loading",
        "code": "not-ready", "request_id": "case-1", "retry_after_s": 0.2,
    }
    assert reply.content_type == answers.PROBLEM
