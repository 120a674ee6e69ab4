"""Networks by name.

One file a network; each registers itself here with the picture it expects. Nothing outside a
network's own file knows its layers. `own.py` finds networks that lie outside of the project.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from export.refusal import Refusal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """A network that can be built, and the input it was designed for.

    Attributes:
        name: what `--architecture` takes.
        build: number of classes → network; float32 (batch, 3, side, side) in, logits (batch, classes) out.
        side: height and width of the input in pixels.
        resize: short side in pixels before the centre crop to `side`.
        classes: the usual number of classes.
        mean, std: normalisation a channel (red, green, blue) on the 0-1 scale.
        bgr: the network takes blue first.
        resize_mode: keep the picture's proportions, or squeeze both sides to `resize`.
        file: that the network was read from, where it is none of the project's.
    """

    name: str
    build: Callable[[int], nn.Module]
    side: int
    resize: int
    classes: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    bgr: bool = False
    resize_mode: Literal["short_side", "exact_size"] = "short_side"
    file: Path | None = None


_registered: dict[str, Architecture] = {}


class UnknownArchitecture(Refusal):
    """No network of that name is registered."""


def register(architecture: Architecture) -> Architecture:
    """Make a network known under its name; a name is given once."""
    if architecture.name in _registered:
        raise ValueError(f"architecture {architecture.name!r} is registered twice")
    _registered[architecture.name] = architecture
    return architecture


def names() -> list[str]:
    """All registered names, sorted."""
    _import_all()
    return sorted(_registered)


def find(name: str) -> Architecture:
    """The network of that name, or one's own: `path/to/file.py:factory`. That file's code is run.

    Raises:
        UnknownArchitecture: names the registered ones.
        own.UnusableNetwork: the file gives none.
    """
    from export.architectures import own  # it needs this module whole

    if own.means_file(name):
        return own.find(name)
    _import_all()
    if name not in _registered:
        raise UnknownArchitecture(f"architecture {name!r} is not known; expected one of {', '.join(names())}")
    return _registered[name]


def _import_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
