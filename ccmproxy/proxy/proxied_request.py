"""A client's request, who sent it, and the one answer that it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.message import ResponseHead
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.policy.balancing import Selection
from ccmproxy.policy.refusals import Refusal
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyContext

#: As much of a path goes into the log (bytes).
LOGGED_PATH = 200


class ProxiedRequest:
    """Sees to it that a request is answered once and logged once, whoever answers it.

    ``facts``: what the dialect found out about it; nothing before its body has come. ``credential``: tag of the
    credential that it is on, or was last; empty: none yet. ``excluded``: tags of those that cannot serve it, or did
    not. ``tries``: at upstreams. ``is_gone``: the client went away. ``on_concluded``: called once, when it is over.
    """

    log = Logger()

    __slots__ = (
        "_began",
        "_first_byte",
        "_is_over",
        "caller",
        "context",
        "credential",
        "excluded",
        "facts",
        "id",
        "is_gone",
        "on_concluded",
        "request",
        "tries",
    )

    def __init__(
        self, context: ProxyContext, request: ServerRequest, caller: Caller, request_id: str
    ) -> None:
        self.context = context
        self.request = request
        self.caller = caller
        self.id = request_id
        self.facts = RequestFacts()
        self.credential = ""
        self.excluded: set[str] = set()
        self.tries = 0
        self.is_gone = False
        self.on_concluded: Callable[[], None] | None = None
        self._began = context.clock.seconds()
        self._first_byte = 0.0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """It has been answered in full, or will never be."""
        return self._is_over

    @property
    def has_begun(self) -> bool:
        """The upstream's answer has begun to go to the client: it is this one, or none."""
        return self._first_byte > 0

    def begin_answer(self) -> None:
        """The point of no return: an upstream's answer is about to go to the client."""
        self._first_byte = self.context.clock.seconds()

    def selection(self) -> Selection:
        """What a provider is asked for."""
        facts, caller = self.facts, self.caller
        return Selection(
            session=facts.session,
            model=facts.model,
            allow_external=caller.allow_external,
            excluded=frozenset(self.excluded),
            user=caller.name,
            agent=facts.agent,
        )

    def another_can(self, tag: str) -> bool:
        """Is there a credential besides ``tag``, and besides those tried, that could serve it?"""
        return self.caller.can_be_served(self.context.now(), self.facts.model, {tag, *self.excluded})

    # Answers of our own

    def refuse(self, refusal: Refusal, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Answer with an error of our own (spec 4.2), with the header fields ``extra``."""
        fields = list(extra)
        if refusal.retry_after is not None:
            fields.append((b"Retry-After", b"%d" % refusal.retry_after))
        head, body = self.context.dialect.traffic.error(
            refusal.status, refusal.reason, refusal.message, self.id, fields
        )
        self.respond(head, body, refusal.reason)

    def refuse_one_more(self, limit: int) -> None:
        """Refuse it because ``limit`` requests of the same user are under way already.

        Never silently (F41): the client is told when to try again, the operator reads why. It is no request that is
        under way, and so has no line of its own in the log of those.
        """
        self.log.info(
            "{request_id} {user} refused: {limit} requests are under way already",
            request_id=self.id,
            user=self.caller.name or "-",
            limit=limit,
        )
        head, body = self.context.dialect.traffic.error(
            429,
            "too_many_requests",
            f"{limit} requests of this user are under way already; try again when one has ended",
            self.id,
            ((b"Retry-After", b"1"),),
        )
        self.request.respond(head, body)

    def respond(self, head: ResponseHead, body: bytes, result: str) -> None:
        """Answer with ``head`` and ``body``; ``result``: the word for it in the log."""
        if not self.is_gone:
            self.request.respond(head, body)
        self.conclude(head.status, result)

    # The end

    def conclude(self, status: int, result: str, reading: MeterReading | None = None) -> None:
        """It is over: log what became of it. Does nothing the second time.

        ``status``: of the answer. ``result``: one word. ``reading``: what the answer reported of usage.
        """
        if self._is_over:
            return
        self._is_over = True
        self.request.on_gone(None)
        if self.on_concluded is not None:
            self.on_concluded()
        head, facts = self.request.head, self.facts
        self.log.info(
            "{request_id} {user} {method} {path} -> {status} {result} by {credential} in {duration:.3f} s"
            " (model {model}, session {session}, {tries} tries, tokens {tokens})",
            request_id=self.id,
            user=self.caller.name or "-",
            method=head.method.decode("latin-1"),
            path=head.path[:LOGGED_PATH].decode("latin-1"),
            status=status,
            result=result,
            credential=self.credential or "-",
            model=(reading.model if reading is not None else None) or facts.model or "-",
            session=facts.session or "-",
            duration=self.context.clock.seconds() - self._began,
            first_byte=self._first_byte - self._began if self._first_byte else None,
            tries=self.tries,
            tokens=reading.tokens if reading is not None and reading.reported else None,
        )
