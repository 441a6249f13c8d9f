"""What the proxy knows about a request after inspecting it once: used by dialects, balancing, metering and logs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ccmproxy.http.message import Headers, first_value
from ccmproxy.policy.allowed_models import ModelsAsked, ModelUse

_KEY = re.compile(r"[!-~]{1,200}")
#: As much of another name is looked at (characters).
LONGEST_UNUSUAL_NAME = 64 * 1024


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


def unusual_name(value: str | None) -> str:
    """Return what a provider might repeat of a model's name that is no key (:func:`printable_key`): without runs of
    white space, and shortened. Empty for names that are keys."""
    if not value or _KEY.fullmatch(value):
        return ""
    return " ".join(value[:LONGEST_UNUSUAL_NAME].split())


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """Facts about one request. A fact that could not be determined is None, never an error (spec 4.1).

    ``unusual_model``: the model as the client named it if that name is no key, so that ``model`` is None; empty
    otherwise. ``session``: the conversation's id. ``agent``: id of a subagent within it. ``messages``: number of
    messages in the request. ``features``: the client's beta or feature names, in order. ``client_is_oauth``: the
    client itself uses OAuth, so it understands (and believes) an account's own rate-limit headers. ``billable``: False
    for requests that cost nothing, e.g. counting tokens. ``operation``: the dialect's name for what is requested, where
    its facets treat operations differently. ``is_opaque``: there is a body, and nothing in it could be read, so that it
    is not known what a provider may repeat of it.

    Found out only for users who may not ask for every model: ``use``, what the request has to do with models, and
    ``names``, every model that its body may ask for (:class:`ccmproxy.policy.allowed_models.ModelsAsked`).
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
    unusual_model: str = ""
    is_opaque: bool = False
    use: ModelUse = ModelUse.ALWAYS
    names: tuple[str | None, ...] = ()

    @property
    def models_asked(self) -> ModelsAsked:
        """Return what decides whether the user may ask for it."""
        return ModelsAsked(self.use, self.names, self.model is not None, self.is_opaque)

    @property
    def named_model(self) -> str:
        """The model as the client named it, for comparisons with what a provider repeats; empty if it named none."""
        return self.model or self.unusual_model

    @property
    def is_for_models(self) -> bool:
        """Return whether it goes to an endpoint at which models answer: a request that costs something, or the
        handshake of a WebSocket for such requests."""
        return self.billable or self.operation is not None
