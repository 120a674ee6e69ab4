"""The compiled library, if it passed its self-test here, or the reason why there is none."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.native import selftest_verdict

FILE = Path(__file__).with_name("libnative.so")
VERSION = 8  # of the functions in C
PROCESSORS = ("x86_64", "AMD64")  # elsewhere compilers contract sums, and Pillow's weights may be others in the last bit
MAPS = Path("/proc/self/maps")
OK, NO_MEMORY, LATE, TOO_MANY_SCANS = 0, 1, 4, 5
FILTERS = {Image.Resampling.BILINEAR: 0, Image.Resampling.BICUBIC: 1, Image.Resampling.LANCZOS: 2}
# In the order of `struct functions` in jpeg.c.
LIBJPEG = [f"jpeg_{name}" for name in (
    "std_error", "CreateDecompress", "mem_src", "read_header", "start_decompress", "crop_scanline", "skip_scanlines",
    "read_scanlines", "finish_decompress", "destroy_decompress")]

Sides = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom
Window = tuple[int, int, int, int]


class Resize(NamedTuple):
    """What is to be made of an image: the `box` of it becomes `size`, of which `cut` is wanted."""

    size: Sides
    how: Image.Resampling
    box: Box
    cut: Window

    @property
    def known(self) -> bool:
        """The library can do it; what lies beyond the picture, Pillow fills with black."""
        (width, height), (left, top, right, bottom) = self.size, self.cut
        return self.how in FILTERS and 0 <= left < right <= width and 0 <= top < bottom <= height

    def arguments(self) -> tuple[object, ...]:
        """As the functions in C take it."""
        return ((ctypes.c_float * 4)(*self.box), *self.size, (ctypes.c_int * 4)(*self.cut), FILTERS[self.how])

    def room(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8, to be filled."""
        return np.empty((self.cut[3] - self.cut[1], self.cut[2] - self.cut[0], 3), np.uint8)


class Native(NamedTuple):
    """What was found.

    Attributes:
        code: the library; None: Pillow does all.
        libjpeg: addresses of the functions of Pillow's own libjpeg; None: Pillow decodes.
        reason: in words, for people.
    """

    code: ctypes.CDLL | None
    libjpeg: ctypes.Array[ctypes.c_void_p] | None
    reason: str


class _Choice(NamedTuple):
    """What the operator wants, and where the self-test's verdict may be kept."""

    wanted: str = "auto"
    place: Path | None = None


_choice = _Choice()


def configure(wanted: str, place: Path | None) -> None:
    """Say whether the library may be used.

    Args:
        wanted: `auto`, or `off`: Pillow does all.
        place: the cache folder; none: nothing is kept, and each process tests for itself.
    """
    global _choice
    if (wanted, place) != _choice:
        _choice = _Choice(wanted, place)
        native.cache_clear()


@cache
def native() -> Native:
    """Load it, if it passed: a library that gives one other bit than Pillow, or crashes, is not used."""
    if _choice.wanted == "off":
        return Native(None, None, "by Pillow: set by QUADRANT_NATIVE")
    try:
        code = loaded()
    except OSError as error:
        return Native(None, None, f"by Pillow: {error}")
    libjpeg, functions, lacking = None, None, ""
    try:
        libjpeg = libjpeg_file()
        functions = libjpeg_functions(libjpeg)
    except (OSError, AttributeError) as error:
        libjpeg, lacking = None, f"its libjpeg can't be asked: {error}"
    verdict = selftest_verdict.find(FILE, libjpeg, _choice.place)
    if verdict.resize:
        return Native(None, None, f"by Pillow: {FILE.name} {verdict.resize}")
    by = f"by compiled code, {'with AVX2' if code.quadrant_vectors() else 'without vector instructions'}"
    if functions is None or verdict.decode:
        return Native(code, None, f"resized {by}; decoded by Pillow: {lacking or verdict.decode}")
    return Native(code, functions, f"JPEG decoded and all resized {by}")


def loaded() -> ctypes.CDLL:
    """The library, with the types that its functions take.

    Raises:
        OSError: it isn't there, or it can't be used here.
    """
    if platform.machine() not in PROCESSORS:
        raise OSError(f"on {platform.machine()} the compiled code was never tried")
    if not FILE.exists():
        raise OSError(f"{FILE.name} was not compiled (service/native/build needs a C compiler)")
    try:
        code = _declared(ctypes.CDLL(str(FILE)))
        if (version := code.quadrant_version()) != VERSION:
            raise OSError(f"it has version {version} instead of {VERSION}: run service/native/build")
    except (OSError, AttributeError) as error:
        raise OSError(f"{FILE.name} can't be used: {error}") from error
    return code


def _declared(code: ctypes.CDLL) -> ctypes.CDLL:
    """With the types that its functions take.

    Raises:
        AttributeError: it lacks one.
    """
    resize: list[Any] = [ctypes.c_float * 4, ctypes.c_int, ctypes.c_int, ctypes.c_int * 4, ctypes.c_int, ctypes.c_void_p]
    code.quadrant_version.argtypes = code.quadrant_vectors.argtypes = []
    code.quadrant_resample.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, *resize]
    code.quadrant_jpeg.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                                   ctypes.c_int, ctypes.c_int, ctypes.c_int64, *resize, ctypes.c_void_p]
    return code


def libjpeg_file() -> Path:
    """The libjpeg that Pillow has loaded into this process.

    Raises:
        OSError: none is found.
    """
    Image.preinit()
    found = {line.split(maxsplit=5)[-1] for line in MAPS.read_text().splitlines() if "/libjpeg" in line}
    if len(found) != 1:
        raise OSError(f"{len(found)} libraries of that name are loaded")
    return Path(found.pop())


def libjpeg_functions(file: Path) -> ctypes.Array[ctypes.c_void_p]:
    """Addresses of the functions that `jpeg.c` calls.

    Raises:
        OSError: it can't be loaded.
        AttributeError: it lacks one: another libjpeg than libjpeg-turbo, or an old one.
    """
    library = ctypes.CDLL(str(file))
    return (ctypes.c_void_p * len(LIBJPEG))(*(ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in LIBJPEG))
