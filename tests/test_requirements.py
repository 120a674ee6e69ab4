"""The lock files: complete, agreeing, from anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PEERS = sorted((ROOT / "requirements" / "compare").glob("*.txt"))  # each in an environment of its own
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+) \\$", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    return dict(PIN.findall(lock.read_text()))


@pytest.mark.parametrize("lock", [*LOCKS, *PEERS], ids=lambda lock: lock.stem)
def test_every_package_is_pinned_by_hash_and_by_no_address(lock):
    """What was tested is what is installed, from whatever index the reader has."""
    text = lock.read_text()
    requirements = [line for line in text.splitlines() if re.match(r"[a-z0-9]", line)]
    assert len(requirements) == len(pins(lock)) > 10
    assert text.count("    --hash=sha256:") >= len(requirements)
    assert not re.search(r"://|--(extra-)?index-url|--find-links|^torch", text, re.MULTILINE)


def test_no_two_locks_disagree():
    """`make env` installs one over the other; the container's packages are those that were tested."""
    seen: dict[str, tuple[str, str]] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            first = seen.setdefault(name, (version, lock.name))
            assert first[0] == version, f"{name} is {first[0]} in {first[1]}, {version} in {lock.name}"


def test_what_is_asked_for_is_what_is_locked():
    """A version changed in an .in file alone changes nothing."""
    for source in sorted((ROOT / "requirements").rglob("*.in")):
        lock = source.with_suffix(".txt") if source.stem != "common" else ROOT / "requirements" / "service.txt"
        for name, version in re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", source.read_text(), re.MULTILINE):
            assert pins(lock).get(name) == version, f"{source.name}: {name}"


@pytest.mark.parametrize("lock", PEERS, ids=lambda lock: lock.stem)
def test_peers_have_the_services_own_engine_and_decoder(lock):
    """A comparison of servers, not of versions of ONNX Runtime."""
    ours = pins(ROOT / "requirements" / "service.txt")
    assert len(PEERS) == 5
    assert all(pins(lock)[name] == ours[name] for name in ("onnxruntime", "pillow"))


@pytest.mark.parametrize("lock", ["service.txt", "service-cuda.txt", "load.txt"])
def test_what_serves_and_what_loads_needs_no_training(lock):
    """No torch and no onnx package in a serving image."""
    assert not {"torch", "onnx", "safetensors", "matplotlib"} & set(pins(ROOT / "requirements" / lock))
