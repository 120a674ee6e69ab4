"""The best classes, whatever the scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.answer import _order

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32), min_size=1, max_size=40)


@given(SCORES, st.integers(1, 50), st.none() | st.floats(0, 1, width=32))
def test_the_best_rows_are_those_of_a_whole_sort(scores, count, least):
    """Sorting a thousand classes to show five costs more than the rest; of equal ones the lower row is first."""
    probabilities = np.array(scores, np.float32)
    whole = np.argsort(-probabilities, kind="stable")
    wanted = max(count, 0 if least is None else int((probabilities >= least).sum()))
    found = _order(probabilities, count, least)
    assert found[:wanted].tolist() == whole[:wanted].tolist()
