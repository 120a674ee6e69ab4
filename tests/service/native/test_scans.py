"""Scans of a JPEG: the walk over its header counts those that libjpeg begins, and decoding stops where there are too many."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from service import containers, images
from service.native import jpeg, library
from service.native.library import Native, Resize, native
from service.problems import DeadlineExceeded, UndecodablePicture
from tests.service import pictures
from tests.service.native.test_jpeg import preprocessing

HERE, SOURCES = Path(__file__).parent, Path(library.__file__).parent
SIDES = 64, 64
SMALL = Resize((32, 32), Image.Resampling.BILINEAR, (0, 0, *SIDES), (0, 0, 32, 32))
SCAN, END = b"\xff\xda", b"\xff\xd9"

Count = Callable[[bytes], tuple[int, bool]]


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Count:
    """Scans that libjpeg begins when it is called as Pillow calls it, and whether it got to the end."""
    file = tmp_path_factory.mktemp("scans") / "scans.so"
    subprocess.run(["cc", "-std=gnu11", "-O1", "-fPIC", "-shared", f"-I{SOURCES}", "-o", str(file), str(HERE / "scans.c")],
                   check=True)
    code = ctypes.CDLL(str(file))
    code.count_scans.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)]

    def count(data: bytes) -> tuple[int, bool]:
        scans = ctypes.c_int(0)
        done = code.count_scans(native().libjpeg, data, len(data), ctypes.byref(scans))
        return scans.value, bool(done)

    return count


def walked(data: bytes) -> int:
    """Scans by the header walk; 0 where it refuses the file."""
    try:
        return containers.outline(data, "JPEG").scans
    except containers.Damaged:
        return 0


def with_hidden_scans(count: int = 301) -> bytes:
    """`FF 00` and a length that spans all scans but the first: libjpeg drops two bytes and reads on behind them."""
    data = pictures.with_scans(count)
    second = data.index(SCAN, data.index(SCAN) + 2)
    tables = data.rindex(b"\xff\xc4", 0, second)
    return data[:tables] + b"\xff\x00" + min(len(data) - tables - 4, 65_535).to_bytes(2, "big") + data[tables:]


def with_tables_first(count: int = 301) -> bytes:
    """A stream without a picture in front: Pillow has libjpeg read it, and the next one."""
    return b"\xff\xd8" + END + pictures.with_scans(count)


def with_before_each(piece: bytes) -> bytes:
    """301 scans, with this in front of each but the first."""
    data = pictures.with_scans(301)
    behind = data.index(SCAN) + 2
    return data[:behind] + data[behind:].replace(SCAN, piece + SCAN)


HIDING = {
    "FF 00 and a length": with_hidden_scans(),
    "fill bytes": with_before_each(b"\xff\xff\xff"), "restart": with_before_each(b"\xff\xd3"),
    "TEM": with_before_each(b"\xff\x01"),
    "FF 00": with_before_each(b"\xff\x00\x70\x70"), "rubbish": with_before_each(b"abc\x00"),
    "length 0": with_before_each(b"\xff\xfe\x00\x00"), "length 1": with_before_each(b"\xff\xe5\x00\x01"),
}


@pytest.mark.parametrize("data", HIDING.values(), ids=HIDING)
def test_no_scan_hides_from_the_walk(data, begun):
    """400 hidden ones of 98 bytes cost 11 s at 7,000 × 7,000 pixels; 20 MiB of them, hours."""
    scans, _ = begun(data)
    assert walked(data) >= scans
    with pytest.raises(UndecodablePicture, match=r"30\d scans of 64 × 64 pixels"):
        images.inspect(data)


def test_a_stream_of_tables_alone_is_refused(begun):
    """The walk ended there, with no scan; libjpeg reads on, and finds 301."""
    assert begun(with_tables_first())[0] == 301
    with pytest.raises(UndecodablePicture, match="it ends at byte 4, before its first scan"):
        images.inspect(with_tables_first())


def test_colours_in_scans_of_their_own_take_the_memory_of_a_progressive_one():
    """300 MB at 50 million pixels: libjpeg keeps all coefficients until the last scan, which may never come."""
    data = pictures.jpeg(pictures.noise(*SIDES))
    scan = data.index(SCAN)
    alone = data[:scan] + SCAN + b"\x00\x08\x01\x01\x00\x00\x3f\x00" + data[scan + 14:]
    whole, apart = images.inspect(data), images.inspect(alone)
    assert (whole.progressive, apart.progressive) == (False, True)
    assert images.decode_bytes(apart) - images.decode_bytes(whole) == 6 * SIDES[0] * SIDES[1]


def variants() -> list[bytes]:
    """Small JPEGs of each kind that libjpeg reads and Pillow writes."""
    image = pictures.noise(40, 24)
    return [
        pictures.jpeg(image, progressive=True), pictures.jpeg(image, progressive=True, subsampling=2, quality=30),
        pictures.jpeg(image, progressive=True, restart_marker_blocks=2), pictures.jpeg(image, restart_marker_blocks=3),
        pictures.jpeg(image), pictures.encode(image.convert("L"), "JPEG", progressive=True),
        pictures.encode(image.convert("CMYK"), "JPEG", progressive=True), pictures.jpeg(image, 6, progressive=True)]


VARIANTS = variants()
PIECES = [b"\xff", b"\xff\x00", b"\x00", b"\xff\x01", b"\xff\x05", b"\xff\xd0", b"\xff\xd8", END, SCAN, b"\xff\xfe\x00\x04ab",
          b"\xff\xfe\x00\x00", b"\xff\xfe\xff\xff", b"\xff\xdd\x00\x04\x00\x01", b"\xff\xdd\x00\x04\x00\x00",
          b"\xff\xdc\x00\x04\x00\x10",
          b"\xff\xc2", b"\xff\xf0", b"\xff\xe0\x00\x01"]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Markers put in, scans repeated, moved and cut, bytes changed: mostly near markers, where readers differ."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        markers = [at for at in range(2, len(changed) - 1) if changed[at] == 0xFF and changed[at + 1] not in (0, 0xFF)]
        near = (chance.choice(markers) if markers else 2) + chance.randint(-2, 6)
        place = max(2, min(len(changed), chance.choice([near, near, near, chance.randint(2, len(changed))])))
        kind = chance.randrange(4)
        if kind == 0:
            changed[place:place] = chance.choice(PIECES) * chance.choice([1, 1, 2, 3])
        elif kind == 1 and place < len(changed):
            changed[place] = chance.choice([0, 1, 2, 0xFF, 0xD9, 0xDA, chance.randrange(256)])
        elif kind == 2 and len(markers) > 1:
            start, end = sorted(chance.sample(markers, 2))
            changed[place:place] = changed[start:end]
        elif kind == 3:
            del changed[place:place + chance.choice([1, 1, 2, 40])]
    return bytes(changed)


def check(data: bytes, begun: Count) -> bool:
    """Hold the walk against libjpeg; whether libjpeg got to the end."""
    scans, done = begun(data)
    found = walked(data)
    if found == 0:  # refused before anything is decoded
        return False
    assert found >= scans, data.hex()
    assert found == scans or not done, data.hex()
    return done


@given(st.sampled_from(range(len(VARIANTS))), st.integers(0, 2**32))
@hypothesis_settings(max_examples=1500, deadline=None)
def test_the_walk_counts_what_libjpeg_begins(begun, variant, seed):
    """Never fewer, whatever the bytes; and as many, wherever libjpeg gets to the end."""
    check(mutated(VARIANTS[variant], random.Random(seed)), begun)


def test_the_comparison_compares(begun):
    """Much of what is made up is decoded to the end by libjpeg, warnings or not."""
    chance = random.Random(5)
    done = [check(mutated(chance.choice(VARIANTS), chance), begun) for _ in range(400)]
    assert sum(done) > 50


@pytest.fixture(params=["compiled", "Pillow"])
def path(request, monkeypatch):
    """Decode here, or there."""
    if request.param == "Pillow":
        monkeypatch.setattr(jpeg, "native", lambda: Native(None, None, "none"))
    return request.param


def test_the_compiled_path_counts_for_itself():
    """Whatever the walk says: here it is not asked."""
    data = pictures.jpeg(pictures.noise(*SIDES), progressive=True)
    scans = walked(data)
    assert scans > 5
    assert jpeg.window(data, SIDES, 1, True, SMALL, scans) is not None
    with pytest.raises(UndecodablePicture, match=f"more than {scans - 1} scans"):
        jpeg.window(data, SIDES, 1, True, SMALL, scans - 1)


def test_an_expired_deadline_stops_a_decode(path, monkeypatch):
    """Between two scans at the latest; here before the first."""
    data = pictures.with_scans(20)
    header = images.inspect(data)
    assert images.prepare(data, preprocessing(), 56, 56, header=header).pixels.shape == (56, 56, 3)
    with pytest.raises(DeadlineExceeded, match="decoding this picture was stopped"):
        images.prepare(data, preprocessing(), 56, 56, header=header, deadline=0.0)
