"""Labelled pictures → arrays in memory-mapped files. Every picture is decoded once; later runs map the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export import listing
from export.listing import Entry, Listing, UnusableData
from service import images
from service.planning import usable_cpus
from service.problems import Problem
from service.recipe import Preprocessing


@dataclass(frozen=True)
class Split:
    """Pictures of one purpose.

    Attributes:
        pixels: (N, side, side, 3) uint8 RGB, memory-mapped.
        labels: (N,) int64, row of the class in `Pictures.labels`.
        names: N paths inside the data set.
    """

    pixels: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Pictures:
    """A decoded data set: the pictures of `listed`, in its order."""

    listed: Listing
    train: Split
    validation: Split


def load(source: Path, cache: Path, side: int) -> Pictures:
    """Read a data set, decoding into `cache` whatever is not there yet.

    Args:
        source: a folder, or a zip.
        cache: folder for the decoded pictures; made if missing.
        side: height and width in pixels every picture is brought to (short side, then the centre).
    Raises:
        UnusableData: no known layout, or a picture that can't be decoded; names it.
    """
    listed = listing.read(source)
    # New pictures under old names are decoded anew.
    sizes = [listed.size(entry.name) for entry in (*listed.train, *listed.validation)]
    folder = cache / f"{listed.digest[:16]}-{hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:8]}-{side}"
    return Pictures(
        listed,
        train=_decoded(listed.read, listed.train, folder / "train.npy", side),
        validation=_decoded(listed.read, listed.validation, folder / "validation.npy", side),
    )


def _decoded(read: listing.Read, entries: list[Entry], file: Path, side: int) -> Split:
    """Map the decoded pictures of `entries`, decoding them first if `file` is missing."""
    labels = np.array([entry.row for entry in entries], np.int64)
    names = [entry.name for entry in entries]
    if not entries:
        return Split(np.empty((0, side, side, 3), np.uint8), labels, names)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        needed = len(entries) * side * side * 3
        if shutil.disk_usage(file.parent).free < needed:
            raise UnusableData(f"decoding needs {needed:,} bytes in {file.parent}; there is not that much room")
        half = file.with_suffix(f".{os.getpid()}.part")
        try:
            pixels = np.lib.format.open_memmap(half, "w+", np.uint8, (len(entries), side, side, 3))
            with ThreadPoolExecutor(usable_cpus()) as pool:
                for start in range(0, len(entries), 1024):
                    part = [(entry.name, read(entry.name)) for entry in entries[start : start + 1024]]
                    pixels[start : start + len(part)] = list(pool.map(lambda item: _square(item[0], item[1], side), part))
            pixels.flush()
            half.replace(file)  # a reader sees all pictures or no file
        finally:
            half.unlink(missing_ok=True)
    return Split(np.load(file, mmap_mode="r"), labels, names)


def _square(name: str, data: bytes, side: int) -> np.ndarray:
    """Encoded picture → (side, side, 3) uint8, by the path that serves: what is learnt is what will be seen."""
    whole = Preprocessing(resize=side, mean=(0, 0, 0), std=(1, 1, 1))  # the normalisation is the training's own
    try:
        return images.prepare(data, whole, side, side).pixels
    except Problem as problem:
        raise UnusableData(f"{name} can't be decoded: {problem}") from problem
