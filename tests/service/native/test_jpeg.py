"""JPEG decoded in C, through Pillow's own libjpeg: Pillow's bits, and Pillow's verdict on what is damaged."""

from __future__ import annotations

import ctypes
import io
import random

import numpy as np
import pytest
from PIL import Image

from service import images
from service.native import jpeg
from service.native.library import NO_MEMORY, Native, Resize, native
from service.problems import Problem, TooManyPixels, UndecodablePicture
from service.recipe import Preprocessing
from service.upright import ORIENTATION
from tests.service import pictures

BILINEAR = Image.Resampling.BILINEAR
WHOLE = Resize((80, 60), BILINEAR, (0, 0, 160, 120), (12, 2, 68, 58))


def preprocessing(mode: str = "exact", resize: int = 64) -> Preprocessing:
    zero, one = (0.0,) * 3, (1.0,) * 3
    return Preprocessing(resize, zero, one, "bilinear", "center", mode)  # type: ignore[arg-type]


def by_pillow(data: bytes, mode: str, monkeypatch: pytest.MonkeyPatch) -> images.Prepared | Problem:
    """What comes out where nothing was compiled."""
    with monkeypatch.context() as patch:
        for module in ("jpeg", "resample"):
            patch.setattr(f"service.native.{module}.native", lambda: Native(None, None, "none"))
        return prepared(data, mode)


def prepared(data: bytes, mode: str) -> images.Prepared | Problem:
    try:
        return images.prepare(data, preprocessing(mode), 56, 56)
    except Problem as problem:
        return problem


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1601, 1203), (64, 64), (333, 1000)])
@pytest.mark.parametrize("options", [
    {"subsampling": 2}, {"subsampling": 1}, {"subsampling": 0}, {"progressive": True, "quality": 70}, {"quality": 20},
    {"restart_marker_blocks": 7, "quality": 80}], ids=str)
def test_what_the_path_gives_is_what_pillow_gives(options, size, mode, monkeypatch):
    """All of `prepare`, to the bit: golden examples hold on machines with and without a compiler."""
    width, height = size
    data = pictures.jpeg(pictures.noise(width // 3, height // 2).resize(size), **options)
    found, expected = prepared(data, mode), by_pillow(data, mode, monkeypatch)
    assert found[1:6] == expected[1:6]
    assert np.array_equal(found.pixels, expected.pixels)


def test_the_c_code_did_it(monkeypatch):
    """Else all tests here would compare Pillow with itself."""
    monkeypatch.setattr(images, "decode", None)
    found = images.prepare(pictures.jpeg(pictures.noise(160, 120)), preprocessing(), 56, 56)
    assert found.preprocess_ms > 0
    assert found.decode_ms > 0
    assert not found.orientation_applied


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_is_to_be_turned_is_turned(orientation, monkeypatch):
    """By Pillow: rows and columns change places before it is resized."""
    data = pictures.jpeg(pictures.noise(160, 120), orientation)
    found, expected = prepared(data, "exact"), by_pillow(data, "exact", monkeypatch)
    assert np.array_equal(found.pixels, expected.pixels)
    assert found.orientation_applied == (orientation > 1)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode, monkeypatch):
    """One component, or four."""
    data = pictures.encode(pictures.noise(160, 120).convert(mode), "JPEG")
    found, expected = prepared(data, "exact"), by_pillow(data, "exact", monkeypatch)
    assert found.mode == mode
    assert np.array_equal(found.pixels, expected.pixels)


@pytest.mark.parametrize("missing", [1, 2, 3, 50, 2000, 6000])
def test_half_a_photo_is_none(missing):
    """Also where what is missing lies below the part that is shown."""
    data = pictures.jpeg(pictures.noise(160, 160))
    above = Resize((80, 80), BILINEAR, (0, 0, 160, 160), (20, 2, 60, 10))
    assert jpeg.window(data[:-missing], (160, 160), 1, False, above) is None
    with pytest.raises(UndecodablePicture, match="truncated"):
        images.prepare(data[:-missing], preprocessing(), 56, 56)


def same_as_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The same refusal, or the same pixels, with and without compiled code; whether it was pixels."""
    found, expected = prepared(data, "exact"), by_pillow(data, "exact", monkeypatch)
    if isinstance(expected, Problem):
        assert isinstance(found, Problem)
        assert (found.code, found.detail) == (expected.code, expected.detail)
        return False
    assert np.array_equal(found.pixels, expected.pixels)
    return True


@pytest.mark.parametrize("seed", range(8))
def test_damage_gets_pillows_verdict(seed, monkeypatch):
    """Bytes changed at random, in a picture that is cut at its sides."""
    random.seed(seed)
    data = pictures.jpeg(pictures.noise(300, 70), quality=60, subsampling=seed % 3, progressive=seed % 2 == 0)
    answers = 0
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(random.randint(1, 4)):
            damaged[random.randrange(2, len(data))] = random.randrange(256)
        answers += same_as_pillow(bytes(damaged), monkeypatch)
    assert 0 < answers < 60


@pytest.mark.parametrize("size", [(640, 200), (200, 300)])
def test_scans_that_are_missing_are_smoothed_as_pillow_does(size, monkeypatch):
    """libjpeg guesses them from the neighbours, over several blocks: a file cut between two scans and ended is no damaged one."""
    width, height = size
    data = pictures.jpeg(pictures.noise(width // 8, height // 8).resize(size), progressive=True, quality=70, subsampling=2)
    ends, position = [], data.index(b"\xff\xda")
    while (position := data.find(b"\xff\xc4", position + 2)) > 0:
        ends.append(position)
    assert len(ends) > 5
    assert all(same_as_pillow(data[:end] + b"\xff\xd9", monkeypatch) for end in ends)


HEAD = {
    "fill": b"\xff", "no marker": b"\xff\x00\x00\x04ab", "TEM": b"\xff\x01", "RST": b"\xff\xd0", "rubbish": b"abc",
    "short JFIF": b"\xff\xe0\x00\x07JFIF\0", "short ICC": b"\xff\xe2\x00\x0eICC_PROFILE\0",
    "short Adobe": b"\xff\xee\x00\x07Adobe",
    "ICC": b"\xff\xe2\x00\x12ICC_PROFILE\0\1\1ab", "MPF": b"\xff\xe2\x00\x08MPF\0ab", "comment": b"\xff\xfe\x00\x04ab",
    "Photoshop": b"\xff\xed\x00\x18Photoshop 3.0\x008BIM\x04\x04\0", "length 0": b"\xff\xfe\x00\x00", "end": b"\xff\xd9",
    "EXIF": b"\xff\xe1\x00\x08Exif\0\0", "Adobe": b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\1",
    "another frame": b"\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00",
}


@pytest.mark.parametrize("place", [2, 20])
@pytest.mark.parametrize("segment", HEAD.values(), ids=HEAD)
def test_an_unusual_head_gets_pillows_verdict(segment, place, monkeypatch):
    """In front of JFIF, and behind it."""
    data = pictures.jpeg(pictures.noise(300, 70))
    same_as_pillow(data[:place] + segment + data[place:], monkeypatch)


@pytest.mark.parametrize("factors", [0x41, 0x14, 0x12, 0x21, 0x22, 0x24, 0x42, 0x31, 0x13, 0x33])
@pytest.mark.parametrize("component", [0, 1])
def test_other_samplings_get_pillows_verdict(factors, component, monkeypatch):
    """4:1:1, 4:4:0, and colour that is finer than brightness; what is coded then fits by chance at most."""
    data = bytearray(pictures.jpeg(pictures.noise(300, 70).resize((96, 96)), quality=50))
    data[data.index(b"\xff\xc0") + 11 + 3 * component] = factors
    same_as_pillow(bytes(data), monkeypatch)


def test_a_picture_has_one_size_for_all_readers():
    """Limits were held against one of two that it claims: 100 × 100 here, 9,000 × 9,000 for Pillow."""
    plain = pictures.jpeg(pictures.noise(100, 100))
    frame = plain.index(b"\xff\xc0")
    large = plain[:frame + 5] + (9000).to_bytes(2, "big") * 2 + plain[frame + 9:]
    hidden = large[2:large.index(b"\xff\xda") + 14]
    tricky = plain[:2] + b"\xff\x00" + (len(hidden) + 2).to_bytes(2, "big") + hidden + plain[2:]
    with pytest.raises(TooManyPixels):
        images.prepare(tricky, preprocessing(), 56, 56, max_pixels=50_000)
    header = images.inspect(plain)
    with pytest.raises(UndecodablePicture, match="100 × 100 pixels to one reader and 9,000 × 9,000 to another"):
        images.decode(large, header=header)


@pytest.mark.parametrize(("sides", "scale"), [((160, 121), 1), ((80, 60), 1)])
def test_another_picture_than_announced_is_left_to_pillow(sides, scale):
    """What the header was taken for is compared with what the decoder finds."""
    data = pictures.jpeg(pictures.noise(160, 120))
    assert jpeg.window(data, sides, scale, False, Resize(*WHOLE[:2], (0, 0, *sides), WHOLE.cut)) is None


def test_no_jpeg_is_left_to_pillow():
    """Nothing ends the process: an error in the decoder comes back as a word."""
    for data in (b"", b"\xff\xd8\xff", pictures.png(), b"\xff\xd8" + bytes(100)):
        assert jpeg.window(data, (160, 120), 1, False, WHOLE) is None


@pytest.mark.parametrize(("sides", "scale"), [((160, 120), 3), ((160, 120), 0), ((0, 120), 1), ((160, 120), 2)])
def test_numbers_without_sense_are_refused_in_c_too(sides, scale):
    """It writes into memory: nothing is taken on trust; the last box is larger than the picture so decoded."""
    data, out, took = pictures.jpeg(pictures.noise(160, 120)), np.full((60, 80, 3), 7, np.uint8), (ctypes.c_int64 * 2)()
    found = native().code.quadrant_jpeg(
        native().libjpeg, data, len(data), *sides, scale, False, 100, 10**12, *WHOLE.arguments(), out.ctypes.data, took)
    assert found == 2
    assert (out == 7).all()


def test_memory_that_is_missing_is_a_refusal_that_may_be_tried_again(monkeypatch):
    """503, not 422: the picture is well."""
    class Full:
        def quadrant_jpeg(self, *_: object) -> int:
            return NO_MEMORY

    monkeypatch.setattr(jpeg, "native", lambda: Native(Full(), native().libjpeg, ""))
    found = prepared(pictures.jpeg(pictures.noise(160, 120)), "exact")
    assert found.code == "overloaded"


def test_a_photo_is_opened_by_pillow_only_where_it_must_be(monkeypatch):
    """EXIF, other colours, another coding; all else shows in its own header."""
    opened: list[str] = []
    usual = images._opened
    monkeypatch.setattr(images, "_opened", lambda data, kind, deadline: opened.append(kind) or usual(data, kind, deadline))
    header = images.inspect(pictures.jpeg(pictures.noise(160, 120), progressive=True))
    assert (header, opened) == (images.Header("JPEG", "RGB", 160, 120, True, 1), [])
    header = images.inspect(pictures.jpeg(pictures.noise(160, 120), 6))
    assert (header, opened) == (images.Header("JPEG", "RGB", 160, 120, False, 6), ["JPEG"])
    assert images.inspect(pictures.encode(Image.new("L", (9, 7)), "JPEG"))[:4] == ("JPEG", "L", 9, 7)
    assert Image.open(io.BytesIO(pictures.jpeg(pictures.noise(160, 120), 6))).getexif()[ORIENTATION] == 6


def test_a_second_scan_of_a_whole_picture_is_an_error(monkeypatch):
    """They aren't counted where the first one has all there is: no decoder reads a second, it ends there."""
    data = pictures.jpeg(pictures.noise(300, 70))
    start = data.index(b"\xff\xda")
    assert images.inspect(data[:-2] + data[start:]) == images.inspect(data)
    assert not same_as_pillow(data[:-2] + data[start:-2] * 1000 + data[-2:], monkeypatch)
