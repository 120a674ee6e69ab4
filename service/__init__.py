"""The running service: a picture in, labels out.

Floors and what may import what: `service/README.md`.
"""

import os

# ONNX Runtime reads it once, at its import, and would send usage data otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from service import stages  # noqa: F401 - first of all, as its clock begins here

__version__ = "0.1.0"
