"""Labelled pictures on disk, listed: which there are, of which class, and how their bytes are read.

Reads Tiny ImageNet in its official layout, as a folder or as the zip it is downloaded as, and any
folder that holds one folder a class. Decodes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.refusal import Refusal

KEPT_BACK = 25  # training pictures a class that no training ever sees
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class UnusableData(Refusal):
    """The folder or zip holds no labelled pictures in a layout that is known here."""


class Label(NamedTuple):
    """A class: its stable id (the wnid where there is one) and its word."""

    id: str
    label: str


class Entry(NamedTuple):
    """A picture: its path below the data set's top, and the row of its class."""

    name: str
    row: int


Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Listing:
    """A labelled data set.

    Attributes:
        labels: the classes, in the order of a network's outputs.
        train: every training picture, the kept-back ones included.
        validation: pictures that are only reported on; empty where the data set has none.
        read: the encoded bytes of a picture, by its name.
        size: their number.
        digest: SHA-256 (hex) over all names and labels.
    """

    labels: list[Label]
    train: list[Entry]
    validation: list[Entry]
    read: Read
    size: Callable[[str], int]
    digest: str

    def kept_back(self) -> np.ndarray:
        """(len(train),) bool: the pictures that stay out of training, `KEPT_BACK` a class.

        Chosen by the SHA-256 of their names below the data set's top, so the choice is the same on every
        machine; a class of fewer than four times that many gives a quarter.
        """
        chosen = np.zeros(len(self.train), bool)
        order = np.array([hashlib.sha256(entry.name.encode()).hexdigest() for entry in self.train])
        rows = np.array([entry.row for entry in self.train])
        for row in range(len(self.labels)):
            (members,) = np.nonzero(rows == row)
            count = min(KEPT_BACK, len(members) // 4)
            chosen[members[np.argsort(order[members])][:count]] = True
        return chosen


def read(source: Path) -> Listing:
    """List a data set.

    Args:
        source: a folder, or a zip.
    Raises:
        UnusableData: no known layout.
    """
    tree: Tree = _Zip(source) if source.suffix == ".zip" and source.is_file() else _Folder(source)
    names = sorted(tree.names())
    top = _top(names)
    names = [name.removeprefix(top) for name in names if name.startswith(top)]

    def content(name: str) -> bytes:
        return tree.read(top + name)

    labels, train, validation = _tiny_imagenet(content, names) or _class_folders(source, names)
    digest = hashlib.sha256(json.dumps([labels, train, validation]).encode()).hexdigest()
    return Listing(labels, train, validation, content, lambda name: tree.size(top + name), digest)


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
        try:
            return self.zip.read(name)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:  # damaged, or encrypted
            raise UnusableData(f"{name} in {self.zip.filename} can't be read: {error}") from error

    def size(self, name: str) -> int:
        return self.zip.getinfo(name).file_size


Tree = _Folder | _Zip
_Layout = tuple[list[Label], list[Entry], list[Entry]]


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
    words = {line[0]: line[1].split(",")[0].strip() for line in lines("words.txt") if len(line) > 1}
    labels = [Label(wnid, words.get(wnid, wnid)) for wnid in wnids]
    rows = {wnid: row for row, wnid in enumerate(wnids)}
    train = []
    for name in names:
        parts = name.split("/")
        if parts[0] == "train" and len(parts) == 4 and parts[1] in rows and _is_picture(name):
            train.append(Entry(name, rows[parts[1]]))
    annotated = lines("val/val_annotations.txt")
    strange = [line for line in annotated if len(line) < 2 or line[1] not in rows]
    if strange:
        raise UnusableData(f"val_annotations.txt has the line {strange[0]!r}; expected a picture and one of {len(rows)} wnids")
    validation = [Entry(f"val/images/{line[0]}", rows[line[1]]) for line in annotated]
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
    train = [Entry(train_top + name, rows[name.split("/")[0]]) for name in training]
    validation = [] if val_top is None or not train_top else [
        Entry(name, rows[name.split("/")[1]]) for name in pictures if name.startswith(val_top) and name.split("/")[1] in rows
    ]
    return [Label(name, name) for name in classes], train, validation


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
