"""`/`, `/info`, `/metrics`."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from service import __version__
from service.catalog import Catalog
from service.settings import Settings


def test_every_link_of_the_start_answers(client: FlaskClient):
    """Who opens the address in a browser finds the way from there."""
    start = client.get("/").json
    assert start["try"] == "curl --data-binary @photo.jpg http://localhost/classify"
    assert {path: client.get(path).status_code for path in start["links"].values()} == dict.fromkeys(start["links"].values(), 200)


def test_info_tells_what_really_runs(client: FlaskClient, settings: Settings, catalog: Catalog):
    """The provider is the session's own, the plan gives its reasons."""
    info = client.get("/info").json
    assert info["version"] == __version__
    assert info["limits"]["max_body_bytes"] == settings.max_body_bytes
    assert info["plan"]["batch_cap"] == {"value": settings.batch_cap, "reason": "set by QUADRANT_BATCH_CAP"}
    assert info["models"] == [{"name": "quadrants", "version": "1", "default": True, "state": "loaded", "provider": "cpu",
                               "precision": "fp32", "reason": catalog.find().engine.reason,
                               "batch_cap": settings.batch_cap}]


@pytest.mark.parametrize("series", ["quadrant_requests_total", "quadrant_batch_size_bucket", "quadrant_model_ready",
                                    "quadrant_pictures_total"])
def test_metrics_are_in_the_text_format_of_prometheus(client: FlaskClient, picture: bytes, series: str):
    """What dashboards and scaling read."""
    client.post("/classify", data=picture).close()  # it is counted once it is out
    reply = client.get("/metrics")
    assert reply.content_type.startswith("text/plain")
    assert any(line.startswith(series) for line in reply.text.splitlines())
