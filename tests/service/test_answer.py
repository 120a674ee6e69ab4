"""Scores put into words, for whoever asks for few or for many."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from service.answer import Asked, say
from service.ranking import RANKED, rank

CLASSES = 3 * RANKED
MODEL = SimpleNamespace(
    labels=[SimpleNamespace(label=f"label {row}", id=f"n{row}") for row in range(CLASSES)],
    recipe=SimpleNamespace(calibration=SimpleNamespace(abstention=SimpleNamespace(below=0.2))))


@pytest.fixture
def probabilities():
    scores = np.random.default_rng(3).dirichlet(np.full(CLASSES, 0.5)).astype(np.float32)
    scores[7] = scores[4]  # equal ones
    return scores


@pytest.mark.parametrize("top_k", [1, 2, 5, RANKED, RANKED + 1, CLASSES])
def test_so_many_predictions_as_asked_for_best_first(probabilities, top_k):
    """Whether they were put in order with the batch, or for this one alone."""
    said = say(probabilities, rank(probabilities[None])[0], Asked(top_k, 0.0, None), MODEL)
    whole = np.argsort(-probabilities, kind="stable")
    assert [each.index for each in said.predictions] == whole[:top_k].tolist()
    assert [each.label for each in said.predictions] == [f"label {row}" for row in whole[:top_k]]
    assert said.margin == pytest.approx(float(probabilities[whole[0]]) - float(probabilities[whole[1]]), rel=1e-6)
    assert said.abstained is bool(probabilities[whole[0]] < 0.2)
    assert said.prediction_set is None


def test_a_threshold_is_held_against_what_is_shown():
    """0.7 in float32 is a little less than 0.7; whoever sees 0.7 and asks for 0.7 gets it."""
    scores = np.zeros(CLASSES, np.float32)
    scores[:2] = 0.7, 0.3
    said = say(scores, rank(scores[None])[0], Asked(5, 0.7, None), MODEL)
    assert [(each.index, each.score) for each in said.predictions] == [(0, 0.7)]


def test_a_prediction_set_has_all_with_enough(probabilities):
    """However many were ranked."""
    least = float(np.sort(probabilities)[-RANKED - 5])
    said = say(probabilities, rank(probabilities[None])[0], Asked(1, 0.0, least), MODEL)
    assert len(said.predictions) == 1
    assert sorted(each.index for each in said.prediction_set) == np.flatnonzero(probabilities >= least).tolist()


def test_of_one_class_the_margin_is_whole():
    """There is no second."""
    said = say(np.ones(1, np.float32), rank(np.ones((1, 1), np.float32))[0], Asked(1, 0.0, None), MODEL)
    assert (said.margin, said.entropy) == (1.0, 0.0)
