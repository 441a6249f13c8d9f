"""Plans, as plain values, of the steps from the running configuration to a new one (spec 1, Reload).

Nothing here builds, starts or ends anything: :mod:`.service` and :mod:`.multiplexer` carry out the plans.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import SecretStr

from ccmproxy.config import CredentialConfig, ExternalConfig, PoolConfig, ServiceConfig, UserConfig

ConfigT = TypeVar("ConfigT")
RunningT = TypeVar("RunningT")


@dataclass(frozen=True, slots=True)
class Start(Generic[ConfigT]):
    """Build and start an item that is not running."""

    wanted: ConfigT


@dataclass(frozen=True, slots=True)
class Keep(Generic[ConfigT]):
    """Keep a running item whose configuration is unchanged."""

    wanted: ConfigT


@dataclass(frozen=True, slots=True)
class Change(Generic[ConfigT]):
    """Keep a running item with its state, and apply its changed configuration."""

    running: ConfigT
    wanted: ConfigT


@dataclass(frozen=True, slots=True)
class End(Generic[ConfigT]):
    """End a running item that is no longer configured."""

    running: ConfigT


Step = Start[ConfigT] | Keep[ConfigT] | Change[ConfigT] | End[ConfigT]


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """The steps that bring one entry of ``services:`` to ``config``.

    ``users``: the users that are admitted. If the configuration has none, this is a single user without name or token
    that stands for every client. ``in_use``: the tags of all credentials and pools that users are routed to, and of all
    members of pools.
    """

    config: ServiceConfig
    credentials: tuple[Step[CredentialConfig], ...]
    externals: tuple[Step[ExternalConfig], ...]
    pools: tuple[Step[PoolConfig], ...]
    users: tuple[UserConfig, ...]
    in_use: frozenset[str]


def plan_services(
    running: Iterable[ServiceConfig], wanted: Iterable[ServiceConfig]
) -> tuple[Step[ServiceConfig], ...]:
    """Return the steps from the ``running`` services to the ``wanted`` ones. A running service is kept if its endpoint
    and its dialect are unchanged."""
    return compare(running, wanted, lambda service: (service.endpoint, service.type))


def plan_service(running: ServiceConfig | None, wanted: ServiceConfig) -> ServicePlan:
    """Return the plan from the configuration ``running`` of a service, or None for a new service, to ``wanted``.

    A credential is kept if its tag, its login or remote, and the service's ``upstream`` settings are unchanged. A pool
    is kept if its tag is unchanged, even if the tags of its members now belong to other credentials.
    """
    before = running or replace(wanted, credentials=(), externals=(), pools=())
    is_same_way = before.upstream == wanted.upstream
    users = wanted.users or (UserConfig("", SecretStr(""), wanted.first, allow_external_usage=True),)
    in_use = {user.credential for user in users}.union(*(pool.credentials for pool in wanted.pools))
    return ServicePlan(
        config=wanted,
        credentials=compare(before.credentials, wanted.credentials, _same_login if is_same_way else _unique),
        externals=compare(before.externals, wanted.externals, _same_remote if is_same_way else _unique),
        pools=compare(before.pools, wanted.pools, lambda pool: pool.tag),
        users=users,
        in_use=frozenset(in_use),
    )


def compare(
    running: Iterable[ConfigT], wanted: Iterable[ConfigT], identity: Callable[[ConfigT], Hashable]
) -> tuple[Step[ConfigT], ...]:
    """Return one step for each item of ``wanted``, in that order, and then one for each running item that ends.

    A running and a wanted item are the same item if ``identity`` returns equal values for both. The values must be
    unique within ``running`` and within ``wanted``.
    """
    left = {identity(each): each for each in running}
    steps: list[Step[ConfigT]] = []
    for each in wanted:
        known = left.pop(identity(each), None)
        if known is None:
            steps.append(Start(each))
        elif known == each:
            steps.append(Keep(each))
        else:
            steps.append(Change(known, each))
    return (*steps, *map(End, left.values()))


def carry_over(
    steps: Iterable[Step[ConfigT]],
    running: Mapping[ConfigT, RunningT],
    make: Callable[[ConfigT], RunningT],
) -> dict[ConfigT, RunningT]:
    """Return the objects that are to run, by configuration, in the order of the steps. Each is taken from ``running``
    or built by ``make``. Raises what ``make`` raises; ``running`` is not modified."""
    found: dict[ConfigT, RunningT] = {}
    for step in steps:
        match step:
            case Start(wanted):
                found[wanted] = make(wanted)
            case Keep(wanted):
                found[wanted] = running[wanted]
            case Change(before, wanted):
                found[wanted] = running[before]
    return found


def ended(steps: Iterable[Step[ConfigT]], running: Mapping[ConfigT, RunningT]) -> list[RunningT]:
    """Return the objects in ``running`` that are to end."""
    return [running[step.running] for step in steps if isinstance(step, End)]


def _same_login(credential: CredentialConfig) -> CredentialConfig:
    """Return the identity of a credential: its configuration without caps and weight."""
    return replace(credential, short_cap=0.0, weekly_cap=0.0, plan_weight=None)


def _same_remote(remote: ExternalConfig) -> ExternalConfig:
    """Return the identity of a remote: its configuration without the weight."""
    return replace(remote, plan_weight=None)


def _unique(config: object) -> Hashable:
    """Return a unique identity, so that no item is the same as another."""
    return object()
