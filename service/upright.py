"""What Pillow has decoded, as a person would see it: which way up, and in RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from service.problems import UnsupportedFormat

TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
ORIENTATION = 0x0112  # EXIF and TIFF


def orientation(image: Image.Image) -> Any:
    """The tag as it stands there; `None` when the metadata are absent or damaged."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # metadata that can't be read are no reason to refuse a picture
        return None


def number(orientation: Any) -> int:
    """1 to 8 from what cameras write: a number, a rational, a byte string; 1 for everything else."""
    if isinstance(orientation, bytes):
        orientation = int.from_bytes(orientation.strip(b"\0")[:2], "big")
    try:
        found = int(orientation)
        return found if found == orientation and 1 <= found <= 8 else 1
    except (TypeError, ValueError, ArithmeticError):
        return 1


def rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparent parts on white, 16 bits scaled to 8.

    Raises:
        UnsupportedFormat: a mode that has no colours in the usual sense.
    """
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips (40000 → 255).
        wide = np.asarray(image)  # (height, width) uint16
        narrow = ((np.arange(65536) + 128) // 257).astype(np.uint8)[wide]
        if isinstance(clear := image.info.get("transparency"), int):
            narrow[wide == clear] = 255
        return Image.fromarray(narrow).convert("RGB")
    try:
        if not image.has_transparency_data:
            return image if image.mode == "RGB" else image.convert("RGB")
        layers = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layers, mask=layers)
        return white
    except ValueError as error:
        raise UnsupportedFormat(
            f"picture has mode {image.mode}; expected grey, RGB, CMYK or a palette, with or without alpha",
            mode=image.mode) from error
