"""The quicker way to decode (`mode: fast`), for a model whose answers it doesn't change: measured, then published."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from export import folder, package, published, verify
from export.listing import SUFFIXES, UnusableData
from export.refusal import Refusal
from service import images
from service.modelfile import ModelFile
from service.problems import Problem

VIEWS = 1000  # at least so many; a hundredth of them is ten
QUALITIES = 60, 95
LEAST_SHARE = 0.55  # of a side of the picture, that a view shows
MOST_LARGER = 1.5  # than what is just large enough: most scaling, most difference
LEAST_AGREEMENT = 0.99


class DecodingDiffers(Refusal):
    """The quicker way changes too many answers."""


class Agreement(NamedTuple):
    """How the two ways compare.

    Attributes:
        views: JPEG files that were decoded both ways, each large enough for scaled decoding to act.
        same: share of them with the same best class, 0 to 1.
        grey_levels: mean difference of a value, of 255.
    """

    views: int
    same: float
    grey_levels: float


def run(path: Path, pictures: Path, output: Path, least: float = LEAST_AGREEMENT) -> Agreement:
    """Model → the same one with `mode: fast` in its recipe, and what was measured in its provenance.

    Args:
        path: a model that describes itself.
        pictures: folder of ordinary photos; crops of them, encoded anew, are what is measured on.
        output: models/NAME/VERSION; must not exist yet.
        least: share of views with the same best class, 0 to 1.
    Raises:
        Refusal: no pictures that are large enough, or too many other answers; nothing has been written.
    """
    folder.check(output)
    opened, model = published.read(path)
    with tempfile.TemporaryDirectory() as place:
        ask = published.scorer(model, Path(place))
    found = measure(opened, ask, pictures)
    if found.same < least:
        raise DecodingDiffers(
            f"{found.same:.2%} of {found.views:,} views have the same best class; expected {least:.0%}: keep `mode: exact`"
        )

    quick = msgspec.structs.replace(
        opened.recipe,
        name=output.resolve().parent.name,
        preprocessing=msgspec.structs.replace(opened.recipe.preprocessing, mode="fast"),
        provenance={**opened.recipe.provenance, "fast": _record(found)},
    )
    package.publish(model, published.comparable(model), quick, list(opened.labels), ask, None, output)
    return found


def measure(opened: ModelFile, ask: published.Score, pictures: Path) -> Agreement:
    """Decode views of all pictures both ways, and ask the model.

    Raises:
        UnusableData: no picture is large enough.
    """
    recipe = opened.recipe
    ways = [msgspec.structs.replace(recipe.preprocessing, mode=mode) for mode in ("exact", "fast")]
    same, levels = [], []
    batch: list[bytes] = []

    def compare() -> None:
        size = recipe.input.width, recipe.input.height
        exact, fast = (np.stack([images.prepare(data, way, *size).pixels for data in batch]) for way in ways)
        levels.append(np.abs(exact.astype(np.int16) - fast).mean(axis=(1, 2, 3)))
        best = [verify.in_batches(ask, pixels).probabilities.argmax(1) for pixels in (exact, fast)]
        same.append(best[0] == best[1])
        batch.clear()

    for data in views(pictures, 2 * images.least_draft(recipe.preprocessing), VIEWS):
        batch.append(data)
        if len(batch) == published.AT_ONCE:
            compare()
    if batch:
        compare()
    return Agreement(sum(map(len, same)), float(np.concatenate(same).mean()), float(np.concatenate(levels).mean()))


def views(pictures: Path, side: int, least: int) -> Iterator[bytes]:
    """Crops of the pictures of a folder as JPEG files, `least` or some more; the same ones each time.

    Args:
        side: the shorter side is longer than this, in pixels, so that a decoder may halve it; what is smaller is enlarged.
    Raises:
        UnusableData: no pictures, or one that can't be decoded.
    """
    files = sorted(file for file in pictures.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UnusableData(f"{pictures} holds no pictures; expected files that end in {', '.join(SUFFIXES)}")
    random = np.random.default_rng(1)
    for file in files:
        try:
            whole = images.decode(file.read_bytes()).image
        except Problem as problem:
            raise UnusableData(f"{file.name} can't be decoded: {problem}") from problem
        for _ in range(-(-least // len(files))):
            width, height = (max(1, round(most * random.uniform(LEAST_SHARE, 1))) for most in whole.size)
            left, top = int(random.integers(whole.width - width + 1)), int(random.integers(whole.height - height + 1))
            wanted = side * random.uniform(1.01, MOST_LARGER)
            factor = max(1.0, wanted / min(width, height))
            size = round(width * factor), round(height * factor)
            cut = whole.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
            stream = io.BytesIO()
            quality, subsampling = int(random.integers(*QUALITIES, endpoint=True)), int(random.choice([0, 2]))
            cut.save(stream, "JPEG", quality=quality, subsampling=subsampling)
            yield stream.getvalue()


def _record(found: Agreement) -> dict[str, Any]:
    return {"views": found.views, "same_top1": round(found.same, 4), "mean_grey_levels": round(found.grey_levels, 3)}
