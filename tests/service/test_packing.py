"""What a packed form is made of: cut, replaced where that gives the same, or as ONNX Runtime has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
