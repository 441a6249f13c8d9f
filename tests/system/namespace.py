"""Run by tests in a separate network namespace: changes its network, and prints the reports of the monitor.

The output is one line of JSON, a list of (command, number of reported changes), or else a line of text that says why
there is no result.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.network import network_monitor
from ccmproxy.network.linux import linux_monitor

#: (Command, whether it is a change). IPv6's automatic addresses are disabled, since they appear at any time.
STEPS: list[tuple[str, bool]] = [
    ("link set lo up", False),
    ("addr add 10.0.0.1/32 dev lo", False),
    ("link add veth0 type veth peer name veth1", True),
    ("link set veth0 addrgenmode none", False),
    ("link set veth1 addrgenmode none", False),
    ("link set veth0 up", True),
    ("link set veth1 up", True),
    ("link set veth0 mtu 1400", False),
    ("link set veth0 alias other", False),
    ("addr add 192.0.2.1/24 dev veth0", True),
    ("addr change 192.0.2.1/24 dev veth0 valid_lft 3600 preferred_lft 3600", False),
    ("route add 198.51.100.0/24 via 192.0.2.2", False),
    ("route add default via 192.0.2.2", True),
    ("route replace default via 192.0.2.3", True),
    ("route del default", True),
    ("-6 addr add 2001:db8::1/64 dev veth0 nodad", True),
    ("-6 route add default via 2001:db8::2", True),
    ("-6 addr del 2001:db8::1/64 dev veth0", True),
    ("link set veth1 down", True),
    ("link del veth0", True),
]


def ip(command: str) -> str:
    """Run a command of ip(8), which takes only a moment, and return its error output."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    return done.stderr.strip() or ("" if done.returncode == 0 else "failed")


async def run(reactor: Any) -> None:
    """Run the steps and print the results."""
    told = 0

    def tell(change: NetworkChange) -> None:
        nonlocal told
        told += 1

    monitor = linux_monitor(reactor, tell)
    results = []
    monitor.start()
    await deferLater(reactor, 0.1)
    for command, expected in STEPS:
        told = 0
        problem = ip(command)
        if problem:
            print(f"ip {command}: {problem}")
            return
        if expected:
            for _ in range(100):
                if told:
                    break
                await deferLater(reactor, 0.05)
        # What is no change must not be told, and of one change there may be several datagrams.
        await deferLater(reactor, 0.05)
        results.append((command, told))
    monitor.stop()
    told = 0
    together = network_monitor(reactor, tell)
    together.start()
    for command in ("link add veth2 type veth peer name veth3", "link set veth2 up", "link del veth2"):
        ip(command)
    await deferLater(reactor, 1.3)
    together.stop()
    results.append(("together", told))
    print(json.dumps(results))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(run(reactor)), sys.argv[1:])
