"""Operators of our own, held against ONNX Runtime's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.native import library
from service.native.operators import operators
from tests.service.native import operator_cases as cases
from tests.service.native.operator_cases import Layer
from tests.service.native.test_library import compiled

ALL = [1, 1, 1, 1]


@pytest.fixture(scope="module", autouse=True)
def here():
    """They are compiled, and this processor can run them."""
    if operators() is None:
        pytest.skip("no AVX2 here")
    random.seed(7)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lanes", [16, 8])
@pytest.mark.parametrize(("count", "channels", "filters", "height", "width", "pads"), [
    (1, 64, 128, 40, 40, ALL), (8, 320, 384, 10, 10, ALL), (3, 192, 384, 13, 13, ALL),  # as in AlexNet, small and large
    (2, 16, 64, 3, 3, [0, 0, 0, 0]), (5, 16, 64, 1, 1, ALL), (1, 32, 64, 5, 4, [1, 0, 0, 1]), (1, 144, 64, 2, 31, [0, 1, 1, 0]),
], ids=str)
def test_a_convolution_is_the_same(lanes, count, channels, filters, height, width, pads, threads):
    """Tiles that reach over the edge, parts that share tiles or filters among threads, more channels than are near at once."""
    if lanes not in cases.groups():
        pytest.skip("no AVX-512 here")
    layer = Layer.drawn(count, channels, filters, height, width, pads)
    assert cases.apart(layer, cases.by_winograd(layer, lanes, library.FILE, threads), lanes) < 2e-6


def test_what_is_negative_stays_without_relu():
    """The bias is added either way."""
    layer = Layer.drawn(1, 16, 64, 6, 6, ALL, relu=False)
    found = cases.by_winograd(layer, 8, library.FILE)
    assert found.min() < 0
    assert cases.apart(layer, found, 8) < 2e-6


@pytest.mark.parametrize("lanes", [16, 8])
def test_a_picture_does_not_depend_on_its_company(lanes):
    """To the bit, whatever number of tiles is worked on at once, by how many threads."""
    if lanes not in cases.groups():
        pytest.skip("no AVX-512 here")
    layer = Layer.drawn(9, 32, 64, 11, 7, ALL)
    together = cases.by_winograd(layer, lanes, library.FILE)
    for threads in (1, 2):
        for first, last in ((0, 1), (3, 5), (2, 9)):
            some = layer._replace(pictures=layer.pictures[first:last])
            assert np.array_equal(cases.by_winograd(some, lanes, library.FILE, threads), together[first:last])


@pytest.mark.parametrize("lanes", [16, 8])
@pytest.mark.parametrize("relu", [True, False])
def test_what_is_no_number_stays_so(lanes, relu):
    """A ReLU doesn't hide it: the engine refuses answers that are not finite."""
    if lanes not in cases.groups():
        pytest.skip("no AVX-512 here")
    layer = Layer.drawn(1, 16, 64, 6, 6, ALL, relu=relu)
    layer.pictures[0, 3, 2, 2] = np.nan
    found = np.isnan(cases.by_winograd(layer, lanes, library.FILE))
    assert (found >= np.isnan(cases.blocked(layer.by_onnx_runtime(), lanes))).all()
    assert found.any()


@pytest.mark.parametrize(("count", "side"), [(8, 40), (1, 12)], ids=["parts of tiles", "parts of filters"])
def test_without_memory_there_is_an_error(tmp_path, count, side):
    """On several threads: none goes on alone, and the next run is right."""
    (tmp_path / "malloc.c").write_text("""
        #undef malloc
        #include <stddef.h>
        void *malloc(size_t);
        int quadrant_left = -1;  /* requests that are granted yet */
        void *meagre(size_t size) { return quadrant_left == 0 ? NULL : (quadrant_left -= quadrant_left > 0, malloc(size)); }
    """)
    file = compiled(tmp_path, "-O1", "-Dmalloc=meagre", str(tmp_path / "malloc.c"))
    done = subprocess.run([sys.executable, "-c", f"""
import ctypes, random
from pathlib import Path
from tests.service.native import operator_cases as cases
random.seed(1)
layer = cases.Layer.drawn({count}, 64, 128, {side}, {side}, [1] * 4)
left = ctypes.c_int.in_dll(ctypes.CDLL("{file}"), "quadrant_left")
for granted in (0, 1, 3):
    left.value = granted
    try:
        cases.by_winograd(layer, 8, Path("{file}"), 2)
    except Exception as error:
        print("no memory" in str(error))
left.value = -1
print(cases.apart(layer, cases.by_winograd(layer, 8, Path("{file}"), 2), 8) < 2e-6)
"""], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["True"] * 4), done.stderr[-2000:]


@pytest.mark.parametrize(("changed", "words"), [
    ({"attributes": {"lanes": 4}}, "lanes: 4; expected what this processor has"),
    ({"attributes": {"pads": [2, 1, 1, 1]}}, "a pad of 2; expected 0 or 1"),
    ({"attributes": {"pads": [1]}}, "pads: 1; expected 4"), ({"attributes": {"relu": 2}}, "relu: 2; expected 0 or 1"),
    ({"u": (4, 16, 24, 16)}, "channels of U: 24"), ({"u": (4, 9, 16, 16)}, "places of U: 9"),
    ({"u": (4, 16, 16, 64)}, "a group of U: 64"), ({"u": (16, 16)}, "dimensions of an input: 2"),
    ({"b": (63,)}, "filters of B: 63"), ({"u": (3, 16, 16, 16)}, "filters of B: 64"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_that_makes_no_sense_is_refused(changed, words):
    """With what was found; nothing is read that isn't there."""
    layer = Layer.drawn(1, 16, 64, 6, 6, ALL)
    with pytest.raises(Exception, match=words):
        cases.by_winograd(layer, 8, library.FILE, **{
            name: np.zeros(value, np.float32) if isinstance(value, tuple) else value for name, value in changed.items()})


@pytest.mark.parametrize(("shape", "pads", "words"), [
    ((1, 12, 6, 6), ALL, "channels of X: 12; expected a multiple of lanes"), ((0, 16, 6, 6), ALL, "a side of X: 0"),
    ((1, 16, 2, 6), [0, 0, 0, 0], "a picture of height 2"), ((1, 16, 6), ALL, "dimensions of an input: 3")], ids=str)
def test_pictures_that_make_no_sense_are_refused(shape, pads, words):
    """As above."""
    layer = Layer.drawn(1, 16, 64, 6, 6, pads)._replace(pictures=np.zeros(shape, np.float32))
    with pytest.raises(Exception, match=words):
        cases.by_winograd(layer, 8, library.FILE)


def test_nothing_is_read_or_written_outside(tmp_path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first such access."""
    file = compiled(tmp_path, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.native.operator_cases", str(file), "3", "40"], capture_output=True, text=True,
        cwd=Path(__file__).parents[3], env=os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}, check=False)
    assert (done.returncode, done.stdout) == (0, "40\n"), done.stderr[-3000:]


def test_there_are_none_without_the_library(tmp_path, monkeypatch):
    """ONNX Runtime does it all then."""
    monkeypatch.setattr(library, "FILE", tmp_path / "libnative.so")
    assert operators.__wrapped__() is None


def test_there_are_none_for_an_old_processor(monkeypatch):
    """Without AVX2 and FMA."""
    class Old:
        def quadrant_lanes(self) -> int:
            return 0

    monkeypatch.setattr(library, "loaded", Old)
    assert operators.__wrapped__() is None
