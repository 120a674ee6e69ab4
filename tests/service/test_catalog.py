"""The catalog: found by name and version, ready only when proven and alive."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from service import shelf
from service.catalog import Catalog
from service.problems import NotReady, StartError, UnknownModel
from service.settings import Settings
from tests import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, one with versions 2 and 10."""
    found = tmp_path_factory.mktemp("several")
    for place in ("pairs/2", "pairs/10", "pairs-int8/1", "zebra/1"):
        models.build(found / place / "model.onnx", name=place.split("/")[0])
    models.choose(found, "pairs")
    return found


@pytest.fixture
def several(settings: Settings, folder: Path):
    """All of them loaded; `test_loading.py` has those that wait."""
    catalog = Catalog.load(dataclasses.replace(settings, models=folder, load="all"))
    yield catalog
    catalog.close()


def test_models_are_found_by_name_and_version(several):
    """The highest version by default; as a number, not as text."""
    assert several.default == "pairs"
    found = [several.find(), several.find("pairs", "2"), several.find("zebra")]
    assert [(each.name, each.version) for each in found] == [("pairs", "10"), ("pairs", "2"), ("zebra", "1")]
    assert [f"{each.name}/{each.version}" for each in several.models()] == ["pairs/2", "pairs/10", "pairs-int8/1", "zebra/1"]


@pytest.mark.parametrize(("name", "version", "message"), [
    pytest.param("cats", None, 'there is no model "cats"; there is pairs, pairs-int8, zebra', id="name"),
    pytest.param("pairs", "3", 'pairs has no version "3"; it has 2, 10', id="version"),
    pytest.param("pairs", "latest", 'pairs has no version "latest"', id="no number"),
    pytest.param("pairs", "02", 'pairs has no version "02"', id="written otherwise"),
])
def test_what_is_not_there_is_told_with_what_is(several, name, version, message):
    """A caller should not have to guess twice."""
    with pytest.raises(UnknownModel, match=message):
        several.find(name, version)


def test_one_version_is_marked_as_the_one_that_answers(several):
    """Of two versions of the default model only the highest answers."""
    assert [f"{each.name}/{each.version}" for each in several.models() if several.is_default(each)] == ["pairs/10"]


def test_what_the_master_chose_counts_whatever_was_added_since(settings, tmp_path):
    """A worker that is started again days later must neither answer with another model nor refuse to start."""
    models.build(tmp_path / "first" / "1" / "model.onnx")
    settings = dataclasses.replace(settings, models=tmp_path)
    chosen = shelf.check(settings)
    models.build(tmp_path / "added" / "1" / "model.onnx")
    catalog = Catalog.load(settings, default=chosen)
    assert catalog.default == "first"
    catalog.close()
    with pytest.raises(StartError, match="nothing says which is the default"):
        Catalog.load(settings)


def test_a_default_that_is_gone_by_now_is_one_line(settings, tmp_path):
    """A worker that starts again after somebody took the folder away."""
    models.build(tmp_path / "other" / "1" / "model.onnx")
    with pytest.raises(StartError, match='there is no model "first"; there is other'):
        Catalog.load(dataclasses.replace(settings, models=tmp_path), default=shelf.Default("first", "the only one"))


def test_only_the_default_is_loaded_where_no_other_is_asked_for(settings, folder):
    """The command line answers from one model; loading all would cost its user seconds."""
    catalog = Catalog.load(dataclasses.replace(settings, models=folder), only_default=True)
    assert catalog.states() == {"pairs/2": "loaded", "pairs/10": "loaded"}
    catalog.close()


def test_a_dead_batch_thread_makes_it_unready(several):
    """Balancers must send nothing to a process that can't answer."""
    assert several.ready() == (True, [])
    several.find("zebra").batcher.close()
    ready, reasons = several.ready()
    assert not ready
    assert reasons == ["zebra/1 is being closed"]


def test_a_drain_makes_it_unready_but_it_serves_on(several):
    """Balancers look away first; until they have, requests are answered."""
    several.begin_drain()
    assert several.ready() == (False, ["the service is about to stop"])
    several.require()
    assert several.find().classify(models.png(models.quadrant_picture(1))).predictions[0].id == "q1"


def test_loaded_before_a_fork_it_refuses(several, monkeypatch):
    """The child has no batch threads; a request would wait for ever."""
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    ready, reasons = several.ready()
    assert not ready
    assert "without --preload" in reasons[0]
    with pytest.raises(NotReady, match="loaded before a fork"):
        several.require()
    monkeypatch.undo()


def test_a_model_that_is_not_proven_ends_the_start(settings, tmp_path):
    """Ready means proven; one liar among several that are loaded is one too many."""
    models.build(tmp_path / "honest" / "1" / "model.onnx")
    models.build(tmp_path / "liar" / "1" / "model.onnx", wrong_golden=True)
    models.choose(tmp_path, "honest")
    with pytest.raises(StartError, match=r"liar/1/model.onnx: golden picture"):
        Catalog.load(dataclasses.replace(settings, models=tmp_path, load="all"))


@pytest.mark.parametrize(("broken", "message"), [
    pytest.param({"without": ("labels",)}, "bare model", id="bare"),
    pytest.param({"metadata": {"sha256": "0" * 64}}, "copy the model again", id="damaged"),
])
def test_a_model_that_waits_ends_the_start_too_where_its_file_is_not_whole(settings, tmp_path, broken, message):
    """Who copied it wrongly learns so at once, not from the first caller."""
    models.build(tmp_path / "first" / "1" / "model.onnx")
    models.build(tmp_path / "second" / "1" / "model.onnx", **broken)
    models.choose(tmp_path, "first")
    with pytest.raises(StartError, match=message):
        Catalog.load(dataclasses.replace(settings, models=tmp_path))
