"""Photo bytes to the five best classes in this process, with Pillow, NumPy and ONNX Runtime; nothing is taken from the service.

`exact` decodes the whole picture, turns it as EXIF says, makes it RGB, resizes, then crops. `scaled` lets JPEG decode at 1/2,
1/4 or 1/8 where at least twice the target is left, and resizes and crops in one step. Mean and scale are where the model has
them: in its own graph if it takes bytes, which is the quicker place (one pass beside the threads of the run), in NumPy if it
takes floats. Made for photos: what is transparent isn't laid on white here.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loadtest.engines import Engine, use_openvino

DECODINGS = ("exact", "scaled")
BEST = 5
KEY = "quadrant.recipe"
ORIENTATION = 0x0112  # EXIF
# What was stored at the left, top, right and bottom (0 to 3), in the order in which they are when it is upright.
TURNED = {1: (0, 1, 2, 3), 2: (2, 1, 0, 3), 3: (2, 3, 0, 1), 4: (0, 3, 2, 1),
          5: (1, 0, 3, 2), 6: (3, 0, 1, 2), 7: (3, 2, 1, 0), 8: (1, 2, 3, 0)}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}

Image.MAX_IMAGE_PIXELS = None  # these are our own pictures, however large


class Answer(NamedTuple):
    """The best classes of one photo, best first, and their probabilities."""

    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


class Recipe(NamedTuple):
    """What a model says of its preprocessing.

    Attributes:
        resize: pixels of the shorter side, of both where `squeezed`, before `height` × `width` are cut out of the centre.
        mean, std: of red, green and blue on the 0-1 scale.
        blue_first: the network takes blue, green, red.
        gates: what the model may also run in, by a measurement that it passed.
    """

    name: str
    precision: str
    height: int
    width: int
    resize: int
    squeezed: bool
    how: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]
    blue_first: bool
    gates: frozenset[Engine] = frozenset()

    @classmethod
    def parse(cls, text: str | None) -> Recipe:
        """Of the JSON text that the model carries.

        Raises:
            ClickException: there is none, or something that is needed is missing or unknown.
        """
        if text is None:
            raise click.ClickException(f"the model has no {KEY} in its metadata; expected one made by python -m export")
        try:
            found = json.loads(text)
            size, p = found["input"], found["preprocessing"]
            return cls(
                found["name"], found.get("precision", "fp32"), size["height"], size["width"], p["resize"],
                {"short_side": False, "exact_size": True}[p.get("resize_mode", "short_side")],
                FILTERS[p.get("interpolation", "bilinear")], tuple(p["mean"]), tuple(p["std"]),
                {"rgb": False, "bgr": True}[p.get("channels", "rgb")],
                frozenset(Engine(gate["provider"], gate["precision"]) for gate in found.get("gates") or ()))
        except (ValueError, TypeError, KeyError) as error:
            raise click.ClickException(f"{KEY} can't be read: {type(error).__name__}: {error}") from error


def prepare(data: bytes, recipe: Recipe, decoding: str) -> NDArray[np.uint8]:
    """One photo as the recipe wants it.

    Args:
        data: the encoded picture.
        decoding: exact or scaled.
    Returns:
        (height, width, 3) uint8, RGB, read-only.
    Raises:
        OSError: it can't be decoded.
    """
    image: Image.Image = Image.open(io.BytesIO(data))
    width, height = image.size
    if decoding == "scaled":
        image.draft("RGB", (2 * recipe.resize, 2 * recipe.resize))  # does nothing but to a JPEG
    scale = round(width / image.width)
    # Halved, 3 pixels are 2: what they show more than the picture belongs to no side of it.
    spare = (0.0, 0.0, image.width - width / scale, image.height - height / scale)
    turned = TURNED.get(image.getexif().get(ORIENTATION, 1), TURNED[1])
    spare_left, spare_top, spare_right, spare_bottom = (spare[side] for side in turned)
    if turned[0] % 2:  # what was above or below is at the left
        width, height = height, width
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode != "RGB":
        image = image.convert("RGB")
    short, long = (1, 1) if recipe.squeezed else sorted((width, height))
    longer = int(recipe.resize * long / short)
    size = (recipe.resize, longer) if width <= height else (longer, recipe.resize)
    left, top = round((size[0] - recipe.width) / 2.0), round((size[1] - recipe.height) / 2.0)
    right, bottom = left + recipe.width, top + recipe.height
    if decoding == "exact":
        return np.asarray(image.resize(size, recipe.how).crop((left, top, right, bottom)))
    across = (image.width - spare_left - spare_right) / size[0]
    down = (image.height - spare_top - spare_bottom) / size[1]
    box = (spare_left + left * across, spare_top + top * down, spare_left + right * across, spare_top + bottom * down)
    return np.asarray(image.resize((recipe.width, recipe.height), recipe.how, box=box))


class Model:
    """One ONNX Runtime session. `run` may be called from several threads."""

    def __init__(self, file: Path, threads: int, spinning: bool, engine: Engine | None = None, at_once: int = 1) -> None:
        """Load it.

        Args:
            threads: of one run.
            spinning: its threads wait for the next run by turning in circles; the CPU provider's alone.
            engine: None for the CPU provider.
            at_once: runs at the same time; the CPU provider runs as many as are called.
        Raises:
            ClickException: ONNX Runtime refuses it, it has no recipe, or it doesn't take a batch of pictures.
        """
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads, options.log_severity_level = 1, 3  # errors
        try:
            if engine is None or engine.provider == "cpu":
                options.intra_op_num_threads = threads
                options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
                self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            else:
                options.intra_op_num_threads = 1  # the plugin has threads of its own
                use_openvino(options, engine.precision, threads, at_once)
                self._session = onnxruntime.InferenceSession(str(file), options)
        except Exception as error:  # the runtime's exceptions have no common ancestor of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise click.ClickException(f"{file}: ONNX Runtime refuses it: {reason}") from error
        self.recipe = Recipe.parse(self._session.get_modelmeta().custom_metadata_map.get(KEY))
        self._input, self._type, self._planes = _form(self._session.get_inputs(), self.recipe)
        tiled = [np.tile(np.asarray(row, np.float32), self.recipe.width) for row in (self.recipe.mean, self.recipe.std)]
        self._shift, self._scale = 255 * tiled[0], 1 / (255 * tiled[1])  # (3 × width,): three at a time would be slow

    def room(self, batch: int) -> NDArray[Any]:
        """Room for so many pictures, in the type and order of axes that the model takes."""
        sides = (self.recipe.height, self.recipe.width)
        return np.empty((batch, 3, *sides) if self._planes else (batch, *sides, 3), self._type)

    def fill(self, row: NDArray[Any], data: bytes, decoding: str) -> None:
        """Decode a photo into one row of a room.

        Raises:
            OSError: it can't be decoded.
        """
        pixels: NDArray[Any] = prepare(data, self.recipe, decoding)
        if self._type != np.uint8:
            flat = pixels.reshape(len(pixels), -1).astype(np.float32)  # (height, 3 × width)
            flat -= self._shift
            flat *= self._scale
            pixels = flat.reshape(pixels.shape)[:, :, :: -1 if self.recipe.blue_first else 1]
        row[...] = pixels.transpose(2, 0, 1) if self._planes else pixels

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """A full room → (N, classes) float32."""
        (found,) = self._session.run(None, {self._input: batch})
        return np.asarray(found)

    def run(self, batch: NDArray[Any]) -> list[Answer]:
        """A full room → one answer a picture."""
        return best(self.probabilities(batch))


def best(probabilities: NDArray[np.float32]) -> list[Answer]:
    """(N, classes) → N answers with the five best classes, or all where there are fewer."""
    count = min(BEST, probabilities.shape[1])
    some = np.argpartition(-probabilities, count - 1, axis=1)[:, :count]  # (N, 5), in no order
    rows = np.take_along_axis(probabilities, some, axis=1)
    order = np.argsort(-rows, axis=1, kind="stable")
    classes, scores = (np.take_along_axis(each, order, axis=1).tolist() for each in (some, rows))
    return [Answer(tuple(row), tuple(values)) for row, values in zip(classes, scores, strict=True)]


def _form(inputs: list[Any], recipe: Recipe) -> tuple[str, Any, bool]:
    """The input's name, its type, and whether its channels lie apart.

    Raises:
        ClickException: it isn't a batch of any size of bytes or floats as large as the recipe says.
    """
    sides, (given, *others) = [recipe.height, recipe.width], inputs
    shape = list(given.shape)
    fits = len(shape) == 4 and not isinstance(shape[0], int) and shape[1:] in ([*sides, 3], [3, *sides])
    if others or not fits or given.type not in TYPES or (given.type == "tensor(uint8)" and shape[3] != 3):
        raise click.ClickException(
            f'the model takes "{given.name}", {given.type} {shape}; expected one input, '
            f"uint8 (batch, {sides[0]}, {sides[1]}, 3) or floats with channels last or first")
    return given.name, TYPES[given.type], shape[3] != 3
