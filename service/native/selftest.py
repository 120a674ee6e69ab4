"""Whether the compiled library gives Pillow's bits: `python -m service.native.selftest LIBRARY`, in a process of its own.

Prints a line of JSON with what is wrong, in words: {"resize": "", "decode": ""}. A crash here ends no service.
"""

from __future__ import annotations

import ctypes
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.native import jpeg, library, resample
from service.native.library import FILTERS, Resize, Sides

SIDES = (187, 149)  # pixels: odd, so that weights don't come in pairs, and more than what is decoded around a window
ENCODED = ({"subsampling": 2}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 1, "progressive": True},
           {"subsampling": 2, "restart_marker_blocks": 3})
# Sampling factors that Pillow doesn't write, as HORIZONTALxVERTICAL of the brightness; made by libjpeg-turbo's cjpeg.
SAMPLES = Path(__file__).with_name("samples")


def resizes_otherwise(code: ctypes.CDLL) -> str:
    """By which filter it makes other pixels than Pillow; empty where it makes the same."""
    image = scene()
    wrong = next((each.how for each in resizes(SIDES) if not same(resample.of(code, image, each), image, each)), None)
    return f"resizes to other pixels than Pillow ({wrong.name.lower()})" if wrong is not None else ""


def decodes_otherwise(code: ctypes.CDLL, libjpeg: ctypes.Array[ctypes.c_void_p]) -> str:
    """Of which JPEG it makes other pixels than Pillow; empty where it makes the same of all.

    Those that Pillow writes must be decoded; the library may leave a sample to Pillow.
    """
    for name, data, required in pictures():
        image = Image.open(io.BytesIO(data))
        for resize in resizes(image.size)[:3]:
            found = jpeg.of(code, libjpeg, data, image.size, 1, "progressive" in image.info, resize)
            if (found is None and required) or (found is not None and not same(found.pixels, image, resize)):
                return f"compiled code makes other pixels of {name}"
    return ""


def pictures() -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes, and whether it must be decoded."""
    for options in ENCODED:
        scene().save(file := io.BytesIO(), "JPEG", **options)
        yield str(options), file.getvalue(), True
    for sample in sorted(SAMPLES.glob("*.jpg")):
        yield sample.stem, sample.read_bytes(), False


def scene() -> Image.Image:
    """Noise over slopes: each pixel matters, and a JPEG of it still looks like something."""
    width, height = SIDES
    slopes = np.add.outer(np.linspace(0, 150, height), np.linspace(0, 60, width))[:, :, None] * (1.0, 0.8, 0.5)
    noise = (np.arange(slopes.size, dtype=np.uint32) * 2654435761 >> 26).reshape(slopes.shape)  # Knuth's multiplicative hash
    return Image.fromarray((slopes + noise).astype(np.uint8))


def resizes(sides: Sides) -> list[Resize]:
    """Smaller and larger, with a window within, and with so many rows too many that Pillow begins with them; by each filter."""
    whole = (0.0, 0.0, float(sides[0]), float(sides[1]))
    return [Resize(size, how, whole, cut) for how in FILTERS
            for size, cut in (((64, 51), (30, 25, 41, 33)), ((203, 162), (101, 71, 122, 90)), ((180, 40), (50, 7, 171, 33)))]


def same(found: NDArray[np.uint8] | None, image: Image.Image, resize: Resize) -> bool:
    """Pillow's own bits."""
    expected = np.asarray(image.resize(resize.size, resize.how, resize.box).crop(resize.cut))
    return found is not None and np.array_equal(found, expected)


def main() -> None:
    """Test the library that the command line names, with the libjpeg that Pillow brings."""
    library.FILE = Path(sys.argv[1])
    code = library.loaded()
    decode = "there is no libjpeg to ask"
    try:
        decode = decodes_otherwise(code, library.libjpeg_functions(library.libjpeg_file()))
    except (OSError, AttributeError) as error:
        decode = f"its libjpeg can't be asked: {error}"
    print(json.dumps({"resize": resizes_otherwise(code), "decode": decode}))


if __name__ == "__main__":
    main()
