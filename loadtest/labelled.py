"""Pictures whose class is known, and what happens to pictures on their way: enlarged, cropped, encoded again."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

_NAMED = re.compile(r"(n\d{8})_.*")  # WordNet's id, then the class in words
LARGE = 480  # px; the shorter side of ordinary small photos
KEPT = 0.85  # of each side, by a crop
QUALITY = 60  # of the JPEG, half as many bytes as cameras write


class Labelled(NamedTuple):
    """A picture's file and its true class, by id or word."""

    file: Path
    truth: str


def read(folder: Path) -> list[Labelled]:
    """The pictures of a data set, in a fixed order.

    Args:
        folder: Tiny ImageNet in its official layout (its validation set), one folder a class, or files that are named
            by WordNet's id: n02123159_tiger_cat.JPEG.
    """
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.exists():
        lines = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
        return [Labelled(folder / "val" / "images" / line[0], line[1]) for line in lines]
    named = [(file, _NAMED.fullmatch(file.name)) for file in sorted(folder.glob("*")) if file.is_file()]
    found = [Labelled(file, match[1]) for file, match in named if match]
    return found or [Labelled(file, file.parent.name) for file in sorted(folder.glob("*/*")) if file.is_file()]


def enlarge(data: bytes) -> bytes:
    """To the size of a small photo, smoothly, so that the service has to shrink it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    times = LARGE / min(image.size)
    size = (round(image.width * times), round(image.height * times))
    return _jpeg(image.resize(size, Image.Resampling.BICUBIC), 90)


def crop(data: bytes) -> bytes:
    """85 % of each side, somewhere; where is told by the picture's own bytes, so that it is the same every time."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = round(image.width * KEPT), round(image.height * KEPT)
    digest = hashlib.sha256(data).digest()
    left, top = (digest[0] * (image.width - width)) // 255, (digest[1] * (image.height - height)) // 255
    return _jpeg(image.crop((left, top, left + width, top + height)), 90)


def encode_again(data: bytes) -> bytes:
    """As JPEG of lower quality, as messengers do."""
    return _jpeg(Image.open(io.BytesIO(data)).convert("RGB"), QUALITY)


def as_it_is(data: bytes) -> bytes:
    """Unaltered."""
    return data


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "none": as_it_is, "enlarge": enlarge, "crop": crop, "encode-again": encode_again,
}


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
