"""The common part of ccmproxy's own GET endpoints; the sessions of a user, and the usage that his client asks for."""

from __future__ import annotations

import json
from collections.abc import Callable

from ccmproxy.dialects.base import Dialect
from ccmproxy.http.message import Body, Headers, ResponseHead
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.policy.refusals import of_body
from ccmproxy.proxy.caller import Caller
from ccmproxy.state.aggregate import aggregate

#: Largest request body accepted (bytes). These endpoints need none, and ignore it.
LARGEST_BODY = 64 * 1024


def answer_get(
    dialect: Dialect, request: ServerRequest, request_id: str, answer: Callable[[Headers], None]
) -> None:
    """Call ``answer`` with the header fields of a JSON answer that must not be cached. Refuses methods except GET."""
    if request.head.method != b"GET":
        head, body = dialect.traffic.error(
            405, "method_not_allowed", "use GET", request_id, ((b"Allow", b"GET"),)
        )
        request.respond(head, body)
        return

    def body_received(body: Body) -> None:
        answer(
            [
                (b"Content-Type", b"application/json"),
                (b"Cache-Control", b"no-store"),
                (dialect.request_id_header, request_id.encode("ascii")),
            ]
        )

    def body_failed(error: Exception) -> None:
        refusal = of_body(error)
        head, body = dialect.traffic.error(refusal.status, refusal.reason, refusal.message, request_id)
        request.respond(head, body)

    request.receive_body(LARGEST_BODY, body_received, body_failed)


def answer_json(
    dialect: Dialect, request: ServerRequest, request_id: str, render: Callable[[], bytes]
) -> None:
    """Answer a GET with the JSON that ``render`` returns. Refuses other methods."""

    def answer(headers: Headers) -> None:
        request.respond(ResponseHead(200, b"OK", headers), render())

    answer_get(dialect, request, request_id, answer)


class ClientUsageEndpoint:
    """Answers what a client asks its provider for the usage of its account: with that of all credentials that the
    caller may use, in the provider's words, so that the client's own screen shows it (spec 9.5)."""

    def __init__(self, dialect: Dialect, now: Callable[[], float]) -> None:
        """``now``: returns Unix seconds."""
        self._dialect = dialect
        self._now = now

    def handle(self, request: ServerRequest, caller: Caller, request_id: str) -> None:
        """Answer an authenticated request."""
        answer_json(self._dialect, request, request_id, lambda: self.render(caller))

    def render(self, caller: Caller) -> bytes:
        """Return the usage as one line of JSON."""
        now = self._now()
        total = aggregate(caller.shown_snapshots(now), now)
        return json.dumps(self._dialect.metering.client_usage(total, now)).encode() + b"\n"


class SessionsEndpoint:
    """Answers ``GET …/sessions``: the credential of each of the caller's sessions, and the time of its assignment.

    ``{"sessions": [{"session", "agent", "credential", "since", "last_use", "models"}]}``: times in Unix seconds, the
    most recently used session first; ``agent`` is empty except for subagents that count as sessions of their own.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def handle(self, request: ServerRequest, caller: Caller, request_id: str) -> None:
        """Answer an authenticated request."""
        answer_json(self._dialect, request, request_id, lambda: self.render(caller))

    def render(self, caller: Caller) -> bytes:
        """Return the sessions of the caller only, as one line of JSON."""
        sessions = [
            {
                "session": key.session,
                "agent": key.agent,
                "credential": assignment.credential,
                "since": int(assignment.since),
                "last_use": int(assignment.last_use),
                "models": list(assignment.models),
            }
            for key, assignment in caller.provider.sessions(caller.name)
        ]
        return json.dumps({"sessions": sessions}).encode() + b"\n"
