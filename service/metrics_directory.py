"""The folder through which worker processes share their metrics.

Apart from `metrics.py` because prometheus_client looks at the variable once, while it is imported: whoever starts
workers calls `prepare()` first and imports the rest afterwards. Imports nothing but the standard library.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from service.problems import StartError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare() -> Path:
    """Make the folder, empty it of an earlier run's files, export its name to this process and its children.

    A folder named by PROMETHEUS_MULTIPROC_DIR is used and kept; without it, a temporary one is made, and removed
    when this process (not a forked child) ends.

    Raises:
        StartError: prometheus_client is imported already, or the folder can't be written.
    """
    if "prometheus_client" in sys.modules and VARIABLE not in os.environ:
        raise StartError(f"prometheus_client was imported before {VARIABLE} was set; expected metrics_directory.prepare() first")
    if given := os.environ.get(VARIABLE):
        folder = Path(given)
    else:
        folder = Path(tempfile.mkdtemp(prefix="quadrant-metrics-"))
        atexit.register(_remove, folder, os.getpid())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.db"):  # only prometheus_client's own files: the folder may be anyone's
            old.unlink()
    except OSError as error:
        raise StartError(f"{VARIABLE} is {folder}: {error.strerror}; expected a folder that can be written") from error
    os.environ[VARIABLE] = str(folder)
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
