"""Data from the kernel: CPU time and memory of processes, cores, free ports, the machine itself. Linux only."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs what. ``shared``: load generator and upstream share one core."""

    proxy: int
    upstream: int
    load: int

    @property
    def shared(self) -> bool:
        """Whether the load generator and the upstream compete for one core."""
        return self.upstream == self.load


def assign_cores() -> Cores:
    """Assign one core to the proxy, and one each to upstream and load if there are three; else these share one."""
    available = sorted(os.sched_getaffinity(0))
    return Cores(available[0], available[1 % len(available)], available[2 if len(available) > 2 else -1])


def process_tree(root: int) -> list[int]:
    """``root`` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending.extend(children.get(pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """User + system time that ``root`` and its living descendants have used so far, all threads."""
    total = 0
    for pid in process_tree(root):
        if fields := _stat(pid):
            total += int(fields[11]) + int(fields[12])
    return total / _TICK


def core_busy_seconds(core: int) -> float:
    """Seconds for which ``core`` has not been idle so far, for any process, including time taken by a hypervisor."""
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / _TICK
    raise ValueError(f"no core {core}")


def resident_kib(root: int) -> int:
    """Sum of the resident sets of ``root`` and its living descendants, in KiB."""
    total = 0
    for pid in process_tree(root):
        try:
            lines = (_PROC / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on, because the second, a name, may contain spaces."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def describe() -> dict[str, object]:
    """Processor, cores, memory and kernel, for the record."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in (_PROC / "cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
