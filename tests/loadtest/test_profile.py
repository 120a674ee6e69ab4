"""`make profile`: stages that add up, stacks that fold into categories, words for whoever may not look."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from loadtest import profile, stacks, stages
from service import instruments
from tests.running import service
from tests.service import pictures

POOL = ("Thread._bootstrap (threading.py:1002);_worker (concurrent/futures/thread.py:83);"
        "ThreadWorker.handle (gunicorn/workers/gthread.py:514)")
FLASK = f"{POOL};Flask.wsgi_app (flask/app.py:1511);classify (service/web/classify.py:28)"
CLASSIFIER = f"{FLASK};Classifier.classify (service/classifier.py:120)"


def totals(requests: int, batches: int, **mean_ms: float) -> dict[str, float]:
    """As /metrics sums up."""
    found = {"quadrant_batch_size_count": float(batches), "quadrant_batch_size_sum": float(requests)}
    for name, value in mean_ms.items():
        count = batches if name == "engine" else requests
        found |= {f"quadrant_{name}_seconds_count": float(count), f"quadrant_{name}_seconds_sum": count * value / 1000}
    return found


BEFORE = totals(10, 10, decode=50, preprocess=50, queue=50, engine=50, request=500)
MEANS = {"decode": 2.0, "preprocess": 1.0, "queue": 3.0, "engine": 8.0, "request": 16.0}


def later(requests: int, batches: int) -> dict[str, float]:
    """A reading with so many more requests."""
    return {name: BEFORE[name] + value for name, value in totals(requests, batches, **MEANS).items()}


def test_the_stages_of_a_request_add_up_to_what_its_caller_sees():
    """Time that no row holds would be looked for in the wrong place. What came before the run is not the run's."""
    found = stages.stages(BEFORE, later(100, 100), caller_ms=20)
    assert (found.decode, found.preprocess, found.queue, found.inference) == pytest.approx((2000, 1000, 3000, 8000))
    assert found.application == pytest.approx(2000)
    assert found.front == pytest.approx(4000)
    assert sum(found[:6]) == pytest.approx(found.caller)
    assert found.batch == 1


def test_a_request_waits_for_its_whole_batch():
    """The histogram counts batches, and large ones take longer; the answers tell what their requests waited for. All rows are
    of these answers: a total of others would leave less than nothing to the rest."""
    header = "decode;dur=1, preprocess;dur=2, queue;dur=3, inference;dur={}, total;dur=20"
    asked = [stages.server_timing(header.format(ms)) | {"caller": 22.0} for ms in (9, 11)]
    found = stages.stages(BEFORE, later(100, 25), 7, asked)
    assert (found.decode, found.preprocess, found.queue, found.inference) == pytest.approx((1000, 2000, 3000, 10_000))
    assert found.application == pytest.approx(4000)
    assert found.front == pytest.approx(2000)
    assert found.batch == 4
    assert sum(found[:6]) == pytest.approx(found.caller)


def test_nothing_answered_is_no_profile():
    """Not a division by zero, and not a table of zeros."""
    with pytest.raises(ValueError, match="counted nothing"):
        stages.stages(BEFORE, BEFORE, 20)


def test_the_metrics_that_are_read_exist():
    """One that is renamed in the service is found here; the load test doesn't import it."""
    known = [each for name, each in vars(instruments).items() if name.isupper() and hasattr(each, "describe")]
    names = {each.describe()[0].name for each in known}
    assert {name.removesuffix("_sum") for name in BEFORE if name.endswith("_sum")} <= names


def test_a_header_without_a_phase_is_refused():
    """Another server's Server-Timing says something else."""
    with pytest.raises(ValueError, match="expected durations of queue, inference, total too"):
        stages.server_timing("decode;dur=1.5, preprocess;dur=0.25")


@pytest.mark.parametrize(("stack", "expected"), [
    pytest.param(POOL, "gunicorn", id="gunicorn"),
    pytest.param(f"{POOL};Worker.handle (service/worker.py:44)", "gunicorn", id="our worker"),
    pytest.param(FLASK, "service/web", id="a view"),
    pytest.param(f"{FLASK};begin (werkzeug/local.py:10)", "flask, werkzeug", id="werkzeug within a view"),
    pytest.param(f"{CLASSIFIER};load (PIL/ImageFile.py:390)", "images (Pillow)", id="decoding"),
    pytest.param(f"{CLASSIFIER};prepare (service/images.py:60)", "images (Pillow)", id="our decoding"),
    pytest.param(f"{CLASSIFIER};Ticket.result (service/batching.py:59)", "batching", id="batching"),
    pytest.param(f"{CLASSIFIER};result (concurrent/futures/_base.py:451);Condition.wait (threading.py:327)", "waiting",
                 id="waiting"),
    pytest.param("run (service/batching.py:1);run (onnxruntime/capi/onnxruntime_inference_collection.py:270)", "onnxruntime",
                 id="the engine"),
    pytest.param(f"{FLASK};info (structlog/_base.py:1);dumps (json/__init__.py:231)", "json", id="json within logging"),
    pytest.param(f"{FLASK};_end (service/web/observe.py:5);observe (prometheus_client/metrics.py:650)", "prometheus",
                 id="metrics"),
    pytest.param(f"{FLASK};emit (logging/__init__.py:1113)", "logging", id="logging"),
    pytest.param("_worker (concurrent/futures/thread.py:81)", "waiting", id="an idle thread of the pool"),
    pytest.param("run (/usr/lib/python3.11/wsgiref/x.py:1)", "other", id="nobody's"),
])
def test_the_innermost_known_frame_decides(stack, expected):
    """Decoding that is asked for by a view is decoding."""
    assert stacks.category(stack.split(";")) == expected


def test_samples_are_folded_with_their_counts_and_shares():
    """What no category knows is named, so that a new dependency doesn't hide in "other"."""
    folded = stacks.fold(f"{POOL} 10\n{FLASK} 30\n{CLASSIFIER};load (PIL/ImageFile.py:390) 50\nodd (odd.py:3) 10\n\n")
    assert folded.samples == {"images (Pillow)": 50, "service/web": 30, "gunicorn": 10, "other": 10}
    assert folded.unknown == {"odd (odd.py:3)": 10}
    found = profile.table_of(folded, requests=200)["categories"]
    assert found["images (Pillow)"] == {"samples": 50, "share": 0.5, "us": 2500.0}  # half a second of a thread over 200
    assert sum(each["share"] for each in found.values()) == pytest.approx(1)


@pytest.mark.parametrize("line", ["no count here", "12", "frame (a.py:1) many"])
def test_lines_that_are_no_stacks_are_refused(line):
    """Another version of py-spy may write otherwise."""
    with pytest.raises(ValueError, match="expected FRAME;FRAME COUNT"):
        stacks.fold(line)


@pytest.mark.parametrize("said", [
    "Error: Permission Denied: Try running again with elevated permissions by going 'sudo env \"PATH=$PATH\" !!'",
    "Error: Failed to suspend process\nReason: EPERM: Operation not permitted",
])
def test_whoever_may_not_look_is_told_what_to_do(said):
    """In one line, with the way on."""
    words = stacks.why(said, 1)
    assert "\n" not in words
    assert "SYS_PTRACE" in words or "root" in words
    assert "--no-samples" in words
    assert "ptrace" not in stacks.why("Error: No such process", 1)


def test_py_spy_that_fails_ends_in_its_words(monkeypatch, tmp_path):
    """Not in an empty table."""
    spy = tmp_path / "py-spy"
    spy.write_text("#!/bin/sh\necho 'Error: Permission Denied: try again as root' >&2\nexit 1\n")
    spy.chmod(0o755)
    monkeypatch.setattr(stacks, "find", lambda: str(spy))
    with pytest.raises(click.ClickException, match="ptrace is not allowed"):
        stacks.record([1, 2], 1)


def test_samples_of_a_running_process_name_its_functions():
    """The real py-spy, where it is allowed to look."""
    program = "def busy():\n    while True: sum(range(1000))\nprint('up', flush=True)\nbusy()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            texts = stacks.record([process.pid], 1)
        except click.ClickException as error:
            if "ptrace is not allowed" in error.message:
                pytest.skip(error.message)
            raise
        finally:
            process.kill()
    assert "busy" in texts[0]
    assert stacks.fold(texts[0]).samples.keys() == {"other"}


def test_the_caller_reads_the_timings_of_a_real_service(model_folder, tmp_path):
    """The header's names are the service's own; the sums of its metrics move with its answers."""
    with service(tmp_path / "log", {"QUADRANT_MODELS": str(model_folder), "QUADRANT_PROVIDER": "cpu"}) as running:
        running.ask("/classify", pictures.jpeg())
        before = stages.read(running.url)
        with stages.Caller(running.url, [pictures.jpeg()]) as caller:
            while not caller.timings and caller.problem is None:
                caller._end.wait(0.02)
        after = stages.read(running.url)
        with stages.Caller(running.url, [b"no picture"]) as wrong:
            while wrong.problem is None:
                wrong._end.wait(0.02)
    assert caller.problem is None
    assert wrong.problem is not None
    assert "415" in wrong.problem
    found = stages.stages(before, after, 1000, caller.timings)
    assert found.inference > 0
    assert found.application > 0
    assert found.front > 0


def test_the_tables_hold_every_stage_and_category():
    """They go into a page as they are."""
    sampled = profile.table_of(stacks.fold(f"{POOL} 10\n{FLASK} 30"), 100) | {"images_per_s": 40.0}
    load = {"connections": 1, "images_per_s": 50.0, "batch": 1.0, "sampled": {"busy": sampled, "holding_lock": sampled},
            "stages_us": dict(stages.stages(BEFORE, later(100, 100), 20)._asdict())}
    found = {"command": "c", "date": "d", "commit": "x", "model": "m/1", "cpus": 2, "processor": "p", "seconds": 8,
             "loads": [load]}
    text = profile.markdown(found)
    assert "| decode: bytes to RGB | 2,000 (10.0%) |" in text
    assert "| what its caller sees | 20,000 (100.0%) |" in text
    assert "| service/web | 75.0%, 3,000 (3,000) |" in text
    assert "py-spy" not in profile.markdown(found | {"loads": [load | {"sampled": None}]})


def test_a_page_gets_the_tables_between_its_marks_alone():
    """The rest of it is written by people."""
    first, last = profile.MARKS
    page = f"# Performance\n\n{first}\nold\n{last}\n\nmore\n"
    assert profile.placed(page, "new") == f"# Performance\n\n{first}\nnew\n{last}\n\nmore\n"
    assert profile.placed("# Performance\n", "new") is None


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(("options", "expected"), [
    pytest.param(["--flames", "x", "--no-samples"], "leave out --no-samples", id="flames without samples"),
    pytest.param(["--output", "missing/profile.json"], "missing is no folder", id="no folder"),
])
def test_options_that_cannot_be_met_are_told_before_any_load(options, expected):
    """A minute of measuring comes first otherwise."""
    result = CliRunner().invoke(profile.main, options)
    assert result.exit_code == 2
    assert expected in result.output
    assert not Path("missing").exists()
