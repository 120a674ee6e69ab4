"""Users of the service, for Locust: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000`.

`ClosedLoop` users wait for an answer before they ask again; `OpenLoop` asks at Poisson-distributed times whether or
not answers come, as the world does: LOADTEST_RATE pictures a second in all, divided among its users.
Every answer is checked in its body; an answer that is not what was promised is a failure, whatever its status.
"""

from __future__ import annotations

import math
import os
import random
import time
from typing import Any

import gevent
from locust import FastHttpUser, constant, task

from loadtest.pictures import pictures

PICTURES = pictures()
TOP_K = 5
RATE = float(os.environ.get("LOADTEST_RATE", "20"))  # pictures a second, all open-loop users together


def fault(answer: Any) -> str | None:
    """What is wrong with an answer's body; None if nothing is."""
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(predictions, list) or not 1 <= len(predictions) <= TOP_K:
        return f"expected 1 to {TOP_K} predictions, found {str(predictions)[:80]}"
    scores = [prediction.get("score") for prediction in predictions]
    if not all(isinstance(score, float | int) and math.isfinite(score) and 0 <= score <= 1 for score in scores):
        return f"scores are {scores}; expected numbers from 0 to 1"
    if scores != sorted(scores, reverse=True) or sum(scores) > 1.001:
        return f"scores are {scores}; expected the best first, with a sum of at most 1"
    if not all(prediction.get("label") for prediction in predictions):
        return "a prediction without a label"
    if answer.get("timing_ms", {}).get("batch_size", 0) < 1:
        return "no batch_size in timing_ms"
    return None


class Asks(FastHttpUser):
    """Posts a picture and checks the answer."""

    abstract = True
    connection_timeout = network_timeout = 30.0

    def ask(self) -> None:
        """One picture, as the raw body."""
        with self.client.post(f"/classify?top_k={TOP_K}", data=random.choice(PICTURES), name="POST /classify",
                              headers={"Content-Type": "image/jpeg"}, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}: {(reply.text or '')[:120]}")
            elif wrong := fault(reply.json()):
                reply.failure(wrong)


class ClosedLoop(Asks):
    """Asks again as soon as it has its answer."""

    wait_time = constant(0)

    @task
    def classify(self) -> None:
        """Ask."""
        self.ask()


class OpenLoop(Asks):
    """Asks when it is time, however many answers are still out."""

    concurrency = 256
    due = 0.0

    def on_start(self) -> None:
        """The first arrival is random too."""
        self.due = time.monotonic() + self.pause()

    def pause(self) -> float:
        """Seconds to the next arrival of a Poisson process with this user's share of the rate."""
        return random.expovariate(RATE / max(1, self.environment.runner.target_user_count))

    @task
    def arrive(self) -> None:
        """Send one request off at its time, without waiting for its answer."""
        gevent.sleep(max(0.0, self.due - time.monotonic()))
        self.due += self.pause()
        gevent.spawn(self.ask)
