"""Single requests to a server, whatever its protocol: is it ready, is its answer right, what does it say to a broken image."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from loadtest.compare.peers import Protocol

ANSWER_S = 60.0
POLL_S = 0.01
BESIDE, TRIES = 15, 4  # good images beside a broken one, and how often
TELLING = ("detail", "error", "message", "title")  # keys of JSON that hold what is meant for people


class Answer(NamedTuple):
    """Of one request; `status` is 0 where there was none."""

    status: int
    text: str

    @property
    def good(self) -> bool:
        """An image was classified."""
        return 200 <= self.status < 300 and '"predictions"' in self.text

    @property
    def best(self) -> int | None:
        """Index of the best class, wherever in the answer it is."""
        found = re.search(r'"index":\s*(\d+)', self.text.replace('\\"', '"'))
        return int(found[1]) if self.good and found else None


class Broken(NamedTuple):
    """What became of an image whose second half is missing.

    Attributes:
        status, words: of its own answer.
        harmed: good images sent at the same time that failed with it.
        beside: how many there were.
    """

    status: int
    words: str
    harmed: int
    beside: int


class Asker:
    """Asks one server."""

    def __init__(self, url: str, protocol: Protocol) -> None:
        self._url, self._protocol = f"{url}{protocol.path}", protocol

    def ask(self, image: bytes) -> Answer:
        """About one image, on a new connection."""
        request = urllib.request.Request(self._url, self._protocol.body(image), dict(self._protocol.headers))
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:
                return Answer(reply.status, reply.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(errors="replace"))
        except OSError as error:
            return Answer(0, str(error))

    def wait(self, image: bytes, alive: Callable[[], bool], longest_s: float) -> bool:
        """Ask until there is a good answer; False if it isn't alive or the time is over before."""
        end = time.monotonic() + longest_s
        while alive() and time.monotonic() < end:
            if self.ask(image).good:
                return True
            time.sleep(POLL_S)
        return False

    def agreeing(self, images: Sequence[bytes], expected: Sequence[int]) -> int:
        """On how many images the best class is the expected one."""
        return sum(self.ask(image).best == index for image, index in zip(images, expected, strict=True))

    def broken(self, image: bytes) -> Broken:
        """Send the first half of an image: alone for its answer, then beside good ones, to see whether they suffer."""
        half = image[: len(image) // 2]
        alone, harmed = self.ask(half), 0
        with ThreadPoolExecutor(BESIDE + 1) as pool:
            for _ in range(TRIES):
                answers = list(pool.map(self.ask, [image] * (BESIDE // 2) + [half] + [image] * (BESIDE - BESIDE // 2)))
                del answers[BESIDE // 2]
                harmed += sum(not answer.good for answer in answers)
        return Broken(alone.status, words(alone.text), harmed, BESIDE * TRIES)


def words(text: str) -> str:
    """What an answer says to people, in one line: of JSON the telling part."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, dict):
        text = next((value for key in TELLING if isinstance(value := found.get(key), str)), text)
    return " ".join(text.split())[:300]
