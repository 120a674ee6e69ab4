"""Operators for ONNX Runtime in the compiled library, or none."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from service.native import library

DOMAIN = "quadrant"  # as in operators.c


class Operators(NamedTuple):
    """What the library brings, on this processor.

    Attributes:
        file: the library, as a session wants to register it.
        lanes: channels of a block in the layout that ONNX Runtime chooses here.
        group: filters that are worked on at once.
        version: of the library.
    """

    file: Path
    lanes: int
    group: int
    version: int


@cache
def operators() -> Operators | None:
    """None where there is no library, or it has nothing for this processor. What they give is proven with each model."""
    try:
        code = library.loaded()
    except (OSError, AttributeError):
        return None
    lanes = code.quadrant_lanes()
    return Operators(library.FILE, lanes, code.quadrant_group(lanes), library.VERSION) if lanes else None
