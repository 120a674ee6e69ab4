"""Model files that somebody damaged, or made to do harm: only errors that are documented come out of reading them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.examples import pixels_of
from service.modelfile import ModelFile
from service.problems import StartError
from tests import models

BOUNDED = hypothesis_settings(max_examples=200, deadline=None)
PLACE = st.floats(0, 1)  # in the file
ODD_BYTES = st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\x0a\xff\xff\xff\xff\x0f"]))
ODD_TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["weights.bin", "weights.bin\0", "9" * 5000, "-1", "24", "1e3", "٣", ".", "..", "a" * 5000]))
ODD_NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**30, 10**400, 1e308, -1e308, 5e-324]))
ODD_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), ODD_NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)), max_leaves=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights beside it."""
    return models.build(tmp_path_factory.mktemp("damaged") / "whole.onnx", external=True)


def attempt(whole: Path, content: bytes) -> None:
    """Read it as the service does at its start, and decode its golden pictures."""
    path = whole.with_name("model.onnx")
    path.write_bytes(content)
    with contextlib.suppress(StartError):
        model = ModelFile.open(path)
        pixels_of(model.recipe, model.golden)
        msgspec.json.encode(model.recipe)  # `GET /models/NAME` shows it


@given(st.lists(st.tuples(PLACE, st.integers(0, 8), ODD_BYTES), min_size=1, max_size=4))
@BOUNDED
def test_bytes_that_were_cut_out_and_put_in(whole: Path, changes: list[tuple[float, int, bytes]]):
    """Where, how many go, what comes in their place."""
    content = whole.read_bytes()
    for share, gone, new in changes:
        place = int(share * len(content))
        content = content[:place] + new + content[place + gone :]
    attempt(whole, content)


@given(st.booleans(), st.lists(st.tuples(PLACE, ODD_BYTES), min_size=1, max_size=6))
@BOUNDED
def test_bytes_that_were_overwritten(whole: Path, bare: bool, changes: list[tuple[float, bytes]]):
    """All lengths stay right, so that what is deep inside is reached; a bare model is nearly all graph."""
    model = onnx.load(whole, load_external_data=False)
    if bare:
        del model.metadata_props[:]
    content = bytearray(model.SerializeToString())
    for share, new in changes:
        place = int(share * (len(content) - len(new)))
        content[place : place + len(new)] = new
    attempt(whole, bytes(content))


@given(st.dictionaries(st.sampled_from(["location", "offset", "length", "checksum"]), ODD_TEXTS, max_size=4))
@BOUNDED
def test_places_of_weights(whole: Path, place: dict[str, str]):
    """A name with a NUL in it, numbers that are none, or longer than Python reads."""
    model = onnx.load(whole, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.external_data)
    del tensor.external_data[:]
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    attempt(whole, model.SerializeToString())


@given(st.sampled_from(["recipe", "labels", "golden", "layers", "sha256"]), st.data())
@BOUNDED
def test_texts_that_a_model_says_of_itself(whole: Path, key: str, data: st.DataObject):
    """Any JSON, or the right one with something else at one place in it."""
    model = onnx.load(whole, load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == f"quadrant.{key}":
            said = None if key == "sha256" else json.loads(entry.value)
            entry.value = json.dumps(data.draw(ODD_JSON | changed(said)))
    attempt(whole, model.SerializeToString())


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """With one part replaced or missing, at any depth."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
        return draw(ODD_JSON)
    key = draw(st.sampled_from(sorted(value))) if isinstance(value, dict) else draw(st.integers(0, len(value) - 1))
    copy: Any = value.copy()
    if draw(st.booleans()):
        copy[key] = draw(changed(value[key]))
    else:
        del copy[key]
    return copy
