"""Client and server endpoints whose connections are the streams of a session.

There is no endpoint string for them (``clientFromString``): such a string would have to name a session, which exists
only in this process and for a limited time, and has no address of its own.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from ccmproxy.reverse.carrier import YamuxProtocol


@implementer(IStreamClientEndpoint)
class StreamClientEndpoint:
    """Connects by opening a new stream of one session."""

    def __init__(self, session: YamuxProtocol) -> None:
        self._session = session

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open a stream; see :meth:`.YamuxProtocol.open`."""
        return self._session.open(protocol_factory)


@implementer(IStreamServerEndpoint)
class StreamServerEndpoint:
    """Accepts the streams that the peer of one session opens."""

    def __init__(self, session: YamuxProtocol) -> None:
        self._session = session

    def listen(self, protocol_factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Give every new stream to ``protocol_factory``. Fails with CannotListenError when another factory has them."""
        if self._session.acceptor is not None:
            return fail(CannotListenError("streams of this session", None, "another factory has them"))
        port = StreamPort(self._session, protocol_factory)
        port.startListening()
        return succeed(port)


@implementer(IListeningPort)
class StreamPort:
    """A listening port for the streams of a session: gives them to a factory until it is stopped."""

    def __init__(self, session: YamuxProtocol, factory: IProtocolFactory) -> None:
        self._session = session
        self._factory = factory

    def startListening(self) -> None:
        self._factory.doStart()
        self._session.acceptor = self._factory

    def stopListening(self) -> None:
        """Reset new streams from now on; open streams continue."""
        if self._session.acceptor is self._factory:
            self._session.acceptor = None
            self._factory.doStop()

    def getHost(self) -> IAddress:
        address: IAddress = self._session.transport.getHost()
        return address
