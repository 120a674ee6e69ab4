"""Operators for ONNX Runtime in the compiled library, or none."""

from __future__ import annotations

import hashlib
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
        digest: SHA-256 of the library, in hexadecimal digits.
    """

    file: Path
    lanes: int
    group: int
    digest: str


@cache
def operators() -> Operators | None:
    """None where there is no library, or it has nothing for this processor. What they give is proven with each model."""
    try:
        code = library.loaded()
    except OSError:
        return None
    lanes = code.quadrant_lanes()
    if not lanes:
        return None
    digest = hashlib.sha256(library.FILE.read_bytes()).hexdigest()
    return Operators(library.FILE, lanes, code.quadrant_group(lanes), digest)
