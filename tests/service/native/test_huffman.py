"""Huffman codes read in C, in libjpeg's place: used where it can be, and libjpeg's bits where it is."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from service import images
from service.native import jpeg
from service.native.library import Resize
from tests.service import pictures
from tests.service.native.test_jpeg import preprocessing, same_as_pillow

SIDES = 240, 160
SMALL = Resize((48, 32), Image.Resampling.BILINEAR, (0, 0, *SIDES), (8, 0, 40, 32))
BEHIND = bytes(8000)  # after the end of the picture: its last MCUs are no special case then


def photo(**options: object) -> bytes:
    return pictures.jpeg(pictures.noise(*SIDES), **options)


def decoded(data: bytes, scale: int = 1) -> jpeg.Decoded:
    sides = SIDES[0] // scale, SIDES[1] // scale
    found = jpeg.window(data, SIDES, scale, False, SMALL._replace(box=(0, 0, *sides)))
    assert found is not None
    return found


@pytest.mark.parametrize(("subsampling", "side"), [(0, (8, 8)), (1, (16, 8)), (2, (16, 16))])
@pytest.mark.parametrize("options", [{"quality": 100}, {"quality": 75, "optimize": True}, {"quality": 5}], ids=str)
def test_all_of_a_plain_picture_is_read_here(options, subsampling, side):
    """Each MCU but the very last, those beside the part that is shown too; with the standard's codes and with the file's own."""
    data = photo(subsampling=subsampling, **options)
    found, mcus = decoded(data + BEHIND), (SIDES[0] // side[0]) * (SIDES[1] // side[1])
    assert mcus - 2 <= found.mcus <= mcus
    assert 0 <= decoded(data).mcus < found.mcus
    expected = Image.open(io.BytesIO(data)).resize(SMALL.size, SMALL.how, SMALL.box).crop(SMALL.cut)
    assert np.array_equal(found.pixels, np.asarray(expected))


@pytest.mark.parametrize(("options", "scale"), [({"restart_marker_blocks": 4}, 1), ({}, 8)])
def test_what_is_not_plain_is_read_by_libjpeg(options, scale):
    """Restarts, and an eighth, for which only the mean of a block is wanted."""
    assert decoded(photo(**options) + BEHIND, scale).mcus == 0


def test_fill_bytes_within_the_codes_are_read_by_libjpeg(monkeypatch):
    """No encoder writes them there; libjpeg takes them or not, depending on how far it has read ahead."""
    data = photo(quality=90, subsampling=2)
    place = data.index(b"\xff\0", len(data) // 2)
    assert decoded(data + BEHIND).mcus > 0
    filled = data[:place] + b"\xff" + data[place:] + BEHIND
    assert same_as_pillow(filled, monkeypatch)
    found = jpeg.window(filled, SIDES, 1, False, SMALL)
    assert found is None or found.mcus == 0


@pytest.mark.parametrize("scale", [2, 4])
def test_a_half_and_a_quarter_are(scale):
    """They want all coefficients."""
    assert decoded(photo() + BEHIND, scale).mcus > 0


@pytest.mark.parametrize("seed", range(12))
def test_damage_gets_libjpegs_verdict(seed, monkeypatch):
    """Codes that don't exist, values that are too long, runs over the end, markers in between: all of it met here first."""
    random.seed(seed)
    data = photo(quality=random.choice([60, 80, 90]), subsampling=seed % 3, optimize=seed % 2 == 0)
    start = data.index(b"\xff\xda") + 14
    answers = 0  # libjpeg guesses rather than to refuse
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(random.randint(1, 3)):
            place = random.randrange(start, len(data) - 2)
            damaged[place:place + random.randint(1, 2)] = random.choice([b"\xff", b"\xff\0", b"\0", random.randbytes(2)])
        answers += same_as_pillow(bytes(damaged) + BEHIND, monkeypatch)
    assert answers > 0


@pytest.mark.parametrize("table", [b"\x00", b"\x10"])
def test_codes_of_a_kind_that_no_encoder_writes(table, monkeypatch):
    """The same lengths for other symbols: zeros without end, values of 15 bits."""
    data, answers = photo(quality=90), 0
    place = data.index(b"\xff\xc4") + 4
    while data[place:place + 1] != table:
        place = data.index(b"\xff\xc4", place) + 4
    random.seed(1)
    for _ in range(60):
        other = bytearray(data)
        place_in = place + 17 + random.randrange(8)
        other[place_in] = random.choice([0x00, 0xF0, 0x0B, 0x0C, 0x0F, 0xFF, 0x10, 0xE0, random.randrange(256)])
        answers += same_as_pillow(bytes(other) + BEHIND, monkeypatch)
    assert answers > 0


def written_by_hand(sizes: list[int]) -> bytes:
    """A JPEG of 16 blocks a colour, each with values of so many bits after short codes; its table has longer codes too."""
    codes = {0: "00", **{size: f"{2 + place:03b}" for place, size in enumerate(sizes[:4])}}
    rest = [0x11 + place for place in range(8)]  # of 11 bits: looked for, never written
    counts = [0, 1, len(codes) - 1, *[0] * 7, len(rest), *[0] * 5]
    random.seed(3)
    bits = ""
    for _ in range(3 * 16):
        bits += "0"  # DC: no difference
        bits += "".join(codes[size] + f"{random.randrange(2**size):0{size}b}" for size in sizes) + codes[0]
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(kind: int, content: bytes) -> bytes:
        return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2, "big") + content

    return b"".join([
        b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64), segment(0xC0, b"\x08\0\x20\0\x20\3" + b"\1\x11\0\2\x11\0\3\x11\0"),
        segment(0xC4, b"\0" + bytes([1, *[0] * 15]) + b"\0"), segment(0xC4, b"\x10" + bytes([*counts]) + bytes([*codes, *rest])),
        segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0"), coded, b"\xff\xd9", BEHIND])


@pytest.mark.parametrize(("sizes", "here"), [([1, 4, 7, 10], 15), ([1, 4, 7, 11], 0), ([2, 12, 3, 15], 0), ([1, 14, 5, 9], 0)])
def test_values_that_are_longer_than_any_are_read_by_libjpeg(sizes, here):
    """In short codes, of which longer ones must not be made."""
    data = written_by_hand(sizes)
    found = jpeg.window(data, (32, 32), 1, False, Resize((32, 32), SMALL.how, (0, 0, 32, 32), (0, 0, 32, 32)))
    assert found is not None
    assert found.mcus == here  # not the very last: the picture ends there
    assert np.array_equal(found.pixels, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("count", [2, 3, 200])
def test_tables_behind_the_last_of_several_scans_are_not_trusted(count):
    """libjpeg reads them all before the first row, and checks only what it reads codes with: these would write beyond a table."""
    def segment(kind: int, content: bytes) -> bytes:
        return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2, "big") + content

    one = bytes([1, *[0] * 15]) + b"\0"
    data = b"".join([
        b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64), segment(0xC0, b"\x08\0\x20\0\x20\3" + b"\1\x11\0\2\x11\0\3\x11\0"),
        segment(0xC4, b"\0" + one), segment(0xC4, b"\x10" + one), segment(0xDA, b"\1\1\0\0\x3f\0"), bytes(4),
        segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0"), bytes(12),
        segment(0xC4, b"\x10" + bytes([count, *[0] * 15]) + b"\1" * count), b"\xff\xd9"])
    for _ in range(20):  # a damaged heap may show later
        found = jpeg.window(data, (32, 32), 1, False, Resize((32, 32), SMALL.how, (0, 0, 32, 32), (0, 0, 32, 32)))
        assert found is None or found.mcus == 0
    Image.open(io.BytesIO(data)).load()


def test_the_path_uses_it(monkeypatch):
    """Not only the tests."""
    seen, usual = [], jpeg.window
    monkeypatch.setattr(images.jpeg, "window", lambda *given: seen.append(usual(*given)) or seen[-1])
    images.prepare(photo(quality=95), preprocessing(), 56, 56)
    assert seen[0].mcus > 0
