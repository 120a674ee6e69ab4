"""The folder `models`: NAME/VERSION/model.onnx, and which of them answers when none is asked for, as the file `default` says.

Reads folders and files; makes no session, so that it may be asked before a fork.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from service.modelfile import ModelFile
from service.problems import StartError
from service.settings import Settings

FILE = "model.onnx"
DEFAULT = "default"
LONGEST_NAME = 255  # bytes; file systems have no longer ones
VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Place(NamedTuple):
    """Where one version of a model stands."""

    name: str
    version: int
    path: Path


class Default(NamedTuple):
    """The model that answers when none is asked for."""

    name: str
    reason: str


def places(folder: Path) -> list[Place]:
    """All models, by name, versions ascending. A folder whose name is no number is no version.

    Raises:
        StartError: there is none.
    """
    try:
        found = [
            Place(file.parent.parent.name, int(file.parent.name), file)
            for file in folder.glob(f"*/*/{FILE}")
            if VERSION.fullmatch(file.parent.name) and not file.parent.parent.name.startswith(".")
        ]
    except OSError as error:
        raise StartError(f"the folder of models {folder} can't be read: {error.strerror}") from error
    if not found:
        state = "holds no model" if folder.is_dir() else "does not exist"
        raise StartError(f'{folder} {state}; expected NAME/VERSION/{FILE} in it, such as "python -m export convert" writes')
    return sorted(found)


def choose(found: list[Place], settings: Settings) -> Default:
    """The default model and why it is that one: QUADRANT_MODEL, else the file `default`, else the only model there is.

    Raises:
        StartError: the setting or the file names a model that isn't there, the file can't be read as a name, or there are
            several models and neither is set.
    """
    names, file = sorted({place.name for place in found}), settings.models / DEFAULT
    if settings.model:
        name, source = settings.model, "QUADRANT_MODEL"
    elif (written := _written(file)) is not None:
        name, source = written, str(file)
    elif len(names) == 1:
        return Default(names[0], "the only one")
    else:
        raise StartError(f"{settings.models} has {', '.join(names)}, and nothing says which is the default; "
                         f"write one of these names into {file}, or set QUADRANT_MODEL")
    if name not in names:
        raise StartError(f'{source} is "{name}"; {settings.models} has {", ".join(names)}')
    return Default(name, f"set by {source}")


def _written(file: Path) -> str | None:
    """The name in the file `default`; None where there is no such file.

    Raises:
        StartError: it can't be read, or is not one line with a name.
    """
    if file.is_dir() or not os.path.lexists(file):  # a folder is a model of that name
        return None
    expected = "expected one line, the name of a model"
    try:
        with file.open("rb") as stream:
            content = stream.read(LONGEST_NAME + 1)
        if len(content) > LONGEST_NAME:
            raise StartError(f"{file} has more than {LONGEST_NAME} bytes; {expected}")
        lines = content.decode("utf-8-sig").strip().splitlines()
    except OSError as error:
        raise StartError(f"{file} can't be read: {error.strerror}; {expected}") from error
    except UnicodeDecodeError as error:
        raise StartError(f"{file} is not UTF-8: {error}; {expected}") from error
    if len(lines) != 1:
        raise StartError(f"{file} {f'has {len(lines)} lines' if lines else 'is empty'}; {expected}")
    return lines[0].strip()


def check(settings: Settings) -> Default:
    """Open and check every model without loading any; the default one. What is read here needn't be read again (`known`).

    Raises:
        StartError: one can't be served, or the default one isn't the file that QUADRANT_MODEL_SHA256 names.
    """
    found = places(settings.models)
    default = choose(found, settings)
    for place in found:
        model = ModelFile.known(place.path)
        if place == latest(found, default.name):
            check_digest(model, settings)
    return default


def latest(found: list[Place], name: str) -> Place:
    """The highest version of a model.

    Raises:
        StartError: it isn't there, or no longer.
    """
    versions = [place for place in found if place.name == name]
    if not versions:
        raise StartError(f'there is no model "{name}"; there is {", ".join(sorted({place.name for place in found}))}')
    return max(versions, key=lambda place: place.version)


def check_digest(model: ModelFile, settings: Settings) -> None:
    """Hold the default model's file against QUADRANT_MODEL_SHA256.

    Raises:
        StartError: it is another one.
    """
    if settings.model_sha256 and model.digest != settings.model_sha256:
        raise StartError(f"{model.path} has SHA-256 {model.digest}; QUADRANT_MODEL_SHA256 expects {settings.model_sha256}")
