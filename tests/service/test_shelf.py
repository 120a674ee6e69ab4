"""The folder of models: what counts as one, and which is the default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from service import shelf
from service.modelfile import ModelFile
from service.problems import StartError
from service.settings import Settings
from tests import models


def lay(folder: Path, *places: str) -> None:
    """Empty files where models would be."""
    for place in places:
        file = folder / place / "model.onnx"
        file.parent.mkdir(parents=True)
        file.touch()


def test_versions_are_numbers_and_sorted_as_such(tmp_path):
    """As text, 10 comes before 9, and an old model would answer."""
    lay(tmp_path, "a/9", "a/10", "a/draft", "a/0", "a/01", "b/1", ".hidden/1")
    (tmp_path / "README.md").touch()
    found = shelf.places(tmp_path)
    assert [(place.name, place.version) for place in found] == [("a", 9), ("a", 10), ("b", 1)]
    assert shelf.latest(found, "a").version == 10


@pytest.mark.parametrize(("there", "state"), [pytest.param(True, "holds no model", id="empty"),
                                              pytest.param(False, "does not exist", id="absent")])
def test_no_model_ends_the_start(tmp_path, there, state):
    """A service without one would answer nothing but 404."""
    folder = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(StartError, match=rf"{state}; expected NAME/VERSION/model.onnx"):
        shelf.places(folder)


@pytest.mark.parametrize(("names", "wanted", "chosen", "reason"), [
    pytest.param(["only-int8"], None, "only-int8", "the only one", id="one"),
    pytest.param(["a-int8", "b", "c"], None, "b", "the first of a-int8, b, c", id="never int8 by itself"),
    pytest.param(["a-int8", "b-int8"], None, "a-int8", "the first of", id="nothing else"),
    pytest.param(["a", "b"], "b", "b", "set by QUADRANT_MODEL", id="asked for"),
])
def test_the_default_is_chosen_with_a_reason(tmp_path, names, wanted, chosen, reason):
    """Whoever adds a model wants to know why it answers, or doesn't."""
    lay(tmp_path, *(f"{name}/1" for name in names))
    default = shelf.choose(shelf.places(tmp_path), Settings(models=tmp_path, model=wanted))
    assert default.name == chosen
    assert default.reason.startswith(reason)


def test_a_default_that_is_not_there_ends_the_start(tmp_path):
    """A typo in QUADRANT_MODEL must not let another model answer."""
    lay(tmp_path, "a/1", "b/1")
    with pytest.raises(StartError, match=r'QUADRANT_MODEL is "c"; .* has a, b'):
        shelf.choose(shelf.places(tmp_path), Settings(models=tmp_path, model="c"))


def test_the_default_must_be_the_file_that_was_named(settings, tiny_model):
    """Who pins a digest wants that very file or no service."""
    assert shelf.check(dataclasses.replace(settings, model_sha256=tiny_model.digest)).name == "quadrants"
    with pytest.raises(StartError, match=f"has SHA-256 {tiny_model.digest}; QUADRANT_MODEL_SHA256 expects 0000"):
        shelf.check(dataclasses.replace(settings, model_sha256="0" * 64))


def test_every_model_is_checked_before_the_fork(tmp_path, settings):
    """One line from the master says more than one from each worker."""
    models.build(tmp_path / "a" / "1" / "model.onnx")
    models.build(tmp_path / "b" / "1" / "model.onnx", without=("labels",))
    with pytest.raises(StartError, match=r"b/1/model.onnx is a bare model"):
        shelf.check(dataclasses.replace(settings, models=tmp_path))
    assert ModelFile.open(tmp_path / "a" / "1" / "model.onnx").labels
