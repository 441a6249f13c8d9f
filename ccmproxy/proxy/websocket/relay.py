"""An open WebSocket between a client and a credential's upstream (spec 10)."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ccmproxy.dialects.known_words import echo_of
from ccmproxy.dialects.oauth import Authorization
from ccmproxy.dialects.usage import MeterReading
from ccmproxy.dialects.websocket_messages import PASSING, ClientFrame, RefusedTurn
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.interfaces.facets import IFrames
from ccmproxy.policy.allowed_models import NOT_ALLOWED
from ccmproxy.policy.answers import Verdict
from ccmproxy.policy.balancing import Selection
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.learning import asked_for, begins_anew, learn_refusal, learn_served
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.proxy.websocket.aggregate_push import AggregatePush
from ccmproxy.proxy.websocket.leg import Leg
from ccmproxy.proxy.websocket.turn import Turn, refused_turn
from ccmproxy.state.availability import Availability
from ccmproxy.websocket.close_codes import (
    GOING_AWAY,
    INTERNAL_ERROR,
    SERVICE_RESTART,
    TOO_BIG,
    TRY_AGAIN_LATER,
)
from ccmproxy.websocket.connection import Close, Connection, Message, ProtocolError

#: If the connection is to be closed after the current turn, the turn counts as ended after this much silence (seconds).
SILENT_TURN = 60
#: Number of turns that are tracked at a time. Clients do not begin a turn before the end of the last one.
MOST_TURNS = 16
#: A message of the upstream of up to this size (bytes) is taken however much is held: its turn is paid for already.
LARGE_EVENT = 1024 * 1024
#: How long before the end of the grace time a close is sent, so that it can still be answered (seconds).
CLOSING_ROOM = 1.0


class WebSocketRelay:
    """Relays messages between the two legs ``client`` and ``upstream``, until one of them ends.

    All turns within a connection belong to one credential. If the credential must change, the client is told to connect
    again (1012) between two turns. What the upstream's messages say about the credential is recorded, and the client
    is told the aggregate state instead.
    """

    log = Logger()

    __slots__ = (
        "_asked",
        "_authorization",
        "_context",
        "_frames",
        "_lease",
        "_leaving",
        "_over",
        "_push",
        "_selection",
        "_shutdown",
        "_turns",
        "client",
        "result",
        "upstream",
    )

    def __init__(
        self,
        asked: ProxiedRequest,
        frames: IFrames,
        lease: ILease,
        authorization: Authorization,
        client: Connection,
        upstream: Connection,
    ) -> None:
        """``asked``: the request that opened the WebSocket; it is concluded when both connections are lost.
        ``client``, ``upstream``: the proxy's ends of the two WebSockets."""
        self._asked = asked
        self._context = context = asked.context
        self._frames = frames
        self._lease = lease
        self._authorization = authorization
        #: The selection for which the lease was given.
        self._selection = asked.selection()
        user = asked.caller.name
        self.client = Leg(self, client, context.clock, context.memory_of(user))
        self.upstream = Leg(self, upstream, context.clock, context.memory_of(user, LARGE_EVENT))
        self.client.other, self.upstream.other = self.upstream, self.client
        self._turns: deque[Turn] = deque(maxlen=MOST_TURNS)
        #: Code, reason and result with which to close as soon as no turn is in progress.
        self._leaving: tuple[int, bytes, str] | None = None
        self._over = False
        self.result = ""
        self._shutdown: IDelayedCall | None = None
        self._push = AggregatePush(context, frames, asked.caller, self.client)

    # Life

    def start(self, head: bytes) -> None:
        """Answer the client's upgrade with ``head``, and begin to relay. Both legs must be connected."""
        self._context.registry.websockets.add(self)
        self.client.start(head)
        self.upstream.start()
        self._lease.on_interrupt(self._interrupted)
        for leg in (self.client, self.upstream):
            leg.pump()

    def leave(self) -> None:
        """Close with 1012 after the current turn, as the credential or the caller was removed. The client connects
        again."""
        self._leave(SERVICE_RESTART, b"connect again", "moved")

    def shut_down(self, grace: float) -> None:
        """Close with 1001 as the service stops: after the current turn, or shortly before ``grace`` seconds pass."""
        self._leave(GOING_AWAY, b"shutting down", "shutdown")
        if not self._over and self._shutdown is None:
            self._shutdown = self._context.clock.callLater(max(0.0, grace - CLOSING_ROOM), self._shutdown_now)

    def _shutdown_now(self) -> None:
        self._shutdown = None
        self._end(GOING_AWAY, b"shutting down", "shutdown", LeaseOutcome.BROKEN)

    def abort(self, result: str) -> None:
        """Drop both connections at once."""
        self._conclude(result, LeaseOutcome.BROKEN)
        self.client.abort()
        self.upstream.abort()

    def tick(self) -> None:
        """Drop the WebSocket if a peer does not read, ping a quiet client, and give up on a silent upstream. Called
        once a second."""
        options = self._context.options
        idle_timeout = self._lease.connections().limits.idle_timeout
        for leg, limit in ((self.client, options.client_stall_timeout), (self.upstream, idle_timeout)):
            leg.quiet_ticks += 1
            leg.idle_ticks += 1
            if leg.stalled_seconds() > limit:
                self.log.info(
                    "{request_id}: the {side} has taken nothing for {seconds} s",
                    request_id=self._asked.id,
                    side=self._side(leg),
                    seconds=int(limit),
                )
                self.abort("stalled")
                return
        if self._over:
            return
        if options.keep_alive and self.client.idle_ticks >= options.keep_alive:
            self.client.ping()
        if not self._turns or self.client.is_blocked:
            return
        if self._leaving and min(self.client.quiet_ticks, self.upstream.quiet_ticks) >= SILENT_TURN:
            code, reason, result = self._leaving
            self._end(code, reason, result, LeaseOutcome.INTERRUPTED)
        elif self.upstream.quiet_ticks >= idle_timeout:
            # The same idle time-out as for an HTTP response (F15). The client connects again.
            self._end(INTERNAL_ERROR, b"the upstream is silent", "timed_out", LeaseOutcome.BROKEN)

    # Notifications from the legs (LegOwner)

    def message(self, leg: Leg, message: Message) -> None:
        """Relay the message, and act on its meaning."""
        if leg is self.client:
            self._from_client(message)
        else:
            self._from_upstream(message)

    def closed(self, leg: Leg, close: Close) -> None:
        """Close both sides with the code and the reason that one side sent."""
        if leg is self.client:
            outcome = LeaseOutcome.CANCELLED if self._turns else LeaseOutcome.SERVED
            self._conclude("incomplete" if self._turns else "closed", outcome)
        else:
            outcome = LeaseOutcome.BROKEN if self._turns else LeaseOutcome.SERVED
            self._conclude("truncated" if self._turns else "closed", outcome)
        leg.close(close.code, close.reason)
        leg.other.close(close.code, close.reason)

    def failed(self, leg: Leg, error: ProtocolError) -> None:
        """Close after a protocol violation, or a message for which there is no room: its sender gets the error, the
        other side a code that does not blame it."""
        why = str(error)
        no_room = error.code == TRY_AGAIN_LATER
        problem = "no room" if no_room else f"the {self._side(leg)} broke the WebSocket protocol"
        self.log.info("{request_id}: {problem}: {why}", request_id=self._asked.id, problem=problem, why=why)
        result = "too_many_bodies" if no_room else "malformed"
        self._conclude(result, LeaseOutcome.CANCELLED if leg is self.client else LeaseOutcome.BROKEN)
        leg.close(error.code, why.encode())
        if leg is self.client:
            self.upstream.close(GOING_AWAY)
        elif error.code == TOO_BIG or no_room:
            self.client.close(error.code, why.encode())
        else:
            self.client.close(INTERNAL_ERROR, b"the upstream broke the protocol")

    def crashed(self, leg: Leg) -> None:
        """Close both sides after an internal error."""
        self._end(INTERNAL_ERROR, b"internal error", "internal_error", LeaseOutcome.BROKEN)

    def drained(self, leg: Leg) -> None:
        """Send the client a change of state that it may have missed while it did not read."""
        if leg is self.client:
            self._push.drained()

    def lost(self, leg: Leg) -> None:
        """Drop the other side too if one side was lost without a close, so that the other side sees the break."""
        if leg is self.client:
            self._conclude(
                "incomplete" if self._turns else "closed",
                LeaseOutcome.CANCELLED if self._turns else LeaseOutcome.SERVED,
            )
        else:
            self._conclude("truncated" if self._turns else "upstream_lost", LeaseOutcome.BROKEN)
        if not leg.other.is_closing:
            leg.other.abort()
        websockets = self._context.registry.websockets
        if self.client.is_lost and self.upstream.is_lost and self in websockets:
            websockets.discard(self)
            self._asked.conclude(101, self.result)

    # Messages

    def _from_client(self, message: Message) -> None:
        allowed = self._asked.caller.models
        frame = self._frames.client_frame(message.data, bool(allowed)) if message.is_text else None
        if allowed and (answer := refused_turn(self._asked, self._frames, frame)) is not None:
            if self.client.is_blocked:
                # Answers to turns that cost nothing must not pile up for a client that does not read them.
                self._end(TRY_AGAIN_LATER, b"answers are not read", NOT_ALLOWED, LeaseOutcome.CANCELLED)
            else:
                self.client.send(answer, True)
            return
        if frame is None or not frame.begins_turn:
            self.upstream.send(message.data, message.is_text)
            return
        if self._must_leave(frame):
            self._end(SERVICE_RESTART, b"connect again", "moved", LeaseOutcome.INTERRUPTED)
            return
        began = self._context.clock.seconds()
        self._turns.append(Turn(frame.model, frame.is_warm_up, began, unusual_model=frame.unusual_model))
        # The upstream's silence counts from the beginning of the turn.
        self.upstream.quiet_ticks = 0
        self.upstream.send(message.data, message.is_text)
        if not frame.is_warm_up and not self._over:
            self._push.start()

    def _from_upstream(self, message: Message) -> None:
        frame = PASSING
        if message.is_text:
            frame = self._frames.upstream_frame(message.data, self._context.now())
        if frame is PASSING:
            self.client.send(message.data, message.is_text)
            return
        turn = self._turns[0] if self._turns else None
        if frame.is_output and turn is not None:
            turn.output = True
        if frame.verdict is not None and self._refused(frame.verdict, frame.refusal, turn):
            return
        if not frame.is_hidden:
            self.client.send(message.data, message.is_text)
        if frame.limits is not None:
            self._lease.observe(frame.limits)
        if frame.ends_turn and turn is not None and not self._over:
            self._turns.popleft()
            failed = (
                frame.refusal is not None or frame.connection_limit or (frame.reading and frame.reading.error)
            )
            self._log_turn(turn, "failed" if failed else "served", frame.reading)
            if not failed and not turn.is_warm_up:
                self._served(turn)
            if frame.connection_limit:
                # Its own limit ends this connection, and no other (spec 12.2). The client connects again.
                self._leave(SERVICE_RESTART, b"connect again", "moved")
            if self._leaving is not None and not self._turns:
                code, reason, result = self._leaving
                self._end(code, reason, result, LeaseOutcome.SERVED)

    def _served(self, turn: Turn) -> None:
        """Note that the upstream has served a turn."""
        context, asked, lease = self._context, self._asked, self._lease
        selection = self._selection_of(turn.model)
        lease.served(asked_for(asked, selection), context.unix_time(turn.began), True)
        context.opinions.was_served(turn.model or "")
        learn_served(asked, selection, lease)
        lease.proved(self._authorization)

    def _selection_of(self, model: str | None) -> Selection:
        """Return the selection of a turn for ``model``: the handshake names none."""
        asked = self._asked.combination._replace(model=model or "")
        return replace(self._selection, model=model, asked=asked)

    def _refused(self, verdict: Verdict, refusal: RefusedTurn | None, turn: Turn | None) -> bool:
        """Let the credential learn from a refused turn (spec 12.2, F51). Returns whether it is hidden from the client:
        no output has been sent yet, and another credential can serve the turn."""
        asked, dialect, now = self._asked, self._context.dialect, self._context.now()
        model = turn.model if turn is not None else None
        if refusal is not None and not (turn is not None and turn.output):
            # It answers the turn as a response would: known words count, unless they are the client's own (spec 12.1).
            echo = echo_of(asked.request.head, (model or turn.unusual_model) if turn is not None else "")
            verdict = dialect.traffic.classify(refusal.head, refusal.body, now, echo, model)
        selection = self._selection_of(model)
        may_hide = turn is not None and not turn.output and self._another_can(model)
        hide = may_hide and begins_anew(asked, selection, self._lease, verdict)
        if hide:
            # Conclude before the state changes, because the change itself would end the relay with another result.
            self._conclude("moved", LeaseOutcome.REFUSED)
        if refusal is not None and not self._lease.is_external:
            # Behind a remote instance the figures are those of one of its accounts.
            self._lease.observe(dialect.metering.limits_from_headers(refusal.head.headers, now))
        learn_refusal(asked, selection, self._lease, self._authorization, verdict)
        if hide:
            self._close_both(SERVICE_RESTART, b"connect again")
        return hide

    # Staying or leaving

    def _must_leave(self, frame: ClientFrame) -> bool:
        """Return whether the credential may not serve the turn that begins; checked for every turn (F39)."""
        # A rest is not looked at per turn (spec 12.2).
        selection = replace(self._selection, model=frame.model, excluded=frozenset(self._unfit()), asked=None)
        return not self._asked.caller.provider.keeps(selection, self._lease.tag)

    def _another_can(self, model: str | None) -> bool:
        return self._asked.caller.can_be_served(self._context.now(), model, {self._lease.tag, *self._unfit()})

    def _unfit(self) -> set[str]:
        return self._asked.caller.lacking(self._frames.speaks)

    def _interrupted(self, availability: Availability) -> None:
        """Leave the credential, which stopped being usable (spec 5.3)."""
        self.log.info(
            "{request_id} has to leave {credential}: {why}",
            request_id=self._asked.id,
            credential=self._lease.tag,
            why=availability.message,
        )
        self._leave(SERVICE_RESTART, b"connect again", "interrupted")

    def _leave(self, code: int, reason: bytes, result: str) -> None:
        """Close, after the end of the current turn if there is one."""
        if self._over:
            return
        if self._turns:
            self._leaving = code, reason, result
        else:
            self._end(code, reason, result, LeaseOutcome.SERVED)

    def _end(self, code: int, reason: bytes, result: str, outcome: LeaseOutcome) -> None:
        """Close both sides: the client with this code, the upstream with 1001 (going away)."""
        self._conclude(result, outcome)
        self._close_both(code, reason)

    def _close_both(self, code: int, reason: bytes) -> None:
        self.client.close(code, reason)
        self.upstream.close(GOING_AWAY)

    def _conclude(self, result: str, outcome: LeaseOutcome) -> None:
        """Record the first result, close the lease, and stop the pushes. Does nothing when called again."""
        if self._over:
            return
        self._over = True
        self.result = result
        self._lease.on_interrupt(None)
        if self._shutdown is not None:
            self._shutdown.cancel()
            self._shutdown = None
        self._push.stop()
        for turn in self._turns:
            self._log_turn(turn, result)
        self._turns.clear()
        self._lease.close(outcome)

    def _side(self, leg: Leg) -> str:
        return "client" if leg is self.client else "upstream"

    # Log

    def _log_turn(self, turn: Turn, result: str, reading: MeterReading | None = None) -> None:
        if turn.is_warm_up:
            return
        tokens = reading.tokens if reading is not None and reading.reported else None
        self.log.info(
            "{request_id} {user} turn {result} by {credential} in {duration:.3f} s (model {model}, tokens {tokens})",
            request_id=self._asked.id,
            user=self._asked.caller.name or "-",
            result=result,
            credential=self._lease.tag,
            duration=self._context.clock.seconds() - turn.began,
            model=(reading.model if reading is not None else None) or turn.model or "-",
            tokens=tokens,
        )
