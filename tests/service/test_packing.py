"""What a packed form is made of: cut, replaced where that gives the same, or as ONNX Runtime has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service import packing
from service.engine import Engine
from service.examples import pixels_of
from service.modelfile import ModelFile
from service.native.operators import operators
from tests import models

SIDE = 16  # pixels: a picture holds every byte, so that bytes can be looked up
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
    assert ours.operators == "5 WinogradConv"
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
