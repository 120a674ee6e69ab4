"""Every setting once: its name, variable, type, default, range and meaning.

Read once at the start and frozen; the README's table is printed from here. Knows nothing of the parts that use them.
"""

# ruff: noqa: RUF009 - `setting` and `planned` make dataclass fields

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from service.problems import StartError

PREFIX = "QUADRANT_"
UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# A Kubernetes Service named "quadrant" puts variables like these into every pod beside it.
SERVICE_LINK = re.compile(rf"^{PREFIX}(SERVICE_(HOST|PORT).*|PORT_\d+_.*)$")


class Kind(NamedTuple):
    """How one setting is read from text."""

    base: type  # int, float, str or Path
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    in_bytes: bool = False
    pattern: str | None = None
    planned: bool = False

    @property
    def expected(self) -> str:
        """What a good value looks like, for messages."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.base is Path:
            return "a path"
        if self.pattern:
            return "64 hexadecimal digits"
        if self.base is str:
            return "a text"
        words = "a whole number" if self.base is int else "a number"
        if self.in_bytes:
            words += " of bytes (or KiB, MiB, GiB)"
        if self.maximum is not None:
            return f"{words} from {self.minimum:,g} to {self.maximum:,g}"
        return words if self.minimum is None else f"{words} from {self.minimum:,g} up"


def setting(default: Any, meaning: str, base: type | None = None, **limits: Any) -> Any:
    """One field of `Settings`; the type is the default's unless given."""
    return field(default=default, metadata={"kind": Kind(base or type(default), meaning, **limits)})


def planned(meaning: str, maximum: float | None = None, in_bytes: bool = False) -> Any:
    """A whole number that planning decides by the machine unless it is set."""
    return field(default=None, metadata={"kind": Kind(int, meaning, 1, maximum, in_bytes=in_bytes, planned=True)})


class Row(NamedTuple):
    """One line of the table of settings."""

    variable: str
    option: str
    default: str
    expected: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the one who runs the service decides. `None` in a planned setting: `planning.py` decides."""

    host: str = setting("127.0.0.1", "address to listen on; `0.0.0.0` for every interface")
    port: int = setting(8000, "port to listen on; 0 takes a free one", minimum=0, maximum=65535)
    models: Path = setting(Path("models"), "folder that holds `NAME/VERSION/model.onnx`", base=Path)
    model: str | None = setting(
        None, "name of the model that answers when none is asked for; unless set, the file `default` in that folder names it",
        base=str)
    model_sha256: str | None = setting(
        None, "SHA-256 that the default model's file must have", base=str, pattern=r"[0-9a-fA-F]{64}")
    load: str = setting(
        "default", "what is loaded before the service is ready: the `default` model alone, each other one at its first request; "
        "or `all`", choices=("default", "all"))
    provider: str = setting(
        "auto", "execution provider: `auto` takes the quickest that the model's gates allow; another one that can't be had ends "
        "the start", choices=("auto", "cpu", "openvino", "cuda"))
    workers: int | None = planned("processes", maximum=1024)
    request_threads: int | None = planned("threads that read requests and decode pictures, a process", maximum=1024)
    engine_threads: int | None = planned("threads of one engine run, a process", maximum=1024)
    batch_cap: int | None = planned("most pictures in one engine run", maximum=1024)
    cpu_affinity: str = setting(
        "auto", "whether each process keeps to CPUs of its own while the others are busy; `off`: the system decides",
        choices=("auto", "off"))
    queue_capacity: int = setting(256, "pictures waiting, all requests of a process together", minimum=1, maximum=65536)
    deadline_ms: float = setting(10_000.0, "longest time from the last body byte to the answer", minimum=1)
    max_body_bytes: int = setting(20 * 2**20, "longest request body", minimum=1, in_bytes=True)
    max_pixels: int = setting(
        50_000_000, "most pixels of a picture, by its header; of a WebP never more than 24 million", minimum=1)
    max_pictures: int = setting(32, "most pictures in one call", minimum=1, maximum=1024)
    decode_memory: int | None = planned("memory that pictures may take while they are decoded, a process", in_bytes=True)
    cache_bytes: int = setting(
        0, "memory for answers to pictures that come again, a process; 0: every picture is classified", minimum=0, in_bytes=True)
    native: str = setting(
        "auto", "whether compiled code decodes and resizes pictures, if it gives the same pixels as Pillow; `off`: Pillow does",
        choices=("auto", "off"))
    packed_weights: str = setting(
        "auto", "folder for what execution providers make of a model's weights on this processor, for all processes to map; "
        "`auto`: `quadrant/packed` in the user's cache folder; `off`: each process makes its own")
    body_timeout_s: float = setting(30.0, "longest time for a body to arrive", minimum=0.1)
    drain_delay_s: float = setting(0.0, "time to serve on, unready, after SIGTERM, while balancers look away", minimum=0)
    drain_timeout_s: float = setting(30.0, "longest wait for requests in flight when stopping", minimum=0)
    log_level: str = setting("info", "least severe event that is logged", choices=("debug", "info", "warning", "error"))

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ, /, **overrides: Any) -> Settings:
        """Read the environment; overrides (the command line) win.

        Args:
            environ: variables; an empty one counts as not set.
            overrides: values by field name, typed or as text; `None` counts as not given.
        Raises:
            StartError: a value can't be what it is, with what was expected.
        """
        values: dict[str, Any] = {}
        known = {each.name: each for each in fields(cls)}
        for name in overrides:
            if name not in known:
                raise StartError(f'there is no setting "{name}"; expected one of {", ".join(known)}')
        for name, each in known.items():
            if (given := overrides.get(name)) is not None:
                values[name] = _parse(_kind(each), given, option(name))
            elif text := environ.get(variable(name), "").strip():
                values[name] = _parse(_kind(each), text, variable(name))
        return cls(**values)


def variable(name: str) -> str:
    """`queue_capacity` → `QUADRANT_QUEUE_CAPACITY`."""
    return PREFIX + name.upper()


def option(name: str) -> str:
    """`queue_capacity` → `--queue-capacity`."""
    return "--" + name.replace("_", "-")


def table() -> list[Row]:
    """All settings, in the order of the class."""
    return [
        Row(variable(each.name), option(each.name), _shown(each), _kind(each).expected, _kind(each).meaning)
        for each in fields(Settings)
    ]


def markdown() -> str:
    """The README's table of settings."""
    lines = ["| variable | default | expected | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.variable}` | {row.default} | {row.expected} | {row.meaning} |" for row in table()]
    return "\n".join(lines)


def unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """One sentence for each `QUADRANT_…` variable that no setting has; worth a warning, since it is most likely a typo."""
    known = [variable(each.name) for each in fields(Settings)]
    sentences = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not SERVICE_LINK.match(name):
            near = difflib.get_close_matches(name, known, n=1)
            sentences.append(f"{name} is no setting" + (f"; {near[0]} is" if near else ""))
    return sentences


def _kind(each: Field[Any]) -> Kind:
    kind: Kind = each.metadata["kind"]
    return kind


def _shown(each: Field[Any]) -> str:
    kind, default = _kind(each), each.default
    if kind.planned:
        return "planned"
    if default is None or default is MISSING:
        return "none"
    if kind.in_bytes and default:
        return f"`{default // 2**20}MiB`"
    return f"`{default:g}`" if kind.base is float else f"`{default}`"


def _parse(kind: Kind, given: Any, source: str) -> Any:
    """Turn one value into its type.

    Raises:
        StartError: it is not what the kind expects; `source` is named.
    """
    value = _typed(kind, given)
    if value is None:
        hint = ""
        if str(given).startswith("tcp://"):
            hint = ' (Kubernetes sets it for a Service of that name: "enableServiceLinks: false" in the pod)'
        raise StartError(f'{source} is "{given}"; expected {kind.expected}{hint}')
    return value


def _typed(kind: Kind, given: Any) -> Any:
    text = str(given).strip()
    if kind.choices:
        return text.lower() if text.lower() in kind.choices else None
    if kind.base is Path:
        return Path(text)
    if kind.base is str:
        if kind.pattern:
            return text.lower() if re.fullmatch(kind.pattern, text) else None
        return text
    number = _number(kind, text)
    if number is None or not math.isfinite(number):
        return None
    low = -math.inf if kind.minimum is None else kind.minimum
    high = math.inf if kind.maximum is None else kind.maximum
    return number if low <= number <= high else None


def _number(kind: Kind, text: str) -> int | float | None:
    """Digits (and `_` between them) to a number; bytes may carry a unit."""
    factor = 1
    if kind.in_bytes and (match := re.fullmatch(r"(.*?)\s*([kmg]?i?b)", text, re.IGNORECASE)):
        text, unit = match.groups()
        if unit.lower() not in UNITS:
            return None
        factor = UNITS[unit.lower()]
    try:
        if kind.base is int:
            return int(text) * factor if text.isascii() else None
        return float(text)
    except ValueError:
        return None


if __name__ == "__main__":
    print(markdown())
