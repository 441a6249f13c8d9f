"""What the proxy knows about a request after inspecting it once: used by dialects, balancing, metering and logs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ccmproxy.http.message import Headers, first_value

_KEY = re.compile(r"[!-~]{1,200}")


def printable_key(value: str | None) -> str | None:
    """``value`` if it can serve as a key and appear in a log line (short, visible ASCII), else None."""
    return value if value and _KEY.fullmatch(value) else None


def header_key(headers: Headers, *names: bytes) -> str | None:
    """The first value among the fields ``names`` (lower case) that can serve as a key, without surrounding spaces."""
    for name in names:
        value = first_value(headers, name)
        if value is not None and (key := printable_key(value.decode("latin-1").strip())):
            return key
    return None


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """Facts about one request. A fact that could not be determined is None, never an error (spec 4.1).

    ``session``: the conversation's id. ``agent``: id of a subagent within it. ``messages``: number of messages in the
    request. ``features``: the client's beta or feature names, in order. ``client_is_oauth``: the client itself uses
    OAuth, so it understands (and believes) an account's own rate-limit headers. ``billable``: False for requests that
    cost nothing, e.g. counting tokens. ``operation``: the dialect's name for what is requested, where its facets treat
    operations differently. ``named_model``: the model as the client wrote it, also where ``model`` is None because that
    cannot be any model's name: a provider may repeat it all the same (spec 12.1).
    """

    model: str | None = None
    session: str | None = None
    agent: str | None = None
    stream: bool | None = None
    messages: int | None = None
    features: tuple[str, ...] = ()
    client_is_oauth: bool = False
    billable: bool = True
    operation: str | None = None
    named_model: str | None = None

    @property
    def is_for_models(self) -> bool:
        """Return whether it goes to an endpoint at which models answer: a request that costs something, or the
        handshake of a WebSocket for such requests."""
        return self.billable or self.operation is not None
