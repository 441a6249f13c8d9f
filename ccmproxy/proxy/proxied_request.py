"""A client's request, its caller, and the single answer that it gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from twisted.logger import Logger

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.message import Headers, ResponseHead, first_value
from ccmproxy.http.retry_after import retry_after
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.policy.balancing import Selection
from ccmproxy.policy.borrowers import told_limit
from ccmproxy.policy.refusals import Refusal
from ccmproxy.policy.waits import told_wait, waits
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyContext
from ccmproxy.state.availability import Availability
from ccmproxy.state.holds import Combination

#: How much of a path is logged (bytes).
LOGGED_PATH = 200

#: As much of the names of a client's betas is looked at (characters).
MOST_BETAS = 1000
#: A segment of a path that names one thing of many.
_ID = re.compile(r"(?<=/)(?=[^/]*[0-9])[\w-]{8,}(?=/|$)")


@lru_cache(maxsize=256)
def _combination(path: bytes, model: str, named: str) -> Combination:
    return Combination(_ID.sub("*", path.decode("latin-1")), model, named)


class ProxiedRequest:
    """Ensures that a request is answered once and logged once.

    ``from_instance``: another instance has sent the request (spec 14). ``facts``: what the dialect found out about the
    request; empty until its body was received. ``credential``: tag of the current or last credential; empty if there
    was none yet. ``excluded``: tags of credentials that cannot serve the request, or failed to. ``tries``: number of
    attempts at upstreams. ``sends``: number of those that were, or may have been, sent. ``is_repeated``: a reused
    connection was lost with it, which is made up for only once, and only on fresh connections (spec 12.3).
    ``selected``: the last selection that a provider was asked with. ``is_gone``: the client disconnected.
    ``on_concluded``: called once, when the request is over.
    """

    log = Logger()

    __slots__ = (
        "_began",
        "_combination",
        "_first_byte",
        "_is_over",
        "caller",
        "context",
        "credential",
        "excluded",
        "facts",
        "from_instance",
        "id",
        "is_gone",
        "is_repeated",
        "on_concluded",
        "request",
        "selected",
        "sends",
        "tries",
    )

    def __init__(
        self,
        context: ProxyContext,
        request: ServerRequest,
        caller: Caller,
        request_id: str,
        from_instance: bool = False,
    ) -> None:
        self.context = context
        self.from_instance = from_instance
        self.request = request
        self.caller = caller
        self.id = request_id
        self.facts = RequestFacts()
        self.credential = ""
        self.excluded: set[str] = set()
        self.tries = 0
        self.sends = 0
        self.is_repeated = False
        self.is_gone = False
        self.on_concluded: Callable[[], None] | None = None
        self.selected = Selection()
        self._began = context.clock.seconds()
        self._combination: Combination | None = None
        self._first_byte = 0.0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the request was answered completely, or never will be."""
        return self._is_over

    @property
    def has_begun(self) -> bool:
        """Whether an upstream's response is being sent to the client, so that no other answer is possible."""
        return self._first_byte > 0

    def begin_answer(self) -> None:
        """Note that an upstream's response is about to be sent to the client; no retry is possible after this."""
        self._first_byte = self.context.clock.seconds()

    @property
    def combination(self) -> Combination:
        """Endpoint, model and betas: the most that a refusal without known words is charged to (spec 12.1)."""
        if self._combination is None:
            facts = self.facts
            path = self.request.head.path[:LOGGED_PATH]
            # What is remembered is short, however many features a client names.
            named = ",".join(sorted(facts.features))[:MOST_BETAS]
            self._combination = _combination(path, facts.model or "", named)
        return self._combination

    def selection(self, only_accounts: bool = False) -> Selection:
        """Return the selection to ask a provider with. ``only_accounts``: no key and no remote instance will do."""
        facts, caller = self.facts, self.caller
        self.selected = Selection(
            session=facts.session,
            model=facts.model,
            allow_external=caller.allow_external,
            excluded=frozenset(self.excluded),
            user=caller.name,
            agent=facts.agent,
            asked=self.combination,
            only_accounts=only_accounts,
        )
        return self.selected

    def client_waits(self) -> bool:
        """Return whether the client is known to wait for the Retry-After of a 429, and to go on then (spec 12.2)."""
        user_agent = first_value(self.request.head.headers, b"user-agent") or b""
        return waits(self.context.dialect.waiting_clients, user_agent.decode("latin-1"))

    def another_can(self, tag: str, only_accounts: bool = False) -> bool:
        """Return whether a credential other than ``tag``, and not yet excluded, could serve the request.
        ``only_accounts``: no key and no remote instance."""
        without = {tag, *self.excluded}
        return self.caller.can_be_served(self.context.now(), self.facts.model, without, only_accounts)

    # Answers by the proxy itself

    def refuse(self, refusal: Refusal, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Answer with an error of the proxy itself (spec 4.2), with the additional header fields ``extra``."""
        fields = list(extra)
        if refusal.retry_after is not None:
            fields.append((b"Retry-After", b"%d" % refusal.retry_after))
        head, body = self.context.dialect.traffic.error(
            refusal.status, refusal.reason, refusal.message, self.id, fields
        )
        self.respond(head, body, refusal.reason)

    def tell_to_wait(self, seconds: float) -> None:
        """Tell the client that it can be served in so many seconds, spread so that not all come back at once."""
        context = self.context
        told = told_wait(seconds, context.random)
        head, body = context.dialect.traffic.busy(
            self.facts,
            self.request.head,
            told,
            f"no account is free at the moment; try again in {told} s",
            self.id,
        )
        self.respond(head, body, "busy")

    def refuse_one_more(self, limit: int) -> None:
        """Refuse the request because ``limit`` requests of the same user are in progress already.

        The refusal is never silent (F41): the client is told when to try again, and the log tells the operator why. The
        refused request was never in progress, so it is not logged as a concluded request.
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
        self.request.respond(self._understood(head), body)

    def respond(
        self, head: ResponseHead, body: bytes, result: str, used_up: Availability | None = None
    ) -> None:
        """Answer with ``head`` and ``body``. ``result``: the log's word for the outcome. ``used_up``: what it says of
        the limits, if it says that they are reached."""
        if not self.is_gone:
            self.request.respond(self._understood(head, used_up), body)
        self.conclude(head.status, result)

    def _understood(self, head: ResponseHead, used_up: Availability | None = None) -> ResponseHead:
        """Return ``head`` with what another instance has to find on it."""
        if head.status != 429 or not self.from_instance:
            return head
        return replace(head, headers=self.told_to_instance(head.headers, used_up))

    def told_to_instance(self, headers: Headers, used_up: Availability | None = None) -> Headers:
        """Return the header fields of a 429 for the instance that sent the request, made of ``headers`` (spec 14)."""
        now = self.context.now()
        told = told_limit(used_up, retry_after(headers, now), now)
        return self.context.dialect.traffic.told_to_instance(headers, told)

    # The end

    def conclude(self, status: int, result: str, reading: MeterReading | None = None) -> None:
        """End the request, and log its outcome. Does nothing when called again.

        ``status``: status of the answer. ``result``: the log's word for the outcome. ``reading``: the usage that the
        response reported.
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
