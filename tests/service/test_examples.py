"""The golden tolerance of each precision: what a wrong model file does to the answers must be more than it allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engine import Engine
from service.examples import BATCH_TOLERANCE, GOLDEN_TOLERANCE, answers_of, pixels_of
from service.modelfile import ModelFile
from service.recipe import Recipe

SHIPPED = sorted((Path(__file__).parents[2] / "models").glob("*/*/model.onnx"))
USUAL = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of ImageNet, as most tools have them
OTHER = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COMPUTED = {"fp32": ("fp32", "bf16"), "fp16": ("fp16",), "int8": ("int8",)}  # by a model's own precision


def normalised_otherwise(pixels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Pixels that the graph turns into what the other usual mean and deviation would have given."""
    own = np.array(recipe.preprocessing.mean), np.array(recipe.preprocessing.std)
    mean, std = map(np.array, USUAL if abs(own[0] - 0.5).max() < 0.01 else OTHER)
    return (((pixels / 255 - mean) / std * own[1] + own[0]) * 255).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda path: path.parts[-3])
def shipped(request) -> tuple[ModelFile, np.ndarray, Engine]:
    model = ModelFile.open(request.param)
    return model, pixels_of(model.recipe, model.golden), Engine(model, "cpu")


def apart(found: np.ndarray, model: ModelFile) -> float:
    return float(np.abs(found - answers_of(model.golden)).max())


def test_every_precision_has_its_own():
    """What is computed decides, not what the file holds."""
    assert GOLDEN_TOLERANCE.keys() == BATCH_TOLERANCE.keys() == {"fp32", "bf16", "fp16", "int8"}
    assert max(GOLDEN_TOLERANCE.values()) <= 0.01


def test_the_right_file_passes(shipped):
    """With room to spare."""
    model, pixels, engine = shipped
    assert apart(engine.run(pixels), model) < GOLDEN_TOLERANCE[model.recipe.precision] / 2


def test_a_wrong_mean_fails(shipped):
    """In the loosest precision that such a model may be computed in."""
    model, pixels, engine = shipped
    wrong = apart(engine.run(normalised_otherwise(pixels, model.recipe)), model)
    assert wrong > 3 * max(GOLDEN_TOLERANCE[each] for each in COMPUTED[model.recipe.precision])


def test_a_wrong_channel_order_fails(shipped):
    """Blue first instead of red."""
    model, pixels, engine = shipped
    wrong = apart(engine.run(np.ascontiguousarray(pixels[..., ::-1])), model)
    assert wrong > 3 * max(GOLDEN_TOLERANCE[each] for each in COMPUTED[model.recipe.precision])


@pytest.mark.parametrize("shuffle", [
    pytest.param(lambda rows: np.roll(rows, 1, axis=1), id="off by one"),
    pytest.param(lambda rows: rows[:, ::-1], id="reversed"),
    pytest.param(lambda rows: rows[:, np.random.default_rng(0).permutation(rows.shape[1])], id="in another order"),
])
def test_a_wrong_label_file_fails(shipped, shuffle):
    """Rows of the output in another order than the labels."""
    model, pixels, engine = shipped
    wrong = apart(shuffle(engine.run(pixels)), model)
    assert wrong > 3 * max(GOLDEN_TOLERANCE[each] for each in COMPUTED[model.recipe.precision])
