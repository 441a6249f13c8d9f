"""The streams of a session as endpoints, for whatever connects to one or listens on one.

There is no endpoint string for them (``clientFromString``): a string would have to name a session that lives in this
process, is there one moment and gone the next, and has no address of its own.
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
    """Every connection is a new stream of one session."""

    def __init__(self, session: YamuxProtocol) -> None:
        self._session = session

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open a stream, see :meth:`.YamuxProtocol.open`."""
        return self._session.open(protocol_factory)


@implementer(IStreamServerEndpoint)
class StreamServerEndpoint:
    """The streams that the peer of one session opens."""

    def __init__(self, session: YamuxProtocol) -> None:
        self._session = session

    def listen(self, protocol_factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Give every stream from now on to ``protocol_factory``. Fails with CannotListenError where another one has
        them."""
        if self._session.acceptor is not None:
            return fail(CannotListenError("streams of this session", None, "another factory has them"))
        port = StreamPort(self._session, protocol_factory)
        port.startListening()
        return succeed(port)


@implementer(IListeningPort)
class StreamPort:
    """A factory that gets a session's streams."""

    def __init__(self, session: YamuxProtocol, factory: IProtocolFactory) -> None:
        self._session = session
        self._factory = factory

    def startListening(self) -> None:
        self._factory.doStart()
        self._session.acceptor = self._factory

    def stopListening(self) -> None:
        """New streams are reset from now on; those that are open go on."""
        if self._session.acceptor is self._factory:
            self._session.acceptor = None
            self._factory.doStop()

    def getHost(self) -> IAddress:
        address: IAddress = self._session.transport.getHost()
        return address
