"""The whole service while the machine's clock is set: every duration goes on as if nothing had happened (spec 11, F65).

``tests.system.test_clock_jumps`` shows the same of timers, with real processes.
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.stored_login import FIRST_DELAY
from ccmproxy.credentials.polling import CLOCK_POLLS, POLL_INTERVAL
from ccmproxy.policy.authentication import THROTTLE_FAILURES, THROTTLE_SPAN
from ccmproxy.policy.sessions import SESSION_LIFE
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, Rests
from tests.conversation import World
from tests.pooled import PoolWorld

HOUR = 3600.0
#: What the clock is set by: 3 h and 20 h back, and 20 h forward.
JUMPS = (-3 * HOUR, -20 * HOUR, 20 * HOUR)


def polls(world: World) -> int:
    """How often the usage was polled."""
    return len(world.simulator.requests.of("usage"))


class JumpCase(SynchronousTestCase):
    """Tests that are made with each jump."""

    def worlds(self) -> list[tuple[float, World]]:
        """A world for each jump, with the jump."""
        return [(by, World(self)) for by in JUMPS]


class AccountTests(JumpCase):
    """What is remembered of an account."""

    def test_a_limit_of_a_minute(self) -> None:
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.simulator.faults.always("hang", endpoint="usage")  # A poll would lift the limit.
                world.account.rate_limited(world.surroundings.now() + 60, True)
                world.set_clock(by)
                self.assertEqual(world.answer().status, 429)
                world.network.advance(55)
                self.assertEqual(world.answer().status, 429)
                world.network.advance(10)
                self.assertEqual(world.answer().status, 200)
                world.close()

    def test_a_refused_account_is_polled_as_before(self) -> None:
        """After a minute, as far as the account is concerned; a poll for the clock has opened it before."""
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.simulator.faults.always("status;code=403", endpoint="usage")
                world.account.learn(AccountRefused("closed"))
                world.set_clock(by)
                before = polls(world)
                world.network.advance(50)
                self.assertEqual(polls(world), before)
                world.until(lambda: polls(world) > before, 300)  # noqa: B023
                world.close()

    def test_what_the_status_says_is_unix_time(self) -> None:
        """It is told anew, since the moment is another one on the new clock."""
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.simulator.faults.always("hang", endpoint="usage")
                world.account.rate_limited(world.surroundings.now() + 600, True)
                told = self.reset_at(world)
                world.set_clock(by)
                self.assertAlmostEqual(self.reset_at(world), told + by, delta=1)
                world.close()

    def reset_at(self, world: World) -> float:
        """When the account is usable again, by the status endpoint."""
        status = json.loads(world.get("/ccm/v1/status").body)
        return float(status["availability"]["reset_at"])

    def test_the_window_of_the_provider_stays(self) -> None:
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.login.exhaust("five_hour", 2 * HOUR)
                self.assertEqual(world.answer().status, 429)
                reset = world.account.state.limits.short.resets_at
                world.set_clock(by)
                self.assertEqual(world.account.state.limits.short.resets_at, reset)
                world.close()


class PollTests(JumpCase):
    """The usage endpoint."""

    def test_once_at_once_and_then_in_the_usual_rhythm(self) -> None:
        for by, world in self.worlds():
            with self.subTest(by=by):
                before = polls(world)
                world.set_clock(by)
                self.assertEqual(polls(world), before + 1)
                world.network.advance(POLL_INTERVAL - 10)
                self.assertEqual(polls(world), before + 1)
                world.network.advance(20)
                self.assertEqual(polls(world), before + 2)
                world.close()

    def test_the_back_off_after_failures(self) -> None:
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.simulator.faults.always("overloaded", endpoint="usage")
                world.account.poll_now()
                world.until(lambda: world.account.state.poll_failures == 1, 10)  # noqa: B023
                world.set_clock(by)
                world.until(lambda: world.account.state.poll_failures == 2, 10)  # noqa: B023
                world.until(lambda: world.account.state.poll_failures == 3, 125)  # noqa: B023
                world.close()

    def test_a_clock_that_never_rests(self) -> None:
        """F57: it does not cause a poll each time."""
        world = World(self)
        before = polls(world)
        for number in range(100):
            world.set_clock(3600.0 if number % 2 else -3600.0)
        self.assertLessEqual(polls(world) - before, CLOCK_POLLS + 1)

    def test_an_endpoint_that_has_asked_for_a_delay(self) -> None:
        """F26: it is not asked before, and not for hours longer either."""
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.simulator.faults.next("rate_limited;retry_after=600", endpoint="usage")
                world.account.poll_now()
                world.network.flush()
                before = polls(world)
                world.set_clock(by)
                world.network.advance(590)
                self.assertEqual(polls(world), before)
                world.until(lambda: polls(world) > before, POLL_INTERVAL + 10)  # noqa: B023
                world.close()


class LoginTests(JumpCase):
    """The credential file, and refreshes."""

    def test_the_file_is_read_again(self) -> None:
        """Before the watcher has looked, which would take its time."""
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.login.expire_access_token()
                world.write_login()
                before = len(world.simulator.requests.of("token"))
                world.set_clock(by)
                self.assertEqual(len(world.simulator.requests.of("token")), before + 1)
                world.close()

    def test_a_refresh_that_is_put_off(self) -> None:
        for by, world in self.worlds():
            with self.subTest(by=by):
                world.simulator.faults.next("overloaded", endpoint="token")
                world.expire_login()
                self.assertNotEqual(world.answer().status, 200)
                asked = len(world.simulator.requests.of("token"))
                world.set_clock(by)
                world.network.advance(FIRST_DELAY)
                self.assertEqual(len(world.simulator.requests.of("token")), asked + 1)
                self.assertEqual(world.answer().status, 200)
                world.close()


class SessionTests(SynchronousTestCase):
    """Sticky sessions of a pool."""

    def test_they_live_and_die_as_before(self) -> None:
        for by in JUMPS:
            with self.subTest(by=by):
                world = PoolWorld(self, strategy="round-robin")
                first = world.served("s")
                for _ in range(3):
                    world.set_clock(by)
                    self.assertEqual(world.served("s"), first)
                world.network.advance(SESSION_LIFE / 2)
                self.assertEqual(len(world.entry._pools["pool"].sessions("alice")), 1)
                world.network.advance(SESSION_LIFE / 2 + 10)
                self.assertEqual(world.entry._pools["pool"].sessions("alice"), [])
                world.close()

    def test_warm_sessions_stay_warm(self) -> None:
        for by in JUMPS:
            with self.subTest(by=by):
                world = PoolWorld(self, strategy="fallback")
                self.assertEqual(world.served("warm"), "a1")
                world.set_clock(by)
                pool = world.entry._pools["pool"]
                ((_, assignment),) = pool.sessions("alice")
                now = world.surroundings.now()
                self.assertTrue(assignment.is_warm("a1", now))
                self.assertFalse(assignment.is_warm("a1", now + 301))
                world.close()

    def test_a_rest(self) -> None:
        """Cold work goes elsewhere for as long as it would have done."""
        for by in JUMPS:
            with self.subTest(by=by):
                world = PoolWorld(self, strategy="fallback")
                self.assertEqual(world.served("other"), "a1")
                told: list[Combination] = []
                self.patch(world.accounts[0], "sending", told.append)
                self.assertEqual(world.served("another"), "a1")
                world.accounts[0].learn(Rests(told[0], "alice", 40.0))
                world.set_clock(by)
                self.assertEqual(world.served("cold"), "a2")
                world.network.advance(30)
                self.assertEqual(world.served("colder"), "a2")
                world.network.advance(15)
                self.assertEqual(world.served("coldest"), "a1")
                world.close()


class ThrottleTests(JumpCase):
    """Addresses that have guessed tokens."""

    def test_for_as_long_as_before(self) -> None:
        for by, world in self.worlds():
            with self.subTest(by=by):
                for _ in range(THROTTLE_FAILURES + 1):
                    status = world.get("/v1/models", token="wrong").status
                self.assertEqual(status, 429)
                world.set_clock(by)
                self.assertEqual(world.get("/v1/models", token="wrong").status, 429)
                world.network.advance(THROTTLE_SPAN + 1)
                self.assertEqual(world.get("/v1/models", token="wrong").status, 401)
                world.close()
