"""Is it alive, is it ready, what is it, how does it do: for probes, operators and Prometheus."""

from __future__ import annotations

import os
import platform

import onnxruntime
from flask import Blueprint, Response, jsonify

from service import __version__, metrics
from service.problems import NotReady
from service.web.parts import here

blueprint = Blueprint("health", __name__)


@blueprint.get("/health/live")
def live() -> Response:
    """The process answers; nothing else is asked."""
    return jsonify(status="live")


@blueprint.get("/health/ready")
def ready() -> Response:
    """Every model is proven and its thread alive, and no drain has begun."""
    if reasons := here().catalog.unready():
        raise NotReady("; ".join(reasons), retry_after_s=1)
    return jsonify(status="ready")


@blueprint.get("/info")
def info() -> Response:
    """Versions, the plan with its reasons, and what each session really runs on."""
    settings, plan, catalog = here()
    return jsonify(
        version=__version__, python=platform.python_version(), onnxruntime=onnxruntime.__version__, pid=os.getpid(),
        plan={name: {"value": getattr(plan, name), "reason": reason} for name, reason in plan.reasons.items()},
        limits={name: getattr(settings, name) for name in ("max_body_bytes", "max_pixels", "max_pictures", "deadline_ms")},
        models=[
            {"name": one.name.name, "version": one.version, "provider": one.engine.provider, "reason": one.engine.reason}
            for one in catalog.all()
        ],
    )


@blueprint.get("/metrics")
def prometheus() -> Response:
    """The Prometheus text format, all workers together."""
    here().catalog.unready()  # sets the readiness gauges
    content, kind = metrics.exposition()
    return Response(content, content_type=kind)
