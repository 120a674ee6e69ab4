"""Labelled pictures are found in the layouts that people have, and altered the same way every time."""

import io

import numpy as np
import pytest
from PIL import Image

from loadtest import labelled


def encoded(side: int = 64) -> bytes:
    """A picture with a slope in each channel."""
    rows, columns = np.mgrid[0:side, 0:side] * 255 // side
    buffer = io.BytesIO()
    Image.fromarray(np.stack([rows, columns, rows], 2).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "side"), [("none", 64), ("enlarge", 480), ("crop", 54), ("encode-again", 64)])
def test_alterations_keep_what_is_shown(name, side):
    """Another size or quality, the same picture; equal bytes give equal bytes."""
    data = encoded()
    altered = labelled.ALTERED[name](data)
    assert altered == labelled.ALTERED[name](data)
    image = Image.open(io.BytesIO(altered))
    assert image.size == (side, side)
    if name != "crop":
        before = np.asarray(Image.open(io.BytesIO(data)), int)
        assert np.abs(np.asarray(image.resize((64, 64)), int) - before).mean() < 6


def test_files_named_by_wordnet_are_labelled(tmp_path):
    """As photo collections are handed about."""
    for name in ("n02123159_tiger_cat.JPEG", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert labelled.read(tmp_path) == [labelled.Labelled(tmp_path / "n02123159_tiger_cat.JPEG", "n02123159")]
