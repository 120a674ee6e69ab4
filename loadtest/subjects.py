"""What `make bench` measures: the models, full-size AlexNets among them, and the pictures that it sends.

The AlexNets have random weights, which cost what trained ones cost; they are made once, and again when export changes. They
promise no accuracy, so they are given the gates that a trained one would have to pass before it may run as fast.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
from PIL import Image

from loadtest import models_cost
from loadtest.default import default_model, latest
from loadtest.inprocess import KEY
from loadtest.pictures import pictures
from loadtest.targets import DEFAULT, FP32, INT8, SMALL, SMALL_INT8

ROOT = Path(__file__).parents[1]
QUANTIZE_S = 1800.0
TRAINED = {SMALL: "alexnet64-tiny-imagenet", SMALL_INT8: "alexnet64-tiny-imagenet-int8"}  # in the folder of models
SUFFIXES = (".jpg", ".jpeg")
DRAWN = 48  # int8 takes its ranges from 32 at least
MOST_PHOTOS = 256  # as many as the ceiling takes, so that both classify the same
TILES, SIDE = 8, (500, 375)  # 8 × 8 photos of this size: 4000 × 3000 pixels
MOSAICS = 8  # a file for each connection
LEAST_BYTES, MOST_BYTES = 3_000_000, 4_000_000  # what a camera writes at 12 megapixels


class Subject(NamedTuple):
    """A model to measure: in short, its name, its file."""

    short: str
    name: str
    file: Path

    @property
    def folder(self) -> Path:
        """Of its versions."""
        return self.file.parents[1]


def subjects(wanted: Sequence[str], models: Path, cache: Path, photos: Path) -> list[Subject]:
    """The models to measure.

    Args:
        wanted: of `targets.MODELS`.
        models: folder that the default one and the small AlexNets are taken from.
        cache: folder that AlexNets are kept in.
        photos: folder of photos, for the ranges of int8.
    Raises:
        ClickException: one of them isn't there, or export doesn't make an AlexNet.
    """
    large = alexnets(cache, photos, INT8 in wanted) if {FP32, INT8} & {*wanted} else cache

    def file(short: str) -> Path:
        if short == DEFAULT:
            return default_model(models)
        return latest(models, TRAINED[short]) if short in TRAINED else large / short / "1" / "model.onnx"

    return [Subject(short, found.parents[1].name, found) for short in wanted for found in [file(short)]]


def alexnets(cache: Path, photos: Path, quantized: bool) -> Path:
    """The folder that holds a full-size `alexnet/1`, and `alexnet-int8/1` if asked for; made if it isn't there.

    Raises:
        ClickException: export doesn't make them.
    """
    folder = cache / f"models-{_export_digest()[:12]}"
    for old in cache.glob("models-*"):
        if old != folder:
            shutil.rmtree(old)  # of an earlier state of export: 300 MB
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        made = Path(place)
        if not (folder / FP32).exists():
            print("making AlexNet with random weights, once", file=sys.stderr)
            models_cost.alexnet(made.resolve())
            give_gate(made / FP32 / "1" / "model.onnx", "bf16")
            (made / FP32).rename(folder / FP32)
        if quantized and not (folder / INT8).exists():
            print("making its int8 form, once", file=sys.stderr)
            _quantize(folder / FP32 / "1" / "model.onnx", photos, made / INT8 / "1")
            give_gate(made / INT8 / "1" / "model.onnx", "int8")
            (made / INT8).rename(folder / INT8)
    return folder


def give_gate(model: Path, precision: str) -> None:
    """Let a model with random weights run by OpenVINO in this precision, for its speed alone.

    Raises:
        ClickException: the onnx package isn't installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise click.ClickException("onnx is not installed; expected the export environment (make export)") from error
    found = onnx.load(model, load_external_data=False)
    entry, = (each for each in found.metadata_props if each.key == KEY)
    gate = {"provider": "openvino", "precision": precision, "measured_on": 1, "top1_loss": 0.0, "agreement": 1.0,
            "ece_increase": 0.0, "environment": "not measured: random weights, for their speed alone"}  # fmt: skip
    entry.value = json.dumps(json.loads(entry.value) | {"gates": [gate]})
    model.write_bytes(found.SerializeToString(deterministic=True))


def photo_files(given: Path | None, folder: Path) -> list[Path]:
    """The JPEG photos to send, linked or drawn into an empty folder, which then holds nothing else.

    Args:
        given: folder of photos; None: those that `loadtest.pictures` finds or draws.
    Raises:
        ClickException: the folder that is given holds no JPEG.
    """
    if given is None:
        return _written([each for each in pictures(DRAWN) if each.startswith(b"\xff\xd8")][:MOST_PHOTOS], folder)
    found = sorted(file for file in given.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise click.ClickException(f"{given} holds no {' or '.join(SUFFIXES)}")
    for file in found[:MOST_PHOTOS]:
        (folder / file.name).symlink_to(file.resolve())
    return sorted(folder.iterdir())


def mosaics(photos: Sequence[Path], folder: Path) -> list[Path]:
    """12-megapixel JPEGs of 3 to 4 MB, of photos side by side.

    Raises:
        ClickException: no quality gives that size.
    """
    tiles = []
    for file in photos:
        with Image.open(file) as opened:
            tiles.append(opened.convert("RGB").resize(SIDE))
    chance, found = random.Random(1), []
    for _ in range(MOSAICS):
        whole = Image.new("RGB", (TILES * SIDE[0], TILES * SIDE[1]))
        for place in range(TILES * TILES):
            whole.paste(chance.choice(tiles), (place % TILES * SIDE[0], place // TILES * SIDE[1]))
        found.append(_within(whole))
    return _written(found, folder)


def _within(picture: Image.Image) -> bytes:
    """Its JPEG in the quality that gives the right size, found by halving."""
    low, high, size = 1, 100, 0
    while low < high:
        buffer, quality = io.BytesIO(), (low + high) // 2
        picture.save(buffer, "JPEG", quality=quality)
        size = buffer.tell()
        if LEAST_BYTES <= size <= MOST_BYTES:
            return buffer.getvalue()
        low, high = (quality + 1, high) if size < LEAST_BYTES else (low, quality)
    raise click.ClickException(f"no quality gives a JPEG of {LEAST_BYTES / 1e6:g} to {MOST_BYTES / 1e6:g} MB of these "
                               f"photos; the last had {size / 1e6:.1f} MB")


def _written(found: Sequence[bytes], folder: Path) -> list[Path]:
    files = [folder / f"{number:03}.jpg" for number in range(len(found))]
    for file, content in zip(files, found, strict=True):
        file.write_bytes(content)
    return files


def _quantize(model: Path, photos: Path, output: Path) -> None:
    # Forced: random weights promise no accuracy, and are here for their speed.
    done = subprocess.run(
        [sys.executable, "-m", "export", "quantize", str(model.resolve()), "--calibration", str(photos.resolve()),
         "--method", "minmax", "--output", str(output.resolve()), "--force"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=QUANTIZE_S, check=False)
    if done.returncode:
        raise click.ClickException(f"no AlexNet in int8: {done.stderr[-2000:]}")


def _export_digest() -> str:
    """Of all that decides how the AlexNets turn out."""
    files = [*sorted((ROOT / "export").rglob("*.py")), Path(models_cost.__file__), Path(__file__)]
    digest = hashlib.sha256()
    for file in [*files, ROOT / "requirements" / "export.txt"]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
