"""The clock of the start."""

from __future__ import annotations

from service import stages


def test_each_stage_has_what_passed_since_the_last(monkeypatch):
    """Together they are the whole time; a stage that comes twice counts twice."""
    clock = iter([10.0, 11.0, 13.5, 14.0])
    monkeypatch.setattr(stages, "_took", {"python": 0.25})
    monkeypatch.setattr(stages, "_last", 8.0)
    monkeypatch.setattr(stages.time, "monotonic", lambda: next(clock))
    stages.mark("imports")
    stages.mark("session")
    stages.mark("imports")
    assert stages.took() == {"python": 0.25, "imports": 4.5, "session": 1.0}
    stages.restart()
    assert stages.took() == {}


def test_the_clock_began_before_the_first_line_of_ours():
    """Starting the interpreter is a part of the start."""
    assert 0 < stages._since_birth() < 3600 * 24
