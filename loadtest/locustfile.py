"""Users of the service, for Locust: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000`.

`ClosedLoop` users wait for an answer before they ask again; `OpenLoop` asks at Poisson-distributed times whether or
not answers come, as the world does: LOADTEST_RATE pictures a second in all, divided among its users.
Every answer is checked in its body; an answer that is not what was promised is a failure, whatever its status.
"""

from __future__ import annotations

import os
import random
import time

import gevent
from gevent.pool import Group
from locust import FastHttpUser, constant, task

from loadtest.answers import fault_of
from loadtest.pictures import pictures

PICTURES = pictures()
TOP_K = 5  # the default of an option that is left out; fewer where the model has fewer classes
RATE = float(os.environ.get("LOADTEST_RATE", "20"))  # pictures a second, all open-loop users together


class Asks(FastHttpUser):
    """Posts a picture and checks the answer."""

    abstract = True
    connection_timeout = network_timeout = 30.0

    def ask(self) -> None:
        """One picture, as the raw body."""
        with self.client.post("/classify", data=random.choice(PICTURES), name="POST /classify",
                              headers={"Content-Type": "application/octet-stream"}, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}: {(reply.text or '')[:120]}")
            elif wrong := fault_of(reply.text or "", TOP_K):
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
        self.asking = Group()
        self.due = time.monotonic() + self.pause()

    def on_stop(self) -> None:
        """What is still out counts too: it is the slowest."""
        self.asking.join(timeout=self.network_timeout)

    def pause(self) -> float:
        """Seconds to the next arrival of a Poisson process with this user's share of the rate."""
        users = self.environment.runner.target_user_classes_count.get(type(self).__name__, 1)
        return random.expovariate(RATE / users)

    @task
    def arrive(self) -> None:
        """Send one request off at its time, without waiting for its answer."""
        gevent.sleep(max(0.0, self.due - time.monotonic()))
        self.due += self.pause()
        self.asking.spawn(self.ask)
