"""Models on disk: believed only as far as they prove it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from service import modelfile
from service.modelfile import ModelFile
from service.problems import StartError
from tests import models

DEEP = "[" * 100_000 + "]" * 100_000


def nested(levels: int) -> Any:
    """A dictionary with so many lists inside each other."""
    value: Any = {}
    for _ in range(levels - 1):
        value = [value]
    return {"deep": value}


def test_a_model_tells_all_about_itself(tiny_model):
    """No second file is needed to serve it."""
    assert tiny_model.recipe.name == "quadrants"
    assert [label.label for label in tiny_model.labels] == ["top left", "top right", "bottom left", "bottom right"]
    assert len(tiny_model.golden) == 4
    assert tiny_model.layers == models.LAYERS
    assert tiny_model.digest == hashlib.sha256(tiny_model.path.read_bytes()).hexdigest()
    assert not tiny_model.external


def test_weights_in_another_file_count_like_those_inside(tmp_path, tiny_model):
    """The digest is of the weights, wherever they lie."""
    outside = ModelFile.open(models.build(tmp_path / "model.onnx", external=True))
    assert outside.external
    assert (outside.weights_sha256, outside.weights_bytes) == (tiny_model.weights_sha256, tiny_model.weights_bytes)
    assert outside.digest != tiny_model.digest


@pytest.mark.parametrize("part", ["recipe", "labels", "golden", "sha256"])
def test_a_bare_model_is_shown_the_way_out(tmp_path, part):
    """People bring ONNX files from anywhere; the message says what to run."""
    path = models.build(tmp_path / "model.onnx", without=(part,))
    with pytest.raises(StartError, match=rf'quadrant\.{part}; expected .* run "python -m export annotate"'):
        ModelFile.open(path)


def test_a_model_without_a_layer_table_is_fine(tmp_path):
    """It is for people only."""
    assert ModelFile.open(models.build(tmp_path / "model.onnx", without=("layers",))).layers == ()


@pytest.mark.parametrize(("key", "text", "message"), [
    pytest.param("recipe", "{}", "quadrant.recipe can't be read", id="recipe"),
    pytest.param("labels", "[]", "quadrant.labels is an empty list", id="labels"),
    pytest.param("golden", "[]", "quadrant.golden has 0 pictures", id="golden"),
    pytest.param("sha256", "0" * 64, "expected 0000", id="digest"),
    pytest.param("recipe", '{"provenance":' + DEEP, "JSON is nested too deeply; expected at most 32 levels", id="100,000 levels"),
    pytest.param("recipe", '{"x":' + DEEP, "JSON is nested too deeply; expected at most 32", id="the same, of an unknown key"),
    pytest.param("recipe", models.recipe_text(provenance=nested(40)), "of 41 levels; expected at most 32", id="41 levels"),
])
def test_a_wrong_part_is_named_with_the_file(tmp_path, key, text, message):
    """With ten models in a folder, which one matters."""
    path = models.build(tmp_path / "model.onnx", metadata={key: text})
    with pytest.raises(StartError, match=message) as raised:
        ModelFile.open(path)
    assert str(path) in str(raised.value)


def test_changed_weights_are_noticed(tmp_path):
    """A half-copied or mixed-up file would answer, only wrongly."""
    path = models.build(tmp_path / "model.onnx", external=True)
    weights = path.parent / "weights.bin"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    with pytest.raises(StartError, match="SHA-256"):
        ModelFile.open(path)


def test_short_weights_are_noticed(tmp_path):
    """The commonest damage of a copy."""
    path = models.build(tmp_path / "model.onnx", external=True)
    weights = path.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(StartError, match=r"has 23 bytes; expected at least 24"):
        ModelFile.open(path)
    weights.unlink()
    with pytest.raises(StartError, match="No such file"):
        ModelFile.open(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "sub/weights.bin", "", "..", ".", "weights.bin\0", "\0"])
def test_weights_stay_in_the_model_s_folder(tmp_path, location):
    """A model from elsewhere must not read this machine's files."""
    path = models.build(tmp_path / "folder" / "model.onnx", external=True)
    (tmp_path / "secret").write_bytes(bytes(100))
    relocate(path, location)
    with pytest.raises(StartError, match="expected the bare name of a file beside the model"):
        ModelFile.open(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    """A bare name may still point elsewhere."""
    path = models.build(tmp_path / "folder" / "model.onnx", external=True)
    weights = path.parent / "weights.bin"
    weights.rename(tmp_path / "elsewhere.bin")
    weights.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(StartError, match="expected the bare name"):
        ModelFile.open(path)


def test_links_in_a_circle_are_refused(tmp_path):
    """Python gives up on them with an error of its own."""
    path = models.build(tmp_path / "model.onnx", external=True)
    for here, there in (("weights.bin", "other"), ("other", "weights.bin")):
        (tmp_path / here).unlink(missing_ok=True)
        (tmp_path / here).symlink_to(there)
    with pytest.raises(StartError, match=r'weights lie in "weights.bin"; expected the bare name|weights.bin can\'t be read'):
        ModelFile.open(path)


def test_a_folder_mounted_by_links_is_fine(tmp_path):
    """Kubernetes mounts each file as a link into a hidden folder beside it."""
    models.build(tmp_path / "..data" / "model.onnx", external=True)
    for name in ("model.onnx", "weights.bin"):
        (tmp_path / name).symlink_to(tmp_path / "..data" / name)
    assert ModelFile.open(tmp_path / "model.onnx").external


@pytest.mark.parametrize("content", [
    pytest.param(b"", id="nothing"),
    pytest.param(b"hello, world", id="text"),
    pytest.param(b"\xff" * 40, id="endless number"),
    pytest.param(b"PK\x03\x04" + bytes(60), id="zip"),
])
def test_what_is_no_model_is_refused(tmp_path, content):
    """In one line, with the file's name."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"model\.onnx"):
        ModelFile.open(path)


def test_a_model_cut_anywhere_is_refused(tmp_path):
    """Never served, never a traceback."""
    content = models.build(tmp_path / "model.onnx").read_bytes()
    for length in range(0, len(content), 61):
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        with pytest.raises(StartError):
            ModelFile.open(tmp_path / "cut.onnx")


def test_weights_as_lists_of_numbers_are_refused(tmp_path):
    """The digest is over raw bytes; others would go unseen."""
    path = models.build(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("listed", TensorProto.FLOAT, [2], [1.0, 2.0]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(StartError, match='weights "listed" are a list of numbers'):
        ModelFile.open(path)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
@pytest.mark.parametrize("how", ["overwritten", "replaced", "removed", "overwritten, its time set back"])
def test_a_model_that_changes_while_it_is_loaded_is_refused(tmp_path, name, how):
    """What is served is what was checked."""
    opened = ModelFile.open(models.build(tmp_path / "model.onnx", external=True))
    opened.require_unchanged()
    file = tmp_path / name
    content, before = file.read_bytes(), file.stat()
    if how == "removed":
        file.unlink()
    elif how == "replaced":
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").rename(file)
    else:
        file.write_bytes(content[::-1])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + ("back" not in how)))
    age(file, before)
    assert not opened.unchanged
    with pytest.raises(StartError, match=f"{name} changed while it was loaded"):
        opened.require_unchanged()


def test_what_was_read_is_not_read_again(tmp_path, monkeypatch):
    """244 MB are hashed once, in the master; its workers compare stamps."""
    path = models.build(tmp_path / "model.onnx", external=True)
    monkeypatch.setattr(modelfile, "SETTLED_S", -3600.0)  # as if all had been written an hour ago
    first = ModelFile.known(path)
    assert ModelFile.known(path) is first
    models.build(path, external=True, name="another")
    os.utime(path)
    second = ModelFile.known(path)
    assert (first.recipe.name, second.recipe.name) == ("quadrants", "another")
    (tmp_path / "weights.bin").write_bytes(bytes(24))
    os.utime(tmp_path / "weights.bin", ns=(0, 0))
    with pytest.raises(StartError, match="SHA-256"):
        ModelFile.known(path)


def test_what_was_written_just_now_is_read_again(tmp_path):
    """Two writes within one tick of the file system's clock leave the same stamp."""
    path = models.build(tmp_path / "model.onnx")
    assert ModelFile.known(path) is not ModelFile.known(path)


def relocate(path, location):
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def age(file: Path, before: os.stat_result) -> None:
    """Change a file's mode until the file system's clock has ticked: its steps are longer than a test."""
    while file.exists() and file.stat().st_ctime_ns == before.st_ctime_ns:
        time.sleep(0.001)
        file.chmod(before.st_mode ^ 0o100)
