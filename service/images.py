"""Encoded bytes in, upright RGB pixels out.

Knows picture formats and the resize and crop of a recipe. Knows nothing of HTTP, queues or ONNX, so every function
here can be tested with bytes and arrays alone.

What is transparent is shown on white, as a browser would. Of an animation the first frame counts; 16 bits a channel
are scaled to 8.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from service import containers, feed, upright
from service.native import jpeg, resample
from service.native.library import Box, Resize
from service.problems import (
    EmptyBody,
    Overloaded,
    PictureTooSmall,
    Problem,
    TooManyPixels,
    UndecodablePicture,
    UnsupportedFormat,
)
from service.recipe import Preprocessing
from service.upright import TURNS

MAX_PIXELS = 50_000_000
# Decoding goes over a progressive JPEG once a scan. Usual ones have about ten.
MOST_SCANS = 100
MOST_SCANNED_PIXELS = 2_000_000_000  # scans × pixels: some seconds of processor time
MOST_WEBP_PIXELS = 24_000_000  # one call into libwebp decodes it all, and nothing interrupts that: up to 1.7 s
MOST_TIFF_SCANS = 10  # of a JPEG within a TIFF, which usually has one; nothing interrupts libtiff either
# Between resize and crop: a picture of 1 × 60,000 would become one of 256 × 15 million, whatever its own memory was.
MOST_RESIZED_PIXELS = 5_000_000
MOST_PROGRESSIVE_PIXELS = 12_000_000  # larger ones are Pillow's alone: a damaged one would be decoded by compiled code too
SCALES = (8, 4, 2, 1)  # by which JPEG can be made smaller while it is decoded
DRAFT_TIMES = 2  # in target sizes, what JPEG's own scaling must leave; what it changes is measured (`python -m export hasten`)
MOST_ELONGATED = 32  # longer side in shorter sides; up to here a picture is accepted, however large the input

PLUGINS = {"JPEG": JpegImagePlugin, "PNG": PngImagePlugin, "WebP": WebPImagePlugin,
           "GIF": GifImagePlugin, "BMP": BmpImagePlugin, "TIFF": TiffImagePlugin}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

# Bytes a pixel while it is decoded, converted and turned; Pillow keeps RGB in 4. Seen at most, over modes and orientations
# at 12 million pixels: JPEG 8, PNG 12, WebP 16, GIF 9, BMP 5, TIFF 12; and 18 for a WebP of 49 million.
BYTES_A_PIXEL = {"JPEG": 8, "PNG": 12, "WebP": 24, "GIF": 12, "BMP": 8, "TIFF": 16}
PROGRESSIVE_BYTES_A_PIXEL = 6  # 16 bits for each of three coefficients
LEAST_BYTES = 2**20

# libtiff takes it from nowhere else, and as the first number that is too large.
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(MOST_TIFF_SCANS + 1))
Image.MAX_IMAGE_PIXELS = None  # its limit only warns; ours comes before it, in `inspect`
warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged metadata that we don't need


class Header(NamedTuple):
    """What is known of a picture before it is decoded; width and height as stored, before it is turned upright.

    Attributes:
        orientation: as EXIF says, 1 to 8; None where that isn't known yet.
    """

    format: str
    mode: str
    width: int
    height: int
    progressive: bool
    orientation: int | None = None


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        image: upright, RGB; smaller than width × height when it was decoded for a draft.
        format, mode: as sent.
        width, height: as shown, upright, in full.
        orientation_applied: EXIF said that it had to be turned or mirrored.
        box: (left, top, right, bottom) in pixels of `image` that the picture takes: not quite all of it where a fraction of its
            sides was no whole number.
    """

    image: Image.Image
    format: str
    mode: str
    width: int
    height: int
    orientation_applied: bool
    box: Box


class Prepared(NamedTuple):
    """The input of a network, and what is worth telling of the picture it came from (as in `Picture`)."""

    pixels: NDArray[np.uint8]  # (height, width, 3), RGB, C-contiguous
    format: str
    mode: str
    width: int
    height: int
    orientation_applied: bool
    decode_ms: float
    preprocess_ms: float


def inspect(data: bytes, max_pixels: int = MAX_PIXELS, deadline: float = math.inf) -> Header:
    """Read the header, and refuse what shouldn't be decoded.

    Args:
        data: the encoded picture.
        max_pixels: most pixels, by the header.
        deadline: on the clock of `time.monotonic`.
    Raises:
        DeadlineExceeded: the header is so long that the deadline passed on the way.
        EmptyBody: no bytes at all.
        UnsupportedFormat: not a picture, or not in a format or mode that is read here.
        TooManyPixels: more than allowed.
        UndecodablePicture: damaged, cut short, or out of proportion to what it shows.
    """
    if not data:
        raise EmptyBody("there are no bytes where a picture should be")
    kind = containers.sniff(data)
    if kind is None:
        raise UnsupportedFormat(
            f"the bytes are {containers.name_other(data)}; expected one of {', '.join(containers.SUPPORTED)}",
            supported=list(containers.SUPPORTED))
    try:
        outline = containers.outline(data, kind, deadline)
    except containers.Damaged as error:
        raise UndecodablePicture(f"{kind} picture can't be decoded: {error}", format=kind) from error
    if outline.width:
        _check_size(outline.width, outline.height, min(max_pixels, MOST_WEBP_PIXELS) if kind == "WebP" else max_pixels, kind)
    if kind == "WebP":  # opening one already makes room for its whole canvas
        return Header(kind, "RGBA" if outline.alpha else "RGB", outline.width, outline.height, False)
    if outline.plain:  # Pillow would find the same
        header = Header(kind, "RGB", outline.width, outline.height, outline.progressive, 1)
    else:
        with _decoding(kind), _opened(data, kind, deadline) as image:
            orientation = upright.number(upright.orientation(image)) if kind == "JPEG" else None
            header = Header(kind, image.mode, image.width, image.height, outline.progressive, orientation)
    _check_size(header.width, header.height, max_pixels, kind)
    if header.mode in ("I", "F"):
        raise UnsupportedFormat(
            f"{kind} picture has mode {header.mode} (32 bits a channel); expected 8 or 16 bits", format=kind, mode=header.mode)
    if outline.scans > MOST_SCANS or outline.scans * header.width * header.height > MOST_SCANNED_PIXELS:
        raise UndecodablePicture(
            f"JPEG picture has {outline.scans:,} scans of {header.width:,} × {header.height:,} pixels; this server accepts up to "
            f"{MOST_SCANS} scans and {MOST_SCANNED_PIXELS:,} pixels in all of them", format=kind, scans=outline.scans)
    return header


def decode_bytes(header: Header) -> int:
    """Memory that decoding takes at its peak, estimated from above; for admission."""
    each = BYTES_A_PIXEL[header.format] + (PROGRESSIVE_BYTES_A_PIXEL if header.progressive else 0)
    if header.mode != "RGB" and header.format == "JPEG":
        each += 4
    return LEAST_BYTES + header.width * header.height * each


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, draft: tuple[int, int] | None = None, header: Header | None = None,
    deadline: float = math.inf,
) -> Picture:
    """Decode, turn upright, convert to RGB.

    Args:
        data: the encoded picture.
        max_pixels: as in `inspect`.
        header: what `inspect` said of these bytes, where it was asked already.
        draft: (shorter, longer) side in pixels that must at least be left; lets JPEG decode at 1/2, 1/4 or 1/8.
        deadline: on the clock of `time.monotonic`.
    Raises:
        As `inspect`; DeadlineExceeded: the deadline passed before it was decoded; Overloaded: there is no memory left.
    """
    header = header or inspect(data, max_pixels, deadline)
    with _decoding(header.format), _opened(data, header.format, deadline) as image:
        if header.format == "JPEG" and image.size != (header.width, header.height):  # all limits were held against the header
            raise UndecodablePicture(f"JPEG picture is {header.width:,} × {header.height:,} pixels to one reader and "
                                     f"{image.width:,} × {image.height:,} to another", format="JPEG")
        told = header.orientation
        if told is None and header.format != "PNG":
            told = upright.orientation(image)
        if draft and header.format == "JPEG":
            least = draft if image.width < image.height else draft[::-1]
            image.draft("RGB", least)
        image.load()
        feed.check(deadline)
        stored = image.size  # of a JPEG; Pillow may have turned a TIFF by now
        if header.format == "PNG":  # it may be behind the pixels
            told = upright.orientation(image)
        orientation = upright.number(told)
        by_pillow = header.format == "TIFF" and told in TURNS  # it turns these itself, where the tag is as it should be
        shown = upright.rgb(image)
        feed.check(deadline)
        if orientation in TURNS and not by_pillow:
            shown = shown.transpose(TURNS[orientation])
    width, height = header.width, header.height
    if (width > height) != (shown.width > shown.height) and orientation >= 5:
        width, height = height, width
    box = _filled(header, stored, orientation) if header.format == "JPEG" else (0, 0, *shown.size)
    return Picture(shown, header.format, header.mode, width, height, orientation in TURNS, box)


def prepare(
    data: bytes, preprocessing: Preprocessing, width: int, height: int, max_pixels: int = MAX_PIXELS,
    header: Header | None = None, deadline: float = math.inf,
) -> Prepared:
    """The one path from bytes to the input of a network.

    Args:
        data: the encoded picture.
        preprocessing: resize, crop, interpolation and mode of the recipe.
        width, height: of the input, in pixels.
        max_pixels, header, deadline: as in `decode`.
    Returns:
        `pixels` (height, width, 3) uint8, RGB, C-contiguous, and the facts.
    Raises:
        As `decode` and `fit`.
    """
    start = time.perf_counter()
    header = header or inspect(data, max_pixels, deadline)
    _check_shape((header.width, header.height), preprocessing)
    least = least_draft(preprocessing) if preprocessing.mode == "fast" else None
    if found := _in_one_go(data, header, preprocessing, width, height, least, deadline):
        total_ms = 1000 * (time.perf_counter() - start)
        return Prepared(found.pixels, *header[:4], False, decode_ms=total_ms - found.resize_ms, preprocess_ms=found.resize_ms)
    picture = decode(data, max_pixels, (least, least) if least else None, header, deadline)
    feed.check(deadline)
    decoded = time.perf_counter()
    pixels = fit(picture.image, preprocessing, width, height, (picture.width, picture.height), picture.box)
    fitted = time.perf_counter()
    return Prepared(pixels, *picture[1:-1], decode_ms=1000 * (decoded - start), preprocess_ms=1000 * (fitted - decoded))


def _in_one_go(
    data: bytes, header: Header, preprocessing: Preprocessing, width: int, height: int, least: int | None, deadline: float,
) -> jpeg.Decoded | None:
    """A JPEG that needs no turning, by compiled code; None where Pillow must be asked.

    Raises:
        As `decode` and `fit`.
    """
    if header.format != "JPEG" or header.mode != "RGB" or header.orientation != 1:
        return None
    if header.progressive and header.width * header.height > MOST_PROGRESSIVE_PIXELS:
        return None
    sides = header.width, header.height
    scale = next(each for each in SCALES if each == 1 or (least and min(sides) // least >= each))
    decoded = -(-header.width // scale), -(-header.height // scale)
    resize = _resize(sides, _filled(header, decoded, 1), preprocessing, width, height)
    with _memory("decode this JPEG picture"):
        return jpeg.window(data, sides, scale, header.progressive, resize, MOST_SCANS, deadline)


def least_draft(preprocessing: Preprocessing) -> int:
    """Pixels of the shorter side that scaled decoding must leave."""
    return DRAFT_TIMES * preprocessing.resize


def fit(
    image: Image.Image, preprocessing: Preprocessing, width: int, height: int, full: tuple[int, int] | None = None,
    box: Box | None = None,
) -> NDArray[np.uint8]:
    """Resize the shorter side, or both to one length, then cut the centre out.

    Args:
        image: upright RGB picture, any size.
        preprocessing: shorter side in pixels, interpolation, exact or fast.
        width, height: of the result, in pixels.
        full, box: width and height before it was decoded at a fraction, and the box as in `Picture`; all of the image
            unless given.
    Returns:
        (height, width, 3) uint8, RGB, C-contiguous. `fast` differs from `exact` by at most one grey level.
    Raises:
        PictureTooSmall: so long and thin that the resized one would be too large.
        Overloaded: there is no memory left.
    Source: torchvision's evaluation preset for AlexNet (bilinear, 256 then 224) on Pillow pictures, and its rounding;
        Caffe's reference for both sides at once (256 × 256 then 227).
    """
    resize = _resize(full or image.size, box or (0, 0, *image.size), preprocessing, width, height)
    with _memory("resize this picture"):
        native = resample.window(image, resize)
        if native is not None:
            return native
        found = image.resize(resize.size, resize.how, resize.box).crop(resize.cut)
        return np.array(found, np.uint8, order="C")  # (height, width, 3)


def _resize(whole: tuple[int, int], box: Box, preprocessing: Preprocessing, width: int, height: int) -> Resize:
    """What the recipe makes of a picture that is so large in full, and of which `box` is at hand.

    Raises:
        PictureTooSmall: as `fit`.
    """
    longer = _check_shape(whole, preprocessing)
    size = (preprocessing.resize, longer) if whole[0] <= whole[1] else (longer, preprocessing.resize)
    x, y = round((size[0] - width) / 2.0), round((size[1] - height) / 2.0)
    how = FILTERS[preprocessing.interpolation]
    if preprocessing.mode == "exact":
        return Resize(size, how, box, (x, y, x + width, y + height))
    start, top, end, bottom = box
    across, down = (end - start) / size[0], (bottom - top) / size[1]
    inside = (start + x * across, top + y * down, start + (x + width) * across, top + (y + height) * down)
    return Resize((width, height), how, inside, (0, 0, width, height))


def _check_shape(whole: tuple[int, int], preprocessing: Preprocessing) -> int:
    """Pixels of the longer side of what the recipe makes of a picture of this size, before it is cut.

    Raises:
        PictureTooSmall: as `fit`.
    """
    short, long = sorted(whole) if preprocessing.resize_mode == "short_side" else (1, 1)
    longer = int(preprocessing.resize * long / short)
    most = max(MOST_RESIZED_PIXELS, MOST_ELONGATED * preprocessing.resize**2)
    if longer * preprocessing.resize > most:
        raise PictureTooSmall(
            f"picture of {whole[0]:,} × {whole[1]:,} would become {preprocessing.resize:,} × {longer:,} pixels; "
            f"expected at most {most:,} of them: cut it to what it shows", width=whole[0], height=whole[1])
    return longer


@contextmanager
def _memory(what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise Overloaded(f"there is no memory left to {what}; try again in 1 s", retry_after_s=1) from error


def _filled(header: Header, stored: tuple[int, int], orientation: int) -> Box:
    """What the picture takes of an image of this size, after that was turned upright.

    JPEG decoded at 1/2, 1/4 or 1/8 gives whole pixels, rounded up: the last column and row may show less than a pixel of the
    picture. Taken for whole ones they would move all others by as much as 1 % of a side.
    """
    sides = header.width, header.height
    scale = round(max(full / found for full, found in zip(sides, stored, strict=True)))
    width, height = stored
    spare_x, spare_y = (found - full / scale for full, found in zip(sides, stored, strict=True))  # at the right, at the bottom
    if orientation >= 5:
        width, height, spare_x, spare_y = height, width, spare_y, spare_x
    left, top = spare_x * (orientation in (2, 3, 6, 7)), spare_y * (orientation in (3, 4, 7, 8))
    return left, top, width - spare_x + left, height - spare_y + top


def _check_size(width: int, height: int, max_pixels: int, kind: str) -> None:
    if (found := width * height) > max_pixels:
        raise TooManyPixels(
            f"{kind} picture is {width:,} × {height:,} = {found:,} pixels; this server accepts up to {max_pixels:,}",
            width=width, height=height, pixels=found, max_pixels=max_pixels)


def _opened(data: bytes, kind: str, deadline: float) -> Image.Image:
    file = feed.Feed(data, deadline)
    image = Image.open(file, formats=(kind.upper(),))
    feed.check(deadline)  # where Pillow passes over what it can't read
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.load_read = file.read_scan  # type: ignore[method-assign,assignment]
    return image


@contextmanager
def _decoding(kind: str) -> Iterator[None]:
    """Whatever Pillow raises over hostile bytes, from OSError to ZeroDivisionError, is the picture's fault."""
    try:
        with _memory(f"decode this {kind} picture"):
            yield
    except Problem:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify" in reason:
            reason = "its header is damaged"
        raise UndecodablePicture(f"{kind} picture can't be decoded: {reason}", format=kind) from error
