"""What a packed form is made of: cut, replaced where that gives the same, or as ONNX Runtime has it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from service import front, packed, packing, winograd
from service.engine import Engine
from service.examples import pixels_of
from service.modelfile import ModelFile
from service.native.operators import operators
from tests import models

SIDE = 16  # pixels: a picture holds every byte, so that its front can be looked up
PICTURES = np.random.default_rng(0).integers(0, 256, (9, SIDE, SIDE, 3), np.uint8)
DEFAULT = Path(__file__).parents[2] / "models" / "alexnet64-tiny-imagenet"
needs_operators = pytest.mark.skipif(operators() is None, reason="no AVX2 here")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "packed"


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    return ModelFile.open(models.build(tmp_path / "quadrants" / "1" / "model.onnx", side=SIDE))


@needs_operators
def test_the_default_model_answers_the_same(place):
    """Its golden examples, alone and in company, on one thread and on two; and pictures of any kind."""
    model = ModelFile.open(next(DEFAULT.glob("*/model.onnx")))
    plain, ours = Engine(model, "cpu", 1, place), Engine(model, "cpu", 1, place, operators())
    assert ours.weights.endswith("operators of our own: 1 LookUpPlanes, 5 WinogradConv")
    ours.widen(2)
    assert ours.prove(company=16) <= 1e-5
    noise = np.random.default_rng(1).integers(0, 256, (7, model.recipe.input.height, model.recipe.input.width, 3), np.uint8)
    pictures = np.concatenate([pixels_of(model.recipe, model.golden), noise])
    expected = plain.run(pictures)
    for alone in (False, True):
        assert np.abs(ours.run(pictures, alone) - expected).max() <= 5e-6
        assert np.array_equal(ours.run(pictures, alone).argmax(1), expected.argmax(1))
        each = np.concatenate([ours.run(picture[None], alone) for picture in pictures])
        assert np.abs(each - ours.run(pictures, alone)).max() <= 1e-6


@needs_operators
def test_what_is_replaced_answers_the_same(model, place):
    """And is told; without operators nothing is, in a form of its own."""
    plain, ours = Engine(model, "cpu", 1, place), Engine(model, "cpu", 1, place, operators())
    assert "operators" not in plain.weights
    assert ours.weights.endswith("operators of our own: 1 LookUpPlanes")
    assert np.array_equal(plain.run(PICTURES), ours.run(PICTURES))
    assert len([each for each in place.iterdir() if each.is_dir()]) == 2


def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is off by one."""
    table = front._table
    monkeypatch.setattr(front, "_table", lambda *given: (table(*given)[0], np.roll(table(*given)[1], 1, 1)))


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that ONNX Runtime refuses."""
    monkeypatch.setattr(winograd, "replace", lambda *_: b"no model")


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that isn't understood."""
    monkeypatch.setattr(front, "_chain", lambda _: {}["missing"])


@needs_operators
@pytest.mark.parametrize(("damage", "reason"), [
    (wrong, "a probability differs by"), (broken, "wire type"), (unreadable, "missing")], ids=["wrong", "broken", "unreadable"])
def test_what_gives_something_else_is_not_used(model, place, monkeypatch, damage, reason):
    """It is found before the form is kept, told once, and ONNX Runtime's own operators do it."""
    damage(monkeypatch)
    with capture_logs() as events:
        found = packed.find(model, place, operators())
        assert Engine(model, "cpu", 1, place, operators()).prove() <= 1e-5
    assert found.operators is None
    assert packing.replaced(found.path.read_bytes()) == Counter()
    assert sorted(each.name for each in found.path.parent.iterdir()) == ["model.onnx", "sha256"]
    (event,) = [each for each in events if each["event"] == "operators_not_used"]
    assert reason in event["reason"]


def test_large_layers_are_cut_before_they_are_ordered(tmp_path, place, monkeypatch):
    """Whatever that makes of the model is what is packed, and what is proven; weights in the model itself are never cut."""
    cut: list[bytes] = []
    monkeypatch.setattr(packing.pieces, "cut", lambda content: cut.append(content) or bytes(bytearray(content)))
    outside = ModelFile.open(models.build(tmp_path / "outside" / "1" / "model.onnx", external=True))
    assert Engine(outside, "cpu", 1, place).packed
    assert cut == [outside.path.read_bytes()]
    assert Engine(ModelFile.open(models.build(tmp_path / "inside" / "1" / "model.onnx")), "cpu", 1, place).packed
    assert len(cut) == 1


def test_a_model_that_cannot_be_cut_is_packed_whole(tmp_path, place, monkeypatch):
    """It is ONNX Runtime's to say what it can't read."""
    def fail(_: bytes) -> bytes:
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "no text")

    monkeypatch.setattr(packing.pieces, "cut", fail)
    assert Engine(ModelFile.open(models.build(tmp_path / "outside" / "1" / "model.onnx", external=True)), "cpu", 1, place).packed
