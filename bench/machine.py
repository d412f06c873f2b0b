"""What processes used, by the kernel's account."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue  # it has just ended
    return found


def cpu(pid: int) -> float:
    """s of processor time of a process and its descendants, those that ended included."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # user, system, and the same of children that were waited for
    return total / _TICKS


def own_cpu(pid: int) -> float:
    """s of processor time of a process alone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak(pid: int) -> int:
    """Bytes: the highest resident memory of a process (VmHWM)."""
    return _status(pid, "VmHWM:")


def resident(pid: int) -> int:
    """Bytes of resident memory now."""
    return _status(pid, "VmRSS:")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
