"""Resize and cut out in one go, to the same bits as Pillow's `resize` and `crop`, in a third of the time: `resample.c`.

Compiled by `service/build-native`. Where it wasn't, or gives other bits than Pillow here, `window` says so by returning nothing,
and its caller asks Pillow. Pixels are read where Pillow has them (Arrow C data interface, Pillow 11.3 and later), without a copy
and without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIBRARY = Path(__file__).with_name("libresample.so")
VERSION = 1  # of the functions in resample.c
FILTERS = {Image.Resampling.BILINEAR: 0, Image.Resampling.BICUBIC: 1, Image.Resampling.LANCZOS: 2}
NO_MEMORY = 1
PROOF = (61, 47)  # pixels: odd, so that weights don't come in pairs

Window = tuple[int, int, int, int]  # left, top, right, bottom


class Native(NamedTuple):
    """The compiled library; None where there is none to be used, and why."""

    library: ctypes.CDLL | None
    reason: str


class _Array(ctypes.Structure):
    """The head of Arrow's `struct ArrowArray` (https://arrow.apache.org/docs/format/CDataInterface.html)."""


_Array._fields_ = [
    ("length", ctypes.c_int64), ("null_count", ctypes.c_int64), ("offset", ctypes.c_int64), ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64), ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array)))]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@cache
def native() -> Native:
    """Load the library and prove it, once a process."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.quadrant_resample.argtypes = [
            ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_float * 4, ctypes.c_int, ctypes.c_int, ctypes.c_int * 4,
            ctypes.c_int, ctypes.c_void_p]
        if (found := library.quadrant_version()) != VERSION:
            return Native(None, f"{LIBRARY.name} has version {found} instead of {VERSION}: run service/build-native")
    except (OSError, AttributeError) as error:
        if not LIBRARY.exists():
            return Native(None, f"{LIBRARY.name} was not compiled (service/build-native needs a C compiler)")
        return Native(None, f"{LIBRARY.name} can't be loaded: {error}")
    if (how := _differs(library)) is not None:
        return Native(None, f"{LIBRARY.name} gives other pixels than Pillow ({how.name.lower()})")
    return Native(library, "compiled, with AVX2" if library.quadrant_vectors() else "compiled, without vector instructions")


def window(
    image: Image.Image, size: tuple[int, int], how: Image.Resampling, box: tuple[float, float, float, float], cut: Window,
) -> NDArray[np.uint8] | None:
    """What `image.resize(size, how, box).crop(cut)` shows, bit for bit, without making the rest.

    Args:
        image: RGB.
        size: width and height of the whole resized picture, in pixels.
        box: of the image that becomes the whole.
        cut: inside of `size`.
    Returns:
        (height, width, 3) uint8, C-contiguous; None where only Pillow can do it: nothing was compiled, the image lies in
        several pieces (beyond 16 MiB, unless PILLOW_BLOCK_SIZE says otherwise), it is far taller than wide, has another mode or
        filter, or `cut` reaches outside.
    Raises:
        MemoryError: there is none left.
    """
    library = native().library
    return None if library is None else _window(library, image, size, how, box, cut)


def _window(
    library: ctypes.CDLL, image: Image.Image, size: tuple[int, int], how: Image.Resampling,
    box: tuple[float, float, float, float], cut: Window,
) -> NDArray[np.uint8] | None:
    if image.mode != "RGB" or how not in FILTERS or any(
            _vertical_first(sides, size) for sides in (image.size, (box[2] - box[0], box[3] - box[1]))):
        return None
    try:
        _, held = image.__arrow_c_array__()  # the capsule keeps the pixels until the end of this function
    except (AttributeError, ValueError):
        return None
    array = _Array.from_address(_pointer(held, b"arrow_array"))
    pixels = array.children[0].contents.buffers[1]  # a list of four bytes, for each pixel; what comes first tells what is null
    out = np.empty((cut[3] - cut[1], cut[2] - cut[0], 3), np.uint8)
    found = library.quadrant_resample(
        pixels, *image.size, (ctypes.c_float * 4)(*box), *size, (ctypes.c_int * 4)(*cut), FILTERS[how], out.ctypes.data)
    if found == NO_MEMORY:
        raise MemoryError
    return None if found else out


def _vertical_first(sides: tuple[float, float], size: tuple[int, int]) -> bool:
    """Pillow 13 then goes down before it goes across, and rounds between the two elsewhere (python-pillow/Pillow#9549)."""
    (width, height), (becomes_width, becomes_height) = sides, size
    return height > becomes_height and height - becomes_height > 2 * (width - becomes_width)


def _differs(library: ctypes.CDLL) -> Image.Resampling | None:
    """The first filter by which a small noisy picture becomes another than Pillow makes of it, smaller or larger."""
    noise = np.random.default_rng(0).integers(0, 256, (PROOF[1], PROOF[0], 3), np.uint8)
    image = Image.fromarray(noise)
    for how in FILTERS:
        for size, cut in (((23, 17), (3, 2, 20, 15)), ((91, 70), (0, 0, 91, 70))):
            found = _window(library, image, size, how, (0, 0, *PROOF), cut)
            if found is None or not np.array_equal(found, np.asarray(image.resize(size, how).crop(cut))):
                return how
    return None
