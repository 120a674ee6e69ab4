"""Random pictures through a library, against Pillow: `python -m tests.service.native.cases LIBRARY SEED COUNT`.

In a process of its own, for a library that was compiled with sanitizers. Prints how many were compared: resized and decoded.
"""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from service.native import jpeg, library, resample
from service.native.library import FILTERS, Resize


def resize_of(width: int, height: int) -> Resize:
    """Any of a picture of this size: a box of it, a window, a filter."""
    size = random.randint(1, width + 9), random.randint(1, height + 9)
    left, top = random.randrange(size[0]), random.randrange(size[1])
    cut = left, top, random.randint(left + 1, size[0]), random.randint(top + 1, size[1])
    box = (random.random() * width / 3, random.random() * height / 3, width - random.random() * width / 3, float(height))
    return Resize(size, random.choice(list(FILTERS)), box, cut)


def noise(width: int, height: int) -> Image.Image:
    """Coarse and fine."""
    small = np.random.default_rng(random.randrange(2**32)).integers(0, 256, (-(-height // 3), -(-width // 2), 3), np.uint8)
    return Image.fromarray(small).resize((width, height))


def encoded(image: Image.Image) -> bytes:
    """As a JPEG of any kind."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=random.randint(30, 100), subsampling=random.randrange(3), progressive=random.random() < 0.2,
               restart_marker_blocks=random.choice([0, 0, 0, 5]), optimize=random.random() < 0.3)
    return file.getvalue() + random.choice([b"", bytes(8000)])  # with what follows, its last bytes too are no special case


def same(found: object, image: Image.Image, resize: Resize) -> bool:
    """Pillow's own bits."""
    expected = np.asarray(image.resize(resize.size, resize.how, resize.box).crop(resize.cut))
    return np.array_equal(found, expected)  # type: ignore[call-overload, no-any-return]


def main() -> None:
    """Compare."""
    library.FILE, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    random.seed(seed)
    ImageFile.MAXBLOCK = 2**21  # noise is longer than Pillow expects of a JPEG
    native = library.native()
    assert native.libjpeg is not None, native.reason
    resized = decoded = 0
    for _ in range(count):
        width, height = random.randint(1, 90), random.randint(1, 90)
        image, resize = noise(width, height), resize_of(width, height)
        if (pixels := resample.window(image, resize)) is not None:
            assert same(pixels, image, resize), (width, height, resize)
            resized += 1
        width, height = random.randint(1, 300), random.randint(1, 300)
        data = encoded(noise(width, height))
        opened = Image.open(io.BytesIO(data))
        opened.draft("RGB", (1 + width // random.choice([1, 2, 4, 8]), 1 + height // random.choice([1, 2, 4, 8])))
        resize = resize_of(*opened.size)
        progressive = "progressive" in opened.info
        if (found := jpeg.window(data, (width, height), opened.decoderconfig[0], progressive, resize)) is not None:
            assert same(found.pixels, opened, resize), (width, height, resize, opened.decoderconfig)
            decoded += 1
    print(resized, decoded, native.reason)


if __name__ == "__main__":
    main()
