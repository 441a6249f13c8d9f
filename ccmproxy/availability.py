"""The state of one credential: an input gives a new state and effects; and: is it usable, and if not, why (spec 5).

Pure: ``now`` (Unix seconds) is an argument, effects are values that :mod:`ccmproxy.credentials.account` carries out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ccmproxy.limits import Limits, LimitsUpdate

#: The states that the status endpoint names (spec 8.1).
AvailabilityState = Literal["usable", "rate_limited", "temporarily_blocked", "unavailable"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a credential (or a whole pool) can take a request now.

    ``reason``: a stable word, empty where usable: ``unavailable``, ``connection_limit``, ``rate_limited``,
    ``rejected``, ``poll_failed``, ``short_window``, ``weekly_window``, ``model_window``. ``message``: a sentence for
    people. ``reset_at``: Unix seconds when it may change by itself, 0 = unknown.
    """

    state: AvailabilityState
    reason: str = ""
    message: str = ""
    reset_at: float = 0.0

    @property
    def usable(self) -> bool:
        return self.state == "usable"


@dataclass(frozen=True, slots=True)
class Caps:
    """At which utilization (percent) each window makes the credential pause (spec 1: reserve and limit)."""

    short: float = 99.0
    weekly: float = 99.0


@dataclass(frozen=True, slots=True)
class CredentialState:
    """Everything remembered of one credential. Starts unavailable: nothing has been read yet."""

    unavailable: str | None = "credential not loaded yet"
    limits: Limits = Limits()
    rate_limited_until: float = 0.0
    rejected_until: float = 0.0
    blocked_until: float = 0.0
    blocked_reason: str = ""
    model_rejections: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    poll_failures: int = 0
    last_update: float = 0.0
    plan_weight: float = 1.0
    ever_had_data: bool = False


# Inputs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenAvailable:
    """A valid credential file (or key) was read, or a refresh succeeded."""

    plan_weight: float


@dataclass(frozen=True, slots=True)
class TokenUnavailable:
    """No usable token, and why (a sentence without secrets)."""

    message: str


@dataclass(frozen=True, slots=True)
class HeadersObserved:
    """A proxied answer (or an in-stream event) told something of the limits."""

    update: LimitsUpdate


@dataclass(frozen=True, slots=True)
class PollSucceeded:
    """The usage endpoint answered: replaces the windows, also downwards (spec 3.5)."""

    update: LimitsUpdate
    plan_weight: float | None = None


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll failed in a way that counts (spec 3.5)."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The upstream refused a request with 429 on account of the whole credential, until then."""

    until: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """A remote refused requests for its own reasons (spec 4.4)."""

    until: float


@dataclass(frozen=True, slots=True)
class Blocked:
    """Temporarily not to be used, e.g. ``connection_limit``."""

    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but the clock: lifts what has expired."""


Input = (
    TokenAvailable
    | TokenUnavailable
    | HeadersObserved
    | PollSucceeded
    | PollFailed
    | RateLimited
    | Rejected
    | Blocked
    | TimePassed
)

# Effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Cancel the requests that have no response byte yet; once per transition to unusable (spec 5.3)."""

    availability: Availability


@dataclass(frozen=True, slots=True)
class Notify:
    """Something that the aggregate depends on changed (spec 5.4)."""


@dataclass(frozen=True, slots=True)
class Log:
    """A change worth a line: crossed a whole percent, became usable or unusable."""

    message: str


Effect = Interrupt | Notify | Log


@dataclass(frozen=True, slots=True)
class CredentialSnapshot:
    """A frozen view of one credential for balancing, aggregation and status."""

    tag: str
    is_external: bool
    availability: Availability
    limits: Limits
    caps: Caps
    plan_weight: float
    has_data: bool
    ever_had_data: bool
