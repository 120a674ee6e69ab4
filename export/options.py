"""What the commands share: options of a recipe, and the way in which they refuse."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from export.refusal import Refusal

PATH = click.Path(path_type=Path)
WISHED = (
    "name", "description", "mean", "std", "resize", "size", "interpolation", "mode", "resize_mode", "temperature"
)  # fields of package.Wishes


class OneLine(click.ClickException):
    """Printed without usage or traceback."""

    exit_code = 2


class Commands(click.Group):
    """Commands that end in one line where they refuse, or where the disk does."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Refusal as error:
            raise OneLine(str(error)) from error
        except OSError as error:
            raise OneLine(f"{error.filename or 'file'}: {error.strerror or error}") from error


class Numbers(click.ParamType[tuple[float, float, float]]):
    """`0.5` or `0.485,0.456,0.406`: one number for all channels, or red, green and blue."""

    name = "R,G,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Text → three numbers."""
        try:
            found = [float(part) for part in str(value).split(",")]
        except ValueError:
            found = []
        if len(found) not in (1, 3):
            self.fail(f"{value!r} found; expected one number or three, as 0.485,0.456,0.406", param, ctx)
        red, green, blue = found if len(found) == 3 else found * 3
        return red, green, blue


class Size(click.ParamType[tuple[int, int]]):
    """`224`, or `HEIGHTxWIDTH`."""

    name = "PIXELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Text → (height, width)."""
        parts = str(value).split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} found; expected pixels, as 224 or 224x192 (height x width)", param, ctx)
        return int(parts[0]), int(parts[-1])


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """What `convert` and `annotate` both ask for; handed on as one `wishes`, besides `real` and `bgr`.

    `wishes.mean` and `.std` are on the 0-1 scale, whichever was typed.
    """

    @functools.wraps(command)
    def gathered(*, output: Path, provenance: Path | None, scale: str, channels: str | None, **options: Any) -> None:
        from export import package

        wished = {key: options.pop(key) for key in WISHED}
        if scale == "0-255":
            for key in ("mean", "std"):
                wished[key] = wished[key] and tuple(value / 255 for value in wished[key])
        wishes = package.Wishes(output, provenance=_provenance(provenance), **wished)
        command(wishes=wishes, bgr=None if channels is None else channels == "bgr", **options)

    for option in reversed(
        (
            click.option(
                "--labels",
                "labels_file",
                type=PATH,
                required=True,
                help="Labels in the order of the outputs: JSON, or one a line.",
            ),
            click.option("--output", type=PATH, required=True, help="models/NAME/VERSION; must not exist yet."),
            click.option("--name", help="Name of the model.  [default: that of the folder]"),
            click.option("--description", default="", help="A sentence for people."),
            click.option("--mean", type=Numbers(), help="Mean of red, green, blue, on the scale of --range."),
            click.option("--std", type=Numbers(), help="Standard deviation of red, green, blue, on that scale too."),
            click.option(
                "--range",
                "scale",
                type=click.Choice(["0-1", "0-255"]),
                default="0-1",
                show_default=True,
                help="Scale of the network's input, and so of --mean and --std.",
            ),
            click.option(
                "--channels",
                type=click.Choice(["rgb", "bgr"]),
                help="Order in which the network takes them; --mean and --std are always red, green, blue."
                "  [default: the architecture's, or rgb]",
            ),
            click.option("--resize", type=click.IntRange(1, 4096), help="Short side in pixels before the centre crop."),
            click.option("--size", type=Size(), help="Side of the input in pixels, or HEIGHTxWIDTH."),
            click.option(
                "--interpolation",
                type=click.Choice(["bilinear", "bicubic", "lanczos"]),
                default="bilinear",
                show_default=True,
            ),
            click.option(
                "--resize-mode",
                type=click.Choice(["short_side", "exact_size"]),
                help="Keep the picture's proportions, or squeeze both sides to --resize, as Caffe does."
                "  [default: the architecture's, or short_side]",
            ),
            click.option(
                "--mode",
                type=click.Choice(["exact", "fast"]),
                default="exact",
                show_default=True,
                help="Preprocessing as the reference does it, or quicker and a grey level off.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, min_open=True),
                help="Divides the logits.  [default: the provenance's, or 1]",
            ),
            click.option(
                "--provenance", type=PATH, help="JSON object about where the weights come from, as train's run.json."
            ),
            click.option("--verify", "real", type=PATH, help="Folder of pictures to verify on, besides drawn ones."),
        )
    ):
        gathered = option(gathered)
    return gathered


def command_line() -> str:
    """What was typed, for the record; of absolute paths the last part alone: whose home it was is nobody's business."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "export", *words])


def _provenance(file: Path | None) -> dict[str, Any]:
    command = {"export_command": command_line()}
    if file is None:
        return command
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refusal(f"{file} is not JSON ({error}); expected an object about where the weights come from") from error
    if not isinstance(content, dict):
        raise Refusal(f"{file} holds a {type(content).__name__}; expected a JSON object")
    return content | command
