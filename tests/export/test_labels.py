"""Label files as people have them."""

from __future__ import annotations

import json

import pytest

from export import labels
from export.labels import UnusableLabels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '[{"id": "n01", "label": "tench"}, {"id": "n02", "label": "eel"}]',
            [("n01", "tench"), ("n02", "eel")],
            id="ours",
        ),
        pytest.param('["tench", "eel"]', [("tench", "tench"), ("eel", "eel")], id="words"),
        pytest.param('{"1": "eel", "0": "tench"}', [("tench", "tench"), ("eel", "eel")], id="by index"),
        pytest.param(
            '{"0": ["n01", "tench"], "1": ["n02", "eel"]}', [("n01", "tench"), ("n02", "eel")], id="as Keras has them"
        ),
        pytest.param('{"n01": "tench", "n02": "eel"}', [("n01", "tench"), ("n02", "eel")], id="by id"),
        pytest.param(
            "tench\ngreat white shark\n\n",
            [("tench", "tench"), ("great white shark", "great white shark")],
            id="a line each",
        ),
        pytest.param("a\ttench\nb\teel", [("a", "tench"), ("b", "eel")], id="tabs"),
        pytest.param(
            "n01440764 tench, Tinca\r\nn01443537 goldfish",
            [("n01440764", "tench, Tinca"), ("n01443537", "goldfish")],
            id="wnids",
        ),
        pytest.param("\ufeffcrane\ncrane", [("crane 0", "crane"), ("crane 1", "crane")], id="a word twice"),
    ],
)
def test_labels_are_read_in_the_order_of_the_outputs(tmp_path, text, expected):
    """A list that is off by one names every picture wrongly and looks fine."""
    file = tmp_path / "labels"
    file.write_bytes(text.encode())
    assert [(label.id, label.label) for label in labels.read(file)] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "can't be read", id="not there"),
        pytest.param(b"\xff\xfe\x00", "not text in UTF-8", id="not text"),
        pytest.param(b"", "holds 0 labels", id="empty"),
        pytest.param(b"one", "holds 1 labels", id="one"),
        pytest.param(b"a\n\nb", "label 1 is empty", id="a gap"),
        pytest.param(b'["a", ', "begins like JSON", id="broken JSON"),
        pytest.param(b'{"0": "a", "2": "b"}', "2 labels but none for 1", id="an index is missing"),
        pytest.param(b'["a", 7]', "label 1 is 7; expected a word", id="a number"),
        pytest.param(
            json.dumps([{"id": "n1", "label": "a"}] * 2).encode(), "'n1' stands at 0 and at 1", id="an id twice"
        ),
    ],
)
def test_unusable_label_files_are_refused_in_one_line(tmp_path, content, message):
    """Found, expected; no traceback."""
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnusableLabels, match=message) as caught:
        labels.read(file)
    assert "\n" not in str(caught.value)
