"""Who is compared: each server's command, the settings that suit it best on two cores, and how it wants to be asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from loadtest.compare import bodies

SERVERS = "loadtest.compare.servers"
FORM = {"Content-Type": f"multipart/form-data; boundary={bodies.BOUNDARY}"}


class Protocol(NamedTuple):
    """How a server is asked about one image.

    Attributes:
        words: for the report.
        body: an encoded image → a request's body.
    """

    words: str = "raw body"
    body: Callable[[bytes], bytes] = bodies.raw
    headers: Mapping[str, str] = {"Content-Type": "application/octet-stream"}
    path: str = "/classify"


class Peer(NamedTuple):
    """Another server.

    Attributes:
        name: of its lock file and its environment.
        title: as people know it.
        package: whose version is reported.
        settings: in words.
        command: behind the environment's bin folder; {port} stands for the port.
        variables: of its environment; {port} and {home}, a folder that it may write to, are filled in.
        shared_python: it embeds Python, and so needs an interpreter that comes with libpython as a shared library.
    """

    name: str
    title: str
    package: str
    settings: str
    command: tuple[str, ...]
    protocol: Protocol = Protocol()
    variables: Mapping[str, str] = {}
    shared_python: bool = False


PEERS = (
    Peer("mosec", "mosec", "mosec", "2 workers of 1 engine thread, batch 16, wait 5 ms",
         ("python", "-m", f"{SERVERS}.mosec_server"),
         variables={"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": "{port}", "MOSEC_TIMEOUT": "60000",
                    "MOSEC_LOG_LEVEL": "warning"}),
    Peer("litserve", "LitServe", "litserve", "2 workers of 1 engine thread, batch 16, wait 5 ms",
         ("python", "-m", f"{SERVERS}.litserve_server"),
         Protocol("multipart", functools.partial(bodies.multipart, "content"), FORM)),
    Peer("bentoml", "BentoML", "bentoml", "1 worker of 2 threads, adaptive batches up to 32",
         ("bentoml", "serve", f"{SERVERS}.bentoml_server:Images", "--host", "127.0.0.1", "--port", "{port}"),
         Protocol("multipart", functools.partial(bodies.multipart, "images"), FORM),
         {"BENTOML_HOME": "{home}", "BENTOML_DO_NOT_TRACK": "True"}),
    Peer("fastapi", "FastAPI by hand", "fastapi", "1 process, pool of 4 threads, no batching",
         ("python", "-m", f"{SERVERS}.fastapi_server")),
    Peer("pytriton", "Triton (PyTriton)", "nvidia-pytriton", "dynamic batches up to 32, no delay, 2 decoding threads",
         ("python", "-m", f"{SERVERS}.pytriton_server"),
         Protocol("Triton's protocol, binary data", bodies.triton,
                  {"Content-Type": "application/octet-stream",
                   "Inference-Header-Content-Length": str(bodies.TRITON_HEADER_BYTES)},
                  "/v2/models/classify/infer"),
         {"PYTRITON_HOME": "{home}"}, shared_python=True),
)
BY_NAME = {peer.name: peer for peer in PEERS}
