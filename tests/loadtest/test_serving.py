"""A service that is started to be measured, and what is read of it."""

from __future__ import annotations

import io
import json

import click
import pytest

from loadtest import serving
from tests.service import pictures

PAGE = """\
# HELP quadrant_batch_size Pictures in one engine call.
# TYPE quadrant_batch_size histogram
quadrant_batch_size_sum 55.0
quadrant_batch_size_bucket{le="1.0"} 3.0
quadrant_batch_size_bucket{le="2.0"} 3.0
quadrant_batch_size_bucket{le="16.0"} 7.0
quadrant_batch_size_bucket{le="+Inf"} 8.0
quadrant_batch_size_count 8.0
quadrant_queue_seconds_bucket{le="1.0"} 99.0
"""


def test_sizes_are_counts_of_their_own_range():
    """Prometheus counts all that is below an end."""
    assert serving.sizes(PAGE) == {"1": 3, "16": 4, "+Inf": 1}
    assert serving.sizes("") == {}


def test_what_a_load_added_is_what_was_not_there_before():
    """The warming is not the load."""
    assert serving.added({"1": 3, "16": 4}, {"1": 3, "16": 6, "32": 1}) == {"16": 2, "32": 1}


def test_sums_begin_with_the_smallest():
    """Names are texts; 16 comes after 2."""
    assert [*serving.summed([{"16": 1, "+Inf": 2}, {"2": 1, "16": 3}]).items()] == [("2", 1), ("16", 4), ("+Inf", 2)]


def test_a_service_is_ready_counted_watched_and_stopped(model_folder):
    """As a user starts it, with a setting more."""
    with serving.service(model_folder, "quadrants", {"QUADRANT_PROVIDER": "cpu"}) as service:
        assert service.ready_s > 0
        before = service.batches()
        with serving.Watch(service.process.pid) as watch:
            service.settle(pictures.jpeg())
        assert serving.added(before, service.batches()) == {"1": 1}
        assert watch.peak_mb > 10
        service.check()
    assert service.process.returncode == 0


@pytest.mark.parametrize(("told", "expected"), [
    pytest.param({"provider": "openvino", "precision": "bf16"}, "openvino, bf16", id="both"),
    pytest.param({"provider": "cpu"}, "cpu", id="no precision"),
    pytest.param({"provider": None}, "", id="not loaded"),
])  # fmt: skip
def test_what_a_model_runs_in_is_the_services_own_word(told, expected, monkeypatch):
    """The bench asks; it assumes nothing."""
    page = json.dumps({"models": [{"name": "other", "provider": "cuda"}, {"name": "tiny", **told}]})
    monkeypatch.setattr(serving.urllib.request, "urlopen", lambda *_, **__: io.StringIO(page))
    assert serving.Service("http://127.0.0.1:9", None, 0.0, None).engine("tiny") == expected


def test_settings_of_the_caller_dont_count(model_folder, monkeypatch):
    """What is measured is the planned configuration, whoever measures it."""
    monkeypatch.setenv("QUADRANT_PROVIDER", "nonsense")
    with serving.service(model_folder, "quadrants") as service:
        assert service.process.poll() is None


def test_a_service_that_does_not_start_tells_why(tmp_path):
    """Its log is gone with it."""
    with pytest.raises(click.ClickException, match=r"did not become ready(.|\n)*holds no model"), \
            serving.service(tmp_path, "quadrants"):
        pass


def test_an_end_in_the_middle_is_noticed(model_folder):
    """Figures of a dead service would be errors of its callers."""
    with serving.service(model_folder, "quadrants", {"QUADRANT_PROVIDER": "cpu"}) as service:
        service.process.terminate()
        service.process.wait(60)
        with pytest.raises(click.ClickException, match="the service has ended with 0"):
            service.check()
