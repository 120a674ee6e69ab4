"""The command line of training and export: `python -m export COMMAND`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from export.options import PATH, Commands, recipe_options


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train a network, export it to one self-describing ONNX file, look inside it."""


@main.command()
@click.option(
    "--data",
    "source",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Tiny ImageNet (folder or zip), or a folder of one folder a class.",
)
@click.option("--output", type=PATH, required=True, help="Folder of the run; the same one resumes it.")
@click.option("--architecture", default="alexnet64", show_default=True)
@click.option("--schedule", default="32x5,48x5,64x4", show_default=True, help="PIXELSxEPOCHS, in order.")
@click.option("--batch", default=256, show_default=True, type=click.IntRange(2))
@click.option("--rate", default=0.3, show_default=True, help="Highest learning rate.")
@click.option("--seed", default=1, show_default=True)
@click.option("--cache", type=PATH, help="Folder for the decoded pictures.  [default: OUTPUT/cache]")
def train(
    source: Path, output: Path, architecture: str, schedule: str, batch: int, rate: float, seed: int, cache: Path | None
) -> None:
    """Train a network; the same command goes on where a run was cut off."""
    from export import train as training

    hyper = training.Hyperparameters(architecture, training.parse_schedule(schedule), batch=batch, rate=rate, seed=seed)
    training.run(
        source, output, hyper, cache or output / "cache", command=shlex.join(["python", "-m", "export", *sys.argv[1:]])
    )


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
@click.option(
    "--range",
    "scale",
    type=click.Choice(["0-1", "0-255"]),
    default="0-1",
    show_default=True,
    help="Scale of the network's input, and so of --mean and --std.",
)
@click.option(
    "--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the input's axes.  [default: by its shape]"
)
@click.option(
    "--channels",
    type=click.Choice(["rgb", "bgr"]),
    default="rgb",
    show_default=True,
    help="Order in which the network takes them; --mean and --std are always red, green, blue.",
)
@click.option(
    "--outputs",
    type=click.Choice(["logits", "probabilities"]),
    help="What it answers with.  [default: found by asking it]",
)
@click.option("--head", help="Name of the output, where there are several.")
def annotate(
    model: Path,
    labels_file: Path,
    wishes: Any,
    real: Path | None,
    scale: str,
    layout: Any,
    channels: str,
    outputs: Any,
    head: str | None,
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
    # In less width the table would cut its numbers short.
    description.show(file, Console(width=max(Console().width, description.WIDTH)))


def _say(output: Path, agreement: Any) -> None:
    click.echo(f"{output}/model.onnx verified: {agreement.words()}")


if __name__ == "__main__":
    main()
