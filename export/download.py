"""A file over HTTP: resumed where it broke off, checked against its hash, and whole or not there.

Knows addresses, bytes and hashes; nothing of networks. What has arrived so far lies beside the file under `.part`, so that
the next run asks for the rest only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from export.refusal import Refusal

TIMEOUT_S = (10.0, 30.0)  # for the connection, and between two arrivals of bytes
ATTEMPTS = 5  # broken off that often, it is time for somebody to look
CHUNK = 2**14  # bytes; less than that is lost where a connection breaks off
SHA256 = re.compile(r"[0-9a-f]{8,64}")  # eight digits are what PyTorch publishes in a file's name


class Undelivered(Refusal):
    """The file didn't come; one line names the host and the reason."""


class WrongBytes(Refusal):
    """The file that came is another one; it has been removed."""


def place(cache: Path, name: str, sha256: str) -> Path:
    """Where a file of that name and hash is kept."""
    return cache / sha256[:8] / (name if name not in ("", ".", "..") else "weights")


def whole(file: Path, sha256: str) -> bool:
    """Whether the file is there and its SHA-256, hexadecimal, begins like that."""
    return file.is_file() and _digest(file).startswith(sha256)


def download(url: str, cache: Path, sha256: str, timeout_s: tuple[float, float] = TIMEOUT_S) -> Path:
    """The file from the cache, or from the address into the cache.

    Args:
        url: http or https.
        cache: folder; made where it is missing.
        sha256: beginning of the file's SHA-256: 8 to 64 hexadecimal digits, small letters.
        timeout_s: for the connection, and for bytes to arrive, in seconds.
    Raises:
        Undelivered: no such host, no connection, no such file, a full disk; what has arrived so far is kept.
        WrongBytes: the hash is another one; nothing is kept.
    """
    address = _address(url)
    if not SHA256.fullmatch(sha256):
        raise Refusal(f"sha256 is {sha256!r}; expected the first 8 to 64 of its hexadecimal digits")
    file = place(cache, address.path.rpartition("/")[2], sha256)
    if whole(file, sha256):
        return file
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _fill(stream, url, file.name, timeout_s)
            stream.flush()
            os.fsync(stream.fileno())
            _accept(part, file, sha256, _host(url))
    except BlockingIOError as error:
        raise Undelivered(f"{part} is being written by another fetch; expected one at a time") from error
    except Undelivered:
        if not part.stat().st_size:
            part.unlink()  # nothing to go on with
        raise
    except OSError as error:
        raise Undelivered(f"{part} can't be written ({error.strerror or error}); expected room for {file.name}") from error
    return file


def _accept(part: Path, file: Path, sha256: str, host: str) -> None:
    if not (found := _digest(part)).startswith(sha256):
        part.unlink()
        raise WrongBytes(
            f"{host} sent a {file.name} with SHA-256 {found[:16]}…; "
            f"expected {sha256[:16]}{'…' if len(sha256) > 16 else ''}: the file has been removed"
        )
    part.replace(file)


def without_password(url: str) -> str:
    """The address without name, password and query, which may be secret: for messages and records."""
    return urlsplit(url)._replace(netloc=_host(url), query="", fragment="").geturl()


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        known = address.scheme in ("http", "https") and bool(address.hostname)
    except ValueError:
        known = False
    if not known:
        raise Undelivered(f"url is {url!r}; expected one that begins with https:// or http://")
    return address


def _fill(stream: BinaryIO, url: str, name: str, timeout_s: tuple[float, float]) -> None:
    """Append what is missing; goes on by itself where the connection breaks off."""
    host = _host(url)
    with _bars() as bars:
        bar = bars.add_task(name, total=None, completed=stream.tell())
        for attempt in range(ATTEMPTS):
            had = stream.tell()
            try:
                return _receive(stream, url, host, name, timeout_s, bars, bar)
            except requests.RequestException as error:
                stream.flush()
                kept = stream.tell()
                if kept == had:
                    rest = f"; {kept:,} bytes of it are kept: run the command again to go on" if kept else ""
                    what = "broke off" if isinstance(error, requests.exceptions.ChunkedEncodingError) else "can't be reached"
                    raise Undelivered(f"{host} {what} ({_reason(error, timeout_s)}); expected {name} from it{rest}") from error
                if attempt == ATTEMPTS - 1:
                    raise Undelivered(
                        f"{host} broke off {ATTEMPTS} times ({_reason(error, timeout_s)}); "
                        f"{kept:,} bytes of {name} are kept: run the command again to go on"
                    ) from error


def _receive(
    stream: BinaryIO, url: str, host: str, name: str, timeout_s: tuple[float, float], bars: Progress, bar: TaskID
) -> None:
    had = stream.tell()
    headers = {"Accept-Encoding": "identity"}  # positions count the file's own bytes
    if had:
        headers["Range"] = f"bytes={had}-"
    with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
        if had and response.status_code == 416:
            return  # there is no more than we have; the hash will tell
        if response.status_code not in (200, 206):
            raise Undelivered(f"{host} answered {response.status_code} {response.reason}; expected {name} from it")
        begins = 0
        if response.status_code == 206:
            told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            begins = int(told[1]) if told else -1
            if begins != had:
                raise Undelivered(f"{host} sent another part of {name} than asked for; expected it from byte {had:,} on")
        elif had:  # it knows no parts and sends all of it
            stream.seek(0)
            stream.truncate()
        length = response.headers.get("Content-Length", "")
        bars.update(bar, completed=begins, total=begins + int(length) if length.isdecimal() else None)
        for chunk in response.iter_content(CHUNK):
            stream.write(chunk)
            bars.advance(bar, len(chunk))


def _bars() -> Progress:
    """A bar on standard error; none where that is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def _reason(error: BaseException, timeout_s: tuple[float, float]) -> str:
    """The system's own words, which lie deepest."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {max(timeout_s):g} s"
    words = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
        elif not isinstance(cause, requests.RequestException) and str(cause):
            words = str(cause).splitlines()[0][:200]
        cause = cause.__cause__ or cause.__context__
    return words


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
