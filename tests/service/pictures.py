"""Test pictures drawn on the spot, in every format and mode that people send; and small hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
ORIENTATION = 0x0112


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth picture in which each corner has another colour: red, green, blue, yellow (clockwise from top left: RGYB)."""
    corners = np.array([[[220, 30, 30], [30, 200, 40]], [[40, 50, 220], [230, 220, 60]]], np.float64)
    down = np.linspace(0, 1, height)[:, None, None]
    across = np.linspace(0, 1, width)[None, :, None]
    top = corners[0, 0] * (1 - across) + corners[0, 1] * across
    bottom = corners[1, 0] * (1 - across) + corners[1, 1] * across
    return Image.fromarray((top * (1 - down) + bottom * down).round().astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Random colours: what shows every rounding."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """The picture as bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image | None = None, orientation: int | None = None, **options: Any) -> bytes:
    """A JPEG, with an EXIF orientation if one is given."""
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    return encode(image or scene(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def png(image: Image.Image | None = None, **options: Any) -> bytes:
    """A PNG."""
    return encode(image or scene(), "PNG", **options)


def in_every_format() -> dict[str, bytes]:
    """The scene in each supported format, by its name in answers."""
    return {
        "JPEG": jpeg(),
        "PNG": png(),
        "WebP": encode(scene(), "WEBP", lossless=True),
        "GIF": encode(scene().quantize(256), "GIF"),
        "BMP": encode(scene(), "BMP"),
        "TIFF": encode(scene(), "TIFF"),
    }


def grey16(value: int) -> bytes:
    """A PNG of one 16-bit grey."""
    return encode(Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint16)), "PNG")


def with_orientation_entry(kind: int, count: int, value: bytes) -> bytes:
    """A JPEG whose EXIF orientation is of this TIFF type: 1 byte, 2 text, 3 short, 5 rational, 7 undefined."""
    inline = value.ljust(4, b"\0")
    tail = b""
    if len(value) > 4:
        inline, tail = struct.pack(">I", 26), value
    ifd = struct.pack(">HHHI", 1, ORIENTATION, kind, count) + inline + struct.pack(">I", 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + ifd + tail
    return insert_segment(jpeg(), 0xE1, exif)


def insert_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated, `count` scans in all."""
    data = jpeg(noise(64, 64), progressive=True)
    last = data.rindex(b"\xff\xda")
    scans = data.count(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - scans) + data[-2:]


def claiming(format: str, width: int, height: int) -> bytes:
    """A few bytes whose header claims a size; there are no pixels behind it."""
    if format == "PNG":
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(k, c) for k, c in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")))
    if format == "GIF":
        data = bytearray(in_every_format()["GIF"])
        data[6:10] = struct.pack("<HH", width, height)
        return bytes(data)
    if format == "WebP":
        head = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + head
    if format == "BMP":
        data = bytearray(in_every_format()["BMP"])
        data[18:26] = struct.pack("<ii", width, height)
        return bytes(data)
    if format == "TIFF":
        return tiff({256: width, 257: height})
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(values: dict[int, int], counts: dict[int, int] | None = None) -> bytes:
    """A TIFF's header with these tags (and counts of values) and nothing behind it."""
    tags = {258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1} | values
    entries = [struct.pack("<HHII", tag, 4, (counts or {}).get(tag, 1), tags[tag]) for tag in sorted(tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
