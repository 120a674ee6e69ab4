"""Weights in the order that this processor wants them, once on disk for all processes, which map them.

ONNX Runtime orders ("prepacks") a model's weights when it makes a session, into a copy of its own: in each process, at each
start. It can also write down what it has ordered (`session.save_external_prepacked_constant_initializers`, 1.20 and later); a
session that is made of that file maps it. Its answers are proven on the golden examples like all others.

Made at a model's first start on a machine. Where nothing can be kept, each process orders its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import onnxruntime

from service import cache_folder, logs
from service.inference.session import CPU_PROVIDER, first_line
from service.modelfile import ModelFile

log = logs.get(__name__)

FORMAT = "4"  # of what is kept
GRAPH, WEIGHTS, DIGEST = "model.onnx", "weights.bin", "sha256"
LEAST_BYTES = 1024  # smaller weights stay in the graph; ONNX Runtime maps only what lies outside of it
# The golden examples of int8 leave room for other processors' kernels, so that damage could hide there; those of fp32 leave none,
# and reading all of a large network's weights would cost each start a quarter of a second.
HASHED_BYTES = 2**27
TIMES_THE_MODEL = 3  # free space that is wanted: the weights as they were are written too


class Found(NamedTuple):
    """The graph to make sessions of; `None` where there is none, and why."""

    path: Path | None
    reason: str


def find(model: ModelFile, place: Path | None) -> Found:
    """The packed form of a model; made if it isn't there, by one process while the others wait.

    Args:
        model: opened and checked; its files are read again only to make it.
        place: folder of all of them.
    """
    if place is not None and model.external and model.recipe.precision == "fp32":
        # To map packed weights, ONNX Runtime still packs each layer again: 722 MB for two workers of AlexNet instead of 459.
        return Found(None, "mapped from the model's own file")
    entry = cache_folder.entry(place, FORMAT, model.digest, onnxruntime.__version__, platform.machine())
    if place is None or entry.path is None:
        return Found(None, entry.reason)
    try:
        if not _whole(entry.path):
            with cache_folder.one_at_a_time(place):
                if not _whole(entry.path):
                    _make(model, entry.path)
    except Exception as error:  # OSError, and the runtime's, which have no common ancestor; it goes without
        return Found(None, f"weights can't be kept in {place}: {first_line(error)}")
    return Found(entry.path / GRAPH, f"mapped from {entry.path}")


def forget(graph: Path) -> None:
    """Remove one that turned out to be damaged; the next start makes it anew."""
    with suppress(OSError), cache_folder.one_at_a_time(graph.parents[1]):
        cache_folder.remove(graph.parent)


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


def _make(model: ModelFile, target: Path) -> None:
    """Make one; a mark stays behind where that ends the process, so that it isn't tried at each start.

    Raises:
        OSError: it can't be written, or there is a mark.
    """
    cache_folder.tidy(target.parent)
    tried = target.with_suffix(cache_folder.TRIED)
    if tried.exists():
        raise OSError("an earlier try ended its process")
    wanted = TIMES_THE_MODEL * sum(file.stat().st_size for file in model.path.parent.iterdir() if file.is_file())
    if (free := shutil.disk_usage(target.parent).free) < wanted:
        raise OSError(f"{free / 1e6:,.0f} MB are free; {wanted / 1e6:,.0f} MB are needed")
    start = time.monotonic()
    tried.touch()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=cache_folder.UNFINISHED) as new:
            _write(model, Path(new))
            (Path(new) / DIGEST).write_text(_digest(Path(new)))
            for written in Path(new).iterdir():
                with open(written, "rb") as file:
                    os.fsync(file.fileno())  # a power cut must not leave a name without its bytes
            cache_folder.remove(target)  # what is left of a damaged one
            os.rename(new, target)  # now: nobody ever sees half of it
            os.mkdir(new)  # for the end of the block
    finally:
        tried.unlink()
    log.debug("weights_packed", path=str(target), seconds=round(time.monotonic() - start, 3))


def _write(model: ModelFile, folder: Path) -> None:
    """Let ONNX Runtime optimise the graph and pack its weights for this processor.

    Raises:
        Exception: the runtime's exceptions have no common ancestor.
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
    onnxruntime.InferenceSession(str(model.path), options, providers=[CPU_PROVIDER])
    model.require_unchanged()
