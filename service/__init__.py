"""The running service: a picture in, labels out.

Floors and what may import what: `service/README.md`.
"""

import os

# ONNX Runtime reads it once, at its import, and would send usage data otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
