"""What processes take, as Linux counts it: processor time, memory, and how much of the machine others had meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        try:
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        except OSError:  # just gone
            continue
    return found


def processor_seconds(pid: int) -> float:
    """Of a process and of those among its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def proportional_set(pid: int) -> int:
    """Resident bytes of a process, of a page that several share its part."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def seconds_of_others() -> float:
    """Processor seconds so far of all but this process and its descendants, and those the host gave to others."""
    user, nice, system, _, _, irq, soft, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    total = (user + nice + system + irq + soft + stolen) / _TICKS
    return total - sum(map(processor_seconds, family(os.getpid())))
