"""Triton's Python server (PyTriton): its dynamic batcher with batches of up to 32 and no delay, two decoding threads.

After PyTriton's documentation: `@batch` hands over each input of all requests as one array, and encoded images are `bytes`
tensors. Requests are Triton's own: the inference protocol with binary data.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtest.compare.servers.classifier import Classifier, port

classifier, decoders = Classifier(threads=2), ThreadPoolExecutor(2)


@batch
def classify(image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """(N, 1) bytes → (N, 1) bytes: images and JSON."""
    images = list(decoders.map(classifier.decode, image[:, 0]))
    answers = [[json.dumps(answer).encode()] for answer in classifier.classify(images)]
    return {"predictions": np.array(answers, np.object_)}


if __name__ == "__main__":
    grpc, metrics = (int(os.environ[name]) for name in ("COMPARE_GRPC_PORT", "COMPARE_METRICS_PORT"))
    config = TritonConfig(http_address="127.0.0.1", http_port=port(), grpc_address="127.0.0.1", grpc_port=grpc,
                          metrics_port=metrics)
    with Triton(config=config) as triton:
        triton.bind(model_name="classify", infer_func=classify,
                    inputs=[Tensor(name="image", dtype=np.bytes_, shape=(1,))],
                    outputs=[Tensor(name="predictions", dtype=np.bytes_, shape=(1,))],
                    config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=0)))
        triton.serve()
