"""Packed weights: made once, mapped by all, never half there; without them the service runs all the same."""

from __future__ import annotations

import os
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service import cache_folder, processor
from service.admission import Admission
from service.engine import Engine, EngineFault
from service.inference import prepack_cache
from service.inference.session import Opening
from service.loading import Loader
from service.modelfile import ModelFile
from service.planning import plan
from service.problems import StartError
from service.settings import Settings
from tests import models

PICTURES = np.random.default_rng(0).integers(0, 256, (3, models.SIDE, models.SIDE, 3), np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "packed"


def entries(place: Path) -> list[Path]:
    return [each for each in place.iterdir() if each.name != ".lock"]


@pytest.mark.parametrize(("setting", "variables", "expected"), [
    ("off", {}, None),
    ("/srv/weights", {}, Path("/srv/weights")),
    ("auto", {"XDG_CACHE_HOME": "/var/tmp/x"}, Path("/var/tmp/x/quadrant/packed")),
    ("auto", {"XDG_CACHE_HOME": "", "HOME": "/home/someone"}, Path("/home/someone/.cache/quadrant/packed")),
])
def test_where_they_are_kept(monkeypatch, setting, variables, expected):
    """In the user's cache unless said otherwise."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder.folder(setting) == expected


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    """As in many containers."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder.folder("auto") is None


def test_the_answers_are_the_same(tiny_model, place):
    """From the file as from the model."""
    plain, mapped = Engine(tiny_model, "cpu"), Engine(tiny_model, "cpu", Opening(cache=place))
    mapped.widen(8)
    assert str(place) in mapped.session.weights
    for alone in (False, True):
        assert np.abs(mapped.run(PICTURES, alone) - plain.run(PICTURES)).max() < 1e-6
    assert mapped.prove() <= 1e-5
    assert (plain.session.cached, mapped.session.cached) == (False, True)
    plain.session.forget_cache()
    assert len(entries(place)) == 1
    mapped.session.forget_cache()
    assert entries(place) == []


def test_it_is_made_once(tiny_model, place, monkeypatch):
    """However many processes start at the same time; what was there before the lock came is taken."""
    made, make = [], prepack_cache._make

    def slowly(model: ModelFile, target: Path) -> None:
        made.append(target)
        time.sleep(0.05)
        make(model, target)

    monkeypatch.setattr(prepack_cache, "_make", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepack_cache.find(tiny_model, place), range(4)))
    assert len(made) == len(set(found)) == 1
    assert found[0].path == made[0] / prepack_cache.GRAPH
    assert entries(place) == made


def test_another_processor_or_runtime_has_its_own(tiny_model, place, monkeypatch):
    """The order is theirs."""
    first = prepack_cache.find(tiny_model, place)
    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    second = prepack_cache.find(tiny_model, place)
    monkeypatch.setattr(processor, "fingerprint", lambda: "another")
    assert len({first, second, prepack_cache.find(tiny_model, place)}) == 3


def test_what_nobody_uses_any_more_goes(tiny_model, place):
    """Each release of a model or of the runtime leaves one behind; killed processes leave halves. All else is somebody's."""
    place.mkdir(parents=True, mode=0o700)
    names = {"a" * 32: 31, "b" * 32: 29, ".new-half": 0, "thesis": 400}
    for name, days in names.items():
        (place / name).mkdir()
        os.utime(place / name, (time.time() - days * 86_400,) * 2)
    found = prepack_cache.find(tiny_model, place)
    assert found.path is not None
    assert {*entries(place)} == {place / ("b" * 32), place / "thesis", found.path.parent}


def test_a_try_that_ended_its_process_is_not_repeated(tiny_model, place, monkeypatch):
    """For want of memory it would end each successor too; a day later there may be more."""
    def killed(*_: object) -> None:
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(prepack_cache, "_write", killed)
        prepack_cache.find(tiny_model, place)
    os.waitpid(child, 0)
    assert "an earlier try ended its process" in prepack_cache.find(tiny_model, place).reason
    (tried,) = place.glob(f"*{cache_folder.TRIED}")
    os.utime(tried, (time.time() - cache_folder.RETRY_S - 1,) * 2)
    assert prepack_cache.find(tiny_model, place).path is not None
    assert len(entries(place)) == 1


@pytest.mark.parametrize("file", [prepack_cache.GRAPH, prepack_cache.DIGEST])
def test_what_is_not_whole_is_made_anew(tiny_model, place, file):
    """As where somebody's cleaning was interrupted, or a bit has rotted that no golden example shows."""
    found = prepack_cache.find(tiny_model, place)
    assert found.path is not None
    damaged = found.path.with_name(file)
    for damage in (damaged.unlink, lambda: damaged.write_bytes(b"other")):
        damage()
        assert prepack_cache.find(tiny_model, place) == found
        assert Engine(tiny_model, "cpu", Opening(cache=place)).prove() <= 1e-5
    assert entries(place) == [found.path.parent]


def test_a_failure_leaves_nothing_behind(tiny_model, place, monkeypatch):
    """A full disk, for one."""
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full\nand more")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    assert prepack_cache.find(tiny_model, place) == prepack_cache.Found(None, f"weights can't be kept in {place}: disk full")
    assert entries(place) == []


def test_no_room_is_told(tiny_model, place, monkeypatch):
    """Before anything is written."""
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(prepack_cache.shutil, "disk_usage", lambda _: usage(1, 1, 10))
    assert "0 MB are free" in prepack_cache.find(tiny_model, place).reason


def test_a_folder_that_others_can_write_is_not_trusted(tiny_model, place):
    """They could put weights there."""
    place.mkdir(parents=True)
    place.chmod(0o777)
    found = prepack_cache.find(tiny_model, place)
    assert found == prepack_cache.Found(None, f"{place} belongs to others, or others may write there")
    assert entries(place) == []


def test_a_folder_that_cannot_be_made(tiny_model, tmp_path):
    """As on a disk that is read-only."""
    (tmp_path / "file").touch()
    found = prepack_cache.find(tiny_model, tmp_path / "file" / "packed")
    assert found.path is None
    assert "nothing can be kept" in found.reason


def test_memory_is_not_spent_on_files_in_memory(tiny_model, place, monkeypatch):
    """A tmpfs would hold what each process can hold itself."""
    monkeypatch.setattr(cache_folder, "_filesystem", lambda _: "tmpfs")
    assert prepack_cache.find(tiny_model, place) == prepack_cache.Found(None, f"{place} lies in memory")


def test_the_type_of_a_filesystem(tmp_path):
    """Of the mount that the folder lies in, the last of those on one point."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda rw\n22 21 0:5 / /a rw shared:2 - ext4 /dev/sdb rw\n"
        "23 22 0:6 / /a rw - tmpfs tmpfs rw\n24 21 0:7 / /a\\040b rw - xfs /dev/sdc rw\n")
    found = [cache_folder._filesystem(Path(each), table) for each in ("/a/x", "/a b/x", "/ab", "/")]
    assert found == ["tmpfs", "xfs", "ext4", "ext4"]
    assert cache_folder._filesystem(Path("/a"), tmp_path / "none") == ""


def test_a_graph_that_the_runtime_refuses_is_replaced(tiny_model, place, monkeypatch):
    """The start goes on without it; the next one makes it anew."""
    graph = prepack_cache.find(tiny_model, place).path
    assert graph is not None
    graph.write_bytes(b"no graph")
    monkeypatch.setattr(prepack_cache, "HASHED_BYTES", -1)
    engine = Engine(tiny_model, "cpu", Opening(cache=place))
    assert engine.session.weights == "their packed form was damaged"
    assert engine.prove() <= 1e-5
    assert entries(place) == []
    assert Engine(tiny_model, "cpu", Opening(cache=place)).session.weights.startswith("mapped from")


@pytest.mark.parametrize("fault", [StartError, EngineFault])
def test_weights_that_answer_wrong_are_replaced(tmp_path, place, monkeypatch, fault):
    """Bits that rot on disk show in the golden examples; the model itself is sound."""
    model = ModelFile.open(models.build(tmp_path / "model.onnx"))
    settings = Settings(models=tmp_path, provider="cpu", workers=1, engine_threads=1, packed_weights=str(place))
    loader = Loader(settings, plan(settings, 1))
    proven, prove = [], Engine.prove

    def check(engine: Engine, *given: object, **more: object) -> float:
        proven.append(engine.session.weights)
        if engine.session.weights.startswith("mapped"):
            raise fault("golden picture 0 gives another answer, or none")
        return prove(engine)

    monkeypatch.setattr(Engine, "prove", check)
    engine = loader.engine("quadrants/1", model, Admission(plan(settings, 1)).line())
    assert [text.split()[0] for text in proven] == ["mapped", "nothing"]
    assert engine.session.weights.startswith("nothing is kept")
    assert entries(place) == []


def test_a_model_that_is_wrong_itself_is_proven_once(tmp_path, monkeypatch):
    """Without a packed form there is nothing else to try."""
    model = ModelFile.open(models.build(tmp_path / "model.onnx", wrong_golden=True))
    settings = Settings(models=tmp_path, provider="cpu", workers=1, engine_threads=1, packed_weights="off")
    loader, proven, prove = Loader(settings, plan(settings, 1)), [], Engine.prove

    def check(engine: Engine, **more: int) -> float:
        proven.append(engine.session.weights)
        return prove(engine, **more)

    monkeypatch.setattr(Engine, "prove", check)
    with pytest.raises(StartError, match="golden picture"):
        loader.engine("quadrants/1", model, Admission(plan(settings, 1)).line())
    assert len(proven) == 1


def test_large_fp32_networks_are_mapped_from_their_own_file(tmp_path, place):
    """Packing their weights costs twice the largest layer's memory in every session."""
    model = ModelFile.open(models.build(tmp_path / "outside" / "1" / "model.onnx", external=True))
    engine = Engine(model, "cpu", Opening(cache=place))
    assert not engine.session.cached
    assert engine.session.weights == "mapped from the model's own file"
    assert engine.prove() <= 1e-5
