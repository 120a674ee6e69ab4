"""BentoML: one worker with two threads, adaptive batches of up to 32 (`batchable`); multipart.

After BentoML's documentation: a batchable method takes a list and returns one, and files arrive as paths in a form. What it
raises is the answer to the whole batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BadInput

from loadtest.compare.servers.classifier import Classifier


@bentoml.service(workers=1, threads=2, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Images:
    """The service."""

    def __init__(self) -> None:
        self._classifier = Classifier(threads=2)

    @bentoml.api(batchable=True, max_batch_size=32, route="/classify")
    def classify(self, images: list[Path]) -> list[dict[str, Any]]:
        """A batch of files."""
        try:
            return self._classifier.classify([self._classifier.decode(image.read_bytes()) for image in images])
        except OSError as error:
            raise BadInput(str(error)) from error
