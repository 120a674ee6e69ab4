"""The file of settings that `make tune` writes and `make run` reads: QUADRANT_NAME=VALUE lines and comments.

    python -m loadtest.envfile quadrant.env COMMAND ...    runs COMMAND with those of its settings that are not set already

Read, never executed, and written in a form that shells, make and docker compose understand alike. Standard library alone:
`make run` installs nothing of what loads. Whether a value can be used is for the service to say.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

DEFAULT = Path("quadrant.env")
# Without quotes, blanks, $ and #: what one reader takes as it is, another would interpret.
LINE = re.compile(r"(QUADRANT_[A-Z0-9_]+)=([A-Za-z0-9_.,:/@%+-]*)")
MOST_BYTES = 64 * 1024


class Unusable(Exception):
    """The file can't be read, written or understood; says in one line what was found and expected."""


def read(path: Path) -> dict[str, str]:
    """Settings by variable.

    Raises:
        Unusable: not a readable text file of such lines, or a variable twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror}; expected a file of QUADRANT_NAME=VALUE lines") from error
    except UnicodeDecodeError as error:
        raise Unusable(f"{path} is no text; expected QUADRANT_NAME=VALUE lines, as `make tune` writes them") from error
    if len(content) > MOST_BYTES:
        raise Unusable(f"{path} has more than {MOST_BYTES:,} bytes; expected a few QUADRANT_NAME=VALUE lines")
    found: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        if (match := LINE.fullmatch(line)) is None:
            raise Unusable(f'{path}, line {number} is "{line[:80]}"; expected QUADRANT_NAME=VALUE (no blanks or quotes), '
                           "a # comment or nothing")
        if match[1] in found:
            raise Unusable(f"{path}, line {number} sets {match[1]} a second time; expected it once")
        found[match[1]] = match[2]
    return found


def write(path: Path, settings: Mapping[str, str], comments: Sequence[str]) -> None:
    """Write it in one step: a reader sees the old file or the new one.

    Args:
        settings: by variable.
        comments: lines for the top, without their #.
    Raises:
        Unusable: the place can't be written, or a setting couldn't be read again.
    """
    lines = [f"{name}={value}" for name, value in settings.items()]
    for line in lines:
        if LINE.fullmatch(line) is None:
            raise Unusable(f'"{line[:80]}" can\'t be written to {path}; expected QUADRANT_NAME=VALUE without blanks or quotes')
    text = "".join(f"{line}\n" for line in [*("# " + " ".join(comment.split()) for comment in comments), *lines])
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise Unusable(f"{path} can't be written: {error.strerror}") from error


def check_place(path: Path) -> None:
    """See beforehand that it can be written: minutes of measuring come in between.

    Raises:
        Unusable: it can't.
    """
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise Unusable(f"{path} can't be written; expected a file name in a folder that can be written")


def merged(settings: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The environment with the settings that it lacks, and the names of those that it has otherwise; an empty one is none."""
    taken = [name for name in settings if environ.get(name, "").strip()]
    return {**environ, **{name: value for name, value in settings.items() if name not in taken}}, taken


def main(words: Sequence[str]) -> NoReturn:
    """Become the command, with the file's settings if there is one."""
    if len(words) < 2:
        print("Error: expected a file and a command: python -m loadtest.envfile quadrant.env COMMAND ...", file=sys.stderr)
        raise SystemExit(2)
    path, command, environment = Path(words[0]), list(words[1:]), dict(os.environ)
    if path.exists() or path.is_symlink():
        try:
            settings = read(path)
        except Unusable as error:
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        environment, taken = merged(settings, os.environ)
        shown = ", ".join(f"{name}={value}" for name, value in settings.items() if name not in taken) or "nothing to set"
        won = f" (the environment's {', '.join(taken)} won)" if taken else ""
        print(f"Settings read from {path}: {shown}{won}", flush=True)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        print(f"Error: {command[0]} can't be run: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
