"""The side that is dialled: a remote opens a connection to us, and we send it requests over that (spec 7.2, 7.4)."""

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
from ccmproxy.reverse.upgrading import SWITCHING_PROTOCOLS

#: So long a connection that was replaced may take to finish what is in flight on it (seconds).
REPLACED_GRACE = 10.0
#: And so long its other side may take to answer a ping (seconds). Where the remote has another address now, the old
#: connection is dead, and what waits on it should not wait for the end of its grace.
REPLACED_ANSWER = 2.0


class ReverseCredential(Protocol):
    """A credential whose remote may open connections to us."""

    tag: str

    def attach(self, link: IReverseLink) -> None:
        """Use ``link`` from now on, in place of an older one, which is to be closed."""

    def leaving(self, link: IReverseLink) -> None:
        """The remote takes no new connections on ``link``; what is open there goes on."""

    def detach(self, link: IReverseLink) -> None:
        """``link`` is lost. Called once for every one that was attached."""


@implementer(IReverseLink)
class ReverseLink:
    """A session with a remote that has dialled us, as the credential of that remote sees it."""

    def __init__(self, session: YamuxProtocol, clock: IReactorTime) -> None:
        self.endpoint = StreamClientEndpoint(session)
        self._session = session
        self._clock = clock

    @property
    def is_usable(self) -> bool:
        """See IReverseLink."""
        return self._session.is_usable

    def close(self) -> None:
        """Let the session finish what is in flight on it, for at most ``REPLACED_GRACE`` seconds, if its other side
        answers a ping within ``REPLACED_ANSWER`` seconds."""
        session = self._session
        session.close(REPLACED_GRACE)
        # Fails also where the session ends before the answer; then there is nothing to abort, and that does no harm.
        session.ping().addTimeout(REPLACED_ANSWER, self._clock).addErrback(lambda _: session.abort())


class _ReceivedSession(YamuxProtocol):
    """Our side of a connection that was dialled from the other one. We open the streams: the session's client."""

    def connectionMade(self) -> None:
        self.transport.write(SWITCHING_PROTOCOLS)
        super().connectionMade()


class Receiver:
    """Takes reverse connections over from the HTTP server, and gives them to the credentials that they are for."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.sessions: set[YamuxProtocol] = set()

    def accept(self, request: ServerRequest, credential: ReverseCredential, request_id: str) -> None:
        """Answer the handshake of the connector of ``credential``'s remote, who has been identified. Newer connections
        replace older ones. Raises RuntimeError, with nothing done, where the request has a body."""
        session = _ReceivedSession(self._clock, is_client=True)
        peer = request.peer
        request.take_over(session)
        if session.transport is None:
            return  # the connector has left in the meantime
        self.sessions.add(session)
        self.log.info(
            "{request_id} reverse connection of {tag} from {peer} is up",
            request_id=request_id,
            tag=credential.tag,
            peer=str(peer),
        )
        link = ReverseLink(session, self._clock)
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
        """End every connection with a go-away: what is in flight may finish for ``grace`` seconds. Fires when all are
        gone."""
        gone = DeferredList([session.close(grace) for session in self.sessions])
        return gone.addCallback(lambda _: None)
