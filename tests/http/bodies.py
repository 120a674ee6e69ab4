"""Loaded by schemathesis: what it sends where the description says "the bytes of one picture"."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from tests import models
from tests.service import pictures

PICTURES = [*pictures.in_every_format().values(), models.png(models.quadrant_picture(2))]
BAD = [pictures.jpeg()[:-200], b"%PDF-1.7", b"\xff\xd8\xff", b""]

for media_type in ("application/octet-stream", "image/*", "application/x-www-form-urlencoded"):
    schemathesis.openapi.media_type(media_type, st.sampled_from(PICTURES + BAD) | st.binary(max_size=200))
