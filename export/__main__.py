"""The command line of training and export: `python -m export COMMAND`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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


if __name__ == "__main__":
    main()
