"""What this processor can do, as far as the choice of a provider and the layout of weights depend on it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def name() -> str:
    """As it calls itself."""
    return _field("model name") or platform.processor() or platform.machine()


def has_amx() -> bool:
    """It multiplies tiles of int8 and bfloat16 (Intel AMX, from Sapphire Rapids on)."""
    return {"amx_tile", "amx_int8", "amx_bf16"} <= flags()


def computes_bf16() -> bool:
    """It multiplies bfloat16 numbers in hardware: AMX, or AVX-512 BF16."""
    return bool({"amx_bf16", "avx512_bf16"} & flags())


def flags() -> frozenset[str]:
    """Instruction sets, by the names that Linux gives them; empty where they can't be told."""
    return frozenset(_field("flags").split())


@functools.cache
def fingerprint() -> str:
    """Its name and what it can do; kernels, and so the layout of packed weights, are chosen by that."""
    lines = _first().splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))) or name()


def _field(key: str) -> str:
    found = (line.partition(":") for line in _first().splitlines())
    return next((value.strip() for label, _, value in found if label.strip() == key), "")


@functools.cache
def _first() -> str:
    """What Linux says of the first CPU."""
    try:
        return CPUINFO.read_text().partition("\n\n")[0]
    except OSError:
        return ""
