"""Networks of one's own on Linux, for real processes with real links that a test can pull.

A :class:`Namespace` is a network namespace: its own interfaces, addresses, routes and ports. Nothing in it reaches
anything but what a test has joined it to. It has no name that could be left over: it is gone with the last process in
it, and with its object here.

Needs Linux, the right to make namespaces (root, as a rule) and ``ip``; :func:`why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

#: What a reason begins with that lies in the machine, and not in what is installed on it.
NOT_PERMITTED = "network namespaces are not permitted here"

_CLONE_NEWNET = 0x40000000
#: Of the calling thread, not of the process: a thread may be in another one than its siblings.
_OWN = "/proc/thread-self/ns/net"
#: Seconds that a change of the network may take.
_TIMEOUT = 30.0


def why_not(*programs: str) -> str | None:
    """Why there cannot be any namespaces, or what of ``programs`` is not installed; None where all is well."""
    if not sys.platform.startswith("linux"):
        return f"{NOT_PERMITTED}: this is not Linux"
    try:
        Namespace().close()
    except OSError as error:
        return f"{NOT_PERMITTED}: {error.strerror}"
    missing = [program for program in ("ip", *programs) if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Namespace:
    """A network of its own, with nothing but a loopback interface.

    ``with namespace:`` sockets that are made meanwhile belong to it for good, and processes that are started run in it.
    Only for calls that do not wait: the thread is in the namespace, and so would be whatever else it did.
    Raises OSError where the system does not permit it.
    """

    def __init__(self) -> None:
        home = os.open(_OWN, os.O_RDONLY)
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                self._descriptor = os.open(_OWN, os.O_RDONLY)
            finally:
                _call("setns", home, _CLONE_NEWNET)
        finally:
            os.close(home)
        self._homes: list[int] = []

    def __enter__(self) -> Namespace:
        home = os.open(_OWN, os.O_RDONLY)
        self._homes.append(home)
        _call("setns", self._descriptor, _CLONE_NEWNET)
        return self

    def __exit__(self, *reason: object) -> None:
        home = self._homes.pop()
        _call("setns", home, _CLONE_NEWNET)
        os.close(home)

    def close(self) -> None:
        """Give it up; it goes when the last process in it has ended."""
        os.close(self._descriptor)

    @property
    def path(self) -> str:
        """Where other processes find it, while this object has it open."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def run(self, *command: str, text: str = "") -> str:
        """Run a program that is done in a moment, in here; what it prints. Raises OSError with what it complains of."""
        with self:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, check=False, timeout=_TIMEOUT
            )
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def ip(self, *commands: str) -> None:
        """Change the network: commands of ``ip``, one after the other."""
        self.run("ip", "-batch", "-", text="\n".join(commands))

    def join(self, name: str, other: Namespace, other_name: str) -> None:
        """A cable: interface ``name`` here, ``other_name`` there, both up. Without IPv6, whose own addresses come when
        they like."""
        self.ip(f"link add {name} type veth peer name {other_name} netns {other.path}")
        for namespace, interface in ((self, name), (other, other_name)):
            namespace.ip(f"link set dev {interface} addrgenmode none", f"link set dev {interface} up")


def _call(name: str, *arguments: int) -> None:
    """A function of the C library; Python has these only since 3.12."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
