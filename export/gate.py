"""Is a quantised model nearly as right as the one it was made from, and faster? Measured; then published, or refused."""

from __future__ import annotations

import importlib.metadata
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime
from onnx import ModelProto

from export import calibrate, calibration, folder, listing, package, precision, published, quantize, verify
from export.calibration import Scored
from export.refusal import Refusal
from service.modelfile import ModelFile
from service.recipe import Calibration

MAX_LOSS = 0.5  # points of top-1
LEAST_AGREEMENT = 0.98  # share of pictures with the same best class, where nobody knows the right one
# The same, between int8 kernels and the same graph in float: less means that sums overflow, or that a layer is computed otherwise
# than the graph says. Ties don't count: EfficientNet-Lite0 is so unsure of enlarged pictures that 10 of 256 changed sides, 1 with
# ties left out. A graph that ONNX Runtime really computed otherwise, float weights among quantised layers: 111 and 102.
LEAST_KERNELS = 0.99
TIE = 0.01  # of a probability
SOME = 256  # pictures for these two, others than the ranges come from where there are enough
FEWEST = 32  # pictures to take ranges from
LEAST_LABELLED = 100  # pictures to measure a loss on
BATCHES = (1, 4, 8, 16, 32)
ROUNDS = 5


class GateClosed(Refusal):
    """The quantised model isn't worth serving; one line says why, and by how much."""


@dataclass(frozen=True)
class Asked:
    """How to quantise, and what the result must reach.

    Attributes:
        pictures: folder to take ranges from.
        labelled: data set to measure accuracy and calibration on, if there is one.
        max_loss: points of top-1 that may be lost on it.
        force: publish even if the gate stays closed, and record that.
        method: how a range is chosen from the values seen; None tries all, and keeps what comes nearest to fp32.
        bits: of the weights, 7 or 8.
        float_first: number of layers, from the first on, that stay in float.
    """

    pictures: Path
    labelled: Path | None = None
    max_loss: float = MAX_LOSS
    force: bool = False
    method: quantize.Method | None = None
    bits: int = 7
    float_first: int = 0


class Speed(NamedTuple):
    """Images a second at the best batch size, and their ratio, paired round by round."""

    fp32: float
    int8: float
    ratio: float
    lowest: float
    highest: float


class Outcome(NamedTuple):
    """What was measured.

    Attributes:
        agreement: share of pictures, 0 to 1, on which both models give the same best class.
        pictures: how many that were.
        kernels: the same between int8 kernels and the quantised graph in float, ties not counted.
        loss: points of top-1; None without labelled pictures.
        closed: why the gate stayed closed; empty where it opened.
    """

    agreement: float
    pictures: int
    kernels: float
    loss: float | None
    top1: tuple[float, float] | None
    speed: Speed
    temperature: float
    calibration: Calibration | None
    closed: list[str]

    def words(self) -> str:
        """A few lines for the reader of the command line."""
        lines = [
            f"images/s {self.speed.fp32:.0f} → {self.speed.int8:.0f}: × {self.speed.ratio:.2f} "
            f"({self.speed.lowest:.2f}–{self.speed.highest:.2f})",
            f"same best class as fp32: {self.agreement:.2%}; as the same graph in float: {self.kernels:.2%}",
        ]
        if self.top1:
            lines.append(f"top-1 {self.top1[0]:.2%} → {self.top1[1]:.2%}: {self.loss:+.2f} points lost")
        if self.calibration:
            lines.append(calibration.words(self.calibration))
        return "\n".join([*lines, *(f"gate: {reason}" for reason in self.closed)])


def run(path: Path, asked: Asked, output: Path) -> Outcome:
    """Quantise a published model and publish the result beside it.

    Args:
        path: a float32 model that describes itself.
        output: models/NAME-int8/VERSION; must not exist yet.
    Raises:
        GateClosed: it loses too much, or isn't faster here; nothing has been written.
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(output)
    opened, model = published.read(path)
    if opened.recipe.precision != "fp32":
        raise Refusal(f"{opened.path} is {opened.recipe.precision} already; expected a model in fp32")
    if not 0 <= asked.max_loss <= 100:  # also what is no number
        raise Refusal(f"--max-loss is {asked.max_loss:g}; expected points of top-1, from 0 to 100")
    seen = quantize.sample(asked.pictures, opened.recipe, quantize.PICTURES + SOME)
    if len(seen) < FEWEST:
        raise listing.UnusableData(f"{asked.pictures} holds {len(seen)} pictures; expected {FEWEST} at least to take ranges from")
    enough = len(seen) > 2 * SOME
    pixels, others = (seen[:-SOME], seen[-SOME:]) if enough else (seen, seen)
    with tempfile.TemporaryDirectory() as place:
        fp32 = published.scorer(model, Path(place))
        method, small = _nearest(model, pixels, others, asked, fp32, Path(place))
        asked = replace(asked, method=method)
        int8, in_float = (published.scorer(small, Path(place), optimised) for optimised in (True, False))
    outcome = _measure(opened, asked, others, fp32, int8, in_float)
    if outcome.closed and not asked.force:
        raise GateClosed("; ".join(outcome.closed) + ": not published; --force publishes all the same and records it")
    published.set_temperature(small, outcome.temperature)

    def reference(some: verify.Pixels) -> verify.Scores:
        logits = int8(some).logits
        assert logits is not None
        return verify.Scores(logits, verify.softmax(logits, outcome.temperature))

    described = msgspec.structs.replace(
        opened.recipe,
        name=output.resolve().parent.name,
        precision="int8",
        temperature=float(np.float32(outcome.temperature)),
        calibration=outcome.calibration,
        provenance={**opened.recipe.provenance, "quantised": _record(opened.digest, asked, outcome, len(pixels))},
    )
    package.publish(small, published.comparable(small), described, list(opened.labels), reference, None, output)
    return outcome


def _nearest(
    model: ModelProto, pixels: verify.Pixels, others: verify.Pixels, asked: Asked, fp32: published.Score, place: Path
) -> tuple[quantize.Method, ModelProto]:
    """The way of choosing ranges whose answers are least far from fp32's (Kullback-Leibler), and what it gives."""
    wanted = verify.in_batches(fp32, others[:SOME]).probabilities
    tried: list[tuple[float, quantize.Method, ModelProto]] = []
    for method in [asked.method] if asked.method else quantize.METHODS:
        small = quantize.quantize(model, pixels, method, asked.bits, asked.float_first)
        found = verify.in_batches(published.scorer(small, place), others[:SOME]).probabilities
        logarithms = np.log(np.maximum(wanted, 1e-30)) - np.log(np.maximum(found, 1e-30))
        tried.append((float((wanted * logarithms).sum(axis=1).mean()), method, small))
    _, method, small = min(tried, key=lambda each: each[0])
    return method, small


def _measure(
    opened: ModelFile,
    asked: Asked,
    others: verify.Pixels,
    fp32: published.Score,
    int8: published.Score,
    in_float: published.Score,
) -> Outcome:
    some = others[:SOME]
    answers = [verify.in_batches(ask, some) for ask in (fp32, int8, in_float)]
    kernels = _same_but_for_ties(answers[1].probabilities, answers[2].probabilities)
    agreement, measured, loss, top1, found = _same(answers[0].logits, answers[1].logits), len(some), None, None, None
    if asked.labelled is None:
        assert answers[1].logits is not None
        temperature = calibration.fit_temperature_to(answers[1].logits, answers[0].probabilities)
    else:
        listed = listing.read(asked.labelled)
        before, after = published.score([fp32, int8], opened, listed, to_measure(opened, asked.labelled, listed))
        agreement, top1 = _same(before.logits, after.logits), (_top1(before), _top1(after))
        measured = len(after.truth)
        loss = round(100 * (top1[0] - top1[1]), 6)
        if len(listed.labels) == len(opened.labels) and calibrate.enough(listed):
            parts = calibrate.halves(listed)
            (fit,) = published.score([int8], opened, listed, parts.fit)
            temperature = calibration.fit_temperature(fit)
            held = after if listed.validation else published.score([int8], opened, listed, parts.measure)[0]
            precise = opened.recipe.calibration and opened.recipe.calibration.abstention
            found = calibration.measure(fit, held, temperature, precise.asked if precise else calibrate.PRECISION)
        else:  # what was fitted on some of the classes, or on few pictures, would be wrong about the others
            temperature = calibration.fit_temperature_to(after.logits, verify.softmax(before.logits, opened.recipe.temperature))
    speed = _speed(fp32, int8, others[: BATCHES[-1]])
    closed = []
    if loss is not None and loss > asked.max_loss:
        closed.append(f"int8 loses {loss:.2f} points of top-1; allowed are {asked.max_loss:g}")
    if loss is None and agreement < LEAST_AGREEMENT:
        closed.append(f"int8 gives fp32's best class on {agreement:.2%} of {len(some)} pictures; "
                      f"expected {LEAST_AGREEMENT:.0%}, for want of labelled ones")  # fmt: skip
    if kernels < LEAST_KERNELS:
        why = "sums overflow here, choose --bits 7" if asked.bits == 8 else "their roundings add up"
        closed.append(f"int8 kernels give the best class of the same graph in float on {kernels:.2%} of {len(some)} pictures; "
                      f"expected {LEAST_KERNELS:.0%}: {why}")  # fmt: skip
    if speed.ratio <= 1:
        closed.append(f"int8 does {speed.ratio:.2f} times fp32's images/s on this machine; expected more than 1")
    return Outcome(agreement, measured, kernels, loss, top1, speed, temperature, found, closed)


def to_measure(opened: ModelFile, source: Path, listed: listing.Listing) -> list[listing.Entry]:
    """The validation set; without one, all pictures that training did not see."""
    kept = [entry for entry, out in zip(listed.train, listed.kept_back(), strict=True) if out]
    trained_on = opened.recipe.provenance.get("data_digest") == listed.digest
    found = listed.validation or (kept if trained_on else listed.train)
    if len(found) < LEAST_LABELLED:
        raise listing.UnusableData(f"{source} gives {len(found)} pictures to measure on; expected {LEAST_LABELLED} at least")
    return found


def _same(ours: Any, theirs: Any) -> float:
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


def _same_but_for_ties(found: verify.Array, wanted: verify.Array) -> float:
    """Share of pictures whose best class in `found` is next to the best in `wanted`; both are probabilities (N, classes)."""
    chosen = np.take_along_axis(wanted, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((wanted.max(axis=1) - chosen <= TIE).mean())


def _top1(scored: Scored) -> float:
    return calibration.top_k(scored.logits, scored.truth, 1)


def _speed(fp32: published.Score, int8: published.Score, pixels: verify.Pixels) -> Speed:
    """Both in turn, so that a busy machine slows both."""
    rounds: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        best = [max(_images_per_s(ask, pixels, batch) for batch in BATCHES) for ask in (fp32, int8)]
        if number:  # the first one warms
            rounds.append((best[0], best[1]))
    ratios = sorted(after / before for before, after in rounds)
    medians = [statistics.median(each[side] for each in rounds) for side in (0, 1)]
    return Speed(medians[0], medians[1], statistics.median(ratios), ratios[0], ratios[-1])


def _images_per_s(ask: published.Score, pixels: verify.Pixels, batch: int) -> float:
    start = time.perf_counter()
    verify.in_batches(ask, pixels, batch)
    return len(pixels) / (time.perf_counter() - start)


def _record(digest: str, asked: Asked, outcome: Outcome, pictures: int) -> dict[str, Any]:
    """For the recipe: how it was made, and what was measured where."""
    return {
        "from": digest, "method": asked.method, "weight_bits": asked.bits, "float_first": asked.float_first,
        "calibration_pictures": pictures,
        "agreement": outcome.agreement, "agreement_pictures": outcome.pictures, "agreement_with_float_graph": outcome.kernels,
        "points_lost": outcome.loss, "top1_fp32": outcome.top1 and outcome.top1[0],
        "speed": {**outcome.speed._asdict(), "machine": precision.processor()},
        "onnxruntime": onnxruntime.__version__, "onnx": importlib.metadata.version("onnx"),
        "gate": outcome.closed or "open",
    }  # fmt: skip
