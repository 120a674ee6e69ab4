"""`GET /models…`: what is served, and what each model says of itself."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from service.classifier import Classifier
from service.loading import State
from service.problems import BadOption
from service.web import answers, uploads
from service.web.parts import here

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
def models() -> Response:
    """Every model and version, in short."""
    catalog = here().catalog
    return answers.json({"default": catalog.default, "models": [_short(each) for each in catalog.models()]})


@blueprint.get("/models/<name>")
def model(name: str) -> Response:
    """One model: its recipe in words and as JSON, and its layer table."""
    found = _asked_for(name)
    layers = found.model.layers
    return answers.json(_short(found) | {
        "words": found.model.recipe.in_words(),
        "recipe": found.model.recipe,
        "layers": layers,
        "parameters": sum(layer.parameters for layer in layers),
        "multiply_adds": sum(layer.multiply_adds for layer in layers),
    })


@blueprint.get("/models/<name>/labels")
def labels(name: str) -> Response:
    """One model's labels, in the order of its output."""
    found = _asked_for(name)
    return answers.json({"name": found.name, "version": found.version, "labels": found.model.labels})


def _asked_for(name: str) -> Classifier:
    """The model of the address, in the version of the query or the highest.

    Raises:
        UnknownModel: there is none.
        BadOption: the query says more than a version.
    """
    asked = uploads.options(uploads.Given(*pair) for pair in request.args.items(multi=True))
    for option in request.args.keys() - {"version"}:
        raise BadOption(f'option "{option}" is not known here; expected version', option=option, known=["version"])
    return here().catalog.find(name, asked.version)


def _short(found: Classifier) -> dict[str, Any]:
    recipe = found.model.recipe
    return {
        "name": found.name,
        "version": found.version,
        "default": here().catalog.is_default(found),
        "digest": found.model.digest,
        "ready": found.ready,
        "state": found.state,
        "reason": found.loading.reason,
        "description": recipe.description,
        "architecture": recipe.architecture,
        "precision": found.engine.precision if found.state is State.LOADED else recipe.precision,
        "classes": found.classes,
        "input": recipe.input,
        "provider": found.engine.provider if found.state is State.LOADED else None,
    }
