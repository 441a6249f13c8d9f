"""Tests for :mod:`ccmproxy.reverse.endpoints`."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import CannotListenError, NoProtocol
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.reverse import StreamAborted, StreamClientEndpoint, StreamNotOpened, StreamServerEndpoint
from ccmproxy.yamux import SessionConfig
from ccmproxy.yamux.frames import ACK, WINDOW_UPDATE
from tests.reverse.sessions import SessionPair, StreamRecorder
from tests.transports.contract import Building
from tests.yamux.sides import frame


class ClientEndpointTests(SynchronousTestCase):
    """Connecting."""

    def test_connects(self) -> None:
        pair = SessionPair()
        endpoint = StreamClientEndpoint(pair.client)
        self.assertTrue(verifyObject(IStreamClientEndpoint, endpoint))
        near: Any = self.successResultOf(endpoint.connect(Building()))
        near.transport.write(b"hello")
        pair.flush()
        self.assertEqual(pair.accepted[0].received, b"hello")

    def test_session_is_over(self) -> None:
        pair = SessionPair()
        pair.pump.client.abortConnection()
        pair.flush()
        self.failureResultOf(StreamClientEndpoint(pair.client).connect(Building()), StreamNotOpened)

    def test_waits_for_acknowledgements(self) -> None:
        pair = SessionPair(config=SessionConfig(open_backlog=2))
        endpoint = StreamClientEndpoint(pair.client)
        waiting = [endpoint.connect(Building()) for _ in range(4)]
        cancelled = endpoint.connect(Building())
        self.assertEqual([deferred.called for deferred in waiting], [True, True, False, False])
        cancelled.cancel()
        self.failureResultOf(cancelled)
        pair.flush()
        for number, deferred in enumerate(waiting):
            near: Any = self.successResultOf(deferred)
            self.assertEqual(near.transport.stream.id, 2 * number + 1)
        self.assertEqual(pair.client.streams, 4)

    def test_as_many_as_were_acknowledged(self) -> None:
        pair = SessionPair(config=SessionConfig(open_backlog=1))
        waiting = [StreamClientEndpoint(pair.client).connect(Building()) for _ in range(3)]
        pair.client.work()
        self.assertEqual([deferred.called for deferred in waiting], [True, False, False])
        pair.client.dataReceived(frame(WINDOW_UPDATE, ACK, 1))
        self.assertEqual([deferred.called for deferred in waiting], [True, True, False])

    def test_peer_goes_away_meanwhile(self) -> None:
        pair = SessionPair(config=SessionConfig(open_backlog=1))
        pair.client.acceptor = Building()
        pair.server.open(Building())
        pair.flush()
        pair.open()
        waiting = StreamClientEndpoint(pair.client).connect(Building())
        pair.server.close()
        pair.flush()
        self.failureResultOf(waiting, StreamNotOpened)
        self.assertFalse(pair.pump.closed)

    def test_session_is_lost_meanwhile(self) -> None:
        pair = SessionPair(config=SessionConfig(open_backlog=0))
        waiting = StreamClientEndpoint(pair.client).connect(Building())
        pair.pump.client.abortConnection()
        pair.flush()
        self.failureResultOf(waiting, StreamNotOpened)

    def test_factory_does_not_want_it(self) -> None:
        pair = SessionPair()
        self.failureResultOf(StreamClientEndpoint(pair.client).connect(Building(lambda: None)), NoProtocol)
        pair.flush()
        self.assertEqual((pair.client.streams, pair.server.streams, pair.accepted), (0, 0, []))

    def test_factory_fails(self) -> None:
        """The failure of a factory is reported for a stream opened at once, and for one that had to wait."""

        def fail() -> Any:
            raise ZeroDivisionError

        pair = SessionPair(config=SessionConfig(open_backlog=1))
        endpoint = StreamClientEndpoint(pair.client)
        self.failureResultOf(endpoint.connect(Building(fail)), ZeroDivisionError)
        pair.open()
        waiting = endpoint.connect(Building(fail))
        self.assertNoResult(waiting)
        pair.flush()
        self.failureResultOf(waiting, ZeroDivisionError)


class ServerEndpointTests(SynchronousTestCase):
    """Listening."""

    def setUp(self) -> None:
        self.pair = SessionPair()
        self.endpoint = StreamServerEndpoint(self.pair.client)

    def far_open(self) -> Any:
        """Open a stream from the server; return the protocol at its end."""
        near = self.successResultOf(self.pair.server.open(Building()))
        self.pair.flush()
        return near

    def test_nobody_listens(self) -> None:
        self.assertEqual(self.far_open().lost, [StreamAborted])

    def test_listen_and_stop(self) -> None:
        self.assertTrue(verifyObject(IStreamServerEndpoint, self.endpoint))
        factory = Building()
        port = self.successResultOf(self.endpoint.listen(factory))
        self.assertTrue(verifyObject(IListeningPort, port))
        self.assertEqual(port.getHost(), self.pair.pump.client.getHost())
        stream = self.far_open()
        self.failureResultOf(self.endpoint.listen(Building()), CannotListenError)
        port.stopListening()
        port.stopListening()
        self.assertEqual((factory.started, factory.stopped), (1, 1))
        self.assertEqual(self.far_open().lost, [StreamAborted])
        stream.transport.write(b"goes on")
        self.pair.flush()
        self.assertEqual(factory.built[0].received, b"goes on")

    def test_stopped_after_another_one_took_over(self) -> None:
        first = self.successResultOf(self.endpoint.listen(Building()))
        first.stopListening()
        factory = Building()
        self.endpoint.listen(factory)
        first.stopListening()
        self.assertEqual((self.far_open().lost, len(factory.built)), ([], 1))

    def test_factory_does_not_want_it(self) -> None:
        self.endpoint.listen(Building(lambda: None))
        self.assertEqual(self.far_open().lost, [StreamAborted])

    def test_factory_fails(self) -> None:
        def fail() -> StreamRecorder:
            raise ZeroDivisionError

        self.endpoint.listen(Building(fail))
        self.assertEqual(self.far_open().lost, [StreamAborted])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(self.pair.client.is_usable)
