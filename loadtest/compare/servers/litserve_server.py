"""LitServe: two worker processes with one engine thread each; batches of up to 16, waiting 5 ms for more; multipart.

After LitServe's documentation: an uploaded file is in `request["content"]`, and an `HTTPException` is the answer to a bad one.
LitServe gives it to the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from loadtest.compare.servers.classifier import Classifier, port


class Images(litserve.LitAPI):
    """Runs in each worker."""

    def setup(self, device: str) -> None:
        """Once a worker."""
        self._classifier = Classifier(threads=1)

    def decode_request(self, request) -> NDArray[np.uint8]:  # type: ignore[no-untyped-def]  # LitServe reads the annotation
        """A form → an image."""
        try:
            return self._classifier.decode(request["content"].file.read())
        except OSError as error:
            raise HTTPException(400, str(error)) from error

    def batch(self, inputs: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
        """The classifier stacks them."""
        return inputs

    def predict(self, inputs: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """A batch."""
        return self._classifier.classify(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """They are one an image already."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """LitServe makes JSON of it."""
        return output


if __name__ == "__main__":
    api = Images(max_batch_size=16, batch_timeout=0.005, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, timeout=60)
    server.run(host="127.0.0.1", port=port(), log_level="warning", access_log=False, generate_client_file=False)
