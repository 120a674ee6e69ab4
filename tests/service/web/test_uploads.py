"""Every way in which clients send pictures and options, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from service.problems import BadOption
from service.web import uploads
from service.web.uploads import Given

BOUNDARY = "multipart/form-data; boundary=x"


def best(reply: dict[str, object]) -> str:
    return reply["predictions"][0]["id"]  # type: ignore[index]


def test_all_ways_of_sending_give_the_same_answer(client: FlaskClient, picture: bytes):
    """A client may choose what its language makes easy."""
    text = base64.b64encode(picture).decode()
    ways = {
        "raw": {"data": picture},
        "as an image": {"data": picture, "content_type": "image/png"},
        "as bytes": {"data": picture, "content_type": "application/octet-stream"},
        "by curl --data-binary": {"data": picture, "content_type": "application/x-www-form-urlencoded"},
        "form": {"data": {"photo": (io.BytesIO(picture), "photo.png")}},
        "base64": {"json": {"inputs": text}},
        "base64 in lines": {"json": {"inputs": "\n".join(text[at: at + 76] for at in range(0, len(text), 76))}},
        "data URL": {"json": {"inputs": f"data:image/png;base64,{text}"}},
    }
    replies = {way: client.post("/classify", **sent) for way, sent in ways.items()}
    assert {way: reply.status_code for way, reply in replies.items()} == dict.fromkeys(ways, 200)
    assert {best(reply.json) for reply in replies.values()} == {"q2"}


@pytest.mark.parametrize("declared", ["image/jpeg", "image/heic", "image/nonsense"])
def test_the_declared_type_is_never_trusted(client: FlaskClient, picture: bytes, declared: str):
    """Phones and browsers name files wrongly; the bytes decide."""
    reply = client.post("/classify", data=picture, content_type=declared)
    assert reply.json["image"]["format"] == "PNG"


def test_several_files_are_answered_in_order(client: FlaskClient, picture: bytes):
    """A caller matches answers to pictures by their place; a bad one keeps its own."""
    files = [(io.BytesIO(picture), "a.png"), (io.BytesIO(b"%PDF-1.7"), "b.png"), (io.BytesIO(picture), "c.png")]
    reply = client.post("/classify", data={"photos": files, "top_k": "1"})
    assert reply.status_code == 200
    first, second, third = reply.json["results"]
    assert best(first) == best(third) == "q2"
    assert second["problem"]["code"] == "unsupported-format"
    assert "PDF" in second["problem"]["detail"]
    assert len(first["predictions"]) == 1


def test_a_list_is_answered_with_a_list_even_of_one(client: FlaskClient, picture: bytes):
    """Code that sends a list of changing length must not meet two shapes."""
    reply = client.post("/classify", json={"inputs": [base64.b64encode(picture).decode()]})
    assert [best(result) for result in reply.json["results"]] == ["q2"]


def test_broken_base64_in_a_list_fails_alone(client: FlaskClient, picture: bytes):
    """A bad one never fails its neighbours, however early it is bad."""
    reply = client.post("/classify", json={"inputs": ["%%%", base64.b64encode(picture).decode(), "http://a/b.jpg"]})
    first, second, third = reply.json["results"]
    assert first["problem"]["code"] == third["problem"]["code"] == "malformed-request"
    assert best(second) == "q2"


@pytest.mark.parametrize("where", ["query", "form", "parameters"])
def test_options_may_come_from_each_place(client: FlaskClient, picture: bytes, where: str):
    """Each way of sending has its own usual place for options."""
    options = {"top_k": "2", "threshold": "0.5", "model": "quadrants", "version": "1"}
    text = base64.b64encode(picture).decode()
    reply = {
        "query": lambda: client.post("/classify", data=picture, query_string=options),
        "form": lambda: client.post("/classify", data=options | {"photo": (io.BytesIO(picture), "photo.png")}),
        "parameters": lambda: client.post("/classify", json={
            "inputs": text, "parameters": {"top_k": 2, "threshold": 0.5, "model": "quadrants", "version": 1}}),
    }[where]()
    assert reply.status_code == 200
    assert [each["id"] for each in reply.json["predictions"]] == ["q2"]  # the others are below the threshold


@pytest.mark.parametrize(("body", "declared", "status", "code"), [
    pytest.param(b"", "application/octet-stream", 400, "empty-body", id="nothing sent"),
    pytest.param(b"", "application/json", 400, "empty-body", id="no JSON"),
    pytest.param(b"", BOUNDARY, 400, "empty-body", id="no form"),
    pytest.param(b"%PDF-1.7", "image/png", 415, "unsupported-format", id="not a picture"),
    pytest.param(b"hello", "text/plain", 415, "unsupported-media-type", id="text"),
    pytest.param(b"<a/>", "application/xml", 415, "unsupported-media-type", id="XML"),
    pytest.param(b"{", "application/json", 400, "malformed-request", id="half JSON"),
    pytest.param(b"[]", "application/json", 400, "malformed-request", id="JSON of another shape"),
    pytest.param(b'{"inputs": 5}', "application/json", 400, "malformed-request", id="a number for a picture"),
    pytest.param(b'{"inputs": [], "parameters": {}}', "application/json", 400, "empty-body", id="empty list"),
    pytest.param(b'{"inputs": "", "parameters": {}}', "application/json", 400, "empty-body", id="empty text"),
    pytest.param(b'{"inputs": "aGk=", "options": {}}', "application/json", 400, "malformed-request", id="unknown member"),
    pytest.param(b'{"inputs": "a"}', "application/json", 400, "malformed-request", id="cut base64"),
    pytest.param(b'{"inputs": "\xff"}', "application/json", 400, "malformed-request", id="not UTF-8"),
    pytest.param(b'{"inputs": "https://example.org/a.jpg"}', "application/json", 400, "malformed-request", id="web address"),
    pytest.param(b'{"inputs": "data:image/png,abc"}', "application/json", 400, "malformed-request", id="data URL as text"),
    pytest.param(b"[" * 100_000, "application/json", 400, "malformed-request", id="deep JSON"),
    pytest.param(b"--x\r\n", "multipart/form-data", 400, "malformed-request", id="form without boundary"),
    pytest.param(b"--x\r\nContent-", BOUNDARY, 400, "malformed-request", id="form cut short"),
    pytest.param(b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n\xff\xd8\xff', BOUNDARY, 400,
                 "malformed-request", id="form cut short within a file"),
    pytest.param(b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--x--\r\n', BOUNDARY, 400, "empty-body",
                 id="form without file"),
    pytest.param(b'--x\r\nContent-Disposition: form-data; name="a"; filename=""\r\n\r\n\r\n--x--\r\n', BOUNDARY, 400,
                 "empty-body", id="form of a browser without a choice"),
    pytest.param(b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n\r\n--x--\r\n', BOUNDARY, 400,
                 "empty-body", id="form with an empty file"),
])
def test_bad_bodies_are_refused(client: FlaskClient, body: bytes, declared: str, status: int, code: str):
    """Never a 500, and each with its own code."""
    reply = client.post("/classify", data=body, content_type=declared)
    assert (reply.status_code, reply.json["code"]) == (status, code)
    assert reply.content_type == "application/problem+json"


@pytest.mark.parametrize(("options", "message"), [
    pytest.param({"topk": "5"},
                 'option "topk" is not known; expected one of top_k, threshold, coverage, model, version', id="unknown"),
    pytest.param({"top_k": "0"}, 'top_k is "0"; expected a whole number from 1 up', id="zero"),
    pytest.param({"top_k": "five"}, 'top_k is "five"; expected a whole number from 1 up', id="a word"),
    pytest.param({"top_k": "2.5"}, 'top_k is "2.5"; expected a whole number from 1 up', id="a fraction"),
    pytest.param({"top_k": "²"}, 'top_k is "²"; expected a whole number from 1 up', id="a digit that is none"),
    pytest.param({"top_k": True}, 'top_k is "true"; expected a whole number from 1 up', id="true"),
    pytest.param({"top_k": ""}, 'top_k is ""; expected a whole number from 1 up', id="empty"),
    pytest.param({"top_k": [1]}, r'top_k is "\[1\]"; expected a whole number from 1 up', id="a list"),
    pytest.param({"top_k": "9" * 5000}, r'top_k is "9{59}…"; expected', id="a number without end"),
    pytest.param({"threshold": "1.5"}, 'threshold is "1.5"; expected a number from 0 to 1', id="above 1"),
    pytest.param({"threshold": "nan"}, 'threshold is "nan"; expected a number from 0 to 1', id="not a number"),
    pytest.param({"threshold": None}, 'threshold is "null"; expected a number from 0 to 1', id="null"),
    pytest.param({"model": ""}, 'model is ""; expected the name of a model', id="no name"),
    pytest.param({"model": 5}, 'model is "5"; expected the name of a model', id="a number for a name"),
    pytest.param({"version": "v1"}, 'version is "v1"; expected a whole number from 1 up', id="version in words"),
])
def test_bad_options_are_refused_with_what_is_expected(options: dict[str, object], message: str):
    """A misspelt option that is ignored in silence costs an afternoon."""
    with pytest.raises(BadOption, match=message):
        uploads.options([Given(*pair) for pair in options.items()])


def test_an_option_is_given_once(client: FlaskClient, picture: bytes):
    """Of two values one would be ignored in silence."""
    reply = client.post("/classify?top_k=1", data={"top_k": "2", "photo": (io.BytesIO(picture), "a.png")})
    assert (reply.status_code, reply.json["detail"]) == (400, "option top_k is given twice; expected it once")


def test_top_k_ends_at_the_number_of_classes(client: FlaskClient, picture: bytes):
    """The refusal names the limit and the value."""
    reply = client.post("/classify?top_k=5", data=picture)
    assert (reply.status_code, reply.json["code"], reply.json["limit"], reply.json["value"]) == (400, "bad-option", 4, 5)


@pytest.mark.parametrize("way", ["form", "json"])
def test_pictures_in_one_call_are_limited(client: FlaskClient, picture: bytes, way: str):
    """One call must not occupy the whole queue."""
    if way == "form":
        reply = client.post("/classify", data={"photos": [(io.BytesIO(picture), "a.png") for _ in range(5)]})
    else:
        reply = client.post("/classify", json={"inputs": ["aGk="] * 5})
    assert (reply.status_code, reply.json["code"], reply.json["count"], reply.json["limit"]) == (413, "too-many-pictures", 5, 4)


@pytest.mark.parametrize("wrong", ["?coverage=much", "?top_k=0", "?colour=red"])
def test_a_wrong_option_is_told_before_too_many_pictures(client: FlaskClient, wrong: str):
    """Otherwise whoever sends fewer pictures learns only then that the option was wrong."""
    reply = client.post(f"/classify{wrong}", json={"inputs": ["aGk="] * 5})
    assert (reply.status_code, reply.json["code"]) == (400, "bad-option")


def test_a_form_of_endless_parts_is_refused(client: FlaskClient):
    """Parsing stops long before each part has become an object."""
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    reply = client.post("/classify", data=part * 3000 + b"--x--\r\n", content_type=BOUNDARY)
    assert (reply.status_code, reply.json["code"]) == (413, "too-many-pictures")


def test_options_of_json_are_held_to_the_same_rules(client: FlaskClient, picture: bytes):
    """A parameter of another server is refused by its name; null counts as not given."""
    text = base64.b64encode(picture).decode()
    reply = client.post("/classify", data=json.dumps({"inputs": text, "parameters": {"candidate_labels": ["cat"]}}),
                        content_type="application/json")
    assert (reply.status_code, reply.json["option"]) == (400, "candidate_labels")
    assert client.post("/classify", json={"inputs": text, "parameters": {"top_k": None}}).status_code == 200


@pytest.mark.parametrize(("parameters", "status"), [
    pytest.param(None, 200, id="null"),
    pytest.param({"function_to_apply": "softmax", "top_k": 1}, 200, id="what is done anyway"),
    pytest.param({"function_to_apply": "sigmoid"}, 400, id="what is not done here"),
])
def test_what_hugging_face_clients_send_is_understood(client: FlaskClient, picture: bytes, parameters: Any, status: int):
    """Their clients name the function of the scores; another one than softmax must not be answered as if it were."""
    text = base64.b64encode(picture).decode()
    assert client.post("/classify", json={"inputs": text, "parameters": parameters}).status_code == status
