"""Processor time and memory of processes, as Linux reports them."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def list_process_tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    pids = [pid]
    for parent in pids:
        try:
            for thread in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return pids


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def read_proportional_set(pid: int) -> int:
    """Return the proportional set size of a process in bytes: each shared page counts in parts."""
    return _read_kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def read_peak_resident_set(pid: int) -> int:
    """Return the peak resident set size of a process in bytes; unlike that of `wait4`, without its parent's."""
    return _read_kilobytes(Path(f"/proc/{pid}/status"), "VmHWM")


def _read_kilobytes(path: Path, field: str) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{field}:")), 0)


def read_foreign_cpu_seconds() -> float:
    """Return the CPU seconds of all processes but this one's tree, and those that the host gave to other machines."""
    user, nice, system, _, _, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    total = (user + nice + system + irq + softirq + stolen) / _TICKS
    return total - sum(map(read_cpu_seconds, list_process_tree(os.getpid())))
