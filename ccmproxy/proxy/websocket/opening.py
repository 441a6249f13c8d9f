"""A client that asks for a WebSocket: its handshake, the upstream's, and what comes of both (spec 10)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from twisted.python.failure import Failure as TwistedFailure

from ccmproxy.dialects.oauth import Authorization
from ccmproxy.http.failures import UpstreamProtocolError
from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.interfaces.facets import IFrames
from ccmproxy.policy.refusals import Refusal
from ccmproxy.policy.retry import LeaseOutcome, Verdict
from ccmproxy.proxy.attempt import Attempt
from ccmproxy.proxy.exchange import Exchange
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

if TYPE_CHECKING:
    from ccmproxy.proxy.forwarder import Caller, Forwarder

#: So long an upstream may take to answer a handshake (seconds); clients wait 15 (observed).
HANDSHAKE_TIME = 12.0
SHUTTING_DOWN = Refusal(503, "shutting_down", "this ccmproxy is shutting down")


class WebSocketExchange(Exchange):
    """Answers one upgrade. The upstream is asked first, by the same rules as for any request: its refusal is an
    ordinary answer, and only its 101 is followed by ours."""

    __slots__ = ("_acceptance", "_agreement", "_frames", "_left", "_nonce", "_socket")

    def __init__(
        self,
        forwarder: Forwarder,
        request: ServerRequest,
        caller: Caller,
        request_id: str,
        frames: IFrames,
    ) -> None:
        super().__init__(forwarder, request, caller, request_id)
        self._frames = frames
        self._acceptance: Acceptance | None = None
        self._agreement: DeflateAgreement | None = None
        self._nonce = b""
        self._left = False
        self._socket: WebSocketRelay | None = None

    def leave(self) -> None:
        """Its credential or its caller was taken away. While the upstream is being asked, the connection is no sooner
        there than it is left."""
        self._left = True
        if self._socket is not None:
            self._socket.leave()

    # Before the upstream is asked -----------------------------------------------------------------------------

    def _body_received(self, body: Body) -> None:
        try:
            if body.size:
                raise HandshakeError("a WebSocket handshake has no body")
            if not self._request.can_switch:
                raise HandshakeError("a WebSocket handshake needs HTTP/1.1")
            self._acceptance = accept(self._request.head)
        except HandshakeError as error:
            extra: Headers = []
            if error.status == 426:
                extra = [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", VERSION)]
            self._refuse(Refusal(error.status, "bad_handshake", str(error)), extra)
            return
        if self._forwarder.is_closing:
            self._request.close_after_response()
            self._refuse(SHUTTING_DOWN)
            return
        credentials = self._caller.provider.credentials(self._caller.allow_external)
        if credentials and len(self._unfit()) == len(credentials):
            # Which makes the client use HTTP at once (observed).
            self._refuse(Refusal(426, "no_websocket", "no credential speaks WebSocket: use HTTP"))
            return
        super()._body_received(body)

    def _unfit(self) -> set[str]:
        credentials = self._caller.provider.credentials(self._caller.allow_external)
        return {credential.tag for credential in credentials if not self._frames.speaks(credential)}

    # The upstream's handshake ---------------------------------------------------------------------------------

    def _send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        forwarder = self._forwarder
        self._nonce = forwarder.entropy(16)
        headers = self._frames.request_headers(without_handshake(head.headers))
        asking = RequestHead(head.method, head.target, [*headers, *request_fields(self._nonce)])
        attempt.upgrade(lease.connections(), asking)
        timer = forwarder.clock.callLater(
            HANDSHAKE_TIME, attempt.time_out, f"no answer to a handshake within {HANDSHAKE_TIME:g} seconds"
        )

        def answered(result: ResponseHead | TwistedFailure) -> ResponseHead | TwistedFailure:
            if timer.active():
                timer.cancel()
            return result

        attempt.answered.addBoth(answered)

    async def _try(
        self, lease: ILease, authorization: Authorization, body: Body
    ) -> tuple[ResponseHead, Verdict]:
        response, verdict = await super()._try(lease, authorization, body)
        problem = ""
        if response.status == 101:
            try:
                self._agreement = check_answer(self._nonce, response)
            except HandshakeError as error:
                problem = f"the upstream's handshake is wrong: {error}"
        elif response.status < 400:
            problem = f"the upstream answered a handshake with {response.status}"
        if problem:
            if self._attempt is not None:
                self._attempt.discard()
            raise UpstreamProtocolError(problem)
        return response, verdict

    # Both -----------------------------------------------------------------------------------------------------

    def _relay(self, lease: ILease, response: ResponseHead) -> None:
        if response.status == 101:
            self._open(lease, response)
        else:
            super()._relay(lease, response)

    def _open(self, lease: ILease, response: ResponseHead) -> None:
        """Both sides agree: from here on it is a WebSocket."""
        forwarder, attempt, acceptance = self._forwarder, self._attempt, self._acceptance
        assert attempt is not None and attempt.switched is not None and acceptance is not None
        if forwarder.is_closing:
            self._drop(lease, LeaseOutcome.CANCELLED)
            self._refuse(SHUTTING_DOWN)
            return
        dialect = forwarder.dialect
        self._first_byte = forwarder.clock.seconds()
        headers = [
            *acceptance.headers,
            *dialect.metering.public_headers(
                self._frames.answer_headers(response.headers),
                forwarder.aggregate_for(self._caller),
                forwarder.now(),
            ),
            (dialect.request_id_header, self._request_id.encode("ascii")),
        ]
        relay = self._socket = WebSocketRelay(
            forwarder,
            self._frames,
            self._caller,
            lease,
            self._selection(),
            self._request_id,
            Connection(None, acceptance.agreement),
            Connection(partial(forwarder.entropy, 4), self._agreement),
            partial(self._finished, 101),
        )
        connection, attempt.switched = attempt.switched, None
        connection.hand_over(relay.upstream)
        self._request.take_over(relay.client)
        relay.start(join_head(b"HTTP/1.1 101 Switching Protocols", headers))
        if self._left:
            relay.leave()

    def _crashed(self, failure: TwistedFailure) -> None:
        if self._socket is not None:
            self._socket.abort("internal_error")
        super()._crashed(failure)
