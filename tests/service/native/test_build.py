"""How the library is compiled: hardened, and never at the price of a start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from service.native import library

FOLDER = Path(library.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sources, to be compiled some other way."""
    for source in [*FOLDER.glob("*.[ch]"), FOLDER / "build"]:
        shutil.copy(source, tmp_path)
    return tmp_path


def build(folder: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([folder / "build"], env={"PATH": "/usr/local/bin:/usr/bin:/bin", "CC": compiler}, capture_output=True,
                          text=True, check=False)


def compiler(folder: Path, script: str) -> str:
    """A compiler that does something else."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_library_is_hardened():
    """A mistake in it meets strangers' bytes."""
    file = str(library.FILE)
    assert "GNU_RELRO" in tool("readelf", "-lW", file)
    assert "BIND_NOW" in tool("readelf", "-dW", file)
    needed = tool("nm", "-D", "--undefined-only", file)
    assert "__stack_chk_fail" in needed
    assert "__longjmp_chk" in needed  # what _FORTIFY_SOURCE makes of longjmp


def test_only_what_python_calls_is_visible():
    """Everything else can be neither called nor replaced by what a process has loaded."""
    names = {line.split()[-1] for line in tool("nm", "-D", "--defined-only", str(library.FILE)).splitlines()}
    assert names == {"quadrant_jpeg", "quadrant_resample", "quadrant_vectors", "quadrant_version"}


@pytest.mark.parametrize(("script", "reason"), [
    pytest.param(None, "no C compiler (no-such-compiler)", id="missing"),
    pytest.param("echo broken >&2; exit 1", "failed", id="failing"),
])
def test_a_compiler_that_is_no_help_ends_nothing(folder, script, reason):
    """`make run` goes on, and Pillow does the work."""
    done = build(folder, "no-such-compiler" if script is None else compiler(folder, script))
    assert done.returncode == 0
    assert reason in done.stderr
    assert "by Pillow alone" in done.stderr
    assert not list(folder.glob("libnative.so*"))


def test_an_older_library_survives_a_failing_compiler(folder):
    """It is held against its version before it is used."""
    (folder / "libnative.so").write_bytes(b"old")
    assert build(folder, compiler(folder, "exit 1")).returncode == 0
    assert (folder / "libnative.so").read_bytes() == b"old"


def test_a_linker_that_knows_fewer_options_is_enough(folder):
    """Apple's knows neither -Bsymbolic nor -z."""
    refuses = 'case "$*" in *-Bsymbolic*|*-z,*) echo "ld: unknown option" >&2; exit 1;; esac; exec cc "$@"'
    done = build(folder, compiler(folder, refuses))
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "libnative.so").exists()
    assert "BIND_NOW" not in tool("readelf", "-dW", str(folder / "libnative.so"))
    assert not (folder / "libnative.so.probe").exists()
