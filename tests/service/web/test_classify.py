"""`POST /classify` answers in exactly the promised shape."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.app import create_app
from service.catalog import Catalog
from service.problems import DeadlineExceeded, Overloaded
from service.settings import Settings
from tests import models
from tests.service import pictures


def test_an_answer_has_the_promised_shape(client: FlaskClient, picture: bytes, catalog: Catalog):
    """Clients are generated from this shape; an extra or missing member breaks some of them."""
    reply = client.post("/classify", data=picture, headers={"X-Request-Id": "photo-1"})
    assert reply.status_code == 200
    assert reply.content_type == "application/json"
    answer = reply.json
    timing = answer.pop("timing_ms")
    scores = [each.pop("score") for each in answer["predictions"]]
    assert answer.pop("margin") == pytest.approx(scores[0] - scores[1], abs=1e-6)
    assert answer.pop("entropy") == pytest.approx(-sum(score * math.log(score) for score in scores), abs=1e-5)
    assert answer == {
        "id": "photo-1",
        "model": {"name": "quadrants", "version": "1", "digest": catalog.find().model.digest, "precision": "fp32"},
        "predictions": [
            {"label": "bottom left", "index": 2, "id": "q2"},
            {"label": "top left", "index": 0, "id": "q0"},
            {"label": "top right", "index": 1, "id": "q1"},
            {"label": "bottom right", "index": 3, "id": "q3"},
        ],
        "abstained": None,
        "image": {"format": "PNG", "mode": "RGB", "width": 8, "height": 8, "orientation_applied": False},
    }
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-6)
    assert set(timing) == {"decode", "preprocess", "queue", "inference", "batch_size"}
    assert timing["batch_size"] == 1


def test_timings_are_told_to_browsers_too(client: FlaskClient, picture: bytes):
    """Developer tools draw Server-Timing beside the request."""
    told = client.post("/classify", data=picture).headers["Server-Timing"]
    assert re.fullmatch(r"(?:(?:decode|preprocess|queue|inference);dur=[\d.]+, ){4}total;dur=[\d.]+", told)


@pytest.mark.parametrize("name", sorted(pictures.in_every_format()))
def test_every_format_is_read_and_named(client: FlaskClient, name: str):
    """The answer tells what the picture really was."""
    image = client.post("/classify", data=pictures.in_every_format()[name]).json["image"]
    assert (image["format"], image["width"], image["height"]) == (name, pictures.WIDTH, pictures.HEIGHT)


def test_a_phone_photo_is_told_as_it_is_shown(client: FlaskClient):
    """Width and height are those that a viewer shows, not those in the file."""
    image = client.post("/classify", data=pictures.jpeg(orientation=6)).json["image"]
    assert (image["width"], image["height"], image["orientation_applied"]) == (pictures.HEIGHT, pictures.WIDTH, True)


@pytest.mark.parametrize(("body", "status", "code"), [
    pytest.param(pictures.jpeg()[:-200], 422, "undecodable-picture", id="cut short"),
    pytest.param(pictures.claiming("PNG", 2000, 1000), 413, "too-many-pixels", id="claims too many pixels"),
    pytest.param(b"\x00\x00\x00\x18ftypheic", 415, "unsupported-format", id="HEIC"),
    pytest.param(b"x" * 200_001, 413, "too-many-bytes", id="too many bytes"),
])
def test_one_bad_picture_gives_its_own_status(client: FlaskClient, body: bytes, status: int, code: str):
    """A single picture's problem is the request's."""
    reply = client.post("/classify", data=body)
    assert (reply.status_code, reply.json["code"]) == (status, code)


@pytest.mark.parametrize(("options", "code"), [
    pytest.param({"model": "resnet"}, "unknown-model", id="model"),
    pytest.param({"version": "2"}, "unknown-model", id="version"),
])
def test_an_unknown_model_is_named_beside_the_known(client: FlaskClient, picture: bytes, options: dict[str, str], code: str):
    """The way out stands in the refusal."""
    reply = client.post("/classify", data=picture, query_string=options)
    assert (reply.status_code, reply.json["code"]) == (404, code)
    assert "quadrants" in reply.json["detail"]


@pytest.mark.parametrize(("problem", "status", "retry"), [
    pytest.param(Overloaded("8 pictures are already waiting; try again in 2 s", retry_after_s=1.2), 503, "2", id="overloaded"),
    pytest.param(DeadlineExceeded("no answer in time"), 504, None, id="too late"),
])
def test_problems_of_the_whole_call_pass_through(
    app: Flask, picture: bytes, monkeypatch: pytest.MonkeyPatch, problem: Exception, status: int, retry: str | None,
):
    """A balancer reads status and Retry-After, not the sentence."""
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr("service.classifier.Classifier.classify", fail)
    reply = app.test_client().post("/classify", data=picture)
    assert (reply.status_code, reply.headers.get("Retry-After")) == (status, retry)


def test_several_pictures_enter_one_batch(client: FlaskClient):
    """Their answers are their own, whatever company they had."""
    files = [(models.png(models.quadrant_picture(row)), row) for row in (3, 0, 2, 1)]
    reply = client.post("/classify", json={"inputs": [base64.b64encode(data).decode() for data, _ in files]})
    assert [result["predictions"][0]["index"] for result in reply.json["results"]] == [row for _, row in files]
    assert len({result["id"] for result in reply.json["results"]}) == 4


@pytest.fixture
def remembering(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service with a cache."""
    settings = dataclasses.replace(settings, cache_bytes=2**20)
    catalog = Catalog.load(settings)
    yield create_app(settings, catalog).test_client()
    catalog.close()


def test_a_picture_that_comes_again_is_told_by_a_header(remembering: FlaskClient, picture: bytes):
    """The answer is the same but for the id and the times; both tell the truth."""
    first, second = (remembering.post("/classify", data=picture, headers={"X-Request-Id": name}) for name in ("one", "two"))
    assert [reply.headers["X-Cache"] for reply in (first, second)] == ["miss", "hit"]
    assert second.json == first.json | {
        "id": "two", "timing_ms": {"decode": 0, "preprocess": 0, "queue": 0, "inference": 0, "batch_size": 0}}
    assert second.headers["Server-Timing"].startswith("decode;dur=0.0, preprocess;dur=0.0, queue;dur=0.0, inference;dur=0.0, ")


def test_without_a_cache_there_is_no_header(client: FlaskClient, picture: bytes):
    """It would say that something is set up that isn't."""
    assert [client.post("/classify", data=picture).headers.get("X-Cache") for _ in range(2)] == [None, None]


def test_of_several_all_must_come_from_the_cache_for_a_hit(remembering: FlaskClient):
    """One header for all; a problem is no hit."""
    def told(*sent: bytes) -> str | None:
        inputs = [base64.b64encode(data).decode() for data in sent]
        return remembering.post("/classify", json={"inputs": inputs}).headers["X-Cache"]

    first, second = (models.png(models.quadrant_picture(row)) for row in (0, 1))
    assert [told(first), told(first, second), told(first, second), told(first, b"rubbish")] == ["miss", "miss", "hit", "miss"]


def test_a_bad_picture_is_refused_again_and_has_no_header(remembering: FlaskClient):
    """Problems aren't kept; the header is about answers."""
    replies = [remembering.post("/classify", data=pictures.jpeg()[:-200]) for _ in range(2)]
    assert [(reply.status_code, reply.headers.get("X-Cache")) for reply in replies] == [(422, None)] * 2
