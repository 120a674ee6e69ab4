"""Weights in the order that this processor wants them, once on disk for all processes, which map them.

ONNX Runtime orders ("prepacks") a model's weights when it makes a session, into a copy of its own: in each process, at each
start. It can also write down what it has ordered (`session.save_external_prepacked_constant_initializers`, 1.20 and later); a
session that is made of that file maps it. Its answers are proven on the golden examples like all others.

Made at a model's first start on a machine; found there by all that it depends on: the model's digest, ONNX Runtime's version, the
processor.
Where nothing can be kept, each process orders its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import onnxruntime

from service import logs
from service.modelfile import ModelFile

log = logs.get(__name__)

FORM = "4"  # of what is kept
GRAPH, WEIGHTS = "model.onnx", "weights.bin"
LEAST_BYTES = 1024  # smaller weights stay in the graph; ONNX Runtime maps only what lies outside of it
DIGEST = "sha256"
OURS, UNFINISHED, TRIED = re.compile(r"[0-9a-f]{32}"), ".new-", ".tried"  # names in the folder; all else is somebody's
KEPT_S = 30 * 86_400  # what no start has used for so long goes
RETRY_S = 86_400  # after a try that failed, or ended its process, most likely for want of memory
# The golden examples of int8 leave room for other processors' kernels, so that damage could hide there; those of fp32 leave none,
# and reading all of a large network's weights would cost each start a quarter of a second.
HASHED_BYTES = 2**27
TIMES_THE_MODEL = 3  # free space that is wanted: the weights as they were are written too
IN_MEMORY = ("tmpfs", "ramfs")


class Found(NamedTuple):
    """The graph to make sessions of; `None` where there is none, and why."""

    path: Path | None
    reason: str


def folder(setting: str) -> Path | None:
    """Where they are kept: `auto` is the user's cache folder (XDG Base Directory Specification), `off` nowhere."""
    if setting == "off":
        return None
    if setting != "auto":
        return Path(setting)
    with suppress(RuntimeError):  # a user without a home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quadrant" / "packed"
    return None


def find(model: ModelFile, place: Path | None) -> Found:
    """The packed form of a model; made if it isn't there, by one process while the others wait.

    Args:
        model: opened and checked; its files are read again only to make it.
        place: folder of all of them.
    """
    if place is None:
        return Found(None, "nothing is kept (QUADRANT_PACKED_WEIGHTS)")
    if model.external and model.recipe.precision == "fp32":
        # To map packed weights, ONNX Runtime still packs each layer again: 722 MB for two workers of AlexNet instead of 459.
        return Found(None, "mapped from the model's own file")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if reason := _unfit(place):
            return Found(None, reason)
        found = place / _key(model)
        if not _whole(found):
            with _one_at_a_time(place):
                if not _whole(found):
                    _make(model, found)
        os.utime(found)
    except Exception as error:  # OSError, and the runtime's, which have no common ancestor; it goes without
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Found(None, f"weights can't be kept in {place}: {reason}")
    return Found(found / GRAPH, f"mapped from {found}")


def forget(graph: Path) -> None:
    """Remove one that turned out to be damaged; the next start makes it anew."""
    with suppress(OSError), _one_at_a_time(graph.parents[1]):
        _remove(graph.parent)


def _whole(found: Path) -> bool:
    """It is there, and holds what was written."""
    try:
        return (sum(file.stat().st_size for file in _files(found)) > HASHED_BYTES
                or (found / DIGEST).read_text() == _digest(found))
    except OSError:
        return False


def _digest(folder: Path) -> str:
    sha256 = hashlib.sha256()
    for each in _files(folder):
        with open(each, "rb") as file:
            sha256.update(hashlib.file_digest(file, "sha256").digest())
    return sha256.hexdigest()


def _files(folder: Path) -> list[Path]:
    """The graph; its weights, unless they are all so small that they lie in it."""
    return [folder / GRAPH, *([folder / WEIGHTS] if (folder / WEIGHTS).exists() else [])]


def _remove(folder: Path) -> None:
    """First out of sight, then piece by piece: what is left of one in its own place would look like a whole one."""
    with suppress(OSError):
        gone = folder.with_name(f"{UNFINISHED}{folder.name}")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


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


def _key(model: ModelFile) -> str:
    """Whatever the order depends on."""
    wanted = (FORM, model.digest, onnxruntime.__version__, platform.machine(), _processor())
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:32]


def _processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """Its name and what it can do; the kernels are chosen by that."""
    try:
        lines = file.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))


@contextmanager
def _one_at_a_time(place: Path) -> Iterator[None]:
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(model: ModelFile, target: Path) -> None:
    """Make one; a mark stays behind where that ends the process, so that it isn't tried at each start.

    Raises:
        OSError: it can't be written, or there is a mark.
    """
    _tidy(target.parent)
    tried = target.with_suffix(TRIED)
    if tried.exists():
        raise OSError("an earlier try ended its process")
    wanted = TIMES_THE_MODEL * sum(file.stat().st_size for file in model.path.parent.iterdir() if file.is_file())
    if (free := shutil.disk_usage(target.parent).free) < wanted:
        raise OSError(f"{free / 1e6:,.0f} MB are free; {wanted / 1e6:,.0f} MB are needed")
    start = time.monotonic()
    tried.touch()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED) as new:
            _write(model, Path(new))
            (Path(new) / DIGEST).write_text(_digest(Path(new)))
            for written in Path(new).iterdir():
                with open(written, "rb") as file:
                    os.fsync(file.fileno())  # a power cut must not leave a name without its bytes
            _remove(target)  # what is left of a damaged one
            os.rename(new, target)  # now: nobody ever sees half of it
            os.mkdir(new)  # for the end of the block
    finally:
        tried.unlink()
    log.debug("weights_packed", path=str(target), seconds=round(time.monotonic() - start, 3))


def _write(model: ModelFile, folder: Path) -> None:
    """Let ONNX Runtime optimise the graph and pack its weights for this processor.

    Raises:
        OSError, and the runtime's exceptions, which have no common ancestor: it can't be made.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / GRAPH)
    for name, value in {
        "optimized_model_external_initializers_file_name": WEIGHTS,
        "optimized_model_external_initializers_min_size_in_bytes": str(LEAST_BYTES),
        "save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(f"session.{name}", value)
    model.require_unchanged()
    onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    model.require_unchanged()


def _tidy(place: Path) -> None:
    """Remove what killed processes left, and what nobody has used for long. Nobody else makes one now."""
    now = time.time()
    for each in place.iterdir():
        age_s = now - each.stat().st_mtime
        if each.name.startswith(UNFINISHED) or (OURS.fullmatch(each.name) and age_s > KEPT_S):
            shutil.rmtree(each, ignore_errors=True)
        elif each.suffix == TRIED and age_s > RETRY_S:
            each.unlink()
