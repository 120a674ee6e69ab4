"""Whatever goes wrong becomes a problem document, and nothing of the inside leaves."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}


def test_a_fault_tells_nothing_but_its_id(app: Flask, picture: bytes, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]):
    """A traceback is a map for attackers; the log has it, under the id that the client holds."""
    def fail(*_: object) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr("service.catalog.Catalog.find", fail)
    reply = app.test_client().post("/classify", data=picture, headers={"X-Request-Id": "case-7"})
    assert (reply.status_code, reply.json["code"], reply.json["request_id"]) == (500, "internal", "case-7")
    assert set(reply.json) == MEMBERS
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    logged = capsys.readouterr()
    assert "secret path" in logged.out + logged.err


@pytest.mark.parametrize(("method", "path", "allowed"), [
    pytest.param("GET", "/classify", {"POST", "OPTIONS"}, id="reading what takes"),
    pytest.param("POST", "/models", {"GET", "HEAD", "OPTIONS"}, id="writing what gives"),
    pytest.param("DELETE", "/models/quadrants", {"GET", "HEAD", "OPTIONS"}, id="deleting"),
    pytest.param("TRACE", "/info", {"GET", "HEAD", "OPTIONS"}, id="trace"),
])
def test_a_405_names_what_is_allowed(client: FlaskClient, method: str, path: str, allowed: set[str]):
    """RFC 9110 demands Allow; one's own error handlers easily lose it."""
    reply = client.open(path, method=method)
    assert (reply.status_code, reply.json["code"]) == (405, "method-not-allowed")
    assert {name.strip() for name in reply.headers["Allow"].split(",")} == allowed == set(reply.json["allowed"])


@pytest.mark.parametrize("path", [
    "/nope", "/classify/", "/models/", "/docs/../app.py", "/docs/nope.js", "/health//live", "/models/%2e%2e/x"])
def test_an_unknown_address_is_a_problem_too(client: FlaskClient, path: str):
    """Clients parse one shape of error, everywhere."""
    reply = client.get(path)
    assert (reply.status_code, reply.content_type) == (404, "application/problem+json")
    assert reply.json["code"] == "not-found"


def test_a_problem_refers_to_its_explanation(client: FlaskClient):
    """`type` is an address that answers, and has that section."""
    reply = client.get("/models/nope")
    path, _, code = reply.json["type"].partition("#")
    assert f'id="{code}"' in client.get(path).text


def test_problems_are_counted(client: FlaskClient):
    """An operator sees which refusals rise."""
    client.get("/nope")
    assert 'quadrant_refused_total{code="not-found"}' in client.get("/metrics").text
