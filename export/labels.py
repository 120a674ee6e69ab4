"""The words of a model, read from the files in which people keep them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from export.refusal import Refusal
from service.recipe import Label

WNID = re.compile(r"(n\d{8})\s+(\S.*)")  # WordNet's id of a noun, as ImageNet's lists have it


class UnusableLabels(Refusal):
    """The file can't be read as labels; one line says why."""


def read(file: Path) -> list[Label]:
    """Labels in the order of the model's outputs.

    Understands a JSON list of `{"id", "label"}` or of words; a JSON object of index → word, index → [id, word] or
    id → word; plain text, a label a line, with its id before it where a tab or a wnid tells. Without an id, the word
    itself is the id, followed by its index where the list has that word twice.

    Raises:
        UnusableLabels: says what was found and what is expected.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnusableLabels(
            f"{file} can't be read ({error.strerror}); expected a labels file, JSON or a label a line"
        ) from error
    except UnicodeDecodeError as error:
        raise UnusableLabels(f"{file} is not text in UTF-8; expected a labels file, JSON or a label a line") from error
    labels = (
        _json(text, file) if text.lstrip()[:1] in ("[", "{") else [_line(line) for line in text.rstrip().splitlines()]
    )
    if len(labels) < 2:
        raise UnusableLabels(f"{file} holds {len(labels)} labels; expected at least 2")
    words = Counter(label.label for label in labels)
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not label.label:
            raise UnusableLabels(f"{file}: label {index} is empty; expected a word")
        if label.id and seen.setdefault(label.id, index) != index:
            raise UnusableLabels(f"{file}: id {label.id!r} stands at {seen[label.id]} and at {index}; expected it once")
    # A word is the stablest id that a list of words has; ImageNet's holds two cranes.
    return [
        label if label.id else Label(label.label if words[label.label] == 1 else f"{label.label} {index}", label.label)
        for index, label in enumerate(labels)
    ]


def _line(line: str) -> Label:
    before, tab, after = line.partition("\t")
    if tab:
        return Label(before.strip(), after.strip())
    wnid = WNID.fullmatch(line.strip())
    return Label(wnid[1], wnid[2].strip()) if wnid else Label("", line.strip())


def _json(text: str, file: Path) -> list[Label]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UnusableLabels(f"{file} begins like JSON but is not ({error}); expected a list of labels") from error
    if isinstance(content, list):
        return [_entry(value, index, file) for index, value in enumerate(content)]
    if all(key.isdecimal() for key in content):  # index → label
        by_index = {int(key): value for key, value in content.items()}
        absent = next((index for index in range(len(by_index)) if index not in by_index), None)
        if absent is not None:
            raise UnusableLabels(
                f"{file} has {len(by_index)} labels but none for {absent}; expected 0 to {len(by_index) - 1}"
            )
        return [_entry(by_index[index], index, file) for index in range(len(by_index))]
    return [Label(key, _entry(value, index, file).label) for index, (key, value) in enumerate(content.items())]


def _entry(value: Any, index: int, file: Path) -> Label:
    match value:
        case str(word):
            return Label("", word.strip())
        case {"label": str(word)}:
            return Label(str(value.get("id") or ""), word.strip())
        case [str(name), str(word)]:
            return Label(name.strip(), word.strip())
    raise UnusableLabels(f'{file}: label {index} is {json.dumps(value)[:60]}; expected a word or {{"id", "label"}}')
