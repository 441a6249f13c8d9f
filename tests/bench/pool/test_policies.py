"""Policies: the pool stays and moves as the product does, the naive ones really are naive."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.demand import HOUR
from bench.pool.policies import (
    CONTENDERS,
    Asked,
    FirstUntilExhausted,
    IdeaPool,
    Policy,
    PoolPolicy,
    QuietPool,
    Refused,
    RoundRobinPerRequest,
    Served,
)
from bench.pool.scorings import COLD, Idea
from bench.pool.simulation import BEGIN
from ccmproxy.credentials.pool.pool import PoolRules
from ccmproxy.policy.retry import LeaseOutcome
from tests.bench.pool.scene import SHORT, WEEKLY, Time, accounts, world


class PolicyTestCase(SynchronousTestCase):
    """Three Pro accounts and a policy."""

    def setUp(self) -> None:
        self.time = Time()
        self.accounts = accounts("pro", "pro", "pro")
        self.policy: Policy = RoundRobinPerRequest(world(self.accounts, self.time))

    def ask(self, session: str = "s") -> str:
        """Number of the account that serves a request, or "refused"."""
        outcome = self.policy.take(Asked("alice", session, None, "sonnet"))
        if isinstance(outcome, Refused):
            return "refused"
        if outcome.lease is not None:
            outcome.lease.close(LeaseOutcome.SERVED)
        return outcome.account.tag.removeprefix("pro-")

    def fill(self, *numbers: int) -> None:
        """The 5-hour windows of these accounts are full."""
        for number in numbers:
            self.accounts[number - 1].take(SHORT, self.time())


class RoundRobinTests(PolicyTestCase):
    """Every request to the next account."""

    def test_sessions_mean_nothing(self) -> None:
        self.assertEqual([self.ask(name) for name in "aaabab"], list("123123"))

    def test_it_looks_at_nothing_but_429(self) -> None:
        self.accounts[1].take(SHORT * 0.999, self.time())
        self.assertEqual([self.ask() for _ in range(3)], list("123"))
        self.fill(2)
        self.assertEqual([self.ask() for _ in range(4)], list("1313"))

    def test_it_asks_again_after_the_reset(self) -> None:
        self.fill(1, 2, 3)
        outcome = self.policy.take(Asked("alice", "s", None, "sonnet"))
        self.assertEqual(outcome, Refused(BEGIN + 5 * HOUR))
        # The policy does not notice a window that was emptied in the meantime.
        self.accounts[0].short.used = 0.0
        self.assertEqual(self.ask(), "refused")
        self.time.now += 5 * HOUR
        self.assertNotEqual(self.ask(), "refused")

    def test_nothing_is_polled(self) -> None:
        self.assertEqual(list(self.policy.credentials), [])


class FirstUntilExhaustedTests(PolicyTestCase):
    """Every request to the first account that is not used up."""

    def setUp(self) -> None:
        super().setUp()
        self.policy = FirstUntilExhausted(world(self.accounts, self.time))

    def test_until_it_is_used_up(self) -> None:
        self.assertEqual([self.ask(name) for name in "abc"], list("111"))
        self.accounts[0].take(SHORT * 0.999, self.time())
        self.assertEqual(self.ask(), "1")
        self.fill(1)
        self.assertEqual([self.ask(name) for name in "ab"], list("22"))
        self.time.now += 5 * HOUR
        self.assertEqual(self.ask("b"), "1")


class PoolTests(PolicyTestCase):
    """The product."""

    def use(self, rules: PoolRules) -> None:
        """A pool with these rules."""
        self.policy = PoolPolicy(
            world(self.accounts, self.time),
            lambda world, members: QuietPool("pool", members, rules, world.now, world.rng.random),
        )

    def test_sessions_stay(self) -> None:
        self.use(PoolRules("round-robin"))
        self.assertEqual([self.ask(name) for name in "aabacb"], list("112132"))

    def test_sessions_move_at_a_429_and_stay_there(self) -> None:
        self.use(PoolRules("round-robin"))
        self.assertEqual(self.ask("a"), "1")
        self.fill(1)  # unknown to the proxy
        self.assertEqual(self.ask("a"), "2")
        self.time.now += 6 * HOUR
        self.assertEqual(self.ask("a"), "2")

    def test_it_pauses_at_its_reserve(self) -> None:
        self.use(PoolRules("round-robin"))
        self.ask("a")
        self.accounts[0].take(SHORT * 0.985, self.time())
        self.assertEqual([self.ask("a"), self.ask("a")], list("12"))

    def test_the_largest_is_used_first(self) -> None:
        self.accounts[1].take(WEEKLY * 0.1, self.time() - 6 * HOUR)
        self.accounts[0].take(WEEKLY * 0.2, self.time() - 6 * HOUR)
        self.accounts[2].take(WEEKLY * 0.2, self.time() - 6 * HOUR)
        self.use(PoolRules("least-used"))
        self.assertEqual(self.ask("a"), "2")

    def test_refused_until_the_first_reset(self) -> None:
        self.use(PoolRules("least-used"))
        self.fill(1, 2, 3)
        outcome = self.policy.take(Asked("alice", "a", None, "sonnet"))
        self.assertEqual(outcome, Refused(BEGIN + 5 * HOUR))


class IdeaTests(PolicyTestCase):
    """The pool with other scores."""

    def use(self, idea: Idea) -> None:
        """A pool with this idea."""
        self.policy = PoolPolicy(
            world(self.accounts, self.time), lambda world, members: IdeaPool(world, members, idea)
        )

    def test_the_score_decides_and_sees_who_is_at_work(self) -> None:
        self.use(Idea("fewest", lambda candidate, active, now: -active))
        self.assertEqual([self.ask(name) for name in "abcaaad"], list("1231111"))
        self.time.now += HOUR
        self.assertEqual(self.ask("b"), "2")
        self.assertEqual([self.ask(name) for name in "ef"], list("13"))

    def test_a_cold_session_is_placed_anew(self) -> None:
        best = [1.0, 0.0]
        self.use(
            Idea("scripted", lambda candidate, active, now: best[candidate.tag != "pro-1"], leaves_after=COLD)
        )
        self.assertEqual(self.ask("a"), "1")
        best[:] = [0.0, 1.0]
        self.time.now += COLD - 1
        self.assertEqual(self.ask("a"), "1")
        self.time.now += COLD + 1
        self.assertEqual(self.ask("a"), "2")


class ContenderTests(SynchronousTestCase):
    """The list of them."""

    def test_each_serves(self) -> None:
        self.assertEqual(len({contender.name for contender in CONTENDERS}), len(CONTENDERS))
        kinds = {contender.kind for contender in CONTENDERS}
        self.assertEqual(kinds, {"ccmproxy", "naive", "idea"})
        for contender in CONTENDERS:
            members, time = accounts("pro", "max_5x"), Time()
            policy = contender.make(world(members, time))
            outcome = policy.take(Asked("alice", "s", None, "sonnet"))
            self.assertIsInstance(outcome, Served, contender.name)
            self.assertEqual(len(policy.credentials), 0 if contender.kind == "naive" else 2)
