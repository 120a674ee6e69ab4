"""The picture formats from outside: which one it is, how large it claims to be, whether its end has arrived.

Walks over the parts of a file without decoding any, and so cheaply that it may come before every limit. Pillow is not
asked here: to open a WebP or a TIFF file already takes memory that its sender chooses.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from service import feed

SUPPORTED = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")

# What people send instead, by how it begins, so that the refusal can name it.
_OTHERS: tuple[tuple[bytes, int, str], ...] = (
    (b"%PDF-", 0, "PDF"), (b"<svg", 0, "SVG"), (b"<?xml", 0, "XML or SVG"), (b"<!DOCTYPE", 0, "HTML"), (b"<html", 0, "HTML"),
    (b"PK\x03\x04", 0, "ZIP"), (b"\x1f\x8b", 0, "gzip"), (b"8BPS", 0, "Photoshop"), (b"\x00\x00\x01\x00", 0, "Windows icon"),
    (b"\xff\x0a", 0, "JPEG XL"), (b"\x00\x00\x00\x0cJXL ", 0, "JPEG XL"), (b"\x00\x00\x00\x0cjP  ", 0, "JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "JPEG 2000"), (b"qoif", 0, "QOI"), (b"P6", 0, "PPM"), (b"P5", 0, "PGM"),
    (b"ftypavif", 4, "AVIF"), (b"ftypavis", 4, "AVIF"), (b"ftyphei", 4, "HEIC"), (b"ftyphev", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC"), (b"ftypmsf1", 4, "HEIC"), (b"ftyp", 4, "MP4 video"), (b"{", 0, "JSON"), (b"[", 0, "JSON"),
)
# A marker that libjpeg acts on: the last 0xFF of a run, and the code behind it. Stuffed bytes, restarts and codes below 0xC0 are
# passed over. It begins with one literal byte, which `re` looks for by memchr: "\xff+" took 1.1 ms for a photo of 100 KB.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_END, _SCAN, _FRAMES = 0xD9, 0xDA, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
MOST_PLAIN_SEGMENTS = 1000  # a photo has a dozen
PARTS_A_LOOK = 4096  # that are walked over between two looks at the clock: about a millisecond's worth

# Markers that a plain JPEG may have before its picture, and the fewest bytes of their segments that Pillow's own reading needs:
# JFIF, ICC profile, Adobe, comment, tables, restart interval, and frames as Huffman coded them. EXIF and XMP (E1) may turn it.
_PLAIN = {0xE0: 14, 0xE2: 14, 0xEE: 12, 0xFE: 0, 0xDB: 65, 0xC4: 17, 0xDD: 2, 0xC0: 15, 0xC1: 15, 0xC2: 15}


class Damaged(ValueError):
    """The file ends early, or its parts don't fit together; says where."""


class Outline(NamedTuple):
    """What a file says of itself without being decoded.

    Attributes:
        width, height: as stored, in pixels, where this module reads them (WebP, TIFF, a JPEG that is `plain`), else 0.
        alpha: WebP only: there is transparency.
        scans: JPEG only: passes over the picture that a decoder has to make.
        progressive: JPEG only: all coefficients are kept in memory until the last scan, as they are too where the first scan of a
            file that isn't progressive lacks some of the components.
        plain: JPEG only: three components of 8 bits, coded as Huffman did, and nothing that could say how it is to be turned.
    """

    width: int = 0
    height: int = 0
    alpha: bool = False
    scans: int = 1
    progressive: bool = False
    plain: bool = False


def sniff(data: bytes) -> str | None:
    """The format by its first bytes, one of `SUPPORTED`, or `None`."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    if data[:2] == b"BM" and len(data) > 18 and int.from_bytes(data[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    return None


def name_other(data: bytes) -> str:
    """What something unsupported most likely is, in words."""
    start = data[:64].lstrip() if data[:1].isspace() else data[:64]
    for signature, offset, name in _OTHERS:
        if start[offset : offset + len(signature)].lower() == signature.lower():
            return name
    return "not a picture that is known here"


def outline(data: bytes, name: str, deadline: float = math.inf) -> Outline:
    """Walk over the parts of a file of this format.

    Args:
        data: the encoded picture.
        name: its format, as `sniff` says.
        deadline: on the clock of `time.monotonic`.
    Raises:
        Damaged: it ends early, as far as that shows without decoding (PNG and GIF: always).
        DeadlineExceeded: it has so many parts that the deadline passed on the way.
    """
    try:
        return {"JPEG": _jpeg, "PNG": _png, "WebP": _webp, "GIF": _gif, "TIFF": _tiff}.get(name, _nothing)(data, deadline)
    except (IndexError, struct.error) as error:
        raise Damaged("it ends inside its header") from error


def _nothing(data: bytes, deadline: float) -> Outline:
    return Outline()


def _parts(deadline: float) -> Iterator[None]:
    """One after the other without end; looks at the clock now and then.

    Raises:
        DeadlineExceeded: the deadline has passed.
    """
    while True:
        feed.check(deadline)
        yield from itertools.repeat(None, PARTS_A_LOOK)


def _jpeg(data: bytes, deadline: float) -> Outline:
    """Count scans, as libjpeg comes upon them. A file of 476 KB with 5,000 of them took 17 s of processor time.

    A segment is what libjpeg takes for one: everything else between two of them is dropped, `FF 00` with it. Where libjpeg would
    give up, the walk goes on: it never counts fewer scans than a decoder begins.

    Source: libjpeg-turbo, jdmarker.c (`next_marker`, `skip_variable`, `get_sos`) and jdinput.c (`consume_markers`).
    """
    plain = _plain(data)
    if plain.whole:
        return Outline(plain.width, plain.height, plain=True)
    scans, components, buffered, position = 0, 0, False, 2
    for _ in _parts(deadline):
        if not (found := _MARKER.search(data, position)):
            break
        marker, position = data[found.end() - 1], found.end()
        if marker == _END:  # what follows is none of this picture
            break
        if position + 2 > len(data):
            break
        content = position + 2
        position += max(2, int.from_bytes(data[position:content], "big"))  # a length below 2 still counts itself
        if marker in _FRAMES:
            buffered |= marker in _PROGRESSIVE
            components = data[content + 5] if content + 5 < len(data) else 0
        elif marker == _SCAN:
            scans += 1
            buffered |= content >= len(data) or data[content] < components  # the rest of them comes in other scans
    if not scans:
        # libjpeg would take this for a file of tables alone, and read on with another one behind it.
        raise Damaged(f"it ends at byte {position:,}, before its first scan")
    return Outline(plain.width, plain.height, scans=scans, progressive=buffered, plain=plain.width > 0)


class _Plain(NamedTuple):
    """Width and height in pixels; whole: its first scan has all there is, and no decoder looks at a second one."""

    width: int = 0
    height: int = 0
    whole: bool = False


def _plain(data: bytes) -> _Plain:
    """Width and height of a JPEG whose head everyone reads alike: one segment behind the other, each of a usual kind and whole.

    Returns:
        0 × 0 for all others: what Pillow makes of them, only Pillow can tell.
    """
    width = height = 0
    sequential, position = True, 2
    for _ in range(MOST_PLAIN_SEGMENTS):
        if data[position : position + 1] != b"\xff" or position + 4 > len(data):
            break
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker == 0xDA:  # the picture itself follows
            return _Plain(width, height, width > 0 and sequential and segment[:1] == b"\x03")
        if length < 2 or len(segment) < _PLAIN.get(marker, sys.maxsize) or (marker == 0xE2 and segment[:12] != b"ICC_PROFILE\0"):
            break
        if marker in (0xC0, 0xC1, 0xC2):
            precision, tall, wide, components = struct.unpack_from(">BHHB", segment)
            if width or precision != 8 or components != 3 or not tall or not wide:
                break
            width, height, sequential = wide, tall, marker != 0xC2
        position += 2 + length
    return _Plain()


def _png(data: bytes, deadline: float) -> Outline:
    """Look for the last chunk: decoders are content without it."""
    position = 8
    for _ in _parts(deadline):
        if position + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND" and position <= len(data):
            return Outline()
    raise Damaged(f"it ends after {len(data):,} bytes, inside or before its last chunk")


def _gif(data: bytes, deadline: float) -> Outline:
    """Look for the trailer: decoders are content without it."""
    position, parts = 13 + _colours(data[10]), _parts(deadline)
    while data[position] != 0x3B:
        if data[position] == 0x2C:  # a frame: descriptor, colours, code size
            position += 10 + _colours(data[position + 9]) + 1
        elif data[position] == 0x21:  # an extension
            position += 2
        else:
            raise Damaged(f"there is no block at byte {position:,}")
        while data[position]:  # blocks of up to 255 bytes, an empty one at the end
            next(parts)
            position += data[position] + 1
        next(parts)
        position += 1
    return Outline()


def _colours(flags: int) -> int:
    """Bytes of the table of colours that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes, deadline: float) -> Outline:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Outline(width, height, alpha=bool(data[20] & 0x10))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Outline((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, alpha=bool(bits >> 28 & 1))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Outline(width & 0x3FFF, height & 0x3FFF)
    raise Damaged(f"its first chunk is {kind!r}")


# One call into libtiff decodes all of a TIFF that is compressed, and nothing interrupts it: these bound its work.
MOST_STRIPS = 100_000  # a strip is at least a row of pixels; each costs a decoder some hundred bytes
MOST_PADDED_PIXELS = 64_000_000  # in all of its tiles; a decoder makes every tile whole, however small the picture
MOST_UNPACKED_BYTES = 256_000_000  # 50 million pixels of RGBA are 200; LZMA unpacks 230 of them a second
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_OFFSETS, _COUNTS, _TILE_WIDTH, _TILE_HEIGHT = (273, 324), (279, 325), 322, 323
_UNCOMPRESSED = 1


def _tiff(data: bytes, deadline: float) -> Outline:
    tags = _tiff_tags(data)
    one = {tag: values[0] for tag, values in tags.items() if values}
    width, height = one.get(_WIDTH, 0), one.get(_HEIGHT, 0)
    if not width or not height:
        raise Damaged("it doesn't say how large it is")
    across, down = one.get(_TILE_WIDTH) or width, one.get(_TILE_HEIGHT) or height
    padded = -(-width // across) * across * (-(-height // down) * down)
    if padded > max(MOST_PADDED_PIXELS, 5 * width * height // 4):
        raise Damaged(f"its tiles are {across:,} × {down:,} pixels, {padded:,} in all; at most {MOST_PADDED_PIXELS:,} are read")
    if one.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        unpacked = padded * one.get(_SAMPLES, 1) * one.get(_BITS, 1) // 8
        if unpacked > MOST_UNPACKED_BYTES:
            raise Damaged(f"it has {unpacked:,} bytes when unpacked; at most {MOST_UNPACKED_BYTES:,} are unpacked")
        if (taken := sum(sum(map(abs, tags.get(tag, ()))) for tag in _COUNTS)) > len(data):
            raise Damaged(f"its strips or tiles take {taken:,} bytes of {len(data):,}: they lie over each other")
    return Outline(width, height)


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers of the first picture's tags, as far as they are looked at here.

    Raises:
        Damaged: it is cut into too many strips, or what it says can't be told.
    """
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, at)
        if tag in (*_OFFSETS, *_COUNTS) and number > MOST_STRIPS:
            raise Damaged(f"it is cut into {number:,} strips or tiles; at most {MOST_STRIPS:,} are read")
        if tag not in _READ:
            continue
        if tag in tags:
            raise Damaged(f"it has tag {tag} twice")
        code = _INTEGERS.get(kind)
        if code is None:
            raise Damaged(f"tag {tag} has type {kind}; expected a whole number")
        values = struct.Struct(f"{order}{min(number, MOST_STRIPS)}{code}")
        place = at + 8
        if values.size > 4:
            (place,) = struct.unpack_from(f"{order}I", data, place)
        tags[tag] = values.unpack_from(data, place)
    return tags


_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}  # types of TIFF 6.0, and those of 8 bytes
_READ = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT, *_COUNTS}
