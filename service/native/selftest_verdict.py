"""What the self-test of the library said, in a process of its own; once for each build of it, of Pillow and of its libjpeg."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy
import PIL

from service import cache_folder

TIMEOUT_S = 60.0  # it takes a third of a second on a machine that does nothing else
FILE = "selftest.json"
ROOT = Path(__file__).parents[2]


class Verdict(NamedTuple):
    """Why the library must not resize, and why it must not decode; empty where it may."""

    resize: str
    decode: str


def find(library: Path, libjpeg: Path | None, place: Path | None) -> Verdict:
    """The verdict on this build: a remembered one, or a new one.

    Args:
        library: the compiled one.
        libjpeg: Pillow's own, if it has one.
        place: folder to remember it in.
    """
    builds = [hashlib.sha256(file.read_bytes()).hexdigest() if file else "" for file in (library, libjpeg)]
    entry = cache_folder.entry(place, "selftest", *builds, PIL.__version__, numpy.__version__).path
    with suppress(OSError, ValueError, TypeError):  # not there, damaged, or of another form
        if entry is not None:
            return Verdict(**json.loads((entry / FILE).read_text()))
    verdict, lasting = _test(library)
    if entry is not None and lasting:
        _remember(entry, verdict)
    return verdict


def _test(library: Path) -> tuple[Verdict, bool]:
    """The verdict, and whether it would be the same another time."""
    command = [sys.executable, "-m", "service.native.selftest", str(library)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(*[f"did not end its self-test within {TIMEOUT_S:g} s"] * 2), False
    except OSError as error:  # no memory for another process, for one
        return Verdict(*[f"can't be tested: {error}"] * 2), False
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return Verdict(*[f"ended its self-test with {how}"] * 2), done.returncode < 0
    return Verdict(**json.loads(done.stdout)), True


def _remember(entry: Path, verdict: Verdict) -> None:
    with suppress(OSError):  # the next start tests again
        entry.mkdir(mode=0o700, exist_ok=True)
        new = entry / f"{FILE}.{os.getpid()}"
        new.write_text(json.dumps(verdict._asdict()))
        new.replace(entry / FILE)
