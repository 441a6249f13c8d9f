"""What has to happen for what runs to become what a configuration says: a plan, as values (spec 1, Reload).

Nothing here builds, starts or ends anything: :mod:`.service` and :mod:`.multiplexer` carry a plan out.
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
    """Nothing that runs is this one: make it."""

    wanted: ConfigT


@dataclass(frozen=True, slots=True)
class Keep(Generic[ConfigT]):
    """This one runs, and is configured as it was."""

    wanted: ConfigT


@dataclass(frozen=True, slots=True)
class Change(Generic[ConfigT]):
    """``running`` goes on as the same one, with all that it knows, and is to be told what is different."""

    running: ConfigT
    wanted: ConfigT


@dataclass(frozen=True, slots=True)
class End(Generic[ConfigT]):
    """Nobody wants this one any more."""

    running: ConfigT


Step = Start[ConfigT] | Keep[ConfigT] | Change[ConfigT] | End[ConfigT]


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one entry of ``services:`` is to become: ``config``.

    ``users``: who is let in; without users in the configuration, one without name and token, who is everybody.
    ``in_use``: tags of what users are routed to, and of the members of pools.
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
    """A service is the same one if it listens on the same endpoint and speaks the same dialect."""
    return compare(running, wanted, lambda service: (service.endpoint, service.type))


def plan_service(running: ServiceConfig | None, wanted: ServiceConfig) -> ServicePlan:
    """From a service that is configured as ``running`` says, None = there is none yet, to ``wanted``.

    A credential is the same one by its tag and its login or remote, if the way to the upstream is unchanged too. A pool
    is the same one by its tag; there may be other credentials behind the tags of a pool that is kept.
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
    """One step for each that is wanted, in that order, and then one for each that is to end. Two are the same one if
    ``identity`` gives the same for both; it must tell those that run apart, and those that are wanted."""
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
    """What is to run, by its configuration, in the order of the steps: out of ``running``, or made. Raises what
    ``make`` raises; ``running`` is not touched."""
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
    """What of ``running`` is to end."""
    return [running[step.running] for step in steps if isinstance(step, End)]


def _same_login(credential: CredentialConfig) -> CredentialConfig:
    """What makes a credential the same one: everything but its caps and weight."""
    return replace(credential, short_cap=0.0, weekly_cap=0.0, plan_weight=None)


def _same_remote(remote: ExternalConfig) -> ExternalConfig:
    """What makes a remote the same one: everything but its weight."""
    return replace(remote, plan_weight=None)


def _unique(config: object) -> Hashable:
    """What makes none the same as another."""
    return object()
