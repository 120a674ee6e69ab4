"""A model's folder appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.refusal import Refusal
from service import shelf


class UnusableOutput(Refusal):
    """The folder can't be written; one line says why."""


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """A folder to fill, beside `output`; renamed to it at the end, removed when anything fails.

    Raises:
        UnusableOutput: there is something already, or the place can't be written.
    """
    check(output)
    made = [folder for folder in output.parents if not folder.exists()]  # nearest first
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise UnusableOutput(
            f"{output} can't be written ({error.strerror}); expected a folder to write models into"
        ) from error
    try:
        part.chmod(0o755)  # mkdtemp's is for its maker alone; a service reads as another user
        yield part
        part.rename(output)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def check(output: Path) -> None:
    """Refuse early what `appearing` would refuse late.

    Raises:
        UnusableOutput: not models/NAME/VERSION with a whole number, or there is something already.
    """
    if not shelf.VERSION.fullmatch(output.name) or not output.resolve().parent.name:
        raise UnusableOutput(f'output is "{output}"; expected models/NAME/VERSION, VERSION a whole number from 1 up')
    if output.exists():
        raise UnusableOutput(
            f"{output} exists already; a version is never overwritten: choose the next number, or remove it"
        )
