"""Which kind of machine this is."""

from __future__ import annotations

import pytest

from loadtest import engines, host
from loadtest.targets import AMX, PLAIN

FLAGS = ["avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"]


def test_amx_counts_where_the_plugin_can_use_it(monkeypatch):
    """The processor alone makes nothing fast."""
    monkeypatch.setattr(engines, "plugin", lambda: (["device"], ""))
    assert host.kind(FLAGS) == (AMX, "")
    monkeypatch.setattr(engines, "plugin", lambda: ([], "it is not installed"))
    assert host.kind(FLAGS) == (PLAIN, "it is not installed")


@pytest.mark.parametrize("flag", ["amx_tile", "amx_int8", "amx_bf16"])
def test_each_of_the_three_flags_is_needed(flag, monkeypatch):
    """A virtual machine may hide one of them."""
    monkeypatch.setattr(engines, "plugin", lambda: (["device"], ""))
    assert host.kind([each for each in FLAGS if each != flag]) == (PLAIN, f"the processor has no {flag}")


@pytest.mark.parametrize(("features", "words"), [
    (FLAGS, "AMX"), (FLAGS[:3], "AVX-512 VNNI"), (FLAGS[:2], "AVX-512"), (FLAGS[:1], "AVX2"), ([], "no AVX2"),
])  # fmt: skip
def test_the_sort_of_processor_is_told(features, words):
    """It decides how fast a model is."""
    assert host.sort(features) == words


def test_facts_say_whose_targets_hold():
    """Of this machine, whichever it is."""
    facts = host.facts()
    assert (facts["kind"], facts["reason"]) == host.kind(facts["features"])
