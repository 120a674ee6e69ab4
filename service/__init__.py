"""The running service: a picture in, labels out.

Floors and what may import what: `service/README.md`.
"""

__version__ = "0.1.0"
