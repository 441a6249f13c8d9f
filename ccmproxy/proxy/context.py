"""The options and state that all proxied requests of one service share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from ccmproxy.dialects.base import Dialect
from ccmproxy.interfaces.work_queue import IWorkQueue
from ccmproxy.policy.opinions import OpinionMemory
from ccmproxy.policy.waits import ToldToWait
from ccmproxy.proxy.aggregate_cache import AggregateCache
from ccmproxy.proxy.body_memory import ALWAYS, BodyMemory, Reservation
from ccmproxy.proxy.bound_values import BoundValues
from ccmproxy.proxy.registry import Registry
from ccmproxy.proxy.stale_polls import StalePolls


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """The rules for the requests of a service. Times in seconds.

    ``max_body``: largest request body in bytes; ``max_bodies``: all that are held at a time together.
    ``overrides``: the service's ``headers``. ``keep_alive``: silence after which a sign of life is sent; 0 = off.
    ``client_stall_timeout``: a WebSocket client that has read no byte of its pending data for this long is
    disconnected; for HTTP, the server does that. ``max_per_user``: concurrent requests of one user, where an open
    WebSocket counts as one, unless the user has a limit of their own; None = no limit.
    """

    max_body: int = 64 * 1024 * 1024
    max_bodies: int = 512 * 1024 * 1024
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep_alive: float = 0.0
    client_stall_timeout: float = 600.0
    max_per_user: int | None = None


@dataclass(frozen=True, slots=True)
class ProxyContext:
    """The environment of a request. A request keeps it to its end; a reload replaces it for later requests only.

    ``clock``: the monotonic clock, on which all durations are measured. ``now``: returns Unix seconds. ``entropy``:
    returns the given number of cryptographically random bytes. ``work``: does what would keep the reactor too long.
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
    opinions: OpinionMemory
    told: ToldToWait
    random: Callable[[], float]
    work: IWorkQueue
    bodies: BodyMemory

    def memory_of(self, user: str, always: int = ALWAYS) -> Reservation:
        """Return a reservation for what a request of ``user`` holds. ``always``: bytes that it may hold in any case."""
        return self.bodies.reservation(user, self.options.max_bodies, always)

    def unix_time(self, moment: float) -> float:
        """Return the Unix time of ``moment`` (seconds of the clock). Between the two, the clock may have been set."""
        return self.now() - (self.clock.seconds() - moment)

    @classmethod
    def of_service(
        cls,
        dialect: Dialect,
        clock: IReactorTime,
        now: Callable[[], float],
        options: ProxyOptions,
        entropy: Callable[[int], bytes],
        random: Callable[[], float],
        work: IWorkQueue,
    ) -> ProxyContext:
        """Return the context of a service without any request in progress."""
        return cls(
            dialect,
            clock,
            now,
            entropy,
            options,
            Registry(),
            AggregateCache(now),
            BoundValues(dialect.bound_header, clock.seconds),
            StalePolls(clock.seconds),
            OpinionMemory(),
            ToldToWait(),
            random,
            work,
            BodyMemory(),
        )
