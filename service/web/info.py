"""`/`, `/info`, `/metrics`: what runs here, by which plan, and how it does; for operators and Prometheus."""

from __future__ import annotations

import os
import platform
from typing import Any

import onnxruntime
from flask import Blueprint, Response, request

from service import __version__, containers, metrics
from service.classifier import Classifier
from service.loading import State
from service.native.library import native
from service.web import answers
from service.web.parts import here

blueprint = Blueprint("info", __name__)

LIMITS = ("max_body_bytes", "max_pixels", "max_pictures", "deadline_ms", "body_timeout_s", "queue_capacity")


@blueprint.get("/")
def start() -> Response:
    """Where to go from here."""
    return answers.json({
        "service": "quadrant",
        "version": __version__,
        "classify": "POST /classify",
        "try": f"curl --data-binary @photo.jpg {request.host_url}classify",
        "links": {name: f"/{name}" for name in ("docs", "openapi.json", "models", "info", "metrics", "problems")}
        | {"live": "/health/live", "ready": "/health/ready"},
    })


@blueprint.get("/info")
def info() -> Response:
    """Versions, limits, the plan with its reasons, and what each session really runs on."""
    settings, plan, catalog, _ = here()
    return answers.json({
        "version": __version__,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "process": os.getpid(),
        "formats": containers.SUPPORTED,
        "decoding": native().reason,
        "limits": {name: getattr(settings, name) for name in LIMITS},
        "plan": {name: {"value": getattr(plan, name), "reason": reason} for name, reason in plan.reasons.items()},
        "models": [_runs(each, catalog.is_default(each)) for each in catalog.models()],
    })


@blueprint.get("/metrics")
def prometheus() -> Response:
    """The text format of Prometheus, over all workers."""
    here().catalog.ready()  # sets this worker's gauges
    content, media_type = metrics.exposition()
    return Response(content, content_type=media_type)


def _runs(model: Classifier, default: bool) -> dict[str, Any]:
    """What a model really runs on; nothing yet where it waits for its first request."""
    engine = model.engine if model.state is State.LOADED else None
    return {"name": model.name, "version": model.version, "default": default, "state": model.state,
            "provider": engine.provider if engine else None,
            "precision": engine.precision if engine else None, "reason": engine.reason if engine else "not loaded",
            "batch_cap": model.batcher.cap if engine else None}
