"""The command line of training and export: `python -m export COMMAND`."""

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


class Numbers(click.ParamType):
    """`0.5` or `0.485,0.456,0.406`: one number for all channels, or red, green and blue."""

    name = "R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float, float]:
        """Text → three numbers."""
        try:
            found = [float(part) for part in str(value).split(",")]
        except ValueError:
            found = []
        if len(found) not in (1, 3):
            self.fail(f"{value!r} found; expected one number or three, as 0.485,0.456,0.406", param, ctx)
        red, green, blue = found if len(found) == 3 else found * 3
        return red, green, blue


class Size(click.ParamType):
    """`224`, or `HEIGHTxWIDTH`."""

    name = "PIXELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Text → (height, width)."""
        parts = str(value).split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} found; expected pixels, as 224 or 224x192 (height x width)", param, ctx)
        return int(parts[0]), int(parts[-1])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train a network, export it to one self-describing ONNX file, look inside it."""


@main.command()
@click.option("--data", "source", type=click.Path(path_type=Path, exists=True), required=True,
              help="Tiny ImageNet (folder or zip), or a folder of one folder a class.")
@click.option("--output", type=PATH, required=True, help="Folder of the run; the same one resumes it.")
@click.option("--architecture", default="alexnet64", show_default=True)
@click.option("--schedule", default="32x5,48x5,64x4", show_default=True, help="PIXELSxEPOCHS, in order.")
@click.option("--batch", default=256, show_default=True, type=click.IntRange(2))
@click.option("--rate", default=0.3, show_default=True, help="Highest learning rate.")
@click.option("--seed", default=1, show_default=True)
@click.option("--cache", type=PATH, help="Folder for the decoded pictures.  [default: OUTPUT/cache]")
def train(source: Path, output: Path, architecture: str, schedule: str, batch: int, rate: float, seed: int, cache: Path | None) -> None:
    """Train a network; the same command goes on where a run was cut off."""
    from export import train as training

    hyper = training.Hyperparameters(architecture, training.parse_schedule(schedule), batch=batch, rate=rate, seed=seed)
    training.run(source, output, hyper, cache or output / "cache", command=shlex.join(["python", "-m", "export", *sys.argv[1:]]))


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """What `convert` and `annotate` both ask for; handed on as one `wishes`."""

    @functools.wraps(command)
    def gathered(*, output: Path, provenance: Path | None, **options: Any) -> None:
        from export import package

        wished = {key: options.pop(key) for key in (
            "name", "description", "mean", "std", "resize", "size", "interpolation", "mode", "temperature",
        )}
        wishes = package.Wishes(output, provenance=_provenance(provenance), **wished)
        command(wishes=wishes, **options)

    for option in reversed((
        click.option("--labels", "labels_file", type=PATH, required=True, help="Labels in the order of the outputs: JSON, or one a line."),
        click.option("--output", type=PATH, required=True, help="models/NAME/VERSION; must not exist yet."),
        click.option("--name", help="Name of the model.  [default: that of the folder]"),
        click.option("--description", default="", help="A sentence for people."),
        click.option("--mean", type=Numbers(), help="Mean of red, green, blue, on the 0-1 scale."),
        click.option("--std", type=Numbers(), help="Standard deviation of red, green, blue, on the 0-1 scale."),
        click.option("--resize", type=click.IntRange(1, 4096), help="Short side in pixels before the centre crop."),
        click.option("--size", type=Size(), help="Side of the input in pixels, or HEIGHTxWIDTH."),
        click.option("--interpolation", type=click.Choice(["bilinear", "bicubic", "lanczos"]), default="bilinear", show_default=True),
        click.option("--mode", type=click.Choice(["exact", "fast"]), default="exact", show_default=True,
                     help="Preprocessing as the reference does it, or quicker and a grey level off."),
        click.option("--temperature", type=click.FloatRange(0, min_open=True),
                     help="Divides the logits.  [default: the provenance's, or 1]"),
        click.option("--provenance", type=PATH, help="JSON object about where the weights come from, as train's run.json."),
        click.option("--verify", "real", type=click.Path(path_type=Path, exists=True, file_okay=False),
                     help="Folder of pictures to verify on, besides drawn ones."),
    )):
        gathered = option(gathered)
    return gathered


@main.command()
@click.option("--architecture", required=True, help="Name of the network: alexnet, alexnet64, …")
@click.option("--weights", type=PATH, required=True, help="State dict: .pth, .pt or .safetensors.")
@recipe_options
def convert(architecture: str, weights: Path, labels_file: Path, wishes: Any, real: Path | None) -> None:
    """Turn trained weights into a model to serve, verified against PyTorch."""
    from export import convert as conversion

    _say(wishes.output, conversion.convert(architecture, weights, labels_file, wishes, real))


@main.command()
@click.argument("model", type=PATH)
@recipe_options
@click.option("--range", "scale", type=click.Choice(["0-1", "0-255"]), default="0-1", show_default=True,
              help="Scale of the network's input, and so of --mean and --std.")
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the input's axes.  [default: by its shape]")
@click.option("--channels", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True,
              help="Order in which the network takes them; --mean and --std are always red, green, blue.")
@click.option("--outputs", type=click.Choice(["logits", "probabilities"]), help="What it answers with.  [default: found by asking it]")
@click.option("--head", help="Name of the output, where there are several.")
def annotate(
    model: Path, labels_file: Path, wishes: Any, real: Path | None, scale: str, layout: Any, channels: str, outputs: Any, head: str | None,
) -> None:
    """Turn a bare ONNX classifier into a model to serve, verified against itself."""
    from dataclasses import replace

    from export import annotate as annotation

    if scale == "0-255":
        mean, std = (values and tuple(value / 255 for value in values) for values in (wishes.mean, wishes.std))
        wishes = replace(wishes, mean=mean, std=std)
    bare = annotation.Bare(layout, outputs, channels == "bgr", head)
    _say(wishes.output, annotation.annotate(model, labels_file, wishes, bare, real))


@main.command()
@click.argument("model", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def describe(model: Path, as_json: bool) -> None:
    """Show a model's recipe in words and its layer table."""
    from rich.console import Console

    from export import describe as description

    file = description.find(model)
    if as_json:
        click.echo(description.as_json(file))
        return
    console = Console()
    # A file or a pipe has no width of its own; the table needs this much.
    description.show(file, console if console.is_terminal else Console(width=120))


def _provenance(file: Path | None) -> dict[str, Any]:
    command = {"export_command": shlex.join(["python", "-m", "export", *sys.argv[1:]])}
    if file is None:
        return command
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refusal(f"{file} is not JSON ({error}); expected an object about where the weights come from") from error
    if not isinstance(content, dict):
        raise Refusal(f"{file} holds a {type(content).__name__}; expected a JSON object")
    return content | command


def _say(output: Path, agreement: Any) -> None:
    click.echo(f"{output}/model.onnx verified: {agreement.words()}")


if __name__ == "__main__":
    main()
