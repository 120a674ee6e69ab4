"""Every answer carries its id, the logs carry id and trace, the metrics count it."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from gunicorn.config import Config
from gunicorn.http.wsgi import Response as GunicornResponse
from structlog.testing import capture_logs

from service import logs
from service.web import observe

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("path", ["/health/live", "/nope", "/docs"])
def test_a_clients_id_is_echoed(client: FlaskClient, path: str):
    """One id leads from the client's log through the balancer's to ours."""
    assert client.get(path, headers={"X-Request-Id": "a/b+c=1.2:3@x_y-z"}).headers["X-Request-Id"] == "a/b+c=1.2:3@x_y-z"


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "a b", 'a"b', "ä", "<script>"])
def test_a_harmful_id_is_replaced(client: FlaskClient, sent: str | None):
    """An id goes into logs and headers; it must not be able to forge either."""
    reply = client.get("/health/live", headers={} if sent is None else {"X-Request-Id": sent})
    assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["X-Request-Id"])


def test_ids_differ(client: FlaskClient):
    """Two requests are two cases."""
    assert len({client.get("/health/live").headers["X-Request-Id"] for _ in range(20)}) == 20


def test_the_log_carries_id_and_trace(client: FlaskClient, picture: bytes):
    """A trace that begins at a gateway goes on in our log."""
    with capture_logs(processors=[logs.merge_contextvars]) as lines:
        client.post("/classify", data=picture, buffered=True,
                    headers={"X-Request-Id": "case-8", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    (line,) = [line for line in lines if line["event"] == "answered"]
    assert (line["request_id"], line["trace_id"], line["status"], line["endpoint"]) == ("case-8", TRACE, 200, "/classify")


def test_the_ids_end_with_the_request(client: FlaskClient):
    """The thread serves another client next."""
    client.get("/health/live", headers={"X-Request-Id": "case-9"})
    with capture_logs(processors=[logs.merge_contextvars]) as lines:
        logs.get("elsewhere").info("later")
    assert "request_id" not in lines[0]


def test_requests_are_counted_by_rule_and_status(client: FlaskClient):
    """Addresses would make a series for each name that anyone tries."""
    client.get("/models/some-name", buffered=True)
    page = client.get("/metrics").text
    assert 'quadrant_requests_total{endpoint="/models/<name>",status="404"}' in page
    assert "some-name" not in page


def test_files_are_counted_too(client: FlaskClient):
    """Werkzeug tells nobody when one has been sent."""
    client.get("/docs/swagger-ui.css", buffered=True)
    assert 'quadrant_requests_total{endpoint="/docs/<name>",status="200"}' in client.get("/metrics").text


def test_a_connection_with_an_unread_body_is_closed(app: Flask, client: FlaskClient):
    """What is left of the body would be taken for the next request."""
    refused = client.post("/models", data=b"x" * 100)
    assert refused.headers["Connection"] == "close"
    whole = client.post("/classify", data=b"x" * 100)
    assert "Connection" not in whole.headers


class Client:
    """A client's socket that keeps what is sent to it, call by call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.calls.append(data)

    def fileno(self) -> int:
        return 7


def answered(method: str, status: str, headers: list[tuple[str, str]], *pieces: bytes) -> tuple[Client, GunicornResponse]:
    """What gunicorn makes of an application's answer, behind ours."""
    client, request = Client(), SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
    response = GunicornResponse(request, client, Config())

    def application(_: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, headers)
        return list(pieces)

    for piece in observe.sending(application)({"REQUEST_METHOD": method}, response.start_response):
        response.write(piece)
    response.close()
    return client, response


def test_closing_reaches_the_server():
    """gunicorn drops an application's own header, and would keep the connection."""
    client, response = answered("GET", "200 OK", [("Connection", "close"), ("Content-Length", "2")], b"{}")
    assert response.should_close()
    assert b"Connection: close" in client.calls[0]
    assert not answered("GET", "200 OK", [("Content-Length", "2")], b"{}")[1].should_close()


def test_head_and_body_leave_in_one_piece():
    """A call of the system less for each answer, and what follows follows."""
    client, _ = answered("GET", "200 OK", [("Content-Length", "6")], b"abc", b"def")
    assert len(client.calls) == 2
    assert client.calls[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.calls[0].endswith(b"\r\n\r\nabc")
    assert client.calls[1] == b"def"


@pytest.mark.parametrize(("method", "status", "length"), [
    ("HEAD", "200 OK", "6"), ("GET", "204 NO CONTENT", "0"), ("GET", "304 NOT MODIFIED", "6"), ("GET", "200 OK", "0")])
def test_a_head_without_a_body_leaves_at_once(method, status, length):
    """Nothing comes that it could wait for."""
    client, _ = answered(method, status, [("Content-Length", length)])
    assert len(client.calls) == 1
    assert client.calls[0].endswith(b"\r\n\r\n")


def test_what_else_is_done_with_the_socket_comes_behind_the_head():
    """gunicorn hands files to the system by themselves."""
    client = Client()
    one = observe.OnePiece(client)
    one.sendall(b"head")
    assert client.calls == []
    assert one.fileno() == 7
    one.sendall(b"tail")
    assert client.calls == [b"head", b"tail"]


def test_an_answer_that_begins_anew_is_sent_all_the_same():
    """PEP 3333: an application may begin again as long as nothing was sent."""
    client, request = Client(), SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    response = GunicornResponse(request, client, Config())

    def application(_: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 INTERNAL SERVER ERROR", [("Content-Length", "3")], sys.exc_info())
        return [b"new"]

    for piece in observe.sending(application)({"REQUEST_METHOD": "GET"}, response.start_response):
        response.write(piece)
    response.close()
    assert len(client.calls) == 1
    assert client.calls[0].endswith(b"new")
