"""Is bfloat16 worth it on this processor? Flags first, then a timed step."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn


def processor() -> str:
    """The processor's name and the vector extensions that matter here, for the record."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f" {flag} " in f"{text} "]
    return f"{model} ({' '.join(flags)})"


def bfloat16_pays(network: nn.Module, side: int, device: torch.device) -> bool:
    """True where a bfloat16 training step is the faster one.

    Without AVX512-BF16 or AMX it is emulated, and was seen to take twelve times as long.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if not any(flag in processor() for flag in ("avx512_bf16", "amx_bf16")):
        return False
    pixels = torch.randn(32, 3, side, side).contiguous(memory_format=torch.channels_last)
    was_training, seconds = network.training, {}
    network.eval()  # leaves the running statistics alone
    for enabled in (False, True, False, True):
        started = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            network(pixels).sum().backward()
        seconds[enabled] = time.monotonic() - started  # the second round counts: the first one plans
    network.zero_grad(set_to_none=True)
    network.train(was_training)
    return seconds[True] < seconds[False]
