"""What counts as a right answer under load."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from loadtest.answers import fault, fault_of

RIGHT = {
    "predictions": [
        {"label": "tabby", "score": 0.7, "index": 3, "id": "n1"},
        {"label": "tiger cat", "score": 0.2, "index": 1, "id": "n2"},
    ],
    "timing_ms": {"batch_size": 1},
}


def changed(change: Callable[[Any], object]) -> Any:
    answer = copy.deepcopy(RIGHT)
    change(answer)
    return answer


def test_a_right_answer_is_no_failure():
    """A check that is never content measures nothing."""
    assert fault(RIGHT, top_k=5) is None


@pytest.mark.parametrize(("answer", "found"), [
    pytest.param(None, "expected 1 to 5 predictions", id="not an object"),
    pytest.param({"predictions": ["cat"]}, "expected objects", id="labels alone"),
    pytest.param({"status": 200}, "expected 1 to 5 predictions", id="another service's page"),
    pytest.param(changed(lambda a: a["predictions"].clear()), "expected 1 to 5 predictions", id="empty"),
    pytest.param(changed(lambda a: a["predictions"].extend([a["predictions"][1]] * 4)), "expected 1 to 5", id="too many"),
    pytest.param(changed(lambda a: a["predictions"].reverse()), "best first", id="worst first"),
    pytest.param(changed(lambda a: a["predictions"][0].update(score=0.9)), "a sum of at most 1", id="no probabilities"),
    pytest.param(changed(lambda a: a["predictions"][0].update(score=float("nan"))), "numbers from 0 to 1", id="not a number"),
    pytest.param(changed(lambda a: a["predictions"][0].update(score="0.7")), "numbers from 0 to 1", id="a text"),
    pytest.param(changed(lambda a: a["predictions"][0].update(label="")), "without a label", id="no label"),
    pytest.param(changed(lambda a: a["predictions"][1].update(index=3)), "predicted twice", id="twice the same"),
    pytest.param(changed(lambda a: a["timing_ms"].clear()), "batch_size", id="no timing"),
    pytest.param(changed(lambda a: a.update(timing_ms=None)), "batch_size", id="null for the timing"),
])
def test_a_wrong_body_is_a_failure_whatever_its_status(answer, found):
    """A service that answers 200 with nonsense under load is down."""
    said = fault(answer, top_k=5)
    assert said is not None
    assert found in said


def test_a_page_instead_of_an_answer_is_a_fault():
    """A proxy's error page with status 200 must not count as an answer."""
    assert "not JSON" in str(fault_of("<html>busy</html>", 5))
    assert fault_of(json.dumps(RIGHT), 5) is None
