"""A virtual environment for each peer, installed from its lock file once, and again when that file changes."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from loadtest.compare.peers import Peer

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements" / "compare"
INSTALL_S = 900.0


class Unavailable(Exception):
    """A server can't take part; the message is the reason, in one line."""


def install(peer: Peer, folder: Path) -> Path:
    """The folder of its environment, with everything in it.

    Args:
        folder: that holds all environments.
    Raises:
        Unavailable: pip fails, or there is no shared libpython where one is needed.
    """
    if peer.shared_python:
        shared_library()
    lock, place = LOCKS / f"{peer.name}.txt", folder / peer.name
    wanted = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {sys.version}"
    stamp = place / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return place
    shutil.rmtree(place, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(place)])
    _run([str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)])
    stamp.write_text(wanted)
    return place


def version(peer: Peer) -> str:
    """The locked version of its package."""
    found = re.search(rf"^{re.escape(peer.package)}==(\S+)", (LOCKS / f"{peer.name}.txt").read_text(), re.MULTILINE)
    assert found is not None, f"{peer.package} is not in its own lock file"
    return found[1]


def shared_library() -> Path:
    """This interpreter's libpython, as a shared library.

    Raises:
        Unavailable: it was built without one.
    """
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    file = Path(folder or "", name or "")
    if ".so" not in file.name or not file.exists():
        raise Unavailable(f"it embeds Python and needs libpython as a shared library; found {file}")
    return file


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"not installed: {error}") from error
    if done.returncode:
        raise Unavailable(f"not installed: {last_line(done.stderr or done.stdout)}")


def last_line(text: str) -> str:
    """The last line that says something, where a traceback or pip has its reason."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    return lines[-1][:300] if lines else "it said nothing"
