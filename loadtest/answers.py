"""What a right answer looks like, for every user that asks. Knows nothing of Locust, so that it can be tested alone."""

from __future__ import annotations

import math
from typing import Any


def fault(answer: Any, top_k: int) -> str | None:
    """What is wrong with the body of an answer to one picture; None if nothing is.

    Args:
        answer: the parsed JSON.
        top_k: predictions asked for; fewer only where the model has fewer classes.
    """
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(predictions, list) or not 1 <= len(predictions) <= top_k:
        return f"expected 1 to {top_k} predictions, found {str(predictions)[:80]}"
    scores = [prediction.get("score") for prediction in predictions]
    if not all(isinstance(score, float | int) and math.isfinite(score) and 0 <= score <= 1 for score in scores):
        return f"scores are {scores}; expected numbers from 0 to 1"
    if scores != sorted(scores, reverse=True) or sum(scores) > 1.001:
        return f"scores are {scores}; expected the best first, with a sum of at most 1"
    if not all(prediction.get("label") for prediction in predictions):
        return f"a prediction without a label: {str(predictions)[:80]}"
    if len({prediction.get("index") for prediction in predictions}) < len(predictions):
        return f"a class that is predicted twice: {str(predictions)[:80]}"
    if answer.get("timing_ms", {}).get("batch_size", 0) < 1:
        return "no batch_size in timing_ms"
    return None
