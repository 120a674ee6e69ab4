"""Opens a model on disk: what it says of itself, its digests, its weights confined to its folder.

Makes no session; `engine.py` does that. Knows of protocol buffers what `protobuf.py` knows, and no ONNX package.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service import protobuf, recipe
from service.problems import StartError
from service.recipe import Golden, Label, Layer, Recipe

# Field numbers of onnx.proto.
_GRAPH, _METADATA = 7, 14  # ModelProto
_INITIALIZER = 5  # GraphProto
_NAME, _RAW, _EXTERNAL, _LOCATION = 8, 9, 13, 14  # TensorProto
_TYPED_DATA = frozenset({4, 5, 6, 7, 10, 11})  # TensorProto: float_data, int32_data, string_data, int64_data, …
_IN_OTHER_FILE = 1  # TensorProto.DataLocation.EXTERNAL

WAY_OUT = 'run "python -m export annotate"'
# A file written within the last moments may be written again without a trace: file systems' clocks tick in steps.
SETTLED_S = 2.0


class Stamp(NamedTuple):
    """What the system tells of a file without reading it; every way to write to it changes that."""

    path: Path
    device: int
    inode: int
    size: int  # bytes
    modified_ns: int
    changed_ns: int  # also by who sets the time of modification back

    @classmethod
    def of(cls, path: Path, descriptor: int | None = None) -> Stamp:
        """The stamp of a path's file, or of an open one.

        Raises:
            OSError: it isn't there.
        """
        found = os.stat(path) if descriptor is None else os.fstat(descriptor)
        return cls(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def current(self) -> bool:
        """The path still leads to that very file, unwritten since."""
        try:
            return Stamp.of(self.path) == self
        except OSError:
            return False

    @property
    def overwritten(self) -> bool:
        """The path still leads to that file, but it was written to or touched: who has mapped it sees what is in it now."""
        try:
            now = Stamp.of(self.path)
        except OSError:
            return False
        return now[:3] == self[:3] and now != self


@dataclass(frozen=True)
class ModelFile:
    """A self-describing model, read and checked.

    Attributes:
        path: the ONNX file.
        labels: one a row of the output.
        digest: SHA-256 (hex) of the ONNX file, in which the SHA-256 of the weights stands too.
        weights_sha256: SHA-256 (hex) over the bytes of all initialisers in the graph's order, wherever they lie.
        weights_bytes: their number.
        external: some of them lie in another file of the folder.
        stamps: of the ONNX file and the files of its weights, as they were read.
    """

    path: Path
    recipe: Recipe
    labels: tuple[Label, ...]
    golden: tuple[Golden, ...]
    layers: tuple[Layer, ...]
    digest: str
    weights_sha256: str
    weights_bytes: int
    external: bool
    stamps: tuple[Stamp, ...]

    @classmethod
    def known(cls, path: Path) -> ModelFile:
        """As `open`, but files that this process, or the one that it was forked from, has read already are not read again.

        They are taken for the same where device, inode, size and times are.

        Raises:
            StartError: as `open`.
        """
        model = _known.get(path)
        if model is not None and model.unchanged:
            return model
        begun_ns = time.time_ns()
        model = cls.open(path)
        if all(stamp.changed_ns < begun_ns - SETTLED_S * 1e9 for stamp in model.stamps):
            _known[path] = model
        return model

    @property
    def unchanged(self) -> bool:
        """The files are those that were read; told without reading them."""
        return all(stamp.current for stamp in self.stamps)

    def require_unchanged(self) -> None:
        """Make sure that what is opened by its path next to this call is what was checked.

        Raises:
            StartError: a file is another one, or was written to.
        """
        for stamp in self.stamps:
            if not stamp.current:
                raise StartError(f"{stamp.path} changed while it was loaded; expected the file whose SHA-256 was checked: "
                                 "start again when it is copied")

    @classmethod
    def open(cls, path: Path) -> ModelFile:
        """Read a model's description and hold its weights against the digest that it carries.

        Raises:
            StartError: not a file, not ONNX, not self-describing, damaged, or with weights outside its folder.
        """
        with ExitStack() as files:
            stamps: list[Stamp] = []
            content = files.enter_context(_mapped(path, stamps))
            try:
                said = protobuf.pairs(protobuf.views(content, _METADATA))
                weights = _Weights(path, files, stamps)
                for graph in protobuf.views(content, _GRAPH):
                    for tensor in protobuf.views(graph, _INITIALIZER):
                        weights.add(tensor)
            except protobuf.Malformed as error:
                raise StartError(f"{path} is no ONNX file: {error}") from error
            missing = [key for key in ("recipe", "labels", "golden", "sha256") if f"quadrant.{key}" not in said]
            if missing:
                keys = " and ".join(f"quadrant.{key}" for key in missing)
                raise StartError(f"{path} is a bare model, without {keys}; expected a self-describing one: {WAY_OUT}")
            if (claimed := said["quadrant.sha256"]) != (found := weights.sha256.hexdigest()):
                raise StartError(f"{path}: weights have SHA-256 {found}; expected {claimed}: copy the model again")
            try:
                labels = recipe.parse_labels(said["quadrant.labels"])
                model = cls(
                    path=path,
                    recipe=Recipe.parse(said["quadrant.recipe"]),
                    labels=labels,
                    golden=recipe.parse_golden(said["quadrant.golden"], len(labels)),
                    layers=recipe.parse_layers(said.get("quadrant.layers", "[]")),
                    digest=hashlib.sha256(content).hexdigest(),
                    weights_sha256=found,
                    weights_bytes=weights.size,
                    external=weights.external,
                    stamps=tuple(stamps),
                )
            except StartError as error:
                raise StartError(f"{path}: {error}") from error
        model.require_unchanged()
        return model


_known: dict[Path, ModelFile] = {}  # by path; what a worker finds here its master has read


class _Weights:
    """The digest over all initialisers, fed one after the other."""

    def __init__(self, model: Path, files: ExitStack, stamps: list[Stamp]) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.external = False
        self._model, self._files, self._stamps = model, files, stamps
        self._opened: dict[str, memoryview] = {}

    def add(self, tensor: memoryview) -> None:
        elsewhere = False
        for number, value in protobuf.fields(tensor):
            if number == _LOCATION:
                elsewhere = value == _IN_OTHER_FILE
            elif number == _RAW and isinstance(value, memoryview):
                self._feed(value)
            elif number in _TYPED_DATA:
                name = json.dumps(protobuf.text(tensor, _NAME))  # it may hold anything
                raise StartError(f'{self._model}: weights {name} are a list of numbers; expected raw bytes: {WAY_OUT}')
        if elsewhere:
            self.external = True
            self._feed(self._other_file(protobuf.pairs(protobuf.views(tensor, _EXTERNAL))))

    def _feed(self, part: memoryview) -> None:
        self.sha256.update(part)
        self.size += len(part)

    def _other_file(self, place: dict[str, str]) -> memoryview:
        location = place.get("location", "")
        file = self._model.parent / location
        if location in ("", ".", "..") or Path(location).name != location or not self._beside(file):
            raise StartError(
                f"{self._model}: weights lie in {json.dumps(location)}; expected the bare name of a file beside the model")
        if location not in self._opened:
            self._opened[location] = self._files.enter_context(_mapped(file, self._stamps))
        content = self._opened[location]
        try:
            offset = int(place.get("offset", "0"))
            length = int(place.get("length", len(content) - offset))
        except ValueError as error:
            raise StartError(f"{self._model}: place of the weights in {location} is no number: {error}") from error
        if offset < 0 or length < 0 or offset + length > len(content):
            raise StartError(f"{file} has {len(content):,} bytes; expected at least {offset + length:,}: copy it again")
        return content[offset : offset + length]

    def _beside(self, file: Path) -> bool:
        """It lies in the model's folder, whatever links there are on the way."""
        try:
            folders = (self._model.parent.resolve(), self._model.resolve().parent)  # of the link, of the file
            return file.resolve().parent in folders
        except (OSError, RuntimeError, ValueError):  # links in a circle; a name with a NUL in it
            return False


@contextmanager
def _mapped(path: Path, stamps: list[Stamp]) -> Iterator[memoryview]:
    """A file's bytes without reading them all into memory; its stamp is added to the others.

    Raises:
        StartError: it can't be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            stamps.append(Stamp.of(path, file.fileno()))  # before its bytes are read
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise StartError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise StartError(f"{path} is empty; expected a model's file") from error
    # Not closed by hand: views into it may still be referenced; it goes with the last of them.
    yield memoryview(mapping)
