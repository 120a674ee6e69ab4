"""The Prometheus instruments themselves; reached as `metrics.REQUESTS` and so on, or imported from here.

Importing this module imports prometheus_client, which settles at that moment whether processes share their values:
whoever starts workers calls `metrics.prepare_directory()` first.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Summary

SECONDS = tuple(0.0005 * 2**step for step in range(15))  # doubling, 0.5 ms to 8 s; the deadline's default lies just beyond
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # pictures

REQUESTS = Counter("quadrant_requests", "Requests answered.", ["endpoint", "status"])
REQUEST_SECONDS = Histogram("quadrant_request_seconds", "Time from a request's head to its answer.", ["endpoint"],
                            buckets=SECONDS)
PICTURES = Counter("quadrant_pictures", "Pictures answered; outcome is ok or a problem's code.", ["model", "outcome"])
DECODE_SECONDS = Histogram("quadrant_decode_seconds", "Bytes to upright RGB, one picture.", buckets=SECONDS)
PREPROCESS_SECONDS = Histogram("quadrant_preprocess_seconds", "Resize and crop, one picture.", buckets=SECONDS)
QUEUE_SECONDS = Histogram("quadrant_queue_seconds", "Time from submit to engine start.", buckets=SECONDS)
ENGINE_SECONDS = Histogram("quadrant_engine_seconds", "Time of one engine call, a whole batch.", buckets=SECONDS)
BATCH_SIZE = Histogram("quadrant_batch_size", "Pictures in one engine call.", buckets=SIZES)
QUEUE_DEPTH = Gauge("quadrant_queue_depth", "Pictures waiting for the engine, all workers.", multiprocess_mode="livesum")
DROPPED = Counter("quadrant_dropped", "Pictures dropped at dequeue; reason is expired or gone.", ["reason"])
REFUSED = Counter("quadrant_refused", "Requests refused, by the problem's code.", ["code"])
CACHE_LOOKUPS = Counter("quadrant_cache_lookups", "Pictures looked up in the cache; outcome is hit, coalesced (an equal "
                        "request's answer was waited for) or miss.", ["outcome"])
CACHE_BYTES = Gauge("quadrant_cache_bytes", "Answers that the caches hold, all workers.", multiprocess_mode="livesum")
CACHE_EVICTIONS = Counter("quadrant_cache_evictions", "Answers given up for newer ones.")
MODEL_READY = Gauge("quadrant_model_ready", "1 where the model is proven and its thread alive, in every worker; 0 before it is "
                    "loaded, which may be at its first request.",
                    ["model", "version"], multiprocess_mode="livemin")
MODEL_ENGINE = Gauge("quadrant_model_engine", "Always 1 for a loaded model; the labels tell where it runs, and in which "
                     "precision.", ["model", "version", "provider", "precision"], multiprocess_mode="livemax")
MODEL_LOAD_SECONDS = Summary("quadrant_model_load_seconds",
                             "Making, proving and warming one model's engine; outcome is ok, failed or given-up.",
                             ["model", "outcome"])
BUILD_INFO = Gauge("quadrant_build_info", "Always 1; the labels tell what runs.",
                   ["version", "python", "onnxruntime", "provider"], multiprocess_mode="livemax")
