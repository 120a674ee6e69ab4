"""The folder for what execution providers derive from a model: who may use it, names in it, and what goes from it.

An entry is a folder named by a digest of all that its content depends on. It is made beside its place and renamed, so that nobody
ever sees half of one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from service import processor

ENTRY, UNFINISHED, TRIED = re.compile(r"[0-9a-f]{32}"), ".new-", ".tried"  # names in the folder; all else is somebody's
KEPT_S = 30 * 86_400  # what no start has used for so long goes
RETRY_S = 86_400  # after a try that ended its process, most likely for want of memory
IN_MEMORY = ("tmpfs", "ramfs")


class Entry(NamedTuple):
    """The path of an entry; `None` where nothing can be kept, and why."""

    path: Path | None
    reason: str = ""


def folder(setting: str) -> Path | None:
    """Where it is: `auto` is the user's cache folder (XDG Base Directory Specification), `off` nowhere."""
    if setting == "off":
        return None
    if setting != "auto":
        return Path(setting)
    with suppress(RuntimeError):  # a user without a home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quadrant" / "packed"
    return None


def entry(place: Path | None, *depends_on: str) -> Entry:
    """The entry for these and this processor, and mark it as used. The folder around it is made; the entry itself isn't.

    Args:
        place: as `folder` gives it.
        depends_on: what the content is derived from.
    """
    if place is None:
        return Entry(None, "nothing is kept (QUADRANT_PACKED_WEIGHTS)")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if reason := _unfit(place):
            return Entry(None, reason)
        found = place / hashlib.sha256("\n".join((*depends_on, processor.fingerprint())).encode()).hexdigest()[:32]
        with suppress(FileNotFoundError):
            os.utime(found)
    except OSError as error:
        return Entry(None, f"nothing can be kept in {place}: {error}")
    return Entry(found)


def remove(path: Path) -> None:
    """First out of sight, then piece by piece: what is left of one in its own place would look like a whole one."""
    with suppress(OSError):
        gone = path.with_name(f"{UNFINISHED}{path.name}")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def tidy(place: Path) -> None:
    """Remove what killed processes left, and what nobody has used for long. The caller is the only one inside."""
    now = time.time()
    for each in place.iterdir():
        age_s = now - each.stat().st_mtime
        if each.name.startswith(UNFINISHED) or (ENTRY.fullmatch(each.name) and age_s > KEPT_S):
            shutil.rmtree(each, ignore_errors=True)
        elif each.suffix == TRIED and age_s > RETRY_S:
            each.unlink()


@contextmanager
def one_at_a_time(place: Path) -> Iterator[None]:
    """One process inside, of all that use the folder."""
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unfit(place: Path) -> str:
    """Why this folder won't do; empty if it will."""
    state = place.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        return f"{place} belongs to others, or others may write there"
    if _filesystem(place) in IN_MEMORY:
        return f"{place} lies in memory"
    return ""


def _filesystem(place: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Its type, as `ext4`; empty where it can't be told."""
    best, kind = -1, ""
    with suppress(OSError, ValueError):
        for line in mounts.read_text().splitlines():
            words = line.split(" ")
            point = Path(words[4].replace("\\040", " "))
            if place.resolve().is_relative_to(point) and len(point.parts) >= best:  # of equal ones the last hides the others
                best, kind = len(point.parts), words[words.index("-") + 1]
    return kind
