"""The golden examples of a model as arrays, and how far an engine may be from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service import images
from service.problems import Problem, StartError
from service.recipe import Golden, Recipe

# The tolerance rule (docs/decisions.md, 6), absolute, on probabilities. int8 kernels differ from processor to
# processor, so that an answer recorded elsewhere binds less than one's own answer in other company.
GOLDEN_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3, "int8": 1e-2}
BATCH_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3, "fp16": 2e-3, "int8": 2e-3}


def pixels_of(recipe: Recipe, examples: Sequence[Golden]) -> NDArray[np.uint8]:
    """What an engine takes of them: (N, height, width, 3) uint8, RGB.

    Raises:
        StartError: one of them can't be decoded.
    """
    return np.stack([_pixels(recipe, row, example) for row, example in enumerate(examples)])


def _pixels(recipe: Recipe, row: int, example: Golden) -> NDArray[np.uint8]:
    size = recipe.input
    try:
        return images.prepare(example.png, recipe.preprocessing, size.width, size.height).pixels
    except Problem as problem:
        raise StartError(f"golden picture {row} of {recipe.name} can't be used: {problem.detail}") from problem


def answers_of(examples: Sequence[Golden]) -> NDArray[np.float32]:
    """What was recorded of them: (N, classes) float32."""
    return np.array([each.probabilities for each in examples], np.float32)
