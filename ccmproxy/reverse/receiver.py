"""The accepting side of a reverse connection: a remote connects to us, and we send it requests (spec 7.2, 7.4)."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.interfaces.reverse_link import IReverseLink
from ccmproxy.reverse.carrier import YamuxProtocol
from ccmproxy.reverse.endpoints import StreamClientEndpoint
from ccmproxy.reverse.replacing import drain_replaced
from ccmproxy.reverse.upgrading import SWITCHING_PROTOCOLS


class ReverseCredential(Protocol):
    """A credential whose remote opens connections to us."""

    tag: str

    def attach(self, link: IReverseLink) -> None:
        """Use ``link`` from now on, and close the older link, if any."""

    def leaving(self, link: IReverseLink) -> None:
        """Open no more streams on ``link``: the remote takes none. Open ones continue."""

    def detach(self, link: IReverseLink) -> None:
        """Stop using ``link``, which is lost. Called once for every link that was attached."""


@implementer(IReverseLink)
class ReverseLink:
    """The view that a credential has of a session with its remote."""

    def __init__(self, session: YamuxProtocol) -> None:
        self.endpoint = StreamClientEndpoint(session)
        self._session = session

    @property
    def is_usable(self) -> bool:
        """See IReverseLink."""
        return self._session.is_usable

    def close(self) -> None:
        """See IReverseLink: requests in flight go on to their end, as long as the peer answers."""
        drain_replaced(self._session)


class _ReceivedSession(YamuxProtocol):
    """Our side of a connection that the remote dialled. We open the streams, so we are the session's client."""

    def connectionMade(self) -> None:
        self.transport.write(SWITCHING_PROTOCOLS)
        super().connectionMade()


class Receiver:
    """Takes over reverse connections from the HTTP server, and attaches each to its credential."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.sessions: set[YamuxProtocol] = set()

    def accept(self, request: ServerRequest, credential: ReverseCredential, request_id: str) -> None:
        """Accept the handshake ``request`` of the authenticated remote of ``credential``, and attach the connection,
        which replaces an older one. Raises RuntimeError, without doing anything, when the request has a body."""
        session = _ReceivedSession(self._clock, is_client=True)
        peer = request.peer
        request.take_over(session)
        if session.transport is None:
            return  # the connector has disconnected in the meantime
        self.sessions.add(session)
        self.log.info(
            "{request_id} reverse connection of {tag} from {peer} is up",
            request_id=request_id,
            tag=credential.tag,
            peer=str(peer),
        )
        link = ReverseLink(session)
        session.on_peer_leaving = lambda: credential.leaving(link)
        credential.attach(link)

        def lost(reason: Exception) -> None:
            self.sessions.discard(session)
            self.log.info(
                "{request_id} reverse connection of {tag} is down: {reason}",
                request_id=request_id,
                tag=credential.tag,
                reason=str(reason),
            )
            credential.detach(link)

        session.when_lost().addCallback(lost)

    def close(self, grace: float) -> Deferred[None]:
        """Close every connection with GO_AWAY; requests in flight have ``grace`` seconds to finish. Fires when all
        connections are closed."""
        gone = DeferredList([session.close(grace) for session in self.sessions])
        return gone.addCallback(lambda _: None)
