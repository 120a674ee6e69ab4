"""`/health/live`, `/health/ready`: for probes. They wait for nothing and are answered before any queue."""

from __future__ import annotations

from flask import Blueprint, Response

from service.problems import NotReady
from service.web import answers
from service.web.parts import here

blueprint = Blueprint("health", __name__)


@blueprint.get("/health/live")
def live() -> Response:
    """The process answers; nothing else is asked."""
    return answers.json({"status": "live"})


@blueprint.get("/health/ready")
def ready() -> Response:
    """Every model is proven and its thread alive, and no drain has begun.

    Raises:
        NotReady: with the reasons.
    """
    catalog = here().catalog
    is_ready, reasons = catalog.ready()
    if not is_ready:
        raise NotReady("; ".join(reasons), retry_after_s=1, reasons=reasons)
    return answers.json({"status": "ready", "models": [f"{each.name}/{each.version}" for each in catalog.models()]})
