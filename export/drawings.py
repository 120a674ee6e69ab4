"""Drawn pictures: the same on every machine, small as PNG, told apart by a network."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def draw(count: int, side: int, seed: int = 1) -> list[bytes]:
    """PNGs of shapes on shaded grounds; sides between `side` and one and a half of it, in pixels."""
    generator = np.random.default_rng(seed)
    return [_draw(generator, side) for _ in range(count)]


def _draw(generator: np.random.Generator, side: int) -> bytes:
    width, height = (int(size) for size in generator.integers(side, side * 3 // 2, 2, endpoint=True))
    shade = np.linspace(generator.integers(0, 256, 3), generator.integers(0, 256, 3), height).astype(
        np.uint8
    )  # (height, 3): rows of one colour compress well
    picture = Image.fromarray(np.repeat(shade[:, None], width, axis=1))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(generator.integers(3, 12))):
        x, y = (int(generator.integers(-size // 4, size)) for size in (width, height))
        right, bottom = x + int(generator.integers(4, width)), y + int(generator.integers(4, height))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        match int(generator.integers(4)):
            case 0:
                pen.ellipse((x, y, right, bottom), fill=colour)
            case 1:
                pen.rectangle((x, y, right, bottom), fill=colour)
            case 2:
                pen.polygon(((x, bottom), ((x + right) // 2, y), (right, bottom)), fill=colour)
            case _:
                step = int(generator.integers(4, max(5, side // 8)))
                for offset in range(0, right - x, step):  # stripes
                    pen.line((x + offset, y, right, y + offset), fill=colour, width=1 + step // 3)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
