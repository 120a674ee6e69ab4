"""A model in float16 that keeps the rule, or none: the layers that would break it stay in float32.

A processor's ONNX Runtime computes a float16 graph in float32, and rounds its weights alone. A GPU rounds each layer's output
too. So the same graph with that rounding written out (`half.halve(rounded=True)`) is held to the rule as well.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from onnx import ModelProto

from export import folder, half, package, published, verify
from export.refusal import Refusal
from service.recipe import Recipe

SOME = 8  # pictures that show which layers lose most
MOST_KEPT = 0.5  # of the layers; with more in float32 there is little to win

Reference = Callable[[verify.Pixels], verify.Scores]


class Unhalvable(Refusal):
    """The model isn't one to make smaller; one line says why."""


def run(path: Path, output: Path, real: Path | None = None) -> verify.Agreement:
    """Publish a float32 model in float16 too, verified against itself.

    Args:
        path: a float32 model that describes itself.
        output: models/NAME-fp16/VERSION; must not exist yet.
        real: folder of pictures to verify on, besides drawn ones.
    Raises:
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(output)
    opened, model = published.read(path)
    if opened.recipe.precision != "fp32":
        raise Unhalvable(f"{opened.path} is {opened.recipe.precision} already; expected a model in fp32")
    with tempfile.TemporaryDirectory() as place:
        reference = published.scorer(model, Path(place))
    logits = published.comparable(model)
    described = msgspec.structs.replace(opened.recipe, name=output.resolve().parent.name, precision="fp16")
    record = {"from": opened.digest, "exported_by": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")}}
    small, described = faithful(model, logits, described, reference, real, record)
    return package.publish(small, logits, described, list(opened.labels), reference, real, output)


def faithful(
    model: ModelProto,
    logits: str | None,
    described: Recipe,
    reference: Reference,
    real: Path | None,
    record: dict[str, Any] | None = None,
) -> tuple[ModelProto, Recipe]:
    """The model in float16, with as few layers in float32 as the rule needs; and the recipe that records them.

    Args:
        model: wrapped, float32.
        logits: name of the tensor that is compared with the reference's logits.
        described: the recipe, its precision fp16.
        reference: (N, height, width, 3) uint8 → the scores in float32.
        record: goes into the provenance beside what was measured.
    Raises:
        verify.Unfaithful: with half of its layers in float32 it still differs by more than the rule allows for fp16.
        verify.UnusablePictures: a picture of the folder can't be decoded.
    """
    drawn, photos = package.pictures(described, real)
    pixels = verify.prepare([*drawn, *photos], described)
    expected = verify.in_batches(reference, pixels)
    layers = half.layers(model)
    worst_first: list[str] = []
    count = 0
    while True:
        wide = worst_first[:count]
        kept = [output for layer in wide for output in layers[layer]]
        try:
            agreement = verify.verify(expected, _rounded(model, logits, kept), pixels, "fp16")
            break
        except verify.Unfaithful as error:
            worst_first = worst_first or _worst_first(model, logits, layers, expected, pixels)
            count += 1 + count // 4  # each try costs a verification
            if count > MOST_KEPT * len(layers):
                raise verify.Unfaithful(
                    f"with each layer's output rounded to float16, as a GPU does it, and {len(wide)} of {len(layers)} layers "
                    f"in float32: {error}") from error
    measured = {"probability": agreement.probability, "logit": agreement.logit, "pictures": agreement.pictures}
    halved = {**(record or {}), "rounded": measured, "layers": len(layers), "in_float32": wide}
    return half.halve(model, kept=kept), msgspec.structs.replace(described, provenance={**described.provenance, "halved": halved})


def _rounded(model: ModelProto, logits: str | None, kept: list[str]) -> Reference:
    with tempfile.TemporaryDirectory() as place:
        return package.candidate(half.halve(model, rounded=True, kept=kept), logits, Path(place))


def _worst_first(
    model: ModelProto, logits: str | None, layers: dict[str, list[str]], expected: verify.Scores, pixels: verify.Pixels
) -> list[str]:
    """The layers by how far the answers move when each alone is in float16."""
    lost: dict[str, float] = {}
    for layer in layers:
        kept = [output for other in layers if other != layer for output in layers[other]]
        found = _rounded(model, logits, kept)(pixels[:SOME])
        with np.errstate(invalid="ignore"):  # infinity less infinity
            apart = [np.abs(ours - theirs[:SOME]).max() for ours, theirs in zip(found, expected, strict=True)
                     if ours is not None and theirs is not None]  # fmt: skip
        lost[layer] = float(np.nan_to_num(max(apart), nan=np.inf))
    return sorted(layers, key=lambda layer: -lost[layer])
