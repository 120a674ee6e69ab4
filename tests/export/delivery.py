"""What delivers files to tests: an HTTP server on loopback with all that can go wrong, and wheels made on the spot."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    """Serves `content` at any path.

    Attributes:
        ranges: knows parts of a file.
        cuts: after so many bytes an answer breaks off; one entry an answer, then none does.
        status: of every answer, where it isn't 200.
        silent: never answers, until it is set.
        asked: the Range header of each request, None without one.
    """

    content: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: int = 200
    silent: threading.Event | None = None
    asked: list[str | None] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Of a file."""
        return f"http://127.0.0.1:{self.port}/models/net.pth"


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The server runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            _answer(server, self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            if server.silent:
                server.silent.set()
            http.shutdown()
            thread.join()


def _answer(server: Server, to: BaseHTTPRequestHandler) -> None:
    asked = to.headers.get("Range")
    server.asked.append(asked)
    if server.silent:
        server.silent.wait(10)
        return
    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
    body, status = server.content[start:], 206 if start else server.status
    if start >= len(server.content):
        body, status = b"", 416
    to.send_response(status)
    to.send_header("Content-Length", str(len(body)))
    if status == 206:
        to.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
    to.end_headers()
    with suppress(BrokenPipeError):  # who asked has heard enough
        to.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)


def build_wheel(folder: Path, files: dict[str, bytes], project: str = "tiny_weights", version: str = "1.0") -> Path:
    """A wheel that pip takes."""
    info = f"{project}-{version}.dist-info"
    content = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_hash(data)},{len(data)}" for name, data in content.items()]
    wheel = folder / f"{project}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return wheel


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
