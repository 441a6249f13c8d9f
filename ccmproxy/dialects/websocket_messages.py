"""The meaning of WebSocket messages, independent of the dialect (spec 10). Values only."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.message import ResponseHead
from ccmproxy.policy.allowed_models import ModelsAsked, ModelUse
from ccmproxy.policy.answers import Verdict
from ccmproxy.state.limits import LimitsUpdate


@dataclass(frozen=True, slots=True)
class ClientFrame:
    """A message of the client.

    ``begins_turn``: it requests a response. ``is_warm_up``: it requests a response that costs nothing and has no
    output. ``model``: None where the message names none that can serve as a key; ``unusual_model``: the name it gives
    instead (:class:`ccmproxy.dialects.facts.RequestFacts`). ``names``: every model that it may ask for;
    ``is_opaque``: it could not be read; both are found out only for users who may not ask for every model.
    """

    begins_turn: bool = False
    is_warm_up: bool = False
    model: str | None = None
    unusual_model: str = ""
    names: tuple[str | None, ...] = ()
    is_opaque: bool = False

    @property
    def models_asked(self) -> ModelsAsked:
        """Return what decides whether the user may ask for it. What begins no turn may name a model, and need not."""
        use = ModelUse.ALWAYS if self.begins_turn else ModelUse.IF_NAMED
        return ModelsAsked(use, self.names, self.model is not None, self.is_opaque)


@dataclass(frozen=True, slots=True)
class RefusedTurn:
    """An error message on the connection, equivalent to an HTTP response with this head and body."""

    head: ResponseHead
    body: bytes


@dataclass(frozen=True, slots=True)
class UpstreamFrame:
    """A message of the upstream.

    ``is_hidden``: tells of one account alone, and never reaches the client. ``limits``: what it says of the account.
    ``refusal``: the turn was refused. ``connection_limit``: this connection has reached a limit of its own, such as
    its age, which says nothing of others (spec 12.2). ``is_output``: the turn has begun to say something.
    ``ends_turn``: nothing more follows for this turn. ``reading``: usage of the turn, where it is told. ``verdict``:
    what a refusal or failure means for the credential, as an answer with its words would; None where it means nothing
    for it (F51).
    """

    is_hidden: bool = False
    limits: LimitsUpdate | None = None
    refusal: RefusedTurn | None = None
    connection_limit: bool = False
    is_output: bool = False
    ends_turn: bool = False
    reading: MeterReading | None = None
    verdict: Verdict | None = None


#: Most messages: relevant to the client alone.
PASSING = UpstreamFrame()
#: A message for the client that is part of the output.
OUTPUT = UpstreamFrame(is_output=True)
