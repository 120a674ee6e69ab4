"""The golden examples of a model as pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service import images
from service.recipe import Golden, Recipe


def pixels_of(recipe: Recipe, examples: Sequence[Golden]) -> NDArray[np.uint8]:
    """What an engine takes of them: (N, height, width, 3) uint8, RGB."""
    size = recipe.input
    return np.stack([images.prepare(each.png, recipe.preprocessing, size.width, size.height).pixels for each in examples])
