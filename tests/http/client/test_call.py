"""A call by itself; test_protocol and test_connection_pool test it with connections."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.http.client.call import Call
from ccmproxy.http.failures import RequestNotSent
from tests.http.upstream import Receiver


class Connection:
    """Records what a call does with it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def abort(self) -> None:
        self.done.append("abort")


class CallTests(SynchronousTestCase):
    """Pausing, cancelling, failing."""

    def setUp(self) -> None:
        self.receiver = Receiver()
        self.receiver.sent = True
        self.call = Call(b"", b"GET", (), 0, self.receiver)

    def test_provides(self) -> None:
        verifyObject(IPushProducer, self.call)

    def test_connection_is_paused(self) -> None:
        self.call.connection = connection = Connection()
        self.call.pauseProducing()
        self.assertTrue(self.call.paused)
        self.call.resumeProducing()
        self.assertFalse(self.call.paused)
        self.assertEqual(connection.done, ["pause", "resume"])

    def test_cancelled_once(self) -> None:
        self.call.connection = connection = Connection()
        self.call.stopProducing()
        self.call.cancel()
        self.assertEqual(connection.done, ["abort"])

    def test_cancelled_without_a_connection(self) -> None:
        abandoned: list[Call] = []
        self.call.abandon = abandoned.append
        self.call.cancel()
        self.call.cancel()
        self.assertEqual(abandoned, [self.call])

    def test_cancelled_call_does_not_fail(self) -> None:
        self.call.cancel()
        self.call.failed(RequestNotSent("too late"))
        self.assertIsNone(self.receiver.outcome)

    def test_fails_once(self) -> None:
        error = RequestNotSent("no")
        self.call.failed(error)
        self.call.failed(RequestNotSent("twice"))
        self.assertIs(self.receiver.outcome, error)
