"""The best classes, whatever the scores; alone or in a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranking import RANKED, order, rank

SCORE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32)
SCORES = st.lists(SCORE, min_size=1, max_size=40)


@given(SCORES, st.integers(1, 50), st.none() | st.floats(0, 1, width=32))
def test_the_best_rows_are_those_of_a_whole_sort(scores, count, least):
    """Sorting a thousand classes to show five costs more than the rest; of equal ones the lower row is first."""
    probabilities = np.array(scores, np.float32)
    whole = np.argsort(-probabilities, kind="stable")
    wanted = max(count, 0 if least is None else int((probabilities >= least).sum()))
    found = order(probabilities, count, least)
    assert found[:wanted].tolist() == whole[:wanted].tolist()


@given(st.integers(1, 40).flatmap(lambda classes: st.lists(
    st.lists(SCORE, min_size=classes, max_size=classes), min_size=1, max_size=6)))
def test_each_picture_of_a_batch_gets_what_a_whole_sort_gives(batch):
    """Ties at the edge of what is ranked included."""
    probabilities = np.array(batch, np.float32)
    found = rank(probabilities)
    assert len(found) == len(batch)
    for ranked, row in zip(found, probabilities, strict=True):
        whole = np.argsort(-row, kind="stable")[:RANKED].tolist()
        assert ranked.rows == whole
        assert ranked.scores == [float(row[each]) for each in whole]
        entropy = -sum(float(p) * math.log(p) for p in row if p > 0)
        assert ranked.entropy == pytest.approx(max(0.0, entropy), abs=1e-12, rel=1e-12)


def test_nothing_is_shared_between_pictures():
    """A batch's answers go to different callers."""
    first, second = rank(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32))
    assert (first.rows, second.rows) == ([0, 1], [1, 0])
    assert first.entropy != second.entropy
