"""A wrapped graph becomes a model folder: described, proven, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from export import drawings, folder, graph, layers, verify
from export.front import INPUT, Front
from export.refusal import Refusal
from service import recipe as recipes
from service.engine import Engine, EngineFault
from service.modelfile import ModelFile
from service.problems import StartError
from service.recipe import Golden, Label, Recipe

DRAWN = 24  # pictures that every model is verified on
GOLDEN = 4  # of them that travel in the file


class UnusableRecipe(Refusal):
    """An option of the recipe is out of range; one line says which."""


@dataclass(frozen=True)
class Wishes:
    """What the caller decides about a model; None leaves the choice to the architecture or the graph.

    Attributes:
        name: of the model; the folder's by default (models/NAME/VERSION).
        size: (height, width) in pixels.
        mean, std: of red, green and blue on the 0-1 scale.
    """

    output: Path
    name: str | None = None
    description: str = ""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: int | None = None
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    mode: str = "exact"
    resize_mode: str | None = None
    temperature: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def recipe(
    wishes: Wishes, architecture: str, front: Front, resize: int, divisor: float, precision: str
) -> Recipe:
    """The recipe of a model, validated as the service will.

    Raises:
        UnusableRecipe: names what was found and what is expected.
    """
    made = {
        "format": recipes.FORMAT,
        "name": wishes.name or wishes.output.resolve().parent.name,
        "description": wishes.description,
        "architecture": architecture,
        "input": {"height": front.height, "width": front.width},
        "preprocessing": {
            "resize": resize,
            "mean": front.mean,
            "std": front.std,
            "interpolation": wishes.interpolation,
            "mode": wishes.mode,
            "resize_mode": wishes.resize_mode or "short_side",
            "channels": "bgr" if front.bgr else "rgb",
        },
        "temperature": divisor,
        "precision": precision,
        "provenance": dict(wishes.provenance),
    }
    try:
        return Recipe.parse(msgspec.json.encode(made))
    except StartError as error:
        raise UnusableRecipe(str(error)) from error


def temperature(wishes: Wishes) -> float:
    """The one asked for, else the one that was fitted in training, else 1.

    Raises:
        UnusableRecipe: the provenance holds something else under that name.
    """
    found = wishes.temperature or wishes.provenance.get("temperature", 1.0)
    if not isinstance(found, int | float) or not 0 < found < float("inf"):
        raise UnusableRecipe(f"provenance has temperature {found!r}; expected a positive number")
    return float(found)


def pictures(wanted: Recipe, real: Path | None) -> tuple[list[bytes], list[bytes]]:
    """Drawn pictures, and those of a folder where one is given.

    Raises:
        verify.UnusablePictures: the folder holds none.
    """
    return drawings.draw(DRAWN, wanted.preprocessing.resize), verify.load(real) if real else []


def publish(
    model: ModelProto,
    logits: str | None,
    described: Recipe,
    labels: list[Label],
    reference: Callable[[verify.Pixels], verify.Scores],
    real: Path | None,
    output: Path,
) -> verify.Agreement:
    """Prove the model against its reference and write `output/model.onnx`, its weights beside it where they are large.

    Args:
        model: wrapped; loses the initialisers that nothing reads, and its weights when they go outside.
        logits: name of the tensor in the graph that is compared with the reference's logits.
        reference: (N, height, width, 3) uint8 → its scores.
        real: folder of pictures to verify on, besides drawn ones.
    Raises:
        verify.Unfaithful: the model doesn't reproduce the reference.
        verify.UnusablePictures: a picture of the folder can't be decoded.
        folder.UnusableOutput: there is something at `output` already.
    """
    drawn, photos = pictures(described, real)
    pixels = verify.prepare([*drawn, *photos], described)
    expected = verify.in_batches(reference, pixels)
    if expected.probabilities.shape[1] != len(labels):
        raise verify.Unfaithful(
            f"network has {expected.probabilities.shape[1]} classes; "
            f"the labels file has {len(labels)}: expected as many"
        )
    golden = _golden(drawn, expected.probabilities[: len(drawn)])
    graph.drop_unused(model)
    rows = layers.table(model)
    weights_digest = graph.digest(model)
    with folder.appearing(output) as part:
        if graph.weight_bytes(model) >= graph.EXTERNAL_FROM:
            graph.move_weights_out(model, part)
        agreement = verify.verify(expected, candidate(model, logits, part), pixels, described.precision)
        record = {
            "pictures": agreement.pictures,
            "real": len(photos),
            "probability": agreement.probability,
            "logit": agreement.logit,
        }
        final = msgspec.structs.replace(described, provenance={**described.provenance, "verified": record})
        del model.metadata_props[:]
        helper.set_model_props(
            model,
            {
                "quadrant.recipe": final.dump(),
                "quadrant.labels": recipes.dump(labels),
                "quadrant.golden": recipes.dump(golden),
                "quadrant.layers": recipes.dump(rows),
                "quadrant.sha256": weights_digest,
            },
        )
        model.producer_name, model.producer_version, model.doc_string = "quadrant", "", described.description
        (part / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        _prove(part / "model.onnx")
    return agreement


def candidate(
    model: ModelProto, logits: str | None, part: Path, optimised: bool = True
) -> Callable[[verify.Pixels], verify.Scores]:
    """The model as ONNX Runtime sees it, with its logits as a further output.

    Args:
        part: folder for a file of the moment, beside the external weights if there are any.
        optimised: False runs each node as it stands.
    """
    variant = ModelProto()
    variant.CopyFrom(model)
    if logits:
        variant.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
    file = part / "verify.onnx"  # a file, for the weights beside it
    file.write_bytes(variant.SerializeToString())
    del variant
    try:
        runner = verify.session(file, optimised)
    except Exception as error:  # ONNX Runtime has no common class for what it refuses
        raise verify.Unfaithful(f"ONNX Runtime can't run the wrapped graph ({_first_line(error)})") from error
    finally:
        file.unlink()

    def score(pixels: verify.Pixels) -> verify.Scores:
        try:
            found = runner.run([graph.OUTPUT, *([logits] if logits else [])], {INPUT: pixels})
        except Exception as error:
            raise verify.Unfaithful(
                f"the wrapped graph fails on {len(pixels)} pictures ({_first_line(error)})"
            ) from error
        return verify.Scores(found[1] if logits else None, found[0])

    return score


def _golden(drawn: list[bytes], probabilities: verify.Array) -> list[Golden]:
    """The pictures that the model is surest of, one an answer where it can be: they notice a wrong file soonest."""
    by_certainty = np.argsort(-probabilities.max(axis=1), kind="stable").tolist()
    answers = probabilities.argmax(axis=1)
    first = [row for place, row in enumerate(by_certainty) if answers[row] not in answers[by_certainty[:place]]]
    chosen = [*first, *(row for row in by_certainty if row not in first)][:GOLDEN]
    # Nine digits bring a float32 back as it was.
    return [Golden(drawn[row], tuple(float(f"{value:.9g}") for value in probabilities[row].tolist())) for row in chosen]


def _prove(file: Path) -> None:
    """Open the file as the service will, and let it reproduce its golden examples."""
    try:
        onnx.checker.check_model(file)
        opened = ModelFile.open(file)
        Engine(opened, "cpu").prove(opened.golden)
    except (onnx.checker.ValidationError, StartError, EngineFault) as error:
        raise verify.Unfaithful(f"the service would refuse the model ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
