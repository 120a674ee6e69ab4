"""The pictures that load is made of: a folder of real photos, or drawn ones where there is none."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

VARIABLE = "LOADTEST_PICTURES"
DRAWN, WIDTH, HEIGHT = 16, 500, 375  # about as large as ordinary small photos: some 100 KB each


def pictures(drawn: int = DRAWN) -> list[bytes]:
    """Encoded pictures: of the folder named by `LOADTEST_PICTURES`, of ../shared/data/photos, or so many drawn.

    Raises:
        FileNotFoundError: the named folder holds no pictures.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "photos"
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if named and not files:
        raise FileNotFoundError(f"{VARIABLE} is {named}, which holds no .jpg, .jpeg, .png or .webp")
    return [file.read_bytes() for file in files] or [draw(seed) for seed in range(drawn)]


def draw(seed: int) -> bytes:
    """A JPEG of coloured noise at several scales, which compresses about as well as a photo."""
    random = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, WIDTH, 3))
    for cell in (4, 12, 40, 125):
        small = Image.fromarray(random.integers(0, 256, (HEIGHT // cell + 1, WIDTH // cell + 1, 3), np.uint8))
        picture += np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 4
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
