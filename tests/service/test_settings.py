"""Settings: read once, refused early, with what was found and expected."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from service import settings
from service.problems import StartError
from service.settings import Settings


def test_defaults_are_those_of_the_design():
    """Nobody should have to set anything on a laptop."""
    found = Settings.read({})
    assert (found.host, found.port, found.models) == ("127.0.0.1", 8000, Path("models"))
    assert (found.provider, found.max_body_bytes, found.max_pixels) == ("auto", 20 * 2**20, 50_000_000)
    assert (found.workers, found.engine_threads, found.batch_cap, found.decode_memory) == (None,) * 4


def test_variables_are_read_and_options_win():
    """The command line is nearer than the environment."""
    environ = {"QUADRANT_PORT": "9000", "QUADRANT_HOST": "0.0.0.0", "QUADRANT_WORKERS": "3"}
    found = Settings.read(environ, port=9001, host=None)
    assert (found.port, found.host, found.workers) == (9001, "0.0.0.0", 3)


def test_an_empty_variable_is_not_set():
    """Compose files hand on `${QUADRANT_MODEL:-}`."""
    assert Settings.read({"QUADRANT_MODEL": "", "QUADRANT_PORT": " "}).model is None


@pytest.mark.parametrize(("variable", "value", "expected"), [
    pytest.param("QUADRANT_QUEUE_CAPACITY", "zero", "a whole number from 1 to 65,536", id="word"),
    pytest.param("QUADRANT_QUEUE_CAPACITY", "0", "a whole number from 1", id="too small"),
    pytest.param("QUADRANT_PORT", "70000", "from 0 to 65,535", id="too large"),
    pytest.param("QUADRANT_PORT", "80.5", "a whole number", id="fraction"),
    pytest.param("QUADRANT_PORT", "٣", "a whole number", id="other digits"),
    pytest.param("QUADRANT_DEADLINE_MS", "nan", "a number from 1 up", id="not a number"),
    pytest.param("QUADRANT_DEADLINE_MS", "inf", "a number from 1 up", id="endless"),
    pytest.param("QUADRANT_PROVIDER", "gpu", "one of auto, cpu, openvino, cuda", id="no choice"),
    pytest.param("QUADRANT_MODEL_SHA256", "abc", "64 hexadecimal digits", id="short digest"),
    pytest.param("QUADRANT_MAX_BODY_BYTES", "20 MB", "bytes (or KiB, MiB, GiB)", id="unit that means two things"),
    pytest.param("QUADRANT_PORT", "tcp://10.0.0.1:80", "enableServiceLinks", id="kubernetes service link"),
])
def test_a_wrong_value_is_named_with_what_was_expected(variable, value, expected):
    """One line at the start instead of a surprise in the night."""
    with pytest.raises(StartError) as raised:
        Settings.read({variable: value})
    assert f'{variable} is "{value}"; expected ' in str(raised.value)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_option_is_named_as_it_was_typed():
    """Who typed `--port` doesn't know QUADRANT_PORT."""
    with pytest.raises(StartError, match='--port is "x"'):
        Settings.read({}, port="x")
    with pytest.raises(StartError, match='no setting "prot"'):
        Settings.read({}, prot=1)


@pytest.mark.parametrize(("text", "number"), [("1000", 1000), ("64KiB", 65536), ("1 GiB", 2**30), ("20mib", 20 * 2**20)])
def test_bytes_may_carry_a_unit(text, number):
    """Nobody counts zeros well."""
    assert Settings.read({"QUADRANT_DECODE_MEMORY": text}).decode_memory == number


def test_there_is_no_cache_unless_asked_for():
    """It takes memory, and time for each hash."""
    assert Settings.read({}).cache_bytes == 0
    assert Settings.read({"QUADRANT_CACHE_BYTES": "64MiB"}).cache_bytes == 64 * 2**20
    assert "| `QUADRANT_CACHE_BYTES` | `0` |" in settings.markdown()


def test_misspelt_variables_are_told():
    """A setting that silently does nothing costs an afternoon; what Kubernetes adds is no misspelling."""
    environ = {"QUADRANT_WORKER": "2", "QUADRANT_SERVICE_HOST": "10.0.0.1", "QUADRANT_PORT_80_TCP_PORT": "80", "PATH": "/bin"}
    assert settings.unknown(environ) == ["QUADRANT_WORKER is no setting; QUADRANT_WORKERS is"]


def test_settings_are_frozen():
    """What was decided at the start holds until the end."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.read({}).port = 1  # type: ignore[misc]


def test_the_table_names_every_setting():
    """The README's table is printed from the class, so that neither can forget one."""
    names = [each.name for each in dataclasses.fields(Settings)]
    assert [row.variable for row in settings.table()] == [settings.variable(name) for name in names]
    assert all(row.meaning and row.expected for row in settings.table())
    printed = subprocess.run([sys.executable, "-m", "service.settings"], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == settings.markdown()
