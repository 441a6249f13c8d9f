"""The plugin for twistd: its options, and what the daemon does when the network changes.

``tests.system.test_daemon`` runs it in a process of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.python.runtime import platform
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.config import load_text
from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange
from ccmproxy.root.multiplexer import ListenFailed
from ccmproxy.root.tap import Daemon, Options
from tests.federated import Federation, Instance, external, user


class OptionsTests(SynchronousTestCase):
    """The options of the command line."""

    def test_errors_of_the_configuration_are_all_told(self) -> None:
        path = self.mktemp()
        Path(path).write_text(
            "services:\n  - {type: ccm, listen_port: 99999, bogus: 1, users: [{name: x, token: s3cr3t-s3cr3t}]}\n"
        )
        with self.assertRaises(SystemExit) as raised:
            Options().parseOptions(["-c", path])
        message = str(raised.exception)
        self.assertIn("listen_port", message)
        self.assertIn("bogus", message)
        self.assertNotIn("s3cr3t", message)

    def test_a_file_that_is_missing(self) -> None:
        with self.assertRaises(SystemExit):
            Options().parseOptions(["--config", self.mktemp()])

    def test_an_unknown_option(self) -> None:
        with self.assertRaises(UsageError):
            Options().parseOptions(["--bogus"])

    def test_a_good_one(self) -> None:
        path = self.mktemp()
        Path(path).write_text("services: [{type: ccm, listen_port: 8099, credential_path: x}]")
        options = Options()
        options.parseOptions(["-c", path])
        self.assertEqual(options.config_values.services[0].type, "ccm")


@implementer(INetworkMonitor)
class Monitor:
    """A network monitor that reports a change when ``changed`` is called."""

    def __init__(self, reactor: Any, changed: Callable[[NetworkChange], object]) -> None:
        self.changed = changed
        self.is_running = False

    def start(self) -> None:
        """See INetworkMonitor."""
        self.is_running = True

    def stop(self) -> None:
        """See INetworkMonitor."""
        self.is_running = False


class NetworkTests(SynchronousTestCase):
    """The daemon lends its account to an instance by a reverse connection, and the network of the machine changes."""

    def setUp(self) -> None:
        if not platform.isWindows():
            self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        self.monitors: list[Monitor] = []
        self.federation = Federation(self)
        self.borrower = self.federation.add(
            8082, [external("friend", "b")], [user("alice", "friend", allow_external_usage=True)]
        )
        self.lender = self.daemon(8081)

    def daemon(self, port: int) -> Instance:
        """A daemon with a connector, not started."""
        lender = self.federation.add(
            port,
            [
                self.federation.account(f"a{port}"),
                external("b", "b", url="http://127.0.0.1:8082", reverse=True),
            ],
            [user("b", f"a{port}")],
            start=False,
        )
        lender.service = Daemon(
            load_text(lender.text, "test.yaml"), lender.surroundings, monitor=self.monitor
        )
        return lender

    def monitor(self, reactor: Any, changed: Callable[[NetworkChange], object]) -> INetworkMonitor:
        """One that the test keeps."""
        self.monitors.append(Monitor(reactor, changed))
        made: INetworkMonitor = self.monitors[-1]
        return made

    def start(self) -> None:
        """Start the lender."""
        self.lender.service.startService()
        self.federation.settle()

    def test_a_change(self) -> None:
        """The connection is opened again at once, and later requests use the new one."""
        self.start()
        (before,) = self.borrower.connections
        self.monitors[0].changed(NetworkChange.DEFAULT_ROUTE)
        self.federation.settle()
        (after,) = self.borrower.connections
        self.assertIsNot(after, before)
        self.assertEqual(self.borrower.answer("[[say:lent]]").status, 200)

    def test_while_it_waits_for_the_next_try(self) -> None:
        """The change may make the next attempt succeed, so there is no waiting."""
        listener = self.federation.network.listeners.pop(("127.0.0.1", 8082))
        self.start()
        self.assertFalse(self.lender.connector("b").is_up)
        self.federation.network.listeners["127.0.0.1", 8082] = listener
        self.monitors[0].changed(NetworkChange.DEFAULT_ROUTE)
        self.federation.settle()
        self.assertTrue(self.lender.connector("b").is_up)

    def test_its_life(self) -> None:
        """The network is watched while the service runs."""
        (monitor,) = self.monitors
        self.assertFalse(monitor.is_running)
        self.start()
        self.assertTrue(monitor.is_running)
        self.lender.service.stopService()
        self.assertFalse(monitor.is_running)

    def test_a_service_that_cannot_start(self) -> None:
        """The network is not watched for it."""
        other = self.daemon(8082)
        self.assertRaises(ListenFailed, other.service.startService)
        self.assertFalse(self.monitors[-1].is_running)
