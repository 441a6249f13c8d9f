"""What all proxied requests of one service share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from ccmproxy.dialects.base import Dialect
from ccmproxy.proxy.aggregate_cache import AggregateCache
from ccmproxy.proxy.bound_values import BoundValues
from ccmproxy.proxy.registry import Registry
from ccmproxy.proxy.stale_polls import StalePolls


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """``max_body``: bytes. ``overrides``: the service's ``headers``. Times in seconds; ``keep_alive`` 0 = off.

    ``client_stall_timeout``: a client of a WebSocket that has taken not a byte of what waits for it for so long is
    disconnected; for HTTP the server sees to that. ``max_per_user``: requests of one user that may be under way at a
    time, an open WebSocket being one; None = no limit.
    """

    max_body: int = 64 * 1024 * 1024
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep_alive: float = 0.0
    client_stall_timeout: float = 600.0
    max_per_user: int | None = None


@dataclass(frozen=True, slots=True)
class ProxyContext:
    """What a request finds when it comes; it keeps it to its end, whatever a reload changes for those after it.

    ``now``: Unix seconds. ``entropy``: as many random bytes as asked for, which nobody can foresee.
    """

    dialect: Dialect
    clock: IReactorTime
    now: Callable[[], float]
    entropy: Callable[[int], bytes]
    options: ProxyOptions
    registry: Registry
    aggregates: AggregateCache
    bound_values: BoundValues
    polls: StalePolls

    @classmethod
    def of_service(
        cls,
        dialect: Dialect,
        clock: IReactorTime,
        now: Callable[[], float],
        options: ProxyOptions,
        entropy: Callable[[int], bytes],
    ) -> ProxyContext:
        """The context of a service at which nothing is under way yet."""
        return cls(
            dialect,
            clock,
            now,
            entropy,
            options,
            Registry(),
            AggregateCache(now),
            BoundValues(dialect.bound_header, now),
            StalePolls(now),
        )
