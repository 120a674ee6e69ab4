"""The folder `models`: NAME/VERSION/model.onnx, and which of them answers when none is asked for.

Reads folders and files; makes no session, so that it may be asked before a fork.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from service.modelfile import ModelFile
from service.problems import StartError
from service.settings import Settings

FILE = "model.onnx"
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
    """The default model and why it is that one.

    Raises:
        StartError: QUADRANT_MODEL names one that isn't there.
    """
    names = sorted({place.name for place in found})
    if settings.model:
        if settings.model not in names:
            raise StartError(f'QUADRANT_MODEL is "{settings.model}"; {settings.models} has {", ".join(names)}')
        return Default(settings.model, "set by QUADRANT_MODEL")
    if len(names) == 1:
        return Default(names[0], "the only one")
    whole = [name for name in names if not name.endswith("-int8")]  # nothing turns int8 silently
    return Default((whole or names)[0], f"the first of {', '.join(names)}; QUADRANT_MODEL chooses another")


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
    """The highest version of a model that is there."""
    return max((place for place in found if place.name == name), key=lambda place: place.version)


def check_digest(model: ModelFile, settings: Settings) -> None:
    """Hold the default model's file against QUADRANT_MODEL_SHA256.

    Raises:
        StartError: it is another one.
    """
    if settings.model_sha256 and model.digest != settings.model_sha256:
        raise StartError(f"{model.path} has SHA-256 {model.digest}; QUADRANT_MODEL_SHA256 expects {settings.model_sha256}")
