"""From a JPEG's bytes to the window of the resized picture, without making the rest of it: `jpeg.c`.

Pillow's own libjpeg decodes, so that the bits are those of `Image.open`, `draft`, `resize` and `crop`.
"""

from __future__ import annotations

import ctypes
import math
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service import feed
from service.native.library import LATE, NO_MEMORY, OK, TOO_MANY_SCANS, Resize, Sides, native
from service.problems import UndecodablePicture

LONGEST_NS = 2**62  # in place of a deadline that never comes


class Decoded(NamedTuple):
    """What was made.

    Attributes:
        pixels: (height, width, 3) uint8, RGB, C-contiguous.
        resize_ms: how much of the time was the resize.
    """

    pixels: NDArray[np.uint8]
    resize_ms: float


def window(
    data: bytes, sides: Sides, scale: int, progressive: bool, resize: Resize, most_scans: int = 100, deadline: float = math.inf,
) -> Decoded | None:
    """Decode, resize and cut out in one go.

    Args:
        data: a JPEG of three components, RGB once decoded, that needs no turning.
        sides: width and height, as its header says.
        scale: 1, 2, 4 or 8, by which each side is made smaller while it is decoded, as by `draft`; rounded up.
        progressive: it has several scans; where some are missing, neighbours far away count, so that all of it is decoded.
        resize: of the picture so decoded.
        most_scans: that may be begun.
        deadline: on the clock of `time.monotonic`.
    Returns:
        None where Pillow must be asked: nothing was compiled, the bytes hold something else, or anything about them is damaged,
        however little.
    Raises:
        DeadlineExceeded: the deadline passed before it was decoded.
        UndecodablePicture: it has more scans.
        MemoryError: there is none left.
    """
    found = native()
    if found.code is None or found.libjpeg is None:
        return None
    return of(found.code, found.libjpeg, data, sides, scale, progressive, resize, most_scans, deadline)


def of(
    code: ctypes.CDLL, libjpeg: ctypes.Array[ctypes.c_void_p], data: bytes, sides: Sides, scale: int, progressive: bool,
    resize: Resize, most_scans: int = 100, deadline: float = math.inf,
) -> Decoded | None:
    """As `window`, by these libraries."""
    if not resize.known:
        return None
    out, resize_ns = resize.room(), ctypes.c_int64()
    left_ns = LONGEST_NS if deadline == math.inf else int(1e9 * (deadline - time.monotonic()))
    found = code.quadrant_jpeg(libjpeg, data, len(data), *sides, scale, progressive, most_scans, left_ns, *resize.arguments(),
                               out.ctypes.data, ctypes.byref(resize_ns))
    if found == LATE:
        raise feed.stopped()
    if found == TOO_MANY_SCANS:
        raise UndecodablePicture(f"JPEG picture has more than {most_scans} scans", format="JPEG")
    if found == NO_MEMORY:
        raise MemoryError
    return Decoded(out, resize_ns.value / 1e6) if found == OK else None
