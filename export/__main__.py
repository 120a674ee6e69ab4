"""The command line of training and export: `python -m export COMMAND`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from export.options import PATH, Commands, command_line, recipe_options


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
@click.option(
    "--architecture", default="alexnet64", show_default=True,
    help="Name of the network, or path/to/file.py:factory, whose code is run.",
)  # fmt: skip
@click.option("--schedule", default="32x5,48x5,64x4", show_default=True, help="PIXELSxEPOCHS, in order.")
@click.option("--batch", default=256, show_default=True, type=click.IntRange(2))
@click.option("--rate", default=0.1, show_default=True,
              help="Highest learning rate, relative to the filters' length; with --initial a fifth of it or less.")  # fmt: skip
@click.option("--initial", type=PATH, help="Weights or a model.onnx of the same network to begin with.  [default: chance]")
@click.option("--seed", default=1, show_default=True)
@click.option("--cache", type=PATH, help="Folder for the decoded pictures.  [default: OUTPUT/cache]")
def train(
    source: Path, output: Path, schedule: str, cache: Path | None, initial: Path | None, **chosen: Any
) -> None:
    """Train a network; the same command goes on where a run was cut off."""
    from export import train as training
    from export import weights

    began = weights.digest(initial) if initial else ""
    hyper = training.Hyperparameters(schedule=training.parse_schedule(schedule), initial=began, **chosen)
    training.run(source, output, hyper, cache or output / "cache", command_line(), initial)


@main.command()
@click.option(
    "--architecture", required=True,
    help="Name of the network: alexnet, alexnet64, …; or path/to/file.py:factory, whose code is run.",
)  # fmt: skip
@click.option("--weights", type=PATH, required=True, help="State dict: .pth, .pt or .safetensors.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True,
              help="fp16 is for GPUs, and a model of its own: --output models/NAME-fp16/VERSION.")  # fmt: skip
@recipe_options
def convert(
    architecture: str, weights: Path, labels_file: Path, wishes: Any, real: Path | None, bgr: bool | None, precision: Any
) -> None:
    """Turn trained weights into a model to serve, verified against PyTorch."""
    from export import convert as conversion

    _say(wishes.output, conversion.convert(architecture, weights, labels_file, wishes, real, bgr, precision))


@main.command()
@click.argument("name", required=False)
@click.option("--output", type=PATH, help="models/NAME/VERSION; must not exist yet.  [default: models/NAME/1]")
@click.option("--url", help="Take the file from here, a mirror of yours.")
@click.option("--sha256", help="Beginning of the file's SHA-256, 8 digits or more.  [default: the published one]")
@click.option("--cache", type=PATH, help="Folder in which downloads are kept.  [default: ~/.cache/quadrant]")
@click.option("--list", "only_list", is_flag=True, help="Show the names that are known.")
def fetch(name: str | None, only_list: bool, **asked: Any) -> None:
    """Download the published weights of a well-known network, and turn them into a model to serve."""
    from export import fetch as fetching

    if only_list or name is None:
        click.echo(fetching.listing())
    else:
        _say(*fetching.fetch(name, **asked))


@main.command()
@click.argument("model", type=PATH)
@recipe_options
@click.option(
    "--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the input's axes.  [default: by its shape]"
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
    bgr: bool | None,
    layout: Any,
    outputs: Any,
    head: str | None,
) -> None:
    """Turn a bare ONNX classifier into a model to serve, verified against itself."""
    from export import annotate as annotation

    bare = annotation.Bare(layout, outputs, bool(bgr), head)
    _say(wishes.output, annotation.annotate(model, labels_file, wishes, bare, real))


@main.command()
@click.argument("files", nargs=2, type=PATH, metavar="FIRST SECOND")
@click.option("--architecture", default="alexnet64", show_default=True)
@click.option("--share", default=0.5, show_default=True, help="Of the second one, 0 to 1.")
@click.option("--data", "source", type=PATH, required=True, help="What they were trained on, for the normalisation.")
@click.option("--size", "side", default=64, show_default=True,
              help="Pixels at which its statistics are taken; those of training where one is a published model.")
@click.option("--output", type=PATH, required=True, help="State dict to write: weights.pth.")
def average(files: tuple[Path, Path], output: Path, **chosen: Any) -> None:
    """Average the weights of two trainings of one network, the second begun where the first ended."""
    from export import average as averaging

    averaging.run(files=files, output=output, **chosen)
    click.echo(f"{output} written")


@main.command()
@click.argument("model", type=PATH)
@click.option("--data", "source", type=PATH, required=True, help="Labelled pictures: Tiny ImageNet, or one folder a class.")
@click.option("--output", type=PATH, required=True, help="models/NAME/VERSION; must not exist yet.")
@click.option(
    "--precision", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True,
    help="Share of right answers among those on which the model does not abstain.",
)  # fmt: skip
def calibrate(model: Path, source: Path, output: Path, precision: float) -> None:
    """Fit a model's temperature and thresholds on labelled pictures, and measure how far to trust it."""
    from export import calibrate as fitting
    from export import calibration

    click.echo(calibration.words(fitting.calibrate(model, source, output, precision)))


@main.command()
@click.argument("model", type=PATH)
@click.option("--calibration", "pictures", type=PATH, required=True, help="Folder of pictures to take ranges from.")
@click.option("--validation", "labelled", type=PATH, help="Labelled pictures: Tiny ImageNet, or one folder a class.")
@click.option("--output", type=PATH, required=True, help="models/NAME-int8/VERSION; must not exist yet.")
@click.option("--max-loss", default=0.5, show_default=True, help="Points of top-1 that may be lost.")
@click.option("--method", type=click.Choice(["percentile", "entropy", "minmax"]),
              help="How ranges are chosen.  [default: all are tried, the nearest to fp32 is kept]")  # fmt: skip
@click.option("--bits", type=click.Choice([7, 8]), default=7, show_default=True,
              help="Of the weights; with 8, sums can overflow on processors without VNNI.")  # fmt: skip
@click.option("--float-first", default=0, show_default=True, type=click.IntRange(0),
              help="So many layers stay in float, from the first on: the early ones are the most sensitive.")  # fmt: skip
@click.option("--force", is_flag=True, help="Publish even what loses too much or isn't faster, and record that.")
def quantize(model: Path, output: Path, **asked: Any) -> None:
    """Turn a model into int8: measured against fp32, and published only if it is worth it."""
    from export import gate as quantising

    click.echo(quantising.run(model, quantising.Asked(**asked), output).words())


@main.command()
@click.argument("model", type=PATH)
@click.option("--data", "source", type=PATH, required=True, help="Labelled pictures: Tiny ImageNet, or one folder a class.")
@click.option("--output", type=PATH, required=True, help="models/NAME/VERSION; must not exist yet.")
def gate(model: Path, source: Path, output: Path) -> None:
    """Let OpenVINO run a model, an fp32 one in bf16, if its answers stay as right as the CPU provider's."""
    from export import provider_gate

    click.echo(provider_gate.run(model, source, output).words())


@main.command()
@click.argument("model", type=PATH)
@click.option("--output", type=PATH, required=True, help="models/NAME-fp16/VERSION; must not exist yet.")
@click.option("--verify", "real", type=PATH, help="Folder of pictures to verify on, besides drawn ones.")
def halve(model: Path, output: Path, real: Path | None) -> None:
    """Turn a model into fp16, for GPUs, verified against itself in fp32."""
    from export import halving

    _say(output, halving.run(model, output, real))


@main.command()
@click.argument("model", type=PATH)
@click.option("--pictures", type=PATH, required=True, help="Folder of ordinary photos; crops of them are decoded both ways.")
@click.option("--output", type=PATH, required=True, help="models/NAME/VERSION; must not exist yet.")
@click.option("--least", type=click.FloatRange(0, 1), default=0.99, show_default=True, help="Share of equal answers.")
def hasten(model: Path, pictures: Path, output: Path, least: float) -> None:
    """Let a model's pictures be decoded in the quicker way, if its answers stay the same."""
    from export import hasten as decoding

    found = decoding.run(model, pictures, output, least)
    click.echo(f"{found.same:.2%} of {found.views:,} views have the same best class; "
               f"values differ by {found.grey_levels:.2f} of 255 on average")


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
