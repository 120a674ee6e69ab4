"""May another execution provider run this model? Its answers are held against the CPU provider's on labelled pictures."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from export import calibration, folder, gate, listing, package, published, verify
from export.calibration import Scored
from export.precision import processor as processor_in_words
from export.refusal import Refusal
from service import processor
from service.inference import cpu, openvino
from service.inference.session import Opening
from service.modelfile import ModelFile
from service.planning import usable_cpus
from service.problems import StartError
from service.recipe import LEAST_AGREEMENT, MOST_ECE_INCREASE, MOST_TOP1_LOSS, Gate

PROVIDER: Literal["openvino"] = "openvino"
# The precision that a gate is for, by the model's own.
COMPUTES: dict[str, Literal["bf16", "int8"]] = {"fp32": "bf16", "int8": "int8"}
LEAST_LOGARITHM = 1e-30  # of a probability of 0 it would be minus infinity

Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (N, height, width, 3) → probabilities (N, classes)


class GateFailed(Refusal):
    """The provider's answers are too far from the CPU provider's; one line says by how much."""


class Compared(NamedTuple):
    """Shares, as `service.recipe.Gate` has them."""

    measured_on: int
    top1_loss: float
    agreement: float
    ece_increase: float

    def words(self) -> str:
        """One line for the reader of the command line."""
        return (f"{self.measured_on:,} pictures: {100 * self.top1_loss:+.2f} points of top-1 lost, same top class on "
                f"{self.agreement:.2%}, expected calibration error {self.ece_increase:+.4f}")

    def misses(self) -> list[str]:
        """What keeps the gate closed."""
        found = []
        if self.top1_loss > MOST_TOP1_LOSS:
            found.append(f"it loses {100 * self.top1_loss:.2f} points of top-1; at most {100 * MOST_TOP1_LOSS:g} are allowed")
        if self.agreement < LEAST_AGREEMENT:
            found.append(f"it gives the same top class on {self.agreement:.2%}; at least {LEAST_AGREEMENT:.1%} are expected")
        if self.ece_increase > MOST_ECE_INCREASE:
            found.append(f"its expected calibration error grows by {self.ece_increase:.4f}; at most {MOST_ECE_INCREASE:g} is "
                         "allowed")
        return found


def run(path: Path, source: Path, output: Path) -> Compared:
    """Measure a model on OpenVINO, and publish it with the gate recorded if it passes.

    Args:
        path: a model that describes itself, in fp32 (measured in bf16) or int8.
        source: Tiny ImageNet, or one folder a class.
        output: models/NAME/VERSION; must not exist yet.
    Raises:
        GateFailed: the answers are too far apart; nothing has been written.
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(output)
    opened, model = published.read(path)
    precision = COMPUTES.get(opened.recipe.precision)
    if precision is None:
        raise Refusal(f"{opened.path} is {opened.recipe.precision}; expected a model in {' or '.join(COMPUTES)}")
    listed = listing.read(source)
    found = compare(opened, listed, gate.to_measure(opened, source, listed), *_both(opened, precision))
    if misses := found.misses():
        raise GateFailed(f"{opened.recipe.name} in {precision} on OpenVINO fails: {'; '.join(misses)} ({found.words()}): "
                         "not published")
    passed = Gate(PROVIDER, precision, *found, environment=_environment())
    others = tuple(each for each in opened.recipe.gates if (each.provider, each.precision) != (PROVIDER, precision))
    described = msgspec.structs.replace(opened.recipe, name=output.resolve().parent.name, gates=(*others, passed))
    with tempfile.TemporaryDirectory() as place:
        ask = published.scorer(model, Path(place))

    def reference(pixels: verify.Pixels) -> verify.Scores:
        logits = ask(pixels).logits
        assert logits is not None
        return verify.Scores(logits, verify.softmax(logits, opened.recipe.temperature))

    package.publish(model, published.comparable(model), described, list(opened.labels), reference, None, output)
    return found


def compare(
    opened: ModelFile, listed: listing.Listing, entries: list[listing.Entry], reference: Answers, candidate: Answers,
) -> Compared:
    """What the candidate's answers cost, on the same labelled pictures."""
    def score(ask: Answers) -> published.Score:
        def scores(pixels: verify.Pixels) -> verify.Scores:
            probabilities = ask(pixels)
            return verify.Scores(np.log(np.maximum(probabilities, LEAST_LOGARITHM)), probabilities)
        return scores

    before, after = published.score([score(reference), score(candidate)], opened, listed, entries)
    same = float((before.logits.argmax(axis=1) == after.logits.argmax(axis=1)).mean())
    return Compared(len(entries), _top1(before) - _top1(after), same, _ece(after) - _ece(before))


def _both(opened: ModelFile, precision: str) -> tuple[Answers, Answers]:
    """The CPU provider, and OpenVINO in that precision.

    Raises:
        Refusal: it can't be had here, or the processor has no such instructions.
    """
    if missing := openvino.missing():
        raise Refusal(f"OpenVINO can't be measured here: {missing}")
    if precision == "bf16" and not processor.computes_bf16():
        raise Refusal(f"bf16 can't be measured here: {processor.name()} has no bf16 instructions (amx_bf16 or avx512_bf16)")
    opening = Opening(threads=usable_cpus())
    try:
        return cpu.open_model(opened, opening).run, openvino.OpenVinoSession(opened, precision, opening).run
    except StartError as error:
        raise Refusal(str(error)) from error


def _top1(scored: Scored) -> float:
    return calibration.top_k(scored.logits, scored.truth, 1)


def _ece(scored: Scored) -> float:
    return calibration.expected_calibration_error(verify.softmax(scored.logits, 1.0), scored.truth)


def _environment() -> str:
    return f"onnxruntime-ep-openvino {importlib.metadata.version('onnxruntime-ep-openvino')}, {processor_in_words()}"
