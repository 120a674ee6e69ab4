"""Resizing in C: Pillow's bits, whatever the sizes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from service.native import resample
from service.native.library import FILTERS, NO_MEMORY, Native, Resize, native
from tests.service import pictures

BILINEAR = Image.Resampling.BILINEAR


@given(*[st.integers(1, 120)] * 4, st.sampled_from(list(FILTERS)))
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_bits_are_pillows(width, height, becomes_width, becomes_height, how):
    """Larger, smaller, squeezed; in the order of passes that Pillow takes."""
    image, size = pictures.noise(width, height), (becomes_width, becomes_height)
    found = resample.window(image, Resize(size, how, (0, 0, width, height), (0, 0, *size)))
    assert found is not None
    assert np.array_equal(found, np.asarray(image.resize(size, how)))


@pytest.mark.parametrize("how", FILTERS)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1999, 1501)])
def test_a_photos_window_is_cut_out_of_pillows_picture(size, how):
    """Sizes as they come, through the network's own crop."""
    image = pictures.noise(*size)
    short, long = sorted(size)
    whole = (256, 256 * long // short) if size[0] < size[1] else (256 * long // short, 256)
    cut = (16, 16, 240, 240)
    found = resample.window(image, Resize(whole, how, (0, 0, *size), cut))
    assert found is not None
    assert found.flags.c_contiguous
    assert np.array_equal(found, np.asarray(image.resize(whole, how).crop(cut)))


@pytest.mark.parametrize("changed", [
    {"filter": 3}, {"filter": -1}, {"box": (0, 0, 9, 8)}, {"box": (-1, 0, 8, 8)}, {"box": (4, 0, 4, 8)},
    {"box": (float("nan"), 0, 8, 8)}, {"cut": (0, 0, 5, 4)}, {"cut": (-1, 0, 4, 4)}, {"cut": (2, 0, 2, 4)}])
def test_numbers_without_sense_are_refused_in_c_too(changed):
    """It writes into memory: nothing is taken on trust."""
    asked = {"filter": 0, "box": (0, 0, 8, 8), "cut": (0, 0, 4, 4)} | changed
    pixels, out = np.zeros((8, 8, 4), np.uint8), np.full((8, 8, 3), 7, np.uint8)
    found = native().code.quadrant_resample(pixels.ctypes.data, 8, 8, (ctypes.c_float * 4)(*asked["box"]), 4, 4,
                                            (ctypes.c_int * 4)(*asked["cut"]), asked["filter"], out.ctypes.data)
    assert found == 2
    assert (out == 7).all()


def test_what_lies_in_several_pieces_is_left_to_pillow():
    """Pillow keeps images beyond 16 MiB in blocks."""
    image = Image.new("RGB", (2500, 2000))
    assert resample.window(image, Resize((80, 64), BILINEAR, (0, 0, *image.size), (8, 0, 72, 64))) is None
    with pytest.raises(ValueError, match="not contiguous"):
        image.__arrow_c_array__()


@pytest.mark.parametrize(("mode", "how", "cut"), [
    ("L", BILINEAR, (0, 0, 4, 4)), ("RGB", Image.Resampling.BOX, (0, 0, 4, 4)),
    ("RGB", BILINEAR, (-1, 0, 4, 4)), ("RGB", BILINEAR, (0, 0, 4, 5))])
def test_what_it_does_not_know_is_left_to_pillow(mode, how, cut):
    """Another mode or filter; a crop beyond the picture, which Pillow fills with black."""
    assert resample.window(Image.new(mode, (8, 8)), Resize((4, 4), how, (0, 0, 8, 8), cut)) is None


def test_memory_that_is_missing_is_no_wrong_picture(monkeypatch):
    """The caller turns it into a refusal that may be tried again."""
    class Full:
        def quadrant_resample(self, *_: object) -> int:
            return NO_MEMORY

    monkeypatch.setattr(resample, "native", lambda: Native(Full(), None, ""))
    with pytest.raises(MemoryError):
        resample.window(pictures.noise(8, 8), Resize((4, 4), BILINEAR, (0, 0, 8, 8), (0, 0, 4, 4)))


@pytest.mark.parametrize("change", [
    pytest.param(lambda array, _: setattr(array, "length", 34), id="length"),
    pytest.param(lambda array, _: setattr(array, "offset", 1), id="offset"),
    pytest.param(lambda array, _: setattr(array, "null_count", 1), id="nulls"),
    pytest.param(lambda array, _: setattr(array, "n_children", 0), id="no child"),
    pytest.param(lambda array, _: setattr(array, "n_children", 2), id="two children"),
    pytest.param(lambda _, values: setattr(values, "length", 35 * 3), id="three bytes a pixel"),
    pytest.param(lambda _, values: setattr(values, "offset", 4), id="values that begin elsewhere"),
    pytest.param(lambda _, values: setattr(values, "n_buffers", 1), id="no values"),
    pytest.param(lambda _, values: setattr(values, "null_count", 2), id="values that are null"),
])
def test_an_array_of_another_form_is_left_to_pillow(change):
    """Another version of Pillow may keep its pixels otherwise; reading them by the old form would be reading anything."""
    image = Image.new("RGB", (7, 5))
    _, held = image.__arrow_c_array__()
    array = resample._Array.from_address(resample._pointer(held, b"arrow_array"))
    values = array.children[0].contents
    assert resample._pixels(array, image.size) == values.buffers[1]
    before = {each: [getattr(each_of, each) for each_of in (array, values)]
              for each in ("length", "offset", "null_count", "n_children", "n_buffers")}
    try:
        change(array, values)
        assert resample._pixels(array, image.size) is None
    finally:  # Pillow releases what it finds
        for name, (outer, inner) in before.items():
            setattr(array, name, outer)
            setattr(values, name, inner)
