"""The metrics of all worker processes together: the folder they share, the page, and the way to the instruments.

Imports prometheus_client only where it is used, for that package looks once, at its import, at the variable that
names the shared folder. `from service.metrics import QUEUE_SECONDS` works and loads `instruments.py` at that moment.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.problems import StartError

if TYPE_CHECKING:
    from service.instruments import *  # noqa: F403 - so that type checkers know what __getattr__ gives

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
OWN = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_\d+\.db")  # how prometheus_client names its files


def prepare_directory() -> Path:
    """Make the shared folder, empty it of an earlier run's files, export its name to this process and its children.

    A folder named by PROMETHEUS_MULTIPROC_DIR is used and kept; without it, a temporary one is made, and removed
    when this process (not a forked child) ends.

    Raises:
        StartError: the instruments exist already, or the folder can't be written.
    """
    if "prometheus_client" in sys.modules and VARIABLE not in os.environ:
        raise StartError(f"prometheus_client was imported before {VARIABLE} was set; call metrics.prepare_directory() first")
    given = os.environ.get(VARIABLE)
    folder = Path(given) if given else Path(tempfile.mkdtemp(prefix="quadrant-metrics-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.db"):
            if OWN.fullmatch(old.name):  # the folder may be anyone's
                old.unlink()
    except OSError as error:
        raise StartError(f"{VARIABLE} is {folder}: {error.strerror}; expected a folder that can be written") from error
    if not given:
        atexit.register(_remove, folder, os.getpid())
    os.environ[VARIABLE] = str(folder)
    return folder


def exposition() -> tuple[bytes, str]:
    """The page for `/metrics`, over all workers where they share a folder, and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    from service import instruments  # noqa: F401 - an instrument without a value is shown too

    registry = REGISTRY
    if os.environ.get(VARIABLE):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST


def mark_dead(pid: int) -> None:
    """Forget a dead worker's gauges; its counters stay, so that none falls. For gunicorn's `child_exit`."""
    if os.environ.get(VARIABLE):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def __getattr__(name: str) -> Any:
    """An instrument by its name."""
    if not name.isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service import instruments

    return getattr(instruments, name)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
