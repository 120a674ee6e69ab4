"""Labelled pictures on disk → arrays in memory-mapped files.

Reads Tiny ImageNet in its official layout, as a folder or as the zip it is downloaded as, and any
folder that holds one folder a class. Every picture is decoded once; later runs map the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.refusal import Refusal
from service import images
from service.planning import usable_cpus
from service.problems import Problem
from service.recipe import Preprocessing

KEPT_BACK = 25  # training pictures a class that no training ever sees
_PICTURES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class UnusableData(Refusal):
    """The folder or zip holds no labelled pictures in a layout that is known here."""


class Label(NamedTuple):
    """A class: its stable id (the wnid where there is one) and its word."""

    id: str
    label: str


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
    """A labelled data set.

    Attributes:
        labels: the classes, in the order of the network's outputs.
        train: every training picture, the kept-back ones included.
        validation: pictures that are only reported on; empty where the data set has none.
        digest: SHA-256 (hex) over all names and labels.
    """

    labels: list[Label]
    train: Split
    validation: Split
    digest: str

    def kept_back(self) -> np.ndarray:
        """(len(train),) bool: the pictures that stay out of training, `KEPT_BACK` a class.

        Chosen by the SHA-256 of their names below the data set's top, so the choice is the same on every
        machine; a class of fewer than four times that many gives a quarter.
        """
        chosen = np.zeros(len(self.train), bool)
        order = np.array([hashlib.sha256(name.encode()).hexdigest() for name in self.train.names])
        for row in range(len(self.labels)):
            (members,) = np.nonzero(self.train.labels == row)
            count = min(KEPT_BACK, len(members) // 4)
            chosen[members[np.argsort(order[members])][:count]] = True
        return chosen


class _Entry(NamedTuple):
    name: str
    row: int


def load(source: Path, cache: Path, side: int) -> Pictures:
    """Read a data set, decoding into `cache` whatever is not there yet.

    Args:
        source: a folder, or a zip.
        cache: folder for the decoded pictures; made if missing.
        side: height and width in pixels every picture is brought to (short side, then the centre).
    Raises:
        UnusableData: no known layout, or a picture that can't be decoded; names it.
    """
    tree: Tree = _Zip(source) if source.suffix == ".zip" and source.is_file() else _Folder(source)
    names = sorted(tree.names())
    top = _top(names)
    names = [name.removeprefix(top) for name in names if name.startswith(top)]

    def read(name: str) -> bytes:
        return tree.read(top + name)

    labels, train, validation = _tiny_imagenet(read, names) or _class_folders(source, names)
    digest = hashlib.sha256(json.dumps([labels, train, validation]).encode()).hexdigest()
    sizes = [tree.size(top + entry.name) for entry in (*train, *validation)]  # new pictures under old names are decoded anew
    folder = cache / f"{digest[:16]}-{hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:8]}-{side}"
    return Pictures(
        labels=labels,
        train=_decoded(read, train, folder / "train.npy", side),
        validation=_decoded(read, validation, folder / "validation.npy", side),
        digest=digest,
    )


def _top(names: list[str]) -> str:
    """The folder that holds the data set, with its slash: names below it are the same in a folder and in a zip."""
    markers = [name for name in names if name.rsplit("/", 1)[-1] == "wnids.txt"]
    if len(markers) == 1:
        return markers[0].removesuffix("wnids.txt")
    firsts = {name.split("/")[0] for name in names}
    return f"{firsts.pop()}/" if len(firsts) == 1 and all(name.count("/") > 1 for name in names) else ""


class _Folder:
    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UnusableData(f"{root} is neither a folder nor a zip")
        self.root = root

    def names(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.root):
            for file in files:
                yield Path(folder, file).relative_to(self.root).as_posix()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size if (self.root / name).is_file() else 0


class _Zip:
    def __init__(self, path: Path) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UnusableData(f"{path} is not a readable zip: {error}") from error

    def names(self) -> Iterator[str]:
        return (name for name in self.zip.namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        return self.zip.read(name)

    def size(self, name: str) -> int:
        return self.zip.getinfo(name).file_size


Tree = _Folder | _Zip
Read = Callable[[str], bytes]
_Layout = tuple[list[Label], list[_Entry], list[_Entry]]


def _tiny_imagenet(read: Read, names: list[str]) -> _Layout | None:
    """The layout of Le and Yang's Tiny ImageNet; None if this is something else."""
    known = set(names)
    if "wnids.txt" not in known:
        return None

    def lines(name: str) -> list[list[str]]:
        if name not in known:
            raise UnusableData(f"wnids.txt is there, but {name} is missing")
        return [line.split("\t") for line in read(name).decode().splitlines() if line.strip()]

    wnids = [line[0].strip() for line in lines("wnids.txt")]
    words = {line[0]: line[1].split(",")[0].strip() for line in lines("words.txt")}
    labels = [Label(wnid, words.get(wnid, wnid)) for wnid in wnids]
    rows = {wnid: row for row, wnid in enumerate(wnids)}
    train = []
    for name in names:
        parts = name.split("/")
        if parts[0] == "train" and len(parts) == 4 and parts[1] in rows and _is_picture(name):
            train.append(_Entry(name, rows[parts[1]]))
    validation = [_Entry(f"val/images/{line[0]}", rows[line[1]]) for line in lines("val/val_annotations.txt")]
    missing = [entry.name for entry in validation if entry.name not in known]
    if missing or not train:
        raise UnusableData(f"{len(train)} training pictures found, {len(missing)} validation pictures missing")
    return labels, train, validation


def _class_folders(source: Path, names: list[str]) -> _Layout:
    """One folder a class; or `train/` and `val/` with one folder a class each."""
    pictures = [name for name in names if _is_picture(name)]
    train_top = "train/" if any(name.startswith("train/") for name in pictures) else ""
    val_top = next((top for top in ("val/", "validation/", "test/") if any(n.startswith(top) for n in pictures)), None)
    training = [n.removeprefix(train_top) for n in pictures if n.startswith(train_top) and n.count("/") > train_top.count("/")]
    classes = sorted({name.split("/")[0] for name in training})
    if len(classes) < 2:
        raise UnusableData(
            f"{source} holds {len(pictures)} pictures in {len(classes)} class folders; expected Tiny ImageNet's layout"
            " (wnids.txt, train/, val/) or one folder a class, two at least"
        )
    rows = {name: row for row, name in enumerate(classes)}
    train = [_Entry(train_top + name, rows[name.split("/")[0]]) for name in training]
    validation = [] if val_top is None or not train_top else [
        _Entry(name, rows[name.split("/")[1]]) for name in pictures if name.startswith(val_top) and name.split("/")[1] in rows
    ]
    return [Label(name, name) for name in classes], train, validation


def _is_picture(name: str) -> bool:
    return name.lower().endswith(_PICTURES)


def _decoded(read: Read, entries: list[_Entry], file: Path, side: int) -> Split:
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
