"""What a model says of itself, and what of it is believed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from service import recipe
from service.problems import StartError
from service.recipe import Golden, Label, Recipe

GOOD: dict[str, Any] = {
    "format": 1, "name": "alexnet", "input": {"height": 224, "width": 224},
    "preprocessing": {"resize": 256, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


def changed(**parts: Any) -> str:
    return json.dumps(GOOD | parts)


def test_a_recipe_survives_its_own_text():
    """Export writes what the service reads."""
    found = Recipe.parse(json.dumps(GOOD))
    assert Recipe.parse(found.dump()) == found
    assert (found.preprocessing.interpolation, found.preprocessing.mode, found.temperature) == ("bilinear", "exact", 1.0)


def test_a_recipe_can_be_read_aloud():
    """People check a recipe in words."""
    words = Recipe.parse(json.dumps(GOOD)).in_words()
    assert words.startswith("shorter side to 256 px (bilinear), centre 224 × 224 cut out")


@pytest.mark.parametrize(("text", "message"), [
    pytest.param("{", "quadrant.recipe can't be read", id="no JSON"),
    pytest.param(b"\xff{}", "quadrant.recipe can't be read", id="no UTF-8"),
    pytest.param(changed(format=2), "format 2; this Quadrant reads format 1", id="format of the future"),
    pytest.param(changed(extra=1), "extra", id="unknown key"),
    pytest.param(changed(name="../evil"), "name", id="name with a path in it"),
    pytest.param(changed(input={"height": 0, "width": 224}), "height", id="no height"),
    pytest.param(changed(input={"height": 300, "width": 224}), "expected at least 300", id="crop larger than the picture"),
    pytest.param(changed(temperature=0), "above 0", id="division by 0"),
    pytest.param(changed(precision="fp8"), "precision", id="unknown precision"),
    pytest.param(changed(preprocessing=GOOD["preprocessing"] | {"std": [0, 1, 1]}), "above 0", id="flat channel"),
    pytest.param(changed(preprocessing=GOOD["preprocessing"] | {"mean": [0, 1]}), "mean", id="two channels"),
    pytest.param(changed(preprocessing=GOOD["preprocessing"] | {"interpolation": "magic"}), "interpolation", id="magic"),
])
def test_a_wrong_recipe_is_refused(text, message):
    """A wrong recipe is the usual way in which a served model is silently wrong."""
    with pytest.raises(StartError, match=message):
        Recipe.parse(text)


@pytest.mark.parametrize(("rows", "message"), [
    pytest.param([], "empty", id="none"),
    pytest.param([{"id": "a", "label": "x"}, {"id": "a", "label": "y"}], '"a" twice', id="an id twice"),
    pytest.param([{"id": "a"}], "label", id="no name"),
    pytest.param({"0": "a"}, "array", id="another shape"),
])
def test_wrong_labels_are_refused(rows, message):
    """Each row of the output has one name."""
    with pytest.raises(StartError, match=message):
        recipe.parse_labels(json.dumps(rows))


def test_labels_may_share_a_name():
    """ImageNet has two cranes."""
    labels = (Label("n02012849", "crane"), Label("n03126707", "crane"))
    assert recipe.parse_labels(recipe.dump(labels)) == labels


@pytest.mark.parametrize(("probabilities", "count", "message"), [
    pytest.param((0.5, 0.5), 3, "at least 4", id="too few pictures"),
    pytest.param((0.5, 0.25, 0.25), 4, "the labels are 2", id="too many classes"),
    pytest.param((0.5, 0.4), 4, "expected 1", id="sum of 0.9"),
    pytest.param((1.5, -0.5), 4, "from 0 to 1", id="below 0"),
])
def test_wrong_golden_examples_are_refused(probabilities, count, message):
    """A proof that can't fail, or can't succeed, is none."""
    with pytest.raises(StartError, match=message):
        recipe.parse_golden(recipe.dump([Golden(b"png", probabilities)] * count), classes=2)


def test_golden_pictures_travel_as_base64():
    """JSON has no bytes."""
    text = recipe.dump([Golden(b"\x89PNG", (0.5, 0.5))] * 4)
    assert msgspec.json.decode(text)[0]["png"] == "iVBORw=="
    assert recipe.parse_golden(text, 2)[0].png == b"\x89PNG"
