"""From bytes to pixels: formats, modes, orientation, limits, and the reference preprocessing bit for bit."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service import images
from service.problems import (
    BadRequest,
    EmptyBody,
    PictureTooSmall,
    Problem,
    TooLarge,
    TooManyPixels,
    UndecodablePicture,
    UnsupportedFormat,
)
from service.recipe import Preprocessing
from tests.service import pictures

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
WHITE = 255


def preprocessing(resize: int = 32, mode: str = "exact", interpolation: str = "bilinear") -> Preprocessing:
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Preprocessing(resize, zero, one, interpolation, "center", mode)  # type: ignore[arg-type]


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(images.decode(data).image)


def usual(image: Image.Image, resize: int, width: int, height: int) -> np.ndarray:
    """Torchvision's Resize and CenterCrop on Pillow pictures, written down independently."""
    w, h = image.size
    w, h = (resize, int(resize * h / w)) if w <= h else (int(resize * w / h), resize)
    image = image.resize((w, h), Image.Resampling.BILINEAR)
    top, left = round((h - height) / 2.0), round((w - width) / 2.0)
    return np.asarray(image)[top : top + height, left : left + width]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name):
    """People send what their devices make; the answer says what it was."""
    data = pictures.in_every_format()[name]
    picture = images.decode(data)
    assert (picture.format, picture.width, picture.height) == (name, pictures.WIDTH, pictures.HEIGHT)
    difference = np.abs(np.asarray(picture.image).astype(int) - np.asarray(pictures.scene()))
    assert difference.mean() < 4  # JPEG and GIF lose a little
    assert not picture.orientation_applied


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (257, 300), (64, 91), (1024, 255), (333, 1000)])
def test_exact_equals_the_usual_preprocessing_bit_for_bit(size):
    """A network sees at serving what it saw in its evaluation; another rounding flips answers."""
    image = pictures.noise(*size)
    found = images.prepare(pictures.png(image), preprocessing(256), 224, 224)
    assert np.array_equal(found.pixels, usual(image, 256, 224, 224))
    assert found.pixels.flags.c_contiguous
    assert found.pixels.dtype == np.uint8


@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 24), st.integers(0, 8), st.integers(0, 8))
@example(1, 90, 24, 0, 0)
@hypothesis_settings(max_examples=60, deadline=None)
def test_exact_equals_the_usual_preprocessing_for_any_size(width, height, resize, less_width, less_height):
    """Odd sizes are where roundings differ."""
    image = pictures.noise(width, height)
    size = (max(1, resize - less_width), max(1, resize - less_height))
    assert np.array_equal(images.fit(image, preprocessing(resize), *size), usual(image, resize, *size))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (90, 64), (70, 300)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fast_is_within_one_grey_level_of_exact(size, interpolation):
    """The quick way may round elsewhere, and no more, where nothing is scaled while decoding."""
    data = pictures.png(pictures.noise(*size))
    exact, fast = (
        images.prepare(data, preprocessing(64, mode, interpolation), 56, 56).pixels.astype(int) for mode in ("exact", "fast"))
    assert np.abs(exact - fast).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(257, 321), (519, 263), (263, 521)])
def test_a_fraction_of_odd_sides_moves_nothing(size, orientation):
    """1/8 of 257 pixels are 33, which show 264: taken for the picture, its far side would lie 2.7 % off, seven grey levels."""
    across, down = (np.linspace(0, 1, side) for side in size)
    ramps = np.stack(np.broadcast_arrays(255 * across, 255 * down[:, None], 128), axis=2)
    data = pictures.jpeg(Image.fromarray(ramps.astype(np.uint8)), orientation)
    exact, fast = (images.prepare(data, preprocessing(16, mode), 16, 16).pixels.astype(int) for mode in ("exact", "fast"))
    assert np.abs(exact - fast).max() <= 2


def test_fast_decodes_a_large_jpeg_at_a_fraction_and_stays_close():
    """That is what makes it fast; at least twice the target is left, upright or not."""
    data = pictures.jpeg(pictures.scene(1600, 1200), orientation=6)
    small = images.decode(data, draft=(128, 128))
    assert 128 <= min(small.image.size) < 1200
    assert (small.width, small.height) == (1200, 1600)
    assert small.image.height > small.image.width
    exact, fast = (images.prepare(data, preprocessing(64, mode), 64, 64).pixels.astype(int) for mode in ("exact", "fast"))
    assert np.abs(exact - fast).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "TIFF"])
def test_orientation_is_applied_before_the_crop(orientation, name):
    """Phones store portraits sideways; classifying them sideways costs accuracy in silence."""
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WebP": {"lossless": True}}.get(name, {})
    data = pictures.encode(pictures.scene(), name.upper(), exif=exif, **options)
    picture = images.decode(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.abs(np.asarray(picture.image).astype(int) - expected).max() == 0
    assert (picture.width, picture.height) == picture.image.size
    assert picture.orientation_applied == (orientation > 1)


@pytest.mark.parametrize(("kind", "count", "value", "turned"), [
    pytest.param(3, 1, b"\x00\x06", True, id="short, as it should be"),
    pytest.param(1, 1, b"\x06", True, id="byte"),
    pytest.param(7, 2, b"\x00\x06", True, id="undefined"),
    pytest.param(5, 1, b"\x00\x00\x00\x06\x00\x00\x00\x01", True, id="rational 6/1"),
    pytest.param(5, 1, b"\x00\x00\x00\x06\x00\x00\x00\x00", False, id="rational 6/0"),
    pytest.param(5, 1, b"\x00\x00\x00\x0d\x00\x00\x00\x02", False, id="rational 6.5"),
    pytest.param(3, 1, b"\x00\x09", False, id="out of range"),
    pytest.param(2, 4, b"top\x00", False, id="text"),
    pytest.param(3, 2, b"\x00\x06\x00\x08", False, id="two of them"),
])
def test_odd_orientations_are_understood_or_ignored(kind, count, value, turned):
    """Cameras and editors write what they like; none of it is a reason to fail."""
    picture = images.decode(pictures.with_orientation_entry(kind, count, value))
    assert picture.orientation_applied == turned
    assert picture.image.size == ((pictures.HEIGHT, pictures.WIDTH) if turned else (pictures.WIDTH, pictures.HEIGHT))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_metadata_are_no_reason_to_refuse():
    """The pixels are what counts."""
    data = pictures.insert_segment(pictures.jpeg(), 0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert images.decode(data).image.size == (pictures.WIDTH, pictures.HEIGHT)


@pytest.mark.parametrize(("value", "level"), [(0, 0), (257, 1), (32768, 128), (40000, 156), (65535, 255)])
@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(value, level, name):
    """Pillow's own conversion turns 40000 into 255: X-rays would be white."""
    wide = Image.fromarray(np.full((pictures.HEIGHT, pictures.WIDTH), value, np.uint16))
    assert (decoded(pictures.encode(wide, name)) == level).all()


def test_sixteen_bit_big_endian_tiff_is_read():
    """Microscopes write them."""
    wide = np.full((4, 4), 40000, ">u2")
    data = pictures.encode(Image.frombytes("I;16B", (4, 4), wide.tobytes()), "TIFF")
    assert (decoded(data) == 156).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    """A network has three channels whatever is sent, and the answer names the mode that came."""
    image = pictures.scene().convert(mode)
    picture = images.decode(pictures.png(image))
    assert (picture.mode, picture.image.mode) == (mode, "RGB")
    assert np.array_equal(np.asarray(picture.image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode):
    """What browsers show behind a picture; black would be a frame that nobody drew."""
    image = pictures.scene().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    if mode == "P":
        image = Image.new("P", image.size, 3)
        image.putpalette([10, 20, 30] * 8)
        data = pictures.png(image, transparency=3)
    else:
        data = pictures.png(image.convert(mode))
    assert (decoded(data) == WHITE).all()


def test_half_transparency_is_mixed_with_white():
    """In proportion."""
    image = Image.new("RGBA", (4, 4), (0, 100, 200, 128))
    assert np.abs(decoded(pictures.png(image))[0, 0].astype(int) - (127, 177, 227)).max() <= 1


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_has_the_right_polarity(name):
    """Adobe stores it inverted in JPEG: taken as it stands, a print proof looks like its negative."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    options = {"quality": 95} if name == "JPEG" else {}
    data = pictures.encode(image, name, **options)
    picture = images.decode(data)
    assert picture.mode == "CMYK"
    assert np.abs(np.asarray(picture.image)[8, 8].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("name", ["GIF", "WebP", "PNG"])
def test_the_first_frame_of_an_animation_counts(name):
    """One picture, one answer."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = pictures.encode(frames[0], name.upper(), save_all=True, append_images=frames[1:])
    assert np.abs(decoded(data)[8, 8].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("left_out", [1, 2, 12, 100, 400])
@pytest.mark.parametrize("name", FORMATS)
def test_pictures_that_are_cut_short_are_refused(name, left_out):
    """An upload that broke off is no picture, though PNG and GIF decoders don't mind two missing bytes."""
    data = pictures.in_every_format()[name]
    with pytest.raises(UndecodablePicture, match=name):
        images.decode(data[: max(30, len(data) - left_out)])


@pytest.mark.parametrize("name", FORMATS)
def test_no_cut_is_an_accident(name):
    """Wherever an upload breaks off, the answer is a problem of the 400s and never something unforeseen."""
    data = pictures.in_every_format()[name]
    for length in [*range(40), *range(40, len(data), max(1, len(data) // 40))]:
        with pytest.raises(Problem) as raised:
            images.decode(data[:length])
        assert 400 <= raised.value.status < 500


@given(st.data())
@hypothesis_settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_are_decoded_or_refused(data):
    """Hostile bytes never meet an unforeseen exception."""
    name = data.draw(st.sampled_from(FORMATS))
    bytes_ = bytearray(pictures.in_every_format()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, min(len(bytes_), 400) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadRequest, TooLarge, UnsupportedFormat, UndecodablePicture):
        assert images.decode(bytes(bytes_), max_pixels=1_000_000).image.mode == "RGB"


@pytest.mark.parametrize(("data", "named"), [
    pytest.param(b"%PDF-1.7", "PDF", id="PDF"),
    pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC", id="HEIC"),
    pytest.param(b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF", id="AVIF"),
    pytest.param(b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG", id="SVG"),
    pytest.param(b'{"inputs": ""}', "JSON", id="JSON"),
    pytest.param(b"hello", "not a picture", id="text"),
    pytest.param(b"\xff", "not a picture", id="one byte"),
    pytest.param(b"BM hello", "not a picture", id="begins like BMP"),
])
def test_other_things_are_named(data, named):
    """Whoever sends a phone's HEIC learns what it is and what to send instead."""
    with pytest.raises(UnsupportedFormat, match=named) as raised:
        images.inspect(data)
    assert "JPEG, PNG, WebP, GIF, BMP, TIFF" in raised.value.detail


def test_nothing_is_no_picture():
    """The commonest mistake of all has its own code."""
    with pytest.raises(EmptyBody):
        images.inspect(b"")


@pytest.mark.parametrize("name", FORMATS)
def test_size_is_refused_by_the_header(name):
    """Before any memory is spent; with both numbers."""
    with pytest.raises(TooManyPixels, match="this server accepts up to 1,000") as raised:
        images.inspect(pictures.claiming(name, 9000, 8000), max_pixels=1000)
    assert raised.value.fields["pixels"] == 72_000_000
    assert raised.value.fields["max_pixels"] == 1000


@pytest.mark.parametrize("name", FORMATS)
def test_as_many_pixels_as_allowed_are_accepted(name):
    """The limit itself is inside."""
    count = pictures.WIDTH * pictures.HEIGHT
    data = pictures.in_every_format()[name]
    assert images.inspect(data, count)[2:4] == (pictures.WIDTH, pictures.HEIGHT)
    with pytest.raises(TooManyPixels):
        images.inspect(data, count - 1)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    """476 KB of them once took 17 s of processor time."""
    with pytest.raises(UndecodablePicture, match="scans"):
        images.inspect(pictures.with_scans(5000))
    assert images.decode(pictures.with_scans(20)).image.size == (64, 64)


def test_what_follows_the_end_of_a_jpeg_is_not_counted():
    """Phones append videos, in which any two bytes occur."""
    assert images.decode(pictures.jpeg() + b"\xff\xda\x00\x04" * 500).format == "JPEG"


def test_a_tiff_with_a_huge_tile_is_refused():
    """A decoder would make room for the tile, however small the picture."""
    with pytest.raises(UndecodablePicture, match="tiles"):
        images.inspect(pictures.tiff({256: 8, 257: 8, 322: 100_000, 323: 100_000}))
    with pytest.raises(UndecodablePicture, match="strips"):
        images.inspect(pictures.tiff({256: 8, 257: 8}, {273: 1_000_000}))


def test_floats_are_refused_by_name():
    """Nobody can tell which float is white."""
    with pytest.raises(UnsupportedFormat, match="mode F"):
        images.decode(pictures.encode(Image.new("F", (8, 8)), "TIFF"))


def test_a_thread_of_a_picture_is_refused():
    """1 × 60,000 pixels would become 256 × 15,360,000 on the way; a wide panorama is none."""
    with pytest.raises(PictureTooSmall, match="60,000"):
        images.prepare(pictures.png(Image.new("L", (1, 60_000))), preprocessing(256), 224, 224)
    panorama = pictures.png(Image.new("L", (32 * 60, 60)))
    assert images.prepare(panorama, preprocessing(512), 32, 32).pixels.shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1)])
def test_tiny_pictures_are_enlarged(size):
    """One pixel is a picture."""
    assert images.prepare(pictures.png(Image.new("RGB", size, "red")), preprocessing(32), 32, 32).pixels.shape == (32, 32, 3)


def test_memory_is_estimated_from_above():
    """Admission pays with this number: WebP and progressive JPEG take more than pixels would suggest."""
    plain = images.decode_bytes(images.Header("JPEG", "RGB", 1000, 1000, False))
    assert plain >= 8 * 1000 * 1000
    assert images.decode_bytes(images.Header("JPEG", "RGB", 1000, 1000, True)) > plain
    assert images.decode_bytes(images.Header("WebP", "RGB", 7000, 7000, False)) > 850 * 2**20


def test_times_are_told():
    """Where a request's time goes is part of the answer."""
    found = images.prepare(pictures.jpeg(), preprocessing(), 32, 32)
    assert found.decode_ms > 0
    assert found.preprocess_ms > 0
