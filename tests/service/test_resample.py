"""Resizing in C: Pillow's bits, whatever the sizes; and Pillow itself where it can't be had."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from service import images, resample
from service.recipe import Preprocessing
from tests.service import pictures

SOURCE = Path(resample.__file__).with_name("resample.c")
FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared"]  # as in build-native
CASES = """
import random, sys
import numpy as np
from PIL import Image
from pathlib import Path
from service import resample
resample.LIBRARY = Path(sys.argv[1])
random.seed(int(sys.argv[2]))
assert resample.native().library, resample.native().reason
found = 0
for _ in range(int(sys.argv[3])):
    width, height = random.randint(1, 90), random.randint(1, 90)
    size = random.randint(1, 90), random.randint(1, 90)
    left, top = random.randrange(size[0]), random.randrange(size[1])
    cut = left, top, random.randint(left + 1, size[0]), random.randint(top + 1, size[1])
    box = (random.random() * width / 3, random.random() * height / 3, width - random.random() * width / 3, float(height))
    how = random.choice(list(resample.FILTERS))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    made = resample.window(image, size, how, box, cut)
    if made is not None:
        assert np.array_equal(made, np.asarray(image.resize(size, how, box).crop(cut))), (width, height, size, how, box, cut)
        found += 1
print(found, resample.native().reason)
"""


@pytest.fixture
def other_library(monkeypatch):
    """A function that puts another file in the library's place."""
    def take(file):
        monkeypatch.setattr(resample, "LIBRARY", file)
        resample.native.cache_clear()

    yield take
    monkeypatch.undo()
    resample.native.cache_clear()


def compiled(folder: Path, *flags: str) -> Path:
    """resample.c, compiled another way."""
    library = folder / "libresample.so"
    subprocess.run(["cc", *FLAGS, *flags, "-o", str(library), str(SOURCE), "-lm"], check=True)
    return library


def run_cases(library: Path, seed: int, count: int, **environment: str) -> str:
    """Random sizes, boxes and windows in a process of its own, against Pillow; what it printed."""
    done = subprocess.run([sys.executable, "-c", CASES, str(library), str(seed), str(count)], cwd=SOURCE.parents[1],
                          env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_is_compiled_and_proven_here():
    """`make env` compiles it, so that the tests below test it."""
    assert resample.native().library is not None, resample.native().reason


@given(*[st.integers(1, 120)] * 4, st.sampled_from(list(resample.FILTERS)))
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_bits_are_pillows(width, height, becomes_width, becomes_height, how):
    """Larger, smaller, squeezed; what Pillow does in the other order is left to it."""
    image, size = pictures.noise(width, height), (becomes_width, becomes_height)
    found = resample.window(image, size, how, (0, 0, width, height), (0, 0, *size))
    if found is None:
        assert height - becomes_height > 2 * (width - becomes_width)
    else:
        assert np.array_equal(found, np.asarray(image.resize(size, how)))


@pytest.mark.parametrize("how", resample.FILTERS)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1999, 1501)])
def test_a_photos_window_is_cut_out_of_pillows_picture(size, how):
    """Sizes as they come, through the network's own crop."""
    image = pictures.noise(*size)
    short, long = sorted(size)
    whole = (256, 256 * long // short) if size[0] < size[1] else (256 * long // short, 256)
    cut = (16, 16, 240, 240)
    found = resample.window(image, whole, how, (0, 0, *size), cut)
    assert found is not None
    assert found.flags.c_contiguous
    assert np.array_equal(found, np.asarray(image.resize(whole, how).crop(cut)))


def test_without_vector_instructions_the_bits_are_the_same(tmp_path):
    """What other processors run."""
    said = run_cases(compiled(tmp_path, "-O2", "-DPORTABLE"), 1, 1500)
    assert "without vector instructions" in said
    assert int(said.split()[0]) > 500


def test_nothing_is_read_or_written_outside(tmp_path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first such access."""
    library = compiled(tmp_path, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    said = run_cases(library, 2, 1500, LD_PRELOAD=runtime, ASAN_OPTIONS="detect_leaks=0")
    assert int(said.split()[0]) > 500


@pytest.mark.parametrize("changed", [
    {"filter": 3}, {"filter": -1}, {"box": (0, 0, 9, 8)}, {"box": (-1, 0, 8, 8)}, {"box": (4, 0, 4, 8)},
    {"box": (float("nan"), 0, 8, 8)}, {"cut": (0, 0, 5, 4)}, {"cut": (-1, 0, 4, 4)}, {"cut": (2, 0, 2, 4)}])
def test_numbers_without_sense_are_refused_in_c_too(changed):
    """It writes into memory: nothing is taken on trust."""
    given_ = {"filter": 0, "box": (0, 0, 8, 8), "cut": (0, 0, 4, 4)} | changed
    pixels, out = np.zeros((8, 8, 4), np.uint8), np.full((8, 8, 3), 7, np.uint8)
    library = resample.native().library
    found = library.quadrant_resample(pixels.ctypes.data, 8, 8, (ctypes.c_float * 4)(*given_["box"]), 4, 4,
                                      (ctypes.c_int * 4)(*given_["cut"]), given_["filter"], out.ctypes.data)
    assert found == 2
    assert (out == 7).all()


def test_what_lies_in_several_pieces_is_left_to_pillow():
    """Pillow keeps images beyond 16 MiB in blocks."""
    image = Image.new("RGB", (2500, 2000))
    assert resample.window(image, (80, 64), Image.Resampling.BILINEAR, (0, 0, *image.size), (8, 0, 72, 64)) is None
    with pytest.raises(ValueError, match="not contiguous"):
        image.__arrow_c_array__()


@pytest.mark.parametrize(("image", "how", "cut"), [
    (Image.new("L", (8, 8)), Image.Resampling.BILINEAR, (0, 0, 4, 4)),
    (Image.new("RGB", (8, 8)), Image.Resampling.BOX, (0, 0, 4, 4)),
    (Image.new("RGB", (8, 8)), Image.Resampling.BILINEAR, (-1, 0, 4, 4)),
    (Image.new("RGB", (8, 8)), Image.Resampling.BILINEAR, (0, 0, 4, 5)),
])
def test_what_it_does_not_know_is_left_to_pillow(image, how, cut):
    """Another mode or filter; a crop beyond the picture, which Pillow fills with black."""
    assert resample.window(image, (4, 4), how, (0, 0, 8, 8), cut) is None


def preprocessing() -> Preprocessing:
    return Preprocessing(64, (0.5,) * 3, (0.5,) * 3, "bicubic", "center", "exact")


@pytest.mark.parametrize(("flags", "reason"), [
    (None, "was not compiled"), ("text", "can't be loaded"),
    (["-DVERSION=99"], "has version 99 instead of 1"), (["-DPRECISION=12"], "other pixels than Pillow")])
def test_without_a_library_that_is_right_pillow_resizes(tmp_path, other_library, flags, reason):
    """Missing, of another state of the source, damaged, or wrong here: found at the start, told, and never used."""
    image = pictures.noise(150, 120)
    expected = images.fit(image, preprocessing(), 56, 56)
    library = tmp_path / "libresample.so"
    if isinstance(flags, str):
        library.write_text("no library")
    elif flags:
        library = compiled(tmp_path, "-O1", *flags)
    other_library(library)
    assert resample.native().library is None
    assert reason in resample.native().reason
    assert np.array_equal(images.fit(image, preprocessing(), 56, 56), expected)


def test_memory_that_is_missing_is_no_wrong_picture(monkeypatch):
    """The caller turns it into a refusal that may be tried again."""
    class Full:
        def quadrant_resample(self, *_: object) -> int:
            return resample.NO_MEMORY

    monkeypatch.setattr(resample, "native", lambda: resample.Native(Full(), ""))
    with pytest.raises(MemoryError):
        resample.window(pictures.noise(8, 8), (4, 4), Image.Resampling.BILINEAR, (0, 0, 8, 8), (0, 0, 4, 4))
