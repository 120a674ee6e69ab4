"""The self-test of the compiled library: in a process of its own, once a build, and its verdict is obeyed."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.native import library, selftest, selftest_verdict
from service.native.selftest_verdict import Verdict
from tests.service.native.test_library import compiled, other_library

__all__ = ["other_library"]  # a fixture


@pytest.fixture
def children(monkeypatch) -> list[list[str]]:
    """The commands of the self-tests that were run."""
    seen: list[list[str]] = []
    run = subprocess.run

    def remember(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        if "service.native.selftest" in command:
            seen.append(command)
        return run(command, **more)

    monkeypatch.setattr(selftest_verdict.subprocess, "run", remember)
    return seen


@pytest.fixture
def libjpeg() -> Path:
    return library.libjpeg_file()


def test_a_build_is_tested_once(children, libjpeg, tmp_path):
    """Each worker, and each start, would pay for it."""
    found = [selftest_verdict.find(library.FILE, libjpeg, tmp_path / "cache") for _ in range(3)]
    assert found == [Verdict("", "")] * 3
    assert len(children) == 1
    other = tmp_path / "libjpeg.so"
    other.write_bytes(b"another build")
    selftest_verdict.find(library.FILE, other, tmp_path / "cache")
    assert len(children) == 2


def test_without_a_folder_it_is_tested_each_time(children, libjpeg, tmp_path):
    """As in a container whose files can't be written."""
    (tmp_path / "file").touch()
    for place in (None, tmp_path / "file" / "cache"):
        assert selftest_verdict.find(library.FILE, libjpeg, place) == Verdict("", "")
    assert len(children) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"resize": ""}', '{"resize": "", "decode": "", "more": 1}'])
def test_a_damaged_memory_is_made_anew(children, libjpeg, tmp_path, content):
    """A disk that was full, or another version's form."""
    selftest_verdict.find(library.FILE, libjpeg, tmp_path)
    (file,) = tmp_path.glob("*/selftest.json")
    file.write_text(content)
    assert selftest_verdict.find(library.FILE, libjpeg, tmp_path) == Verdict("", "")
    assert len(children) == 2
    assert json.loads(file.read_text()) == {"resize": "", "decode": ""}


def test_a_library_that_crashes_is_not_used(children, other_library, tmp_path):
    """It ends its own process alone, and isn't tried again."""
    (tmp_path / "crash.h").write_text("#include <time.h>\n#define clock_gettime(clock, time) __builtin_trap()\n")
    other_library(compiled(tmp_path, "-O1", "-include", str(tmp_path / "crash.h")))
    library.configure("auto", tmp_path / "cache")
    for _ in range(2):
        library.native.cache_clear()
        found = library.native()
        assert (found.code, found.libjpeg) == (None, None)
        assert "ended its self-test with signal" in found.reason
    assert len(children) == 1


@pytest.mark.parametrize(("failure", "reason"), [
    pytest.param(subprocess.TimeoutExpired("x", 60), "did not end its self-test within 60 s", id="a hang"),
    pytest.param(OSError(12, "Cannot allocate memory"), "can't be tested: [Errno 12] Cannot allocate memory", id="no memory"),
])
def test_what_may_be_different_another_time_is_not_remembered(monkeypatch, libjpeg, tmp_path, failure, reason):
    """A machine that is too busy, for one."""
    def fail(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(selftest_verdict.subprocess, "run", fail)
        assert selftest_verdict.find(library.FILE, libjpeg, tmp_path) == Verdict(reason, reason)
    assert selftest_verdict.find(library.FILE, libjpeg, tmp_path) == Verdict("", "")


def test_every_sampling_is_in_it():
    """Debian's libjpeg-turbo 2.1.5 makes other pixels of an undamaged 4 × 2 than Pillow's own."""
    factors, restarts, progressive = set(), 0, 0
    for _, data, _ in selftest.pictures():
        image = Image.open(io.BytesIO(data))
        assert any(side % 2 for side in image.size)
        factors.add(image.layer[0][1:3])
        restarts += b"\xff\xdd" in data
        progressive += "progressive" in image.info
    assert factors >= {(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (1, 2), (1, 4), (2, 4)}
    assert min(restarts, progressive) >= 2


@pytest.mark.parametrize("sample", sorted(selftest.SAMPLES.glob("*.jpg")), ids=lambda path: path.stem)
def test_a_sampling_that_comes_out_otherwise_is_noticed(monkeypatch, sample):
    """One grey level in one pixel."""
    real = selftest.jpeg.of

    def off_by_one(code, libjpeg, data, *more):
        found = real(code, libjpeg, data, *more)
        if data == sample.read_bytes() and found is not None:
            found.pixels[0, 0, 0] ^= 1
        return found

    monkeypatch.setattr(selftest.jpeg, "of", off_by_one)
    functions = library.libjpeg_functions(library.libjpeg_file())
    assert selftest.decodes_otherwise(library.loaded(), functions) == f"compiled code makes other pixels of {sample.stem}"


def test_a_filter_that_comes_out_otherwise_is_noticed(monkeypatch):
    """Of each of the three."""
    real = selftest.resample.of
    monkeypatch.setattr(selftest.resample, "of", lambda code, image, resize: real(code, image, resize) ^ np.uint8(
        resize.how == Image.Resampling.LANCZOS))
    assert selftest.resizes_otherwise(library.loaded()) == "resizes to other pixels than Pillow (lanczos)"


def test_it_can_be_turned_off(children):
    """`QUADRANT_NATIVE=off`: nothing is loaded, nothing is tested."""
    try:
        library.configure("off", None)
        found = library.native()
        assert (found.code, found.libjpeg, found.reason) == (None, None, "by Pillow: set by QUADRANT_NATIVE")
        assert children == []
    finally:
        library.configure("auto", None)
