"""The tolerance rule: what it lets through and what it doesn't."""

from __future__ import annotations

import numpy as np
import pytest

from export import verify
from export.verify import Scores, Unfaithful

LOGITS = np.asarray([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0], [0.0, 5.0, 0.0, 1.0, 0.0, 2.0]], np.float32)
REFERENCE = Scores(LOGITS, verify.softmax(LOGITS, 1))


def changed(probability=0.0, logit=0.0):
    """The reference with one value off."""
    logits, probabilities = REFERENCE.logits.copy(), REFERENCE.probabilities.copy()
    logits[1, 1] += logit
    probabilities[0, 0] += probability
    return Scores(logits, probabilities)


@pytest.mark.parametrize(("precision", "change"), [
    pytest.param("fp32", {"probability": 0.9e-5}, id="fp32 probability"),
    pytest.param("fp32", {"logit": 4.5e-4}, id="fp32 logit, relative to its size of 5"),
    pytest.param("fp16", {"probability": 1.9e-3, "logit": 1.9e-2}, id="fp16"),
])  # fmt: skip
def test_differences_within_the_rule_pass(precision, change):
    """Two libraries add in another order; that is no fault."""
    agreement = verify.compare(REFERENCE, changed(**change), precision, "a and b")
    assert agreement.pictures == 2
    assert agreement.classes == 2


@pytest.mark.parametrize(("precision", "candidate", "message"), [
    pytest.param("fp32", changed(probability=1.2e-5), "a and b: probabilities differ by 1.2e-05; fp32 allows 1e-05",
                 id="probability"),
    pytest.param("fp32", changed(logit=6e-4), "logits differ by 1.2e-04; fp32 allows 1e-04", id="logit"),
    pytest.param("fp16", changed(probability=3e-3), "fp16 allows 2e-03", id="fp16"),
    pytest.param("fp32", Scores(LOGITS[:, :5], REFERENCE.probabilities[:, :5]), "expected \\(2, 6\\)", id="shape"),
    pytest.param("fp32", Scores(LOGITS, REFERENCE.probabilities * np.nan), "differ by inf", id="not a number"),
])  # fmt: skip
def test_differences_beyond_the_rule_are_named(precision, candidate, message):
    """How far off tells rounding from a wrong mean."""
    with pytest.raises(Unfaithful, match=message):
        verify.compare(REFERENCE, candidate, precision, "a and b")


def test_first_answers_may_not_change_places():
    """Within twice the tolerance they may: there the reference itself can't tell them apart."""
    close = np.asarray([[0.5, 0.2, 0.199, 0.101]], np.float32)
    swapped = close[:, [0, 2, 1, 3]]
    assert verify.compare(Scores(None, close), Scores(None, swapped), "fp16", "a and b").logit is None
    wide, moved = np.asarray([[0.5, 0.3, 0.2]]), np.asarray([[0.5, 0.2, 0.3]])
    with pytest.raises(Unfaithful, match="probabilities differ"):
        verify.compare(Scores(None, wide), Scores(None, moved), "fp16", "a and b")
    assert verify._swapped(wide, moved, 2e-5) == 1


def test_a_model_whose_answers_depend_on_company_is_refused():
    """The next caller's picture must not change mine."""

    def candidate(pixels):
        logits = LOGITS[: len(pixels)] + 0.01 * len(pixels)
        logits[:, 0] += 0.01 * len(pixels)
        return Scores(logits, verify.softmax(logits, 1))

    with pytest.raises(Unfaithful, match="alone and in a batch"):
        verify.verify(REFERENCE, candidate, np.zeros((2, 4, 4, 3), np.uint8), "fp32")
