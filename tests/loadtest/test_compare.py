"""The comparison with other servers: what is sent, in which order, and what is written about it."""

from __future__ import annotations

import copy
import json
import re
from contextlib import nullcontext
from typing import Any

import click
import pytest

from loadtest.compare import asking, bodies, environments, plot, table
from loadtest.compare.__main__ import BY_NAME, MODELS, ROOT, highest
from loadtest.compare.peers import PEERS, Protocol
from loadtest.compare.rounds import Contestant, order

MODEL = "quadrants-int8"


def spread(value: float | None) -> dict[str, Any]:
    if value is None:
        return {"median": None, "least": None, "greatest": None, "rounds": [None]}
    return {"median": value, "least": value * 0.9, "greatest": value * 1.1, "rounds": [value] * 3}


def server(name: str, rate: float, **changes: Any) -> dict[str, Any]:
    load = {"images_per_s": spread(rate), "p50_ms": spread(3.25), "p99_ms": spread(1234.5), "cpu_share": spread(0.02),
            "requests": 100, "errors": 0, "problem": None}
    return {"name": name, "version": "1.2", "settings": "as it comes", "protocol": "raw body", "failure": None,
            "start_s": spread(1.25), "peak_pss_mb": spread(300.4), "agreeing": 48,
            "broken": {"status": 400, "words": "broken", "harmed": 0, "beside": 60},
            "loads": {"1": load, "32": copy.deepcopy(load)}, **changes}


@pytest.fixture
def found() -> dict[str, Any]:
    """Figures of one model and two servers."""
    return {MODEL: {
        "machine": {"cpus": 2, "processor": "Abacus", "features": ["avx2"]}, "load_before": 0.1, "commit": "abc123", "photos": 48,
        "plan": {"rounds": 3, "loads": {"1": 2, "32": 3}},
        "ceiling": {"images_per_s": spread(90.0), "layout": "threads", "batch": 16, "fault": None},
        "servers": [server("Quadrant", 120.0), server("mosec", 80.0)]}}


def test_a_form_holds_the_image_unchanged():
    """As any multipart parser reads it: between the blank line and the boundary."""
    image = b"\xff\xd8\r\n\r\n--no boundary\xff\xd9"
    body = bodies.multipart("content", image)
    assert body.startswith(f"--{bodies.BOUNDARY}\r\n".encode())
    assert body.endswith(f"\r\n--{bodies.BOUNDARY}--\r\n".encode())
    head, _, rest = body.partition(b"\r\n\r\n")
    assert b'name="content"; filename=' in head
    assert rest[: len(image)] == image


@pytest.mark.parametrize("size", [1, 255, 70_000, 20_000_000])
def test_tritons_header_has_one_length_for_all_images(size):
    """wrk sends the same headers with every body."""
    body = bodies.triton(b"x" * size)
    asked = json.loads(body[: bodies.TRITON_HEADER_BYTES])
    tensor = body[bodies.TRITON_HEADER_BYTES :]
    assert asked["inputs"][0]["parameters"]["binary_data_size"] == len(tensor) == size + 4
    assert int.from_bytes(tensor[:4], "little") == size


def test_each_round_begins_with_another_server():
    """Whoever comes first finds the machine as the round before left it."""
    everyone = [Contestant(name, "", "", Protocol(), nullcontext) for name in "abcdef"]
    rounds = [[each.name for each in order(everyone, number)] for number in range(3)]
    assert rounds == [["a", "b", "c", "d", "e", "f"], ["a", "f", "e", "d", "c", "b"], ["c", "d", "e", "f", "a", "b"]]


def test_the_table_has_a_line_for_each_server_and_the_ceiling(found):
    """Rates, latencies, memory, start and the broken image stand side by side."""
    lines = [line for line in table.markdown(found, "docs/compare.png").splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == f"| **`{MODEL}`** | | | | | |"
    assert lines[3] == "| Quadrant | **120** · 3.2 / 1,234 | **120** · 3.2 / 1,234 | 300 MB | 1.2 s | 400 “broken” |"
    assert lines[5] == "| ceiling: threads, batch 16, without HTTP | 90 | 90 | | | |"


def test_what_went_wrong_is_in_the_words(found):
    """Errors, wrong answers and neighbours that suffer are part of a figure."""
    mosec = found[MODEL]["servers"][1]
    mosec["loads"]["32"] |= {"errors": 7, "problem": "7 refused: 503 later"}
    mosec |= {"agreeing": 40, "broken": {"status": 500, "words": "<b>a | b</b>", "harmed": 3, "beside": 60}}
    text = table.markdown(found, "compare.png")
    assert "**80** · 3.2 / 1,234, 7 failed" in text
    assert "500 “&lt;b>a \\| b&lt;/b>”; 3 of 60 good ones fail with it" in text
    assert f"mosec with `{MODEL}`, 32 connections: 7 refused: 503 later" in text
    assert f"mosec with `{MODEL}`: the best class is the expected one on 40 of 48 photos only." in text


def test_figures_of_a_busy_machine_say_so(found):
    """They look like any other figures."""
    assert "busy" not in table.markdown(found, "compare.png")
    found[MODEL]["load_before"] = 2.5
    assert "the machine was busy (load 2.5)" in table.markdown(found, "compare.png")


def test_a_server_that_never_started_has_its_reason_instead_of_figures(found):
    """The row isn't missing: a reader would think it was forgotten."""
    found[MODEL]["servers"][1] |= {"failure": "not installed: no wheel", "loads": {}, "broken": None, "agreeing": None,
                                   "start_s": spread(None), "peak_pss_mb": spread(None)}
    text = table.markdown(found, "compare.png")
    assert "| mosec | not installed: no wheel |" in text
    assert f"- mosec with `{MODEL}`: not installed: no wheel" in text


def test_the_table_replaces_what_is_between_the_markers(tmp_path):
    """Run again, and the page is as long as before."""
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for text in ("new", "newer \\1"):
        table.place(page, text)
    assert page.read_text() == f"before\n{table.BEGIN}\nnewer \\1\n{table.END}\nafter\n"
    page.write_text("nothing here")
    with pytest.raises(click.ClickException, match="has 0 places for the comparison; expected one"):
        table.place(page, "new")


def test_the_readme_has_a_place_for_it_and_shows_what_is_on_record():
    """Figures in the page that nobody measured would be an advertisement."""
    shown = re.search(f"{re.escape(table.BEGIN)}\n(.*?){re.escape(table.END)}", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    record = ROOT / "docs" / "compare.json"
    assert shown[1].strip() == table.markdown(json.loads(record.read_text()), "docs/compare.png")


def test_names_beside_lines_are_kept_apart_in_their_order():
    """Two servers of one speed are two names."""
    moved = plot.apart([0.5, 0.1, 0.51, 0.5], 0.06)
    assert moved[1] == pytest.approx(0.1)
    assert sorted(range(4), key=moved.__getitem__) == [1, 0, 3, 2]
    assert min(high - low for low, high in zip(sorted(moved), sorted(moved)[1:], strict=False)) >= 0.06 - 1e-6


def test_the_plot_draws_servers_without_figures_too(found, tmp_path):
    """One that answered nothing at 256 connections has no p99 there."""
    found[MODEL]["servers"][1]["loads"]["32"]["p99_ms"] = spread(None)
    found["other"] = copy.deepcopy(found[MODEL])
    found["other"]["servers"][1]["loads"] = {}
    plot.draw(found, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("text", "expected"), [
    pytest.param('{"type": "x", "title": "Bad", "detail": "cut  off"}', "cut off", id="a problem document"),
    pytest.param('[{"error": "cut off"}]', "cut off", id="a list"),
    pytest.param("cut\noff", "cut off", id="plain text"),
    pytest.param('{"other": 1}', '{"other": 1}', id="JSON without words"),
])  # fmt: skip
def test_the_words_for_people_are_found(text, expected):
    """Whatever the form of the answer."""
    assert asking.words(text) == expected


@pytest.mark.parametrize(("status", "text", "best"), [
    pytest.param(200, '{"predictions": [{"label": "a", "index": 7}, {"index": 8}]}', 7, id="JSON"),
    pytest.param(200, r'{"outputs":[{"name":"predictions","data":["{\"a\": [{\"index\": 7}]}"]}]}', 7, id="JSON in JSON"),
    pytest.param(200, '{"error": {"index": 7}}', None, id="no predictions"),
    pytest.param(500, '{"predictions": [{"index": 7}]}', None, id="refused"),
])  # fmt: skip
def test_the_best_class_is_read_from_any_answer(status, text, best):
    """Servers wrap it differently."""
    assert asking.Answer(status, text).best == best


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_each_peer_has_its_server_and_a_lock_with_its_package(peer):
    """A module that was renamed is found before a measurement of 15 minutes."""
    assert re.fullmatch(r"\d+(\.\d+)+", environments.version(peer))
    module = next(word.split(":")[0] for word in peer.command if word.startswith("loadtest."))
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_the_highest_version_of_a_model_is_served(tmp_path):
    """10 comes after 9; another name's files don't count."""
    for name in ("a/9", "a/10", "b/11", "a/old"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.onnx").touch()
    assert highest(tmp_path, "a") == tmp_path / "a" / "10" / "model.onnx"
    with pytest.raises(click.BadParameter, match=r"holds no c/VERSION/model\.onnx; expected one of a, b"):
        highest(tmp_path, "c")


def test_the_models_of_the_comparison_are_in_the_project():
    """`make compare` needs nothing from elsewhere."""
    assert all(highest(ROOT / "models", name).exists() for name in MODELS.split(","))
    assert set(BY_NAME) == {"mosec", "litserve", "bentoml", "fastapi", "pytriton"}


def test_the_first_line_with_words_from_the_end_is_the_reason():
    """Under a traceback often stands an empty frame."""
    assert environments.last_line("Traceback\nValueError: 3 is too many\n\n---\n;\n") == "ValueError: 3 is too many"
    assert environments.last_line("") == "it said nothing"
