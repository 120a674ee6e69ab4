"""The compiled library: loaded and proven against Pillow once a process, or the reason why there is none."""

from __future__ import annotations

import ctypes
import io
import platform
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
PROOF_FILES = ({"subsampling": 2}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 1, "progressive": True})
PROOF = (187, 149)  # pixels: odd, so that weights don't come in pairs, and more than what is decoded around a window

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


@cache
def native() -> Native:
    """Load it and prove it: a library that gives one other bit than Pillow is not used."""
    try:
        code = loaded()
    except OSError as error:
        return Native(None, None, f"by Pillow: {error}")
    if (how := _resizes_otherwise(code)) is not None:
        return Native(None, None, f"by Pillow: {FILE.name} resizes to other pixels than Pillow ({how.name.lower()})")
    by = f"by compiled code, {'with AVX2' if code.quadrant_vectors() else 'without vector instructions'}"
    try:
        libjpeg = _libjpeg()
    except (OSError, AttributeError) as error:
        return Native(code, None, f"resized {by}; decoded by Pillow: its libjpeg can't be asked: {error}")
    if (file := _decodes_otherwise(code, libjpeg)) is not None:
        return Native(code, None, f"resized {by}; decoded by Pillow: compiled code makes other pixels of {file}")
    return Native(code, libjpeg, f"JPEG decoded and all resized {by}")


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


def _resizes_otherwise(code: ctypes.CDLL) -> Image.Resampling | None:
    """The first filter by which it makes other pixels than Pillow; None: it makes the same."""
    from service.native import resample  # it asks here

    image = _scene()
    return next((each.how for each in _proofs() if not _same(resample.of(code, image, each), image, each)), None)


def _decodes_otherwise(code: ctypes.CDLL, libjpeg: ctypes.Array[ctypes.c_void_p]) -> dict[str, int] | None:
    """The kind of JPEG of which it makes other pixels than Pillow; None: it makes the same."""
    from service.native import jpeg

    for options in PROOF_FILES:
        _scene().save(file := io.BytesIO(), "JPEG", **options)
        data, decoded = file.getvalue(), Image.open(file)
        for resize in _proofs()[:3]:
            found = jpeg.of(code, libjpeg, data, PROOF, 1, "progressive" in options, resize)
            if found is None or not _same(found.pixels, decoded, resize):
                return options
    return None


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


def _libjpeg() -> ctypes.Array[ctypes.c_void_p]:
    """The functions of the libjpeg that Pillow has loaded into this process.

    Raises:
        OSError: none is found.
        AttributeError: it lacks a function: another libjpeg than libjpeg-turbo, or an old one.
    """
    Image.preinit()
    found = {line.split(maxsplit=5)[-1] for line in MAPS.read_text().splitlines() if "/libjpeg" in line}
    if len(found) != 1:
        raise OSError(f"{len(found)} libraries of that name are loaded")
    library = ctypes.CDLL(found.pop())
    return (ctypes.c_void_p * len(LIBJPEG))(*(ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in LIBJPEG))


def _scene() -> Image.Image:
    """Noise over slopes: each pixel matters, and a JPEG of it still looks like something."""
    width, height = PROOF
    slopes = np.add.outer(np.linspace(0, 150, height), np.linspace(0, 60, width))[:, :, None] * (1.0, 0.8, 0.5)
    noise = (np.arange(slopes.size, dtype=np.uint32) * 2654435761 >> 26).reshape(slopes.shape)  # Knuth's multiplicative hash
    return Image.fromarray((slopes + noise).astype(np.uint8))


def _proofs() -> list[Resize]:
    """Smaller and larger, with a window within, and with so many rows too many that Pillow begins with them; by each filter."""
    whole = (0.0, 0.0, *PROOF)
    return [Resize(size, how, whole, cut) for how in FILTERS
            for size, cut in (((64, 51), (30, 25, 41, 33)), ((203, 162), (101, 71, 122, 90)), ((180, 40), (50, 7, 171, 33)))]


def _same(found: NDArray[np.uint8] | None, image: Image.Image, resize: Resize) -> bool:
    expected = np.asarray(image.resize(resize.size, resize.how, resize.box).crop(resize.cut))
    return found is not None and np.array_equal(found, expected)
