"""What the processes of a service take in memory, as /proc tells. Linux only."""

from __future__ import annotations

from pathlib import Path


def family(pid: int) -> list[int]:
    """This process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def memory_mib(pid: int) -> float:
    """Proportional set size of the process and all below it: what they share counts once."""
    lines = [line for each in family(pid) for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
