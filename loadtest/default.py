"""The model that the service takes if nobody names one, found as the service finds it: `models/default` names it."""

from __future__ import annotations

from pathlib import Path

import click

FILE = "default"  # one line, in the folder of models


def default_model(models: Path) -> Path:
    """Its file, in its highest version.

    Raises:
        ClickException: there is none, or several and no file that says which.
    """
    names = sorted({file.parts[-3] for file in models.glob("*/*/model.onnx") if file.parent.name.isdigit()})
    if not names:
        raise click.ClickException(f"{models} holds no NAME/VERSION/model.onnx: name one with --model")
    file = models / FILE
    if file.is_file():
        name = file.read_text().strip()
    elif len(names) == 1:
        name = names[0]
    else:
        raise click.ClickException(f"{models} holds {', '.join(names)}; expected the name of one of them in {file}")
    if name not in names:
        raise click.ClickException(f'{file} says "{name}"; expected one of {", ".join(names)}')
    return latest(models, name)


def latest(models: Path, name: str) -> Path:
    """The file of a model's highest version.

    Raises:
        ClickException: there is none.
    """
    found = [file for file in (models / name).glob("*/model.onnx") if file.parent.name.isdigit()]
    if not found:
        raise click.ClickException(f"{models} holds no {name}/VERSION/model.onnx")
    return max(found, key=lambda each: int(each.parent.name))
