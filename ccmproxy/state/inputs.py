"""What happens to a credential (inputs), and what follows for others (effects): values only (spec 5).

:func:`ccmproxy.state.transitions.transition` leads from an input to a new state and to effects.
"""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.state.availability import Availability
from ccmproxy.state.holds import Combination
from ccmproxy.state.limits import LimitsUpdate

# Inputs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenAvailable:
    """A valid credential file (or key) was read, or a refresh succeeded. ``organization``: id, empty = unknown."""

    plan_weight: float
    organization: str = ""


@dataclass(frozen=True, slots=True)
class TokenUnavailable:
    """There is no usable token. ``message``: why, as a sentence without secrets. ``ends_requests``: whether requests in
    progress cannot succeed either. ``is_gone``: no file holds a login any more. ``until``: when it is looked for again,
    because the cause is a passing one of this machine (Unix seconds; 0 = the cause is another one; spec 12.4)."""

    message: str
    ends_requests: bool = True
    is_gone: bool = False
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenDelayed:
    """The token cannot be refreshed for now, and is tried again by itself (spec 12.4). ``message``: why, as a sentence
    without secrets; ``until``: when the next attempt is made (Unix seconds)."""

    message: str
    until: float


@dataclass(frozen=True, slots=True)
class HeadersObserved:
    """A proxied response, or an event in it, reported limits.

    ``is_aggregate``: the response is from a remote instance, whose values replace the known ones even if they are lower
    (spec 4.7), as a pool grows when an account is added. ``plan_weight``: weight of the remote, None = not reported.
    """

    update: LimitsUpdate
    is_aggregate: bool = False
    plan_weight: float | None = None


@dataclass(frozen=True, slots=True)
class PollSucceeded:
    """The usage endpoint answered; its values replace the windows even if they are lower (spec 3.5).

    ``usable``: whether a remote instance says that it can serve; None = not reported. ``began``: when the poll was sent
    (Unix seconds, 0 = now). ``cannot_serve``: a remote instance says that it cannot serve, for another reason than
    used-up windows; the windows that it reports are full only for that. ``is_known``: false where a remote instance
    says that it knows no figures yet.
    """

    update: LimitsUpdate
    plan_weight: float | None = None
    usable: bool | None = None
    began: float = 0.0
    cannot_serve: bool = False
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll failed in a way that counts (spec 3.5)."""


@dataclass(frozen=True, slots=True)
class PollRefused:
    """The usage endpoint refused the account with ``status``: 400, 401, 402 or 403 (spec 12.3). Whether the poll also
    counts as a failure is told by :class:`PollFailed`."""

    status: int


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The upstream refused a request with a 429 that concerns the whole credential, until ``until``.

    ``explicit``: the upstream named that time, so it replaces the known end. A default time only ever extends the known
    end (F46).
    """

    until: float
    explicit: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """A remote instance refused requests for reasons of its own, until ``until`` (spec 4.4)."""

    until: float


@dataclass(frozen=True, slots=True)
class RemoteUnavailable:
    """A remote instance answered that it has no credential to serve a request with (spec 4.4)."""


@dataclass(frozen=True, slots=True)
class SocketsRest:
    """The upstream has no more WebSockets to give: no new one is opened there until ``until`` (spec 12.2)."""

    until: float


@dataclass(frozen=True, slots=True)
class Rests:
    """Another account serves what this one refused without data. ``wait``: seconds of its Retry-After, None = none."""

    asked: Combination
    caller: str
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """Another account serves what this one refuses. ``sentence``: the provider's."""

    asked: Combination
    caller: str
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class ModelDenied:
    """Known words: the model is not for this account."""

    model: str


@dataclass(frozen=True, slots=True)
class AccountRefused:
    """Known words: the account itself is refused. ``sentence``: the provider's."""

    sentence: str


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A refusal without known words, on which no second opinion could be had. ``is_busy``: a 429."""

    asked: Combination
    caller: str
    wait: float | None = None
    sentence: str = ""
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Leased:
    """A request has chosen the credential, and will be sent unless there is no token."""


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request goes to the upstream."""

    asked: Combination


@dataclass(frozen=True, slots=True)
class RequestGaveUp:
    """A request that was sent came to nothing that tells anything of the credential."""

    asked: Combination


@dataclass(frozen=True, slots=True)
class RequestServed:
    """The upstream has served a request that was sent at ``sent_at`` (Unix seconds)."""

    asked: Combination
    sent_at: float
    is_model_request: bool = True


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The system's clock was set by ``by`` seconds (negative: back), and ``now`` is what it says since."""

    by: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Only time has passed; lifts what has expired."""


Input = (
    TokenAvailable
    | TokenUnavailable
    | TokenDelayed
    | HeadersObserved
    | PollSucceeded
    | PollFailed
    | PollRefused
    | RateLimited
    | Rejected
    | RemoteUnavailable
    | SocketsRest
    | Rests
    | Denied
    | ModelDenied
    | AccountRefused
    | RequestRefused
    | Leased
    | RequestSent
    | RequestGaveUp
    | RequestServed
    | ClockSet
    | TimePassed
)

# Effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Cancel the requests without a byte of a response. Happens once per transition to unusable (spec 5.3)."""

    availability: Availability


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell subscribers that something changed on which the aggregate depends (spec 5.4)."""


@dataclass(frozen=True, slots=True)
class Log:
    """Log a notable change: a utilization crossed a whole percent, or the credential became usable or unusable."""

    message: str


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the usage endpoint now: what was learnt cannot be true beside what is known, or may have a cause there."""


Effect = Interrupt | Notify | Log | Poll
