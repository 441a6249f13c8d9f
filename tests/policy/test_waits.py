"""Short waits are told to those who wait (spec 12.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy import waits as module
from ccmproxy.policy.waits import LONGEST_SHORT_WAIT, TOLD_PERIOD, ToldToWait, WaitingClient, told_wait, waits

CLIENTS = (
    WaitingClient("codex_exec", (0, 169), "observed"),
    WaitingClient("OpenAI/Python", (3, 54), "observed"),
)


class WaitsTests(SynchronousTestCase):
    """Which clients are known to wait."""

    def test_by_product_and_version(self) -> None:
        for agent, expected in (
            ("codex_exec/0.169.0 (Debian)", True),
            ("codex_exec/0.171.2", True),
            ("codex_exec/0.169", True),
            ("codex_exec/1", True),
            ("codex_exec/0.169.0-alpha.3", True),
            ("OpenAI/Python 3.54.0", True),
            ("codex_exec/0.148.0", False),
            ("codex_exec/0", False),
            ("codex_exec/", False),
            ("codex_exec/v1.0", False),
            ("codex_exec", False),
            ("xcodex_exec/0.169.0", False),
            ("codex_executor/0.169.0", False),
            ("codex_exec/123456789012", False),
            ("OpenAI/Python 2.0", False),
            ("", False),
        ):
            self.assertIs(waits(CLIENTS, agent), expected, agent)

    @given(st.text(max_size=30), st.sampled_from(["", "codex_exec/", "codex_exec ", "codex_exec/0."]))
    def test_never_raises(self, rest: str, start: str) -> None:
        waits(CLIENTS, start + rest)

    def test_a_long_version_costs_little(self) -> None:
        waits(CLIENTS, "codex_exec/" + "1." * 500_000 + "x" + "9" * 500_000)


class ToldWaitTests(SynchronousTestCase):
    """What they are told: N + random 0…max(2, N/4), at most 60."""

    @given(
        st.floats(min_value=0, max_value=1e12),
        st.floats(min_value=0, max_value=1, exclude_max=True),
    )
    def test_spread(self, seconds: float, luck: float) -> None:
        told = told_wait(seconds, lambda: luck)
        whole = min(60, max(1, -int(-seconds // 1)))
        self.assertGreaterEqual(told, whole)
        self.assertLessEqual(told, min(LONGEST_SHORT_WAIT, whole + max(2, whole / 4)))

    def test_both_ends_are_reached(self) -> None:
        for seconds, least, most in ((0.0, 1, 3), (1.2, 2, 4), (20.0, 20, 25), (59.0, 59, 60)):
            self.assertEqual(told_wait(seconds, lambda: 0.0), least)
            self.assertEqual(told_wait(seconds, lambda: 0.999), most)


class ToldTests(SynchronousTestCase):
    """Once per session and minute; the next refusal fails over."""

    def test_once_a_minute(self) -> None:
        told = ToldToWait()
        self.assertTrue(told.may_tell("alice", "s", 1000.0))
        self.assertFalse(told.may_tell("alice", "s", 1000.0 + TOLD_PERIOD - 1))
        self.assertTrue(told.may_tell("alice", "s", 1000.0 + TOLD_PERIOD))
        self.assertFalse(told.may_tell("alice", "s", 1001.0 + TOLD_PERIOD), "it was told anew")

    def test_sessions_and_users_are_apart(self) -> None:
        told = ToldToWait()
        for user, session in (("alice", "s"), ("alice", "t"), ("bob", "s")):
            self.assertTrue(told.may_tell(user, session, 0.0))

    def test_a_clock_that_was_set_back_silences_nobody(self) -> None:
        told = ToldToWait()
        self.assertTrue(told.may_tell("alice", "s", 1000.0))
        self.assertTrue(told.may_tell("alice", "s", 10.0))

    def test_only_so_many_are_remembered(self) -> None:
        self.patch(module, "MOST_TOLD", 3)
        told = ToldToWait()
        for number in range(4):
            told.may_tell("alice", str(number), 0.0)
        self.assertTrue(told.may_tell("alice", "0", 1.0), "the oldest was forgotten")
        self.assertFalse(told.may_tell("alice", "3", 1.0))
