"""Opening a WebSocket for a client: its handshake, the upstream's handshake, and their outcome (spec 10)."""

from __future__ import annotations

from functools import partial

from twisted.python.failure import Failure as TwistedFailure

from ccmproxy.http.failures import UpstreamProtocolError
from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.interfaces.facets import IFrames
from ccmproxy.policy.refusals import NO_WEBSOCKET, Refusal
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.answer import Answer
from ccmproxy.proxy.answering import Answering
from ccmproxy.proxy.attempt import Attempt
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.proxy.websocket.relay import WebSocketRelay
from ccmproxy.websocket.connection import Connection
from ccmproxy.websocket.deflate import DeflateAgreement
from ccmproxy.websocket.handshake import (
    VERSION,
    Acceptance,
    HandshakeError,
    accept,
    check_answer,
    request_fields,
    without_handshake,
)

#: How long an upstream may take to answer a handshake (seconds); clients wait for 15 seconds (observed).
HANDSHAKE_TIME = 12.0
SHUTTING_DOWN = Refusal(503, "shutting_down", "this ccmproxy is shutting down")


class WebSocketOpening:
    """Answers one upgrade request. The upstream is asked first, by the same rules as for any request: its refusal is an
    ordinary response, and the client gets a 101 only after the upstream's 101."""

    __slots__ = (
        "_acceptance",
        "_agreement",
        "_asked",
        "_frames",
        "_is_left",
        "_nonce",
        "_refusing",
        "_relay",
    )

    def __init__(self, asked: ProxiedRequest, frames: IFrames, refusing: Answering) -> None:
        """``refusing``: delivers responses other than 101."""
        self._asked = asked
        self._frames = frames
        self._refusing = refusing
        self._acceptance: Acceptance | None = None
        self._agreement: DeflateAgreement | None = None
        self._nonce = b""
        self._is_left = False
        self._relay: WebSocketRelay | None = None

    def leave(self) -> None:
        """Close the WebSocket soon, or, if the upstream is still being asked, as soon as it is open."""
        self._is_left = True
        if self._relay is not None:
            self._relay.leave()

    def abort(self) -> None:
        """Drop both sides of an open WebSocket."""
        if self._relay is not None:
            self._relay.abort("internal_error")

    # Before the upstream is asked

    def prepare(self, body: Body) -> bool:
        """Refuse an invalid handshake (RFC 6455 section 4.2), and one that no credential could serve."""
        asked = self._asked
        try:
            self._acceptance = self._accept(body)
        except HandshakeError as error:
            extra: Headers = []
            if error.status == 426:
                extra = [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", VERSION)]
            asked.refuse(Refusal(error.status, "bad_handshake", str(error)), extra)
            return False
        if asked.context.registry.is_closing:
            asked.refuse(SHUTTING_DOWN)
            return False
        credentials = asked.caller.provider.credentials(asked.caller.allow_external)
        if credentials and len(self.unfit()) == len(credentials):
            asked.refuse(NO_WEBSOCKET)
            return False
        return True

    def _accept(self, body: Body) -> Acceptance:
        """Our answer to the client's handshake. Raises HandshakeError where the request is none."""
        if body.size:
            raise HandshakeError("a WebSocket handshake has no body")
        if not self._asked.request.can_switch:
            raise HandshakeError("a WebSocket handshake needs HTTP/1.1")
        return accept(self._asked.request.head)

    def unfit(self) -> set[str]:
        """Return the tags of those whose upstream speaks no WebSocket, or takes no new one at present."""
        now = self._asked.context.now()
        return self._asked.caller.lacking(
            lambda each: self._frames.speaks(each) and each.snapshot(now).takes_sockets
        )

    # The upstream's handshake

    def send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        """Ask the upstream for an upgrade, and limit the wait for its response."""
        context = self._asked.context
        self._nonce = context.entropy(16)
        headers = self._frames.request_headers(without_handshake(head.headers))
        upgrade = RequestHead(head.method, head.target, [*headers, *request_fields(self._nonce)])
        attempt.upgrade(lease.connections(), upgrade, fresh=self._asked.is_repeated)
        timer = context.clock.callLater(
            HANDSHAKE_TIME, attempt.time_out, f"no answer to a handshake within {HANDSHAKE_TIME:g} seconds"
        )

        def answered(result: ResponseHead | TwistedFailure) -> ResponseHead | TwistedFailure:
            if timer.active():
                timer.cancel()
            return result

        attempt.answered.addBoth(answered)

    def judge(self, response: ResponseHead) -> None:
        """A 101 must be the answer to our handshake (RFC 6455 section 4.1), anything else a refusal.

        Raises UpstreamProtocolError where it is neither.
        """
        if response.status == 101:
            try:
                self._agreement = check_answer(self._nonce, response)
            except HandshakeError as error:
                raise UpstreamProtocolError(f"the upstream's handshake is wrong: {error}") from None
        elif response.status < 400:
            raise UpstreamProtocolError(f"the upstream answered a handshake with {response.status}")

    # Both

    def deliver(self, answer: Answer) -> None:
        """Open the client's side, or relay the refusal."""
        asked = self._asked
        if answer.head.status != 101:
            self._refusing.deliver(answer)
        elif asked.context.registry.is_closing:
            answer.drop(LeaseOutcome.CANCELLED)
            asked.refuse(SHUTTING_DOWN)
        else:
            self._open(answer)

    def _open(self, answer: Answer) -> None:
        """Start the relay and send the client's 101, as both sides have agreed."""
        asked, acceptance, attempt = self._asked, self._acceptance, answer.attempt
        assert attempt.switched is not None and acceptance is not None
        context = asked.context
        asked.begin_answer()
        headers = [
            *acceptance.headers,
            *context.dialect.metering.public_headers(
                self._frames.answer_headers(answer.head.headers),
                context.aggregates.aggregate_for(asked.caller),
                context.now(),
            ),
            (context.dialect.request_id_header, asked.id.encode("ascii")),
        ]
        relay = self._relay = WebSocketRelay(
            asked,
            self._frames,
            answer.lease,
            answer.authorization,
            Connection(None, acceptance.agreement),
            Connection(partial(context.entropy, 4), self._agreement),
        )
        connection, attempt.switched = attempt.switched, None
        connection.hand_over(relay.upstream)
        asked.request.take_over(relay.client)
        relay.start(join_head(b"HTTP/1.1 101 Switching Protocols", headers))
        if self._is_left:
            relay.leave()
