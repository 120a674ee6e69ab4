"""`GET /models…` tells all that a model says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.catalog import Catalog
from service.recipe import Recipe
from service.settings import Settings
from tests import models


def test_all_models_are_listed_with_the_default(client: FlaskClient, catalog: Catalog):
    """A client can choose from what it reads."""
    reply = client.get("/models").json
    assert reply["default"] == "quadrants"
    (only,) = reply["models"]
    assert (only["name"], only["version"], only["default"], only["classes"], only["ready"]) == ("quadrants", "1", True, 4, True)
    assert only["digest"] == catalog.find().model.digest
    assert only["input"] == {"height": models.SIDE, "width": models.SIDE}


def test_the_default_is_marked_in_the_list(settings: Settings, tmp_path: Path):
    """Only the version that answers, and in one model's own description too."""
    for place in ("a/1", "b/1", "b/2"):
        models.build(tmp_path / place / "model.onnx", name=place[0])
    models.choose(tmp_path, "b")
    catalog = Catalog.load(dataclasses.replace(settings, models=tmp_path))
    client = create_app(settings, catalog).test_client()
    listed = client.get("/models").json
    assert listed["default"] == "b"
    assert [f"{each['name']}/{each['version']}" for each in listed["models"] if each["default"]] == ["b/2"]
    told = {path: client.get(path).json["default"] for path in ("/models/b", "/models/b?version=1", "/models/a")}
    assert told == {"/models/b": True, "/models/b?version=1": False, "/models/a": False}
    assert [each["default"] for each in client.get("/info").json["models"]] == [False, False, True]
    catalog.close()


def test_one_model_tells_its_recipe_in_words_and_as_json(client: FlaskClient, catalog: Catalog):
    """The words are for people, the JSON is the very recipe in the file."""
    reply = client.get("/models/quadrants").json
    recipe = catalog.find().model.recipe
    assert reply["words"] == recipe.in_words()
    assert msgspec.convert(reply["recipe"], Recipe) == recipe
    assert [layer["name"] for layer in reply["layers"]] == [layer.name for layer in models.LAYERS]
    assert reply["multiply_adds"] == sum(layer.multiply_adds for layer in models.LAYERS)


def test_labels_come_in_the_order_of_the_output(client: FlaskClient):
    """The place in the list is the `index` of a prediction."""
    reply = client.get("/models/quadrants/labels?version=1").json
    assert [(each["id"], each["label"]) for each in reply["labels"]] == [(each.id, each.label) for each in models.LABELS]


@pytest.mark.parametrize(("path", "status", "code"), [
    pytest.param("/models/nope", 404, "unknown-model", id="name"),
    pytest.param("/models/nope/labels", 404, "unknown-model", id="name of labels"),
    pytest.param("/models/quadrants?version=2", 404, "unknown-model", id="version"),
    pytest.param("/models/quadrants?version=latest", 400, "bad-option", id="version in words"),
    pytest.param("/models/quadrants?top_k=2", 400, "bad-option", id="an option of elsewhere"),
    pytest.param("/models/quadrants?coverage=0.9", 400, "bad-option", id="another one"),
    pytest.param("/models/quadrants/labels?wersion=1", 400, "bad-option", id="misspelt"),
])
def test_what_is_not_there_is_refused(client: FlaskClient, path: str, status: int, code: str):
    """Never another model than the one that was asked for."""
    reply = client.get(path)
    assert (reply.status_code, reply.json["code"]) == (status, code)
