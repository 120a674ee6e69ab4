"""Requests' bodies in the form that each server takes: raw bytes, a multipart form, Triton's inference protocol."""

from __future__ import annotations

import json

BOUNDARY = "----comparison-boundary-5f3a9c71"
TRITON_HEADER_BYTES = 256  # the JSON is padded to this, so that all requests have the same headers


def raw(image: bytes) -> bytes:
    """The image itself."""
    return image


def multipart(field: str, image: bytes) -> bytes:
    """A form with one file (RFC 7578); to be sent with `BOUNDARY`."""
    head = (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="image.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n")
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def triton(image: bytes) -> bytes:
    """One `bytes` tensor named `image` as binary data behind the JSON; asks for `predictions` as JSON.

    Source: the binary data extension of Triton's HTTP protocol.
    """
    tensor = len(image).to_bytes(4, "little") + image
    asked = {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES",
                         "parameters": {"binary_data_size": len(tensor)}}],
             "outputs": [{"name": "predictions"}]}
    return json.dumps(asked).ljust(TRITON_HEADER_BYTES).encode() + tensor
