"""A model whose scores are probabilities: temperature and thresholds, fitted on pictures kept back from training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from export import calibration, folder, listing, package, published, verify
from export.listing import Entry, Listing, UnusableData
from export.refusal import Refusal
from service.recipe import Calibration, Recipe

PRECISION = 0.9  # of the answers on which a model does not abstain
LEAST = 200  # pictures; fewer can't tell a calibration error of 2 %


class UnreachablePrecision(Refusal):
    """However seldom the model answers, it isn't right as often as asked."""


class Halves(NamedTuple):
    """Pictures to fit on, and others to measure on."""

    fit: list[Entry]
    measure: list[Entry]


def enough(listed: Listing) -> bool:
    """Whether the pictures suffice to fit and to measure."""
    return min(map(len, _halves(listed))) >= LEAST


def halves(listed: Listing) -> Halves:
    """Training pictures that were kept back, and the validation set; without one, the former in two halves.

    Raises:
        UnusableData: too few.
    """
    found = _halves(listed)
    if not enough(listed):
        raise UnusableData(
            f"data set gives {len(found.fit)} pictures to fit on and {len(found.measure)} to measure on; "
            f"expected {LEAST} of each: a quarter of the training pictures, {listing.KEPT_BACK} a class at most, is kept back"
        )
    return found


def _halves(listed: Listing) -> Halves:
    kept = [entry for entry, chosen in zip(listed.train, listed.kept_back(), strict=True) if chosen]
    return Halves(kept, listed.validation) if listed.validation else Halves(kept[::2], kept[1::2])


def calibrate(path: Path, source: Path, output: Path, precision: float = PRECISION) -> Calibration:
    """Model + labelled pictures → the same weights with a fitted temperature, and a recipe that says how far to trust it.

    Args:
        path: a model that describes itself.
        source: Tiny ImageNet, or one folder a class.
        output: models/NAME/VERSION; must not exist yet.
        precision: share of right answers among those on which the model does not abstain.
    Raises:
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(output)
    opened, model = published.read(path)
    listed = listing.read(source)
    parts = halves(listed)
    with tempfile.TemporaryDirectory() as place:
        ask = published.scorer(model, Path(place))
    (fit,), (measured,) = (published.score([ask], opened, listed, entries) for entries in parts)
    temperature = calibration.fit_temperature(fit)
    found = calibration.measure(fit, measured, temperature, precision)
    if found.abstention is None:
        raise UnreachablePrecision(
            f"no score of {opened.recipe.name} gives {precision:.0%} right answers on the {len(fit.truth):,} pictures to fit on; "
            "choose a lower --precision"
        )
    published.set_temperature(model, temperature)

    def reference(pixels: verify.Pixels) -> verify.Scores:
        logits = ask(pixels).logits
        assert logits is not None
        return verify.Scores(logits, verify.softmax(logits, temperature))

    described = msgspec.structs.replace(
        opened.recipe,
        name=output.resolve().parent.name,
        temperature=float(np.float32(temperature)),
        calibration=found,
        provenance={**opened.recipe.provenance, "calibrated": _record(opened.recipe, listed)},
    )
    package.publish(model, published.comparable(model), described, list(opened.labels), reference, None, output)
    return found


def _record(recipe: Recipe, listed: Listing) -> dict[str, Any]:
    """Whether the pictures to fit on are known to be those that training kept back."""
    trained_on = recipe.provenance.get("data_digest")
    return {"data_digest": listed.digest, "kept_back_in_training": None if trained_on is None else trained_on == listed.digest}
