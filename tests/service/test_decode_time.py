"""No picture within the limits keeps a processor for more than 2 s past its deadline, whenever that passes.

Counts seconds of processor time, not of the clock: other work on the machine doesn't matter. Each picture is the one of its
format that was found to take longest.
"""

from __future__ import annotations

import lzma
import math
import struct
import time
import zlib

import pytest
from PIL import Image

from service import feed, images
from service.native import jpeg
from service.native.library import Native
from service.problems import DeadlineExceeded, Problem, TooManyPixels, UndecodablePicture
from tests.service import pictures
from tests.service.native.test_jpeg import preprocessing

MOST_S = 2.0  # of processor time, past the deadline
STOP_S = 3.0  # here nothing is done for longer
SIDE = 7071  # squared: 50 million pixels
BODY = 20 * 2**20  # bytes, as in the settings' default
LZW, JPEG, DEFLATE, LZMA = 5, 7, 8, 34925  # compressions of TIFF
RGB, YCBCR = 2, 6  # its colours


def coarse(side: int = SIDE) -> Image.Image:
    return pictures.noise(300, 300).resize((side, side))


def progressive() -> bytes:
    return pictures.encode(coarse(), "JPEG", quality=50, subsampling=0, progressive=True)


def many_scans() -> bytes:
    """As many as may be, the last one repeated."""
    data = progressive()
    last = data.rindex(b"\xff\xda")
    more = images.MOST_SCANNED_PIXELS // SIDE**2 - data.count(b"\xff\xda")
    return data[:-2] + data[last:-2] * more + data[-2:]


def turned_cmyk() -> bytes:
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    return pictures.encode(coarse().convert("CMYK"), "JPEG", quality=75, exif=exif)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks)


def deep_png() -> bytes:
    """Four channels of 16 bits, each row predicted from the one above."""
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 6, 0, 0, 0)
    rows = zlib.compress((b"\x04" + bytes(8 * SIDE)) * SIDE, 1)
    return png((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))


def png_of_chunks() -> bytes:
    """21 s of Pillow's time, if nothing stopped it."""
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    whole = png((b"IHDR", head), (b"IDAT", zlib.compress(bytes(200))), (b"IEND", b""))
    return whole[:33] + png((b"teXt", b""))[8:] * (BODY // 12 - 20) + whole[33:]


def webp() -> bytes:
    """Noise: most bits a pixel."""
    side = math.isqrt(images.MOST_WEBP_PIXELS)
    return pictures.encode(pictures.noise(side, side), "WEBP", quality=60, method=0)


def gif() -> bytes:
    return pictures.encode(pictures.noise(300, 300).quantize(256).resize((SIDE, SIDE)), "GIF")


def gif_of_comments() -> bytes:
    """23 s of Pillow's time, in blocks of one byte."""
    small = pictures.encode(Image.new("P", (8, 8)), "GIF")
    frame = small.index(b"\x2c", 13)
    return small[:frame] + b"\x21\xfe" + b"\x01a" * (BODY // 2 - 1000) + b"\0" + small[frame:]


def bmp_of_runs() -> bytes:
    """30 s of Pillow's time, in runs of one pixel."""
    head = struct.pack("<iiHHIIiiII", SIDE, SIDE, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHII", 0, 0, 0, 14 + 40 + 1024, 40) + head + bytes(1024) + b"\x01\x05" * (BODY // 2 - 1000)


def tiff(compression: int, strip: bytes, side: int = SIDE, colours: int = RGB) -> bytes:
    """Of one strip."""
    start = 8 + 2 + 12 * 11 + 4
    samples = 4 if colours == RGB else 3
    entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, samples, start), (259, 3, 1, compression), (262, 3, 1, colours),
               (273, 4, 1, start + 8), (277, 3, 1, samples), (278, 4, 1, side), (279, 4, 1, len(strip)), (284, 3, 1, 1),
               (338, 3, 1, 2) if samples == 4 else (530, 3, 2, 1 | 1 << 16)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *each) for each in entries) + \
        struct.pack("<IHHHH", 0, 8, 8, 8, 8) + strip


def tiff_of_scans(side: int = SIDE, scans: int = images.MOST_TIFF_SCANS) -> bytes:
    data = pictures.encode(coarse(side), "JPEG", quality=50, subsampling=0, progressive=True)
    last = data.rindex(b"\xff\xda")
    return tiff(JPEG, data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + data[-2:], side, YCBCR)


WORST = {
    "JPEG progressive": progressive, "JPEG of 40 scans": many_scans, "JPEG CMYK turned": turned_cmyk,
    "PNG 16 bits": deep_png, "PNG of chunks": png_of_chunks, "WebP": webp, "GIF": gif, "GIF of comments": gif_of_comments,
    "BMP": lambda: pictures.encode(Image.new("RGB", (SIDE, SIDE)), "BMP"), "BMP of runs": bmp_of_runs,
    "TIFF LZMA": lambda: tiff(LZMA, lzma.compress(bytes(4 * SIDE**2), preset=0)),
    "TIFF deflate": lambda: tiff(DEFLATE, zlib.compress(bytes(4 * SIDE**2), 1)), "TIFF of scans": tiff_of_scans,
}


class Looks:
    """In the place of `feed.check`: processor time between two looks at the clock, which is what is late at worst."""

    def __init__(self) -> None:
        self.start = self.last = time.thread_time()
        self.longest = 0.0

    def __call__(self, deadline: float) -> None:
        if self.note() - self.start > STOP_S:
            raise feed.stopped()

    def note(self) -> float:
        now = time.thread_time()
        self.longest, self.last = max(self.longest, now - self.last), now
        return now


@pytest.mark.parametrize("make", WORST.values(), ids=WORST)
def test_pillow_never_works_long_without_a_look_at_the_clock(make, monkeypatch):
    """All of the path but compiled decoding: from the header to the resized picture."""
    data = make()
    monkeypatch.setattr(jpeg, "native", lambda: Native(None, None, "none"))
    monkeypatch.setattr(feed, "check", looks := Looks())
    found = "answered"
    try:
        images.prepare(data, preprocessing("exact", 256), 224, 224)
    except Problem as problem:
        found = problem.code
    looks.note()
    assert found in ("answered", "deadline-exceeded")
    assert looks.longest < MOST_S


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["scans", "one scan"])
def test_compiled_decoding_stops_in_time(kind, part):
    """At the largest size that it decodes of each."""
    if kind == "scans":
        side = math.isqrt(images.MOST_PROGRESSIVE_PIXELS)
        data = pictures.encode(coarse(side), "JPEG", quality=50, subsampling=0, progressive=True)
    else:
        data = pictures.encode(coarse(), "JPEG", quality=50)
    header = images.inspect(data)
    begun = time.thread_time()
    images.prepare(data, preprocessing("exact", 256), 224, 224, header=header)
    whole_s = time.thread_time() - begun
    deadline, begun = time.monotonic() + part * whole_s, time.thread_time()
    with pytest.raises(DeadlineExceeded):
        images.prepare(data, preprocessing("exact", 256), 224, 224, header=header, deadline=deadline)
    assert time.thread_time() - begun < part * whole_s + MOST_S


def test_a_webp_has_a_limit_of_its_own():
    """Nothing interrupts libwebp."""
    with pytest.raises(TooManyPixels, match="accepts up to 24,000,000"):
        images.inspect(pictures.claiming("WebP", 6000, 4001))
    with pytest.raises(TooManyPixels, match="accepts up to 1,000"):
        images.inspect(pictures.claiming("WebP", 6000, 4001), max_pixels=1000)


@pytest.mark.filterwarnings("ignore")
def test_a_jpeg_within_a_tiff_has_few_scans(capfd):
    """libtiff counts them itself, and is told how many by its variable."""
    assert images.decode(tiff_of_scans(64)).image.size == (64, 64)
    with pytest.raises(UndecodablePicture):
        images.decode(tiff_of_scans(64, images.MOST_TIFF_SCANS + 2))
    assert "exceeds maximum scans" in capfd.readouterr().err


def with_entry(tag: int, kind: int, instead_of: int) -> bytes:
    """A TIFF with this in the place of another of its entries."""
    return pictures.tiff({256: 8, 257: 8}).replace(struct.pack("<HH", instead_of, 4), struct.pack("<HH", tag, kind))


@pytest.mark.parametrize(("data", "reason"), [
    (pictures.tiff({256: 8, 257: 8, 259: LZW, 279: 10**6}), "take 1,000,000 bytes of 122: they lie over each other"),
    (pictures.tiff({256: 7000, 257: 7000, 258: 16, 259: LZW, 277: 4}), "392,000,000 bytes when unpacked"),
    (pictures.tiff({256: 100_000, 257: 1, 322: 16, 323: 4_000_000}), "at most 64,000,000 are read"),
    (with_entry(279, 2, instead_of=279), "tag 279 has type 2"), (with_entry(257, 4, instead_of=278), "it has tag 257 twice")])
def test_a_tiff_that_would_keep_libtiff_busy_is_refused(data, reason):
    """100,000 tiles of 64 million pixels each, for a picture of 100,000: days."""
    with pytest.raises(UndecodablePicture, match=reason):
        images.inspect(data)


def test_parts_without_end_are_walked_over_in_time():
    """Before a turn to decode is asked for: the deadline counts there too."""
    for data in (png_of_chunks(), gif_of_comments(), b"\xff\xd8\xff" + b"\xfe\x00\x02\xff" * (BODY // 4 - 10)):
        begun = time.thread_time()
        with pytest.raises(DeadlineExceeded):
            images.inspect(data, deadline=time.monotonic() + 0.05)
        assert time.thread_time() - begun < MOST_S


def test_a_long_thin_picture_is_refused_before_it_is_decoded(monkeypatch):
    """Its rows cost more than its pixels."""
    monkeypatch.setattr(images, "decode", None)
    with pytest.raises(Problem, match="expected at most"):
        images.prepare(pictures.png(Image.new("L", (1, 60_000))), preprocessing("exact", 256), 224, 224)


def test_all_of_these_are_made_as_meant():
    """The test of the test: what is within the limits is decoded where there is time."""
    for make in (deep_png, gif, WORST["TIFF LZMA"], WORST["TIFF deflate"], tiff_of_scans):
        assert images.decode(make()).image.size == (SIDE, SIDE)
    assert BODY / 2 < len(webp()) < BODY
