"""Probes tell the truth."""

from __future__ import annotations

from flask.testing import FlaskClient

from service.catalog import Catalog


def test_a_proven_service_is_live_and_ready(client: FlaskClient):
    """Ready names what it is ready with."""
    assert client.get("/health/live").json == {"status": "live"}
    assert client.get("/health/ready").json == {"status": "ready", "models": ["quadrants/1"]}


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
