"""Where the service's Python threads are when they work: py-spy's samples, folded into categories.

py-spy reads the memory of a running process from outside; nothing is added to the service. Threads that sleep are left out by
it. ONNX Runtime's own threads run no Python: of a run of the engine the thread that called it is seen.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click

RATE = 100  # samples a second; each stops the process for about a millisecond
GRACE_S = 30.0
FRAME = re.compile(r"^(?P<function>.*) \((?P<file>.*?)(?::(?P<line>\d+))?\)$")
WAITING = "waiting"
# The innermost frame that one of these knows decides; so what json, logging or a lock do for others counts as theirs.
CATEGORIES: tuple[tuple[str, str, str], ...] = (  # name, file, function
    (WAITING, r"(^|/)threading\.py", r"(.*\.)?(wait|wait_for|acquire|join|_wait_for_tstate_lock)"),
    (WAITING, r"(^|/)selectors\.py", r"(.*\.)?select"),
    (WAITING, r"(^|/)(queue|_base)\.py", r"(.*\.)?(get|result)"),
    (WAITING, r"(^|/)concurrent/futures/thread\.py", r"_worker"),
    (WAITING, r"(^|/)service/worker\.py", r"(.*\.)?_next_is_here"),  # for a connection's next request, in poll
    ("onnxruntime", r"(^|/)onnxruntime/|(^|/)service/engine\.py", ""),
    ("images (Pillow)", r"(^|/)PIL/|(^|/)service/(images|containers)\.py", ""),
    ("batching", r"(^|/)service/(batching|admission)\.py", ""),
    ("json", r"(^|/)json/|(^|/)msgspec/|(^|/)service/web/answers\.py", ""),
    ("prometheus", r"(^|/)prometheus_client/|(^|/)service/(metrics|instruments)\.py", ""),
    ("logging", r"(^|/)logging/|(^|/)structlog/|(^|/)service/logs\.py", ""),
    ("service/web", r"(^|/)service/web/", ""),
    ("answer", r"(^|/)service/(classifier|answer|catalog|loading)\.py", ""),
    ("flask, werkzeug", r"(^|/)(flask|werkzeug|blinker|jinja2)/", ""),
    ("gunicorn", r"(^|/)gunicorn/|(^|/)service/(worker|server)\.py", ""),
)
OTHER = "other"
RULES = [(name, re.compile(file), re.compile(function)) for name, file, function in CATEGORIES]


class Folded(NamedTuple):
    """Samples by category, most first; `unknown` are the innermost frames of what no category knows, most first."""

    samples: dict[str, int]
    unknown: dict[str, int]

    @property
    def total(self) -> int:
        """All samples; one is of one thread."""
        return sum(self.samples.values())


def find() -> str:
    """Where py-spy is.

    Raises:
        ClickException: it isn't installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise click.ClickException("py-spy is not installed; expected the package of requirements/load.txt (make env)")
    return found


def record(pids: Sequence[int], seconds: int, form: str = "raw", holding: bool = False) -> list[str]:
    """Sample processes at the same time.

    Args:
        pids: of processes that run Python.
        seconds: how long.
        form: "raw" (folded stacks) or "flamegraph" (SVG).
        holding: only threads that hold the interpreter's lock.
    Returns:
        What py-spy wrote, a text a process.
    Raises:
        ClickException: it may not look into them, or fails.
    """
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        files = [Path(place) / str(pid) for pid in pids]
        spies = [stack.enter_context(subprocess.Popen(
            [find(), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE), "--format", form,
             "--output", str(file), *(["--gil"] if holding else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            for pid, file in zip(pids, files, strict=True)]
        try:
            for spy in spies:
                said, _ = spy.communicate(timeout=seconds + GRACE_S)
                if spy.returncode:
                    raise click.ClickException(why(said, spy.returncode))
        except subprocess.TimeoutExpired as error:
            raise click.ClickException(f"py-spy did not end {GRACE_S:g} s after its {seconds} s") from error
        finally:
            for spy in spies:
                spy.kill()  # nothing where it has ended
        return [file.read_text() if file.exists() else "" for file in files]


def why(said: str, code: int) -> str:
    """What py-spy's words mean, and what to do about it; one line."""
    words = " ".join(said.split())
    if re.search(r"permission denied|operation not permitted|EPERM|ptrace|mach port|requires root", words, re.IGNORECASE):
        ways = "run it as root" if sys.platform == "darwin" else (
            "run it as root or set kernel.yama.ptrace_scope=0; in a container add --cap-add SYS_PTRACE")
        return (f"py-spy may not look into the service (ptrace is not allowed): {ways}; --no-samples shows the stages without "
                f"it. It said: {words[-200:]}")
    return f"py-spy ended with {code}: {words[-300:] or 'it said nothing'}"


def fold(raw: str) -> Folded:
    """Samples by category.

    Args:
        raw: lines of `frame;frame;frame COUNT`, outermost first, a frame being `function (file:line)`.
    Raises:
        ValueError: a line is none.
    """
    samples, unknown = Counter[str](), Counter[str]()
    for line in filter(None, map(str.strip, raw.splitlines())):
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdigit():
            raise ValueError(f'py-spy\'s line is "{line[:120]}"; expected FRAME;FRAME COUNT')
        frames = stack.split(";")
        name = category(frames)
        samples[name] += int(count)
        if name == OTHER:
            unknown[frames[-1]] += int(count)
    return Folded(dict(samples.most_common()), dict(unknown.most_common(10)))


def category(frames: Sequence[str]) -> str:
    """Of a stack, outermost first."""
    for frame in reversed(frames):
        if (found := FRAME.match(frame)) is None:
            continue
        for name, file, function in RULES:
            if file.search(found["file"]) and (not function.pattern or function.fullmatch(found["function"])):
                return name
    return OTHER
