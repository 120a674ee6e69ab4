"""Probes tell the truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flask.testing import FlaskClient

from service.app import create_app
from service.catalog import Catalog
from service.settings import Settings
from tests import models


def test_a_proven_service_is_live_and_ready(client: FlaskClient):
    """Ready names what it is ready with."""
    assert client.get("/health/live").json == {"status": "live"}
    assert client.get("/health/ready").json == {
        "status": "ready", "models": ["quadrants/1"], "states": {"quadrants/1": "loaded"}}


def test_a_model_that_waits_for_its_first_request_is_told_and_not_loaded(settings: Settings, tmp_path: Path, picture: bytes):
    """Readiness says what it is ready with; who only looks makes nobody pay for a load."""
    for name in ("first", "later"):
        models.build(tmp_path / name / "1" / "model.onnx", name=name)
    models.choose(tmp_path, "first")
    catalog = Catalog.load(dataclasses.replace(settings, models=tmp_path))
    client = create_app(settings, catalog).test_client()
    waits = {"status": "ready", "models": ["first/1", "later/1"], "states": {"first/1": "loaded", "later/1": "on first request"}}
    for path in ("/models", "/models/later", "/models/later/labels", "/info", "/metrics", "/health/ready"):
        assert client.get(path).status_code == 200
    assert client.get("/health/ready").json == waits
    assert 'quadrant_model_ready{model="later",version="1"} 0.0' in client.get("/metrics").text
    found = client.get("/models/later").json
    assert (found["ready"], found["state"], found["provider"], found["classes"]) == (False, "on first request", None, 4)
    assert client.get("/info").json["models"][1]["reason"] == "not loaded"
    assert client.post("/classify?model=later", data=picture).json["predictions"][0]["id"] == "q2"
    assert client.get("/health/ready").json["states"] == {"first/1": "loaded", "later/1": "loaded"}
    found = client.get("/models/later").json
    assert (found["ready"], found["state"], found["provider"]) == (True, "loaded", "cpu")
    assert 'quadrant_model_ready{model="later",version="1"} 1.0' in client.get("/metrics").text
    catalog.close()


def test_a_model_that_can_not_be_loaded_is_told_and_ends_no_readiness(settings: Settings, tmp_path: Path, picture: bytes):
    """The default model answers on; whoever wants the other one reads why not, and when to ask again."""
    models.build(tmp_path / "first" / "1" / "model.onnx", name="first")
    models.build(tmp_path / "liar" / "1" / "model.onnx", name="liar", wrong_golden=True)
    models.choose(tmp_path, "first")
    catalog = Catalog.load(dataclasses.replace(settings, models=tmp_path))
    client = create_app(settings, catalog).test_client()
    reply = client.post("/classify?model=liar", data=picture)
    assert (reply.status_code, reply.json["code"]) == (503, "model-not-ready")
    assert 1 <= int(reply.headers["Retry-After"]) <= 30
    assert str(tmp_path) not in reply.text
    found = client.get("/models/liar").json
    assert found["state"] == "failed"
    assert "golden picture" in found["reason"]
    assert client.get("/health/ready").status_code == 200
    assert client.post("/classify", data=picture).status_code == 200
    catalog.close()


def test_a_dead_batch_thread_ends_readiness_and_not_life(client: FlaskClient, catalog: Catalog):
    """A balancer must look elsewhere; a restart by the live probe is the operator's choice."""
    catalog.find().batcher.close()
    reply = client.get("/health/ready")
    assert (reply.status_code, reply.json["code"], reply.headers["Retry-After"]) == (503, "not-ready", "1")
    assert len(reply.json["reasons"]) == 1
    assert client.get("/health/live").status_code == 200
    assert not client.get("/models").json["models"][0]["ready"]


def test_a_drain_ends_readiness_while_requests_are_served(client: FlaskClient, catalog: Catalog, picture: bytes):
    """Balancers need a moment to look away; until then nobody is turned down."""
    catalog.begin_drain()
    assert client.get("/health/ready").status_code == 503
    assert client.post("/classify", data=picture).status_code == 200


def test_probes_are_not_cached(client: FlaskClient):
    """A cached "ready" lies."""
    assert client.get("/health/ready").headers["Cache-Control"] == "no-store"
