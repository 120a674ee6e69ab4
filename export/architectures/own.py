"""One's own network: `path/to/file.py:factory` where a name is expected.

The file is Python and runs as whoever typed the command, with all that they may do: like any script, use only files
that you trust. Weights are safe to take from strangers (`export/weights.py`), networks are not.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from export.architectures import Architecture
from export.refusal import Refusal

SIDE, RESIZE, CLASSES = 224, 256, 1000  # what most networks on ImageNet are made for
CLASSES_NAMES = ("classes", "num_classes", "n_classes")


class UnusableNetwork(Refusal):
    """The file can't be run, or what it gives is no network; one line says why."""


def means_file(name: str) -> bool:
    """Whether an architecture's name is a file's: `net.py:factory`, `net.py`."""
    return ":" in name or name.endswith(".py")


def find(name: str) -> Architecture:
    """The network that a factory in a file makes.

    The factory gets the number of classes: as `classes`, `num_classes` or `n_classes` where it has such a parameter, as
    the first positional argument otherwise, and not at all where it takes none. It returns an nn.Module (float32
    (batch, 3, height, width) in, logits (batch, classes) out), made for 224 × 224 and ImageNet's normalisation unless
    the command line says otherwise, or an Architecture that says so itself.

    Args:
        name: `path/to/file.py:factory`; classes of modules are factories too.
    Raises:
        UnusableNetwork: no such file or factory, its code fails, or it returned something else.
    """
    path, colon, factory = name.rpartition(":")
    if not colon or not path or not factory:
        raise UnusableNetwork(f"architecture {name!r} names no factory; expected path/to/file.py:factory")
    file = Path(path)
    shown = f"{file.name}:{factory}"  # goes into the recipe, which need not say whose home it was
    with _importable(file.parent):
        module = _run(file)
        make = getattr(module, factory, None)
        if not callable(make) or isinstance(make, nn.Module):
            there = f"is {_a(make)}" if hasattr(module, factory) else "is not there"
            raise UnusableNetwork(f"{file}: {factory!r} {there}; expected a function that returns an nn.Module")
    made = _call(make, CLASSES, file, factory)  # to see what it is; `build` calls again, with the real number
    if isinstance(made, Architecture):
        design, make, called = made, made.build, f"{factory}().build"
    else:
        _network(made, file, factory)
        design, called = Architecture(shown, make, SIDE, RESIZE, CLASSES), factory

    def build(classes: int) -> nn.Module:
        return _network(_call(make, classes, file, called), file, called)

    return replace(design, name=shown, build=build, file=file)


def _run(file: Path) -> ModuleType:
    if not file.is_file():
        raise UnusableNetwork(f"{file} is not there; expected a Python file with the network's factory")
    # A name that nothing else has; registered, because dataclasses look their module up.
    name = f"quadrant_own_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UnusableNetwork(f"{file} is no Python file; expected one with the ending .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the code raises
        raise UnusableNetwork(f"{file} can't be run: {_words(error)}") from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Files beside the network's can be imported, as from any script."""
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


def _call(make: Callable[..., Any], classes: int, file: Path, factory: str) -> Any:
    positional, keywords = _arguments(make, classes)
    try:
        with _importable(file.parent):
            return make(*positional, **keywords)
    except Exception as error:  # whatever the code raises
        shown = ", ".join([*map(str, positional), *(f"{key}={value}" for key, value in keywords.items())])
        raise UnusableNetwork(f"{file}: {factory}({shown}) fails: {_words(error)}") from error


def _arguments(make: Callable[..., Any], classes: int) -> tuple[list[int], dict[str, int]]:
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # written in C
        return [classes], {}
    named = next((name for name in CLASSES_NAMES if name in parameters), None)
    if named is not None and parameters[named].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return [], {named: classes}
    taken = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return ([classes] if any(parameter.kind in taken for parameter in parameters.values()) else []), {}


def _network(made: Any, file: Path, factory: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise UnusableNetwork(f"{file}: {factory} returned {_a(made)}; expected an nn.Module or an Architecture")
    return made


def _a(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _words(error: Exception) -> str:
    """Its class and its first line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:300]}"
