"""mosec: two worker processes with one engine thread each; batches of up to 16, waiting 5 ms for more; raw bodies.

After mosec's documentation: `deserialize` turns a body into data, `forward` gets the batch, and a `DecodingError` is the answer
to a bad one. mosec gives it to the whole batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mosec import Server, Worker
from mosec.errors import DecodingError
from numpy.typing import NDArray

from loadtest.compare.servers.classifier import Classifier


class Images(Worker):
    """One process."""

    def __init__(self) -> None:
        super().__init__()
        self._classifier = Classifier(threads=1)

    def deserialize(self, data: bytes) -> NDArray[np.uint8]:
        """A body → an image."""
        try:
            return self._classifier.decode(data)
        except OSError as error:
            raise DecodingError(str(error)) from error

    def forward(self, data: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """A batch."""
        return self._classifier.classify(data)


if __name__ == "__main__":
    server = Server()  # address, port and time limit are in MOSEC_… variables
    server.append_worker(Images, num=2, max_batch_size=16, max_wait_time=5, route="/classify")
    server.run()
