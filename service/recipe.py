"""What a model says of itself: input, preprocessing, labels, temperature, layers and golden examples.

Four JSON texts that travel inside the model file (`quadrant.recipe`, `.labels`, `.golden`, `.layers`), parsed and
validated. Knows nothing of ONNX, files or pictures.
"""

from __future__ import annotations

import binascii
import math
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from service.problems import StartError

FORMAT = 1
LEAST_GOLDEN = 4
# What a provider may cost in another precision before its answers count as another model's.
MOST_TOP1_LOSS, LEAST_AGREEMENT, MOST_ECE_INCREASE = 0.001, 0.995, 0.002  # shares
DEEPEST = 32  # levels of JSON; what is deeper can't be written again from within a request
LARGEST_SIDE = 4096  # px; beyond that a batch of inputs no longer fits in the memory of ordinary machines

Side = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
T = TypeVar("T")


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size of the picture that the network takes, in pixels."""

    height: Side
    width: Side


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From an upright RGB picture to the input.

    Attributes:
        resize: pixels of the shorter side before the crop; of both sides where `resize_mode` is `exact_size`.
        resize_mode: `short_side` keeps the picture's proportions; `exact_size` squeezes it into a square, as Caffe does.
        mode: `exact` decodes the whole picture, resizes, then crops, as the usual reference does, bit for bit;
            `fast` does it in one step and lets JPEG decode at a fraction of its size.
        mean, std: a channel (red, green, blue), on the scale from 0 to 1; applied inside the graph.
        channels: order in which the network takes them; turned inside the graph, whose input is always RGB.
    """

    resize: Side
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    crop: Literal["center"] = "center"
    mode: Literal["exact", "fast"] = "exact"
    resize_mode: Literal["short_side", "exact_size"] = "short_side"
    channels: Literal["rgb", "bgr"] = "rgb"


class Abstention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Below which score of its best class a model abstains, so that what it does say is right often enough.

    Attributes:
        below: score of the best class, 0-1.
        asked: precision that the threshold was chosen for, on pictures kept back.
        precision: share of right answers among those at or above it, on other pictures.
        coverage: share of those pictures that were at or above it.
    """

    below: Share
    asked: Share
    precision: Share
    coverage: Share


class Conformal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores from which a class belongs to the prediction set of a coverage.

    Attributes:
        coverages: probabilities that the set holds the true class, rising.
        scores: least score of a class in the set, one a coverage, falling.
        measured: [coverage asked, coverage found, mean set size] on other pictures.
    Source: Sadinle, Lei, Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", 2019.
    """

    coverages: tuple[Share, ...]
    scores: tuple[Share, ...]
    measured: tuple[tuple[float, float, float], ...] = ()


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the scores can be trusted: fitted on pictures kept back from training, measured on others.

    Attributes:
        fitted_on, measured_on: numbers of pictures.
        top1, top5: share of right answers on the pictures measured on.
        ece_before, ece_after: expected calibration error (15 bins) with temperature 1 and with the recipe's.
    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """

    fitted_on: int
    measured_on: int
    top1: Share
    top5: Share
    ece_before: Share
    ece_after: Share
    abstention: Abstention | None = None
    conformal: Conformal | None = None


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A comparison that was passed: this provider may run the model in this precision.

    The reference is ONNX Runtime's CPU provider with the model as it is, on the same labelled pictures.

    Attributes:
        provider, precision: what was compared.
        measured_on: number of pictures.
        top1_loss: share of right answers lost.
        agreement: share of pictures with the same top class.
        ece_increase: by how much the expected calibration error (15 bins) grew.
        environment: provider's version and processor, for people.
    """

    provider: Literal["openvino", "cuda"]
    precision: Literal["bf16", "int8"]
    measured_on: Annotated[int, Meta(ge=1)]
    top1_loss: Annotated[float, Meta(ge=-1, le=MOST_TOP1_LOSS)]
    agreement: Annotated[float, Meta(ge=LEAST_AGREEMENT, le=1)]
    ece_increase: Annotated[float, Meta(ge=-1, le=MOST_ECE_INCREASE)]
    environment: str = ""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `quadrant.recipe` of a model.

    Attributes:
        format: version of this structure; only 1 exists.
        temperature: by which the logits are divided inside the graph before the softmax.
        calibration: how far the scores can be trusted, where it was measured.
        gates: providers and precisions that may take the place of the CPU provider's.
        provenance: where the weights come from; free keys, for people.
    """

    format: int
    name: Name
    input: Input
    preprocessing: Preprocessing
    description: str = ""
    architecture: str = ""
    temperature: float = 1.0
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    calibration: Calibration | None = None
    gates: tuple[Gate, ...] = ()
    provenance: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str | bytes) -> Recipe:
        """Read and check the JSON text.

        Raises:
            StartError: not JSON, an unknown format, a missing or unknown key, or a value out of range.
        """
        found = _decode(text, _Format, "quadrant.recipe").format
        if found != FORMAT:
            raise StartError(f"quadrant.recipe has format {found}; this Quadrant reads format {FORMAT}: export the model again")
        recipe = _decode(text, cls, "quadrant.recipe")
        _check(recipe)
        return recipe

    def allows(self, provider: str, precision: str) -> bool:
        """Whether a gate was passed by this provider in this precision."""
        return any((gate.provider, gate.precision) == (provider, precision) for gate in self.gates)

    def dump(self) -> str:
        """The JSON text."""
        return msgspec.json.encode(self).decode()

    def in_words(self) -> str:
        """What happens to a picture, in one sentence for people."""
        p, width, height = self.preprocessing, self.input.width, self.input.height
        sized = f"shorter side to {p.resize} px" if p.resize_mode == "short_side" else f"squeezed to {p.resize} × {p.resize} px"
        steps = f"{sized} ({p.interpolation}), centre {width} × {height} cut out"
        mean, std = (", ".join(f"{value:.4g}" for value in row) for row in (p.mean, p.std))
        turned = ", blue first" if p.channels == "bgr" else ""
        return f"{steps} ({p.mode}), (x / 255 - ({mean})) / ({std}){turned}, logits / {self.temperature:g}, softmax"


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the output: a stable id (the wnid for ImageNet) and a name for people."""

    id: str
    label: str


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drawn picture as PNG bytes (base64 in JSON) and the probabilities that the model gave when it was exported."""

    png: bytes
    probabilities: tuple[float, ...]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the layer table; sizes as (height, width), padding as (top, left, bottom, right)."""

    name: str
    type: str
    filter: tuple[int, int] | None
    stride: tuple[int, int] | None
    padding: tuple[int, int, int, int] | None
    depth: int | None
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


class _Format(msgspec.Struct):
    format: int


def parse_labels(text: str | bytes) -> tuple[Label, ...]:
    """The labels, one a row of the output.

    Raises:
        StartError: not such a list, empty, or an id that occurs twice.
    """
    labels = _decode(text, tuple[Label, ...], "quadrant.labels")
    if not labels:
        raise StartError("quadrant.labels is an empty list; expected one entry a class")
    seen: set[str] = set()
    for row, label in enumerate(labels):
        if label.id in seen:
            raise StartError(f'quadrant.labels has the id "{label.id}" twice, again at row {row}; expected each id once')
        seen.add(label.id)
    return labels


def parse_golden(text: str | bytes, classes: int) -> tuple[Golden, ...]:
    """The golden examples.

    Raises:
        StartError: too few, or probabilities that are not `classes` numbers from 0 to 1 with the sum 1.
    """
    golden = _decode(text, tuple[Golden, ...], "quadrant.golden")
    if len(golden) < LEAST_GOLDEN:
        raise StartError(f"quadrant.golden has {len(golden)} pictures; expected at least {LEAST_GOLDEN}")
    for row, example in enumerate(golden):
        found = example.probabilities
        if len(found) != classes:
            raise StartError(f"golden picture {row} has {len(found)} probabilities; the labels are {classes}")
        if not all(0 <= value <= 1 for value in found) or abs(sum(found) - 1) > 1e-2:  # fp16 sums are that loose
            raise StartError(f"golden picture {row} has probabilities with the sum {sum(found):.4f}; expected 1, all from 0 to 1")
    return golden


def parse_layers(text: str | bytes) -> tuple[Layer, ...]:
    """The layer table; may be empty for a graph whose layers could not be told.

    Raises:
        StartError: not such a list.
    """
    return _decode(text, tuple[Layer, ...], "quadrant.layers")


def dump(rows: Any) -> str:
    """The JSON text of labels, golden examples or layers, as the functions above read it."""
    return msgspec.json.encode(rows).decode()


def _decode(text: str | bytes, shape: type[T], key: str) -> T:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        raise StartError(f"{key} can't be read: {error}") from error
    except RecursionError as error:
        raise StartError(f"{key} can't be read: its JSON is nested too deeply; expected at most {DEEPEST} levels") from error


def _depth(value: Any) -> int:
    """Levels of dictionaries and lists; without recursion, which is what they might exhaust."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth


def _check(recipe: Recipe) -> None:
    p = recipe.preprocessing
    if (least := max(recipe.input.height, recipe.input.width)) > p.resize:
        raise StartError(f"recipe resizes the shorter side to {p.resize} px; expected at least {least}, the input's longer side")
    numbers = {"mean": p.mean, "std": p.std, "temperature": (recipe.temperature,)}
    for name, values in numbers.items():
        if not all(map(math.isfinite, values)):
            raise StartError(f"recipe has {name} {list(values)}; expected finite numbers")
    conformal = recipe.calibration and recipe.calibration.conformal
    if conformal:
        levels, scores = conformal.coverages, conformal.scores
        if len(levels) != len(scores) or list(levels) != sorted(set(levels)) or list(scores) != sorted(scores, reverse=True):
            raise StartError(
                f"recipe has {len(levels)} coverages and {len(scores)} scores of its prediction sets; "
                "expected one score a coverage, the coverages rising, the scores falling")
    if (depth := _depth(recipe.provenance)) > DEEPEST:
        raise StartError(f"recipe has a provenance of {depth} levels; expected at most {DEEPEST}")
    if min(p.std) <= 0 or recipe.temperature <= 0:
        raise StartError(f"recipe has std {list(p.std)} and temperature {recipe.temperature:g}; expected both above 0")
