"""The straight line over a real socket: a picture in, labels out."""

from __future__ import annotations

import base64
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import models
from tests.running import Running, eventually
from tests.service import pictures

PICTURES = [models.png(models.quadrant_picture(row)) for row in range(4)]


def form(*files: bytes, **fields: str) -> tuple[bytes, str]:
    """Body and content type of a multipart form."""
    parts = [f'--line\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
             for name, value in fields.items()]
    parts += [b'--line\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\n' + data + b"\r\n" for data in files]
    return b"".join(parts) + b"--line--\r\n", "multipart/form-data; boundary=line"


@pytest.mark.parametrize("row", range(4))
def test_a_picture_gets_its_label(running_service: Running, row: int):
    """What all of this is for."""
    reply = running_service.ask("/classify", PICTURES[row])
    assert (reply.status, reply.json["predictions"][0]["index"]) == (200, row)
    assert "inference;dur=" in reply.headers["Server-Timing"]


def test_a_request_without_any_content_type_is_read(running_service: Running):
    """The plainest client there is says nothing of its bytes."""
    connection = running_service.connect()
    connection.putrequest("POST", "/classify")
    connection.putheader("Content-Length", str(len(PICTURES[1])))
    connection.endheaders(PICTURES[1])
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["predictions"][0]["index"]) == (200, 1)
    connection.close()


def test_a_body_in_chunks_is_read(running_service: Running):
    """Clients that stream don't know the length beforehand."""
    connection = running_service.connect()
    halves = PICTURES[3][:40], PICTURES[3][40:]
    connection.request("POST", "/classify", iter(halves), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["predictions"][0]["index"]) == (200, 3)
    connection.close()


def test_a_form_of_several_keeps_their_order(running_service: Running):
    """The bad one in the middle keeps its place and fails alone."""
    body, kind = form(PICTURES[3], b"nothing", PICTURES[0], top_k="1")
    reply = running_service.ask("/classify", body, content_type=kind)
    first, second, third = reply.json["results"]
    assert [each["predictions"][0]["index"] for each in (first, third)] == [3, 0]
    assert second["problem"]["code"] == "unsupported-format"


def test_hugging_face_json_is_read(running_service: Running):
    """Clients of its inference API need no change."""
    sent = {"inputs": base64.b64encode(PICTURES[2]).decode(), "parameters": {"top_k": 2}}
    reply = running_service.ask("/classify", json.dumps(sent).encode(), content_type="application/json")
    assert reply.json["predictions"][0]["id"] == "q2"
    assert len(reply.json["predictions"]) == 2


def test_each_caller_gets_its_own_answer(running_service: Running):
    """Batches that mix up their callers are the worst of all faults: nobody notices."""
    rows = [number % 4 for number in range(60)]
    with ThreadPoolExecutor(12) as callers:
        replies = list(callers.map(lambda row: running_service.ask("/classify", PICTURES[row], X_Request_Id=f"row-{row}"), rows))
    assert [reply.status for reply in replies] == [200] * len(rows)
    assert [(reply.json["predictions"][0]["index"], reply.json["id"], reply.headers["X-Request-Id"]) for reply in replies] == [
        (row, f"row-{row}", f"row-{row}") for row in rows]


def test_a_connection_serves_many_requests(running_service: Running):
    """A problem with a body that was read whole is no reason to close; a handshake is dear."""
    connection = running_service.connect()
    for body, status in ((PICTURES[0], 200), (b"nothing", 415), (PICTURES[1][:-30], 422), (PICTURES[2], 200)):
        connection.request("POST", "/classify", body)
        response = connection.getresponse()
        response.read()
        assert (response.status, response.headers.get("Connection", "keep-alive").lower()) == (status, "keep-alive")
    connection.close()


def test_ids_reach_the_log(running_service: Running):
    """One id leads from a client's complaint to our log."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    running_service.ask("/classify", PICTURES[0], X_Request_Id="complaint-1", traceparent=f"00-{trace}-00f067aa0ba902b7-01")

    def answered() -> list[tuple[str, int]]:
        lines = [json.loads(line) for line in running_service.log.read_text().splitlines() if "complaint-1" in line]
        return [(line["trace_id"], line["status"]) for line in lines if line["event"] == "answered"]

    eventually(lambda: bool(answered()), "no line in the log")  # it is written once the answer is out
    assert answered() == [(trace, 200)]


@pytest.mark.parametrize("name", sorted(pictures.in_every_format()))
def test_every_format_is_read(running_service: Running, name: str):
    """The libraries behind each format are there in the running service too."""
    assert running_service.ask("/classify", pictures.in_every_format()[name]).json["image"]["format"] == name


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/swagger-ui-bundle.js", "/openapi.json", "/problems", "/models",
                                  "/models/quadrants", "/models/quadrants/labels", "/info", "/metrics", "/health/live"])
def test_every_page_answers(running_service: Running, path: str):
    """Nothing that is linked is missing when served for real."""
    assert running_service.ask(path).status == 200


@pytest.mark.parametrize(("query", "data"), [
    pytest.param("", PICTURES[2], id="an image"), pytest.param("?top_k=9", PICTURES[2], id="a bad option"),
    pytest.param("", b"rubbish", id="no image"), pytest.param("", b"x" * (2**20 + 1), id="too many bytes"),
])
def test_what_flask_does_not_see_looks_the_same(running_service: Running, query: str, data: bytes):
    """Byte for byte on the connection, but for times and the date."""
    def asked(kind: str) -> bytes:
        with socket.create_connection(("127.0.0.1", running_service.port), timeout=20) as connection:
            connection.sendall(f"POST /classify{query} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nX-Request-Id: one\r\n"
                               f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
            with connection.makefile("rb") as stream:
                said = stream.read()
        return re.sub(rb'(Date: |Content-Length: |dur=|"(?:decode|preprocess|queue|inference)":)[^\r,;}]+', rb"\1", said)

    assert asked("image/png") == asked("image/png; through=flask")
