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
    """The default model is proven, all threads are alive, and no drain has begun; says how far each model is.

    Raises:
        NotReady: with the reasons.
    """
    catalog = here().catalog
    is_ready, reasons = catalog.ready()
    if not is_ready:
        raise NotReady("; ".join(reasons), retry_after_s=1, reasons=reasons)
    states = catalog.states()
    return answers.json({"status": "ready", "models": list(states), "states": states})
