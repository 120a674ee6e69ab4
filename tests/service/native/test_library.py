"""The compiled library: there, proven, harmless; and Pillow itself where it can't be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service import images
from service.native import library
from tests.service import pictures
from tests.service.native.test_jpeg import preprocessing

FOLDER = Path(library.__file__).parent
FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared"]  # as in build


@pytest.fixture
def other_library(monkeypatch):
    """A function that puts another file in the library's place."""
    def take(file):
        monkeypatch.setattr(library, "FILE", file)
        library.native.cache_clear()

    yield take
    monkeypatch.undo()
    library.configure("auto", None)
    library.native.cache_clear()


def compiled(folder: Path, *flags: str) -> Path:
    """The C code, compiled another way."""
    file = folder / "libnative.so"
    sources = [str(source) for source in FOLDER.glob("*.c")]
    subprocess.run(["cc", *FLAGS, *flags, "-o", str(file), *sources, "-lm", "-lpthread"], check=True)
    return file


def cases(file: Path, seed: int, count: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """Random pictures in a process of its own, against Pillow."""
    return subprocess.run([sys.executable, "-m", "tests.service.native.cases", str(file), str(seed), str(count)],
                          cwd=FOLDER.parents[1], env=os.environ | environment, capture_output=True, text=True, check=False)


def run_cases(file: Path, seed: int, count: int, **environment: str) -> str:
    """All equal; what it printed."""
    done = cases(file, seed, count, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    resized, decoded, _ = done.stdout.split(maxsplit=2)
    assert min(int(resized), int(decoded)) > count / 4
    return done.stdout


def test_it_is_compiled_and_proven_here():
    """`make env` compiles it, so that the tests beside test it."""
    found = library.native()
    assert found.code is not None, found.reason
    assert found.libjpeg is not None, found.reason


def test_where_it_was_never_tried_pillow_does_it(monkeypatch, other_library):
    """Compilers for ARM contract sums: a weight may be another in its last bit."""
    monkeypatch.setattr(library.platform, "machine", lambda: "aarch64")
    other_library(library.FILE)
    assert library.native().code is None
    assert "aarch64" in library.native().reason


def test_without_vector_instructions_the_bits_are_the_same(tmp_path):
    """What other processors run."""
    assert "without vector instructions" in run_cases(compiled(tmp_path, "-O2", "-DPORTABLE"), 1, 400)


def test_nothing_is_read_or_written_outside(tmp_path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first such access."""
    file = compiled(tmp_path, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    run_cases(file, 2, 400, LD_PRELOAD=runtime, ASAN_OPTIONS="detect_leaks=0")


def test_the_comparison_would_notice_a_column(tmp_path):
    """Without a margin the colour at the edge of what is decoded is another: the test of the test."""
    done = cases(compiled(tmp_path, "-O2", "-DMARGIN=0"), 1, 1000)
    assert done.returncode
    assert "AssertionError" in done.stderr


@pytest.mark.parametrize(("flags", "reason"), [
    (None, "was not compiled"), ("text", "can't be used"), (["-DVERSION=99"], f"has version 99 instead of {library.VERSION}"),
    (["-DPRECISION=12"], "resizes to other pixels than Pillow"),
    (["-DABI=80"], "decoded by Pillow")], ids=str)
def test_without_a_library_that_is_right_pillow_does_it(tmp_path, other_library, flags, reason):
    """Missing, of another state of the source, damaged, or wrong here: found at the start, told, and not used."""
    data = pictures.jpeg(pictures.noise(150, 120), subsampling=2)
    expected = images.prepare(data, preprocessing(), 56, 56).pixels
    file = tmp_path / "libnative.so"
    if isinstance(flags, str):
        file.write_text("no library")
    elif flags:
        file = compiled(tmp_path, "-O1", *flags)
    other_library(file)
    found = library.native()
    assert reason in found.reason
    assert found.libjpeg is None
    assert np.array_equal(images.prepare(data, preprocessing(), 56, 56).pixels, expected)


@pytest.mark.parametrize(("maps", "reason"), [
    ("", "0 libraries of that name"), ("7f00-7f01 r-xp 0 00:00 1    /usr/lib/libjpeg.so.62\n"
                                       "7f02-7f03 r-xp 0 00:00 2    /opt/libjpeg.so.8\n", "2 libraries of that name"),
    ("7f00-7f01 r-xp 0 00:00 1    /nowhere/libjpeg.so.62\n", "cannot open"), (None, "libjpeg can't be asked")])
def test_without_pillows_libjpeg_pillow_decodes(tmp_path, monkeypatch, other_library, maps, reason):
    """Another system's Pillow, or no /proc: resizing is compiled all the same."""
    monkeypatch.setattr(library, "MAPS", tmp_path / "maps")
    if maps is not None:
        (tmp_path / "maps").write_text(maps)
    other_library(library.FILE)
    found = library.native()
    assert reason in found.reason
    assert found.code is not None
    assert found.libjpeg is None
