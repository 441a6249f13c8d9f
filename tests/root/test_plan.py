"""Tests of :mod:`ccmproxy.root.plan`: the steps from one configuration to another, as tables (spec 1, Reload)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import (
    CredentialConfig,
    DirectOutboundConfig,
    ExternalConfig,
    PoolConfig,
    ServiceConfig,
    ServiceLimits,
    UpstreamConfig,
    UserConfig,
)
from ccmproxy.root.plan import (
    Change,
    End,
    Keep,
    Start,
    carry_over,
    compare,
    ended,
    plan_service,
    plan_services,
)

A = CredentialConfig("a", "/a.json")
B = CredentialConfig("b", "/b.json")
KEY = CredentialConfig("key", None, api_key=SecretStr("k"))
FRIEND = ExternalConfig("friend", SecretStr("f-token"))
OTHER = ExternalConfig("other", SecretStr("o-token"), url="http://other.example")
POOL = PoolConfig("pool", ("a", "b"))
ALICE = UserConfig("alice", SecretStr("a-token"), "a")


def service(*credentials: CredentialConfig, port: int = 8080, **more: Any) -> ServiceConfig:
    """One entry of ``services:``."""
    return ServiceConfig("ccm", "ccm", f"tcp:{port}", f"127.0.0.1:{port}", credentials, "a", **more)


class CompareTests(SynchronousTestCase):
    """The letter of each item is its identity; the number may change."""

    def test_table(self) -> None:
        for running, wanted, steps in (
            ("", "", []),
            ("", "a1", [Start("a1")]),
            ("a1", "a1", [Keep("a1")]),
            ("a1", "a2", [Change("a1", "a2")]),
            ("a1", "", [End("a1")]),
            ("a1", "b1", [Start("b1"), End("a1")]),
            ("a1 b1", "b1 a1", [Keep("b1"), Keep("a1")]),
            ("a1 b1 c1", "d1 c2 a1", [Start("d1"), Change("c1", "c2"), Keep("a1"), End("b1")]),
            ("b1 a1", "c1", [Start("c1"), End("b1"), End("a1")]),
        ):
            found = compare(running.split(), wanted.split(), lambda each: each[0])
            self.assertEqual(list(found), steps, f"{running} → {wanted}")

    @given(st.lists(st.integers(0, 99), unique_by=lambda each: each // 10), st.data())
    def test_nothing_is_lost_and_nothing_made_twice(self, running: list[int], data: st.DataObject) -> None:
        """Every running item is kept or ends, and the wanted items are there in their order."""
        wanted = data.draw(st.lists(st.integers(0, 99), unique_by=lambda each: each // 10))
        steps = compare(running, wanted, lambda each: each // 10)
        made: list[int] = []

        def make(each: int) -> object:
            made.append(each)
            return object()

        objects = {each: object() for each in running}
        carried = carry_over(steps, objects, make)
        self.assertEqual(list(carried), wanted)
        kept = [each for each in carried.values() if each in objects.values()]
        self.assertCountEqual([*kept, *ended(steps, objects)], objects.values())
        self.assertEqual(len(kept) + len(made), len(wanted))
        same = {each // 10: objects[each] for each in running}
        for each in wanted:
            self.assertTrue(each in made if each // 10 not in same else carried[each] is same[each // 10])


class CarryOverTests(SynchronousTestCase):
    """Kept objects run under their new configuration."""

    STEPS = (Start("c1"), Change("a1", "a2"), Keep("b1"), End("d1"))
    RUNNING = {"a1": "A", "b1": "B", "d1": "D"}

    def test_carried_over(self) -> None:
        found = carry_over(self.STEPS, self.RUNNING, str.upper)
        self.assertEqual(list(found.items()), [("c1", "C1"), ("a2", "A"), ("b1", "B")])
        self.assertEqual(ended(self.STEPS, self.RUNNING), ["D"])

    def test_what_cannot_be_made(self) -> None:
        """Running objects are not modified."""
        running = dict(self.RUNNING)

        def make(wanted: str) -> str:
            raise OSError(wanted)

        self.assertRaises(OSError, carry_over, self.STEPS, running, make)
        self.assertEqual(running, self.RUNNING)


class ServicesTests(SynchronousTestCase):
    """Entries of ``services:``."""

    def test_table(self) -> None:
        one, two = service(A), service(B, port=8081)
        limits = ServiceLimits(max_request_body=1)
        for running, wanted, steps in (
            ([], [one], [Start(one)]),
            ([one, two], [one, two], [Keep(one), Keep(two)]),
            ([one], [two, one], [Start(two), Keep(one)]),
            ([one, two], [two], [Keep(two), End(one)]),
            ([one], [replace(one, limits=limits)], [Change(one, replace(one, limits=limits))]),
            ([one], [replace(one, name="x")], [Change(one, replace(one, name="x"))]),
            # A service with another dialect at the same address, or at another address, is another service.
            ([one], [replace(one, type="ocm")], [Start(replace(one, type="ocm")), End(one)]),
            ([one], [service(A, port=8082)], [Start(service(A, port=8082)), End(one)]),
        ):
            self.assertEqual(list(plan_services(running, wanted)), steps)


class ServiceTests(SynchronousTestCase):
    """The items within one entry."""

    def test_credentials(self) -> None:
        capped, heavy = replace(A, short_cap=50.0, weekly_cap=40.0), replace(A, plan_weight=3.0)
        moved, renamed = replace(A, credential_path="/x.json"), replace(A, tag="x")
        usual = replace(A, is_default_path=True)
        other_key = replace(KEY, api_key=SecretStr("k2"))
        way = replace(A, outbound=DirectOutboundConfig("way", "10.0.0.1"))
        same_way = replace(A, outbound=DirectOutboundConfig("called otherwise", "10.0.0.1"))
        for running, wanted, steps in (
            ([A], [A, KEY], [Keep(A), Start(KEY)]),
            ([A, B], [B], [Keep(B), End(A)]),
            ([A], [capped], [Change(A, capped)]),
            ([capped], [A], [Change(capped, A)]),
            ([A], [heavy], [Change(A, heavy)]),
            ([A], [moved], [Start(moved), End(A)]),
            ([A], [renamed], [Start(renamed), End(A)]),
            ([A], [usual], [Start(usual), End(A)]),
            ([KEY], [other_key], [Start(other_key), End(KEY)]),
            ([A], [way], [Start(way), End(A)]),
            ([way], [same_way], [Keep(same_way)]),
        ):
            found = plan_service(service(*running), service(*wanted)).credentials
            self.assertEqual(list(found), steps)

    def test_externals(self) -> None:
        heavy = replace(FRIEND, plan_weight=3.0)
        token, url = replace(FRIEND, token=SecretStr("other")), replace(OTHER, url="http://x.example")
        connector = replace(OTHER, is_connector=True)
        for running, wanted, steps in (
            ((FRIEND,), (OTHER, FRIEND), [Start(OTHER), Keep(FRIEND)]),
            ((FRIEND,), (heavy,), [Change(FRIEND, heavy)]),
            ((FRIEND,), (token,), [Start(token), End(FRIEND)]),
            ((OTHER,), (url,), [Start(url), End(OTHER)]),
            ((OTHER,), (connector,), [Start(connector), End(OTHER)]),
            ((FRIEND, OTHER), (), [End(FRIEND), End(OTHER)]),
        ):
            found = plan_service(service(A, externals=running), service(A, externals=wanted)).externals
            self.assertEqual(list(found), steps)

    def test_pools(self) -> None:
        smaller, spread = replace(POOL, credentials=("a",)), replace(POOL, spread_subagents=True)
        for running, wanted, steps in (
            ((), (POOL,), [Start(POOL)]),
            ((POOL,), (POOL,), [Keep(POOL)]),
            ((POOL,), (smaller,), [Change(POOL, smaller)]),
            ((POOL,), (spread,), [Change(POOL, spread)]),
            ((POOL,), (replace(POOL, tag="x"),), [Start(replace(POOL, tag="x")), End(POOL)]),
        ):
            found = plan_service(service(A, B, pools=running), service(A, B, pools=wanted)).pools
            self.assertEqual(list(found), steps)

    def test_another_way_to_the_upstream(self) -> None:
        """All credentials are built anew, in order; a pool is kept, with other credentials behind the tags of its
        members."""
        running = service(A, B, externals=(FRIEND,), pools=(POOL,))
        wanted = replace(running, upstream=UpstreamConfig(idle_timeout=77.0))
        plan = plan_service(running, wanted)
        self.assertEqual(list(plan.credentials), [Start(A), Start(B), End(A), End(B)])
        self.assertEqual(list(plan.externals), [Start(FRIEND), End(FRIEND)])
        self.assertEqual(list(plan.pools), [Keep(POOL)])

    def test_a_service_that_does_not_run_yet(self) -> None:
        wanted = service(A, B, externals=(FRIEND,), pools=(POOL,))
        plan = plan_service(None, wanted)
        self.assertIs(plan.config, wanted)
        self.assertEqual(list(plan.credentials), [Start(A), Start(B)])
        self.assertEqual(list(plan.externals), [Start(FRIEND)])
        self.assertEqual(list(plan.pools), [Start(POOL)])

    def in_use(self, users: Sequence[UserConfig], pools: Sequence[PoolConfig] = ()) -> set[str]:
        """Return the tags in use in a service with these users and pools."""
        wanted = service(A, B, externals=(FRIEND,), users=tuple(users), pools=tuple(pools))
        return set(plan_service(None, wanted).in_use)

    def test_who_is_let_in(self) -> None:
        self.assertEqual(plan_service(None, service(A, users=(ALICE,))).users, (ALICE,))
        (everybody,) = plan_service(None, service(A)).users
        self.assertEqual((everybody.name, everybody.token.get_secret_value()), ("", ""))
        self.assertEqual((everybody.credential, everybody.allow_external_usage), ("a", True))
        self.assertIsNone(everybody.external_credential)

    def test_in_use(self) -> None:
        borrower = UserConfig("bob", SecretStr("b-token"), "friend", allow_external_usage=True)
        self.assertEqual(self.in_use([]), {"a"})
        self.assertEqual(self.in_use([ALICE]), {"a"})
        self.assertEqual(self.in_use([ALICE, borrower]), {"a", "friend"})
        # A remote that is a user of this service does not become a credential in use.
        self.assertEqual(self.in_use([replace(ALICE, external_credential="friend")]), {"a"})
        pools = [POOL, PoolConfig("far", ("friend",))]
        self.assertEqual(self.in_use([ALICE], pools), {"a", "b", "friend"})
        self.assertEqual(
            self.in_use([replace(ALICE, credential="pool")], pools), {"pool", "a", "b", "friend"}
        )
