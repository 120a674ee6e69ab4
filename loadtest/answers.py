"""What a right answer looks like, for every user that asks. Knows nothing of Locust, so that it can be tested alone."""

from __future__ import annotations

import json
import math
from typing import Any


def fault_of(text: str, top_k: int) -> str | None:
    """As `fault`, of a body as it came."""
    try:
        answer = json.loads(text)
    except ValueError as error:
        return f"not JSON ({error}): {text[:80]}"
    return fault(answer, top_k)


def fault(answer: Any, top_k: int) -> str | None:
    """What is wrong with the body of an answer to one picture; None if nothing is.

    Args:
        answer: the parsed JSON.
        top_k: predictions asked for; fewer only where the model has fewer classes.
    """
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(predictions, list) or not 1 <= len(predictions) <= top_k:
        return f"expected 1 to {top_k} predictions, found {str(predictions)[:80]}"
    if not all(isinstance(prediction, dict) for prediction in predictions):
        return f"predictions are {str(predictions)[:80]}; expected objects"
    scores = [prediction.get("score") for prediction in predictions]
    if not all(isinstance(score, float | int) and math.isfinite(score) and 0 <= score <= 1 for score in scores):
        return f"scores are {scores}; expected numbers from 0 to 1"
    if scores != sorted(scores, reverse=True) or sum(scores) > 1.001:
        return f"scores are {scores}; expected the best first, with a sum of at most 1"
    if not all(prediction.get("label") for prediction in predictions):
        return f"a prediction without a label: {str(predictions)[:80]}"
    if len({prediction.get("index") for prediction in predictions}) < len(predictions):
        return f"a class that is predicted twice: {str(predictions)[:80]}"
    timing = answer.get("timing_ms")
    size = timing.get("batch_size") if isinstance(timing, dict) else None
    if not isinstance(size, int) or size < 0:
        return "no batch_size in timing_ms"
    return None
