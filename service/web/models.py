"""`GET /models…`: what is served, and what each model says of itself."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from service.classifier import Classifier
from service.problems import BadOption
from service.web.parts import here

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
def models() -> Response:
    """Every model and version, a line each."""
    catalog = here().catalog
    return _json({"default": catalog.default, "models": [_line(one) for one in catalog.all()]})


@blueprint.get("/models/<name>")
def model(name: str) -> Response:
    """One model: its recipe in words and as JSON, and its layer table."""
    one = here().catalog.find(name, _version())
    layers = one.model.layers
    return _json(_line(one) | {
        "words": one.model.recipe.in_words(),
        "recipe": one.model.recipe,
        "layers": layers,
        "parameters": sum(layer.parameters for layer in layers),
        "multiply_adds": sum(layer.multiply_adds for layer in layers),
    })


@blueprint.get("/models/<name>/labels")
def labels(name: str) -> Response:
    """One model's labels, in the order of its outputs."""
    one = here().catalog.find(name, _version())
    return _json({"name": one.name.name, "version": one.version, "labels": one.model.labels})


def _version() -> int | None:
    text = request.args.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10):
        raise BadOption(f'version is "{text[:60]}"; expected a whole number from 1 up', option="version")
    return int(text)


def _line(one: Classifier) -> dict[str, Any]:
    recipe = one.model.recipe
    return {
        "name": one.name.name, "version": one.version, "digest": one.name.digest, "ready": one.ready,
        "classes": len(one.model.labels), "input": recipe.input, "architecture": recipe.architecture,
        "precision": recipe.precision, "description": recipe.description,
    }


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), content_type="application/json")
