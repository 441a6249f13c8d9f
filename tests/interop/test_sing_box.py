"""Lending to sing-box and borrowing from it, with stand-ins for both (spec 14, "Borrowers read our refusals")."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.usage_windows import weekly_window
from tests.federated import Federation, Instance, external, user
from tests.interop.sing_box import UPGRADE_PATIENCE, Borrower, BorrowerCrashed, Lender

A, B, LENDER = 8081, 8082, 7000
HOUR = 3600.0
#: Users of ours that are sing-box: the one says so, the other lends to us as well.
INSTANCES = ("b", "c")
PROMPT_TOO_LONG = json.dumps(
    {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}}
).encode()


class LendingCase(SynchronousTestCase):
    """``a`` is ours and lends; users ``b`` and ``c`` are instances of sing-box, ``alice`` is a person."""

    def lending(self, kind: str = "ccm", more: str = "") -> tuple[Federation, Instance]:
        """An instance with one account, and its federation."""
        federation = Federation(self, kind)
        account = federation.account("a1") if kind == "ccm" else federation.codex_account("a1")
        a = federation.add(
            A,
            [account, external("theirs", "c", url=f"http://127.0.0.1:{LENDER}")],
            [
                user("b", "a1", instance=True),
                user("c", "a1", external_credential="theirs"),
                user("alice", "a1"),
            ],
            more,
        )
        return federation, a


class ClaudeBorrowerTests(LendingCase):
    """Its borrower must neither crash on a 429 of ours nor leave us alone for longer than we have nothing to give."""

    def test_used_up(self) -> None:
        for window, seconds in (("five_hour", 2 * HOUR), ("seven_day", 2 * HOUR), ("seven_day", 100 * HOUR)):
            federation, a = self.lending()
            federation.logins["a1"].exhaust(window, seconds)
            for name in INSTANCES:
                for fields in ((), ("anthropic-beta: oauth-2025-04-20",)):
                    borrower = Borrower(federation, a, name)
                    response = borrower.ask("hello", "", *fields)
                    self.assertEqual(response.header("x-ccm-error"), "rate_limited")
                    self.assertAlmostEqual(borrower.leaves_alone, seconds, delta=2)
            federation.close()

    def test_a_client_of_its_own_that_speaks_oauth_learns_the_same(self) -> None:
        """Spec 12.2: ``rejected`` and the window at its cap are told together, or not at all."""
        federation, a = self.lending()
        federation.logins["a1"].exhaust("seven_day", 100 * HOUR)
        response = Borrower(federation, a, "b").ask("hello", "", "anthropic-beta: oauth-2025-04-20")
        family = "anthropic-ratelimit-unified-"
        self.assertEqual(response.header(f"{family}status"), "rejected")
        self.assertEqual(response.header(f"{family}representative-claim"), "7d")
        self.assertEqual(float(response.header(f"{family}7d-utilization") or 0), 1.0)
        self.assertEqual(response.header(f"{family}reset"), response.header(f"{family}7d-reset"))

    def test_one_model_is_used_up(self) -> None:
        """The others are served: it must not leave us alone for days."""
        federation, a = self.lending()
        login = federation.logins["a1"]
        login.windows["seven_day_opus"] = weekly_window(login.plan.size / 2, 1.0)
        login.exhaust("seven_day_opus", 100 * HOUR)
        borrower = Borrower(federation, a, "b")
        for fields in ((), ("anthropic-beta: oauth-2025-04-20",)):
            response = borrower.ask("hello", "claude-opus-4-5", *fields)
            self.assertEqual(response.status, 429)
            self.assertLessEqual(borrower.leaves_alone, 61)
            self.assertNotEqual(response.header("anthropic-ratelimit-unified-status"), "rejected")
        self.assertEqual(borrower.ask("hello", "claude-haiku-4-5").status, 200)

    def test_a_burst(self) -> None:
        """The provider's 429 without data is relayed: a moment's pause, with or without a Retry-After."""
        for fault, least, most in (("rate_limited", 1, 60), ("rate_limited;retry_after=17", 17, 61)):
            for name in INSTANCES:
                federation, a = self.lending()
                federation.simulator.faults.next(fault)
                borrower = Borrower(federation, a, name)
                response = borrower.ask()
                self.assertEqual(response.status, 429)
                self.assertTrue(least <= borrower.leaves_alone <= most, (fault, borrower.leaves_alone))
                self.assertIsNone(response.header("anthropic-ratelimit-unified-status"))
                federation.close()

    def test_too_many_requests_at_a_time(self) -> None:
        federation, a = self.lending(more="    max_connections_per_user: 1")
        borrower = Borrower(federation, a, "b")
        borrower.send("[[simulate:hang]]")
        self.assertEqual(borrower.ask().header("x-ccm-error"), "too_many_requests")
        self.assertLessEqual(borrower.leaves_alone, 2)

    def test_people_do_not_see_it(self) -> None:
        """Spec 12.2: their clients take any such field for the cause of the error."""
        for fault in ("rate_limited", "rate_limited;retry_after=17", ""):
            federation, a = self.lending()
            if fault:
                federation.simulator.faults.always(fault)
            else:
                federation.logins["a1"].exhaust("five_hour", 2 * HOUR)
            response = a.answer()
            self.assertEqual(response.status, 429)
            told = [name for name, _ in response.headers if name.lower().startswith(b"anthropic-ratelimit-")]
            self.assertEqual(told, [], fault)
            with self.assertRaises(BorrowerCrashed):
                Borrower(federation, a, "alice").ask()
            federation.close()

    def test_what_has_passed_an_instance(self) -> None:
        """The hop header shows it, whoever the user is."""
        federation, a = self.lending()
        federation.logins["a1"].exhaust("five_hour", 2 * HOUR)
        borrower = Borrower(federation, a, "alice")
        borrower.ask("hello", "", "X-CCM-Hops: 1")
        self.assertAlmostEqual(borrower.leaves_alone, 2 * HOUR, delta=2)

    def test_a_cold_start(self) -> None:
        """Before the first poll was answered, we are not used up; that poll is tried again within seconds."""
        federation = Federation(self)
        federation.simulator.faults.next("server_error", endpoint="usage")
        a = federation.add(
            A, [federation.account("a1")], [user("b", "a1", instance=True), user("alice", "a1")]
        )
        borrower = Borrower(federation, a, "b")
        told = borrower.status()
        self.assertEqual((told["five_hour_utilization"], told["weekly_utilization"]), (0, 0))
        self.assertGreater(told["plan_weight"], 0)
        # People are told the same, and that it is not known; ccmproxy is told so with null.
        self.assertIs(a.get("/ccm/v1/status").json()["known"], False)
        ours = a.get("/ccm/v1/status", user_agent="ccmproxy/1.0").json()
        self.assertIsNone(ours["five_hour_utilization"])
        self.assertEqual(ours["plan_weight"], told["plan_weight"])
        federation.logins["a1"].set_utilization("five_hour", 40.0, HOUR)
        federation.pass_time(5)
        self.assertAlmostEqual(borrower.status()["five_hour_utilization"], 41, delta=1)
        self.assertNotIn("known", a.get("/ccm/v1/status").json())


class CodexBorrowerTests(LendingCase):
    """The same for Codex, and refused upgrades."""

    def test_used_up(self) -> None:
        federation, a = self.lending("ocm")
        federation.simulator.faults.next("exhausted;window=five_hour")
        for name in INSTANCES:
            borrower = Borrower(federation, a, name)
            response = borrower.ask()
            self.assertEqual(response.json()["error"]["type"], "usage_limit_reached")
            resets_at = response.json()["error"]["resets_at"]
            self.assertEqual(borrower.alone_until, resets_at)
            self.assertGreater(borrower.leaves_alone, 60)

    def test_a_burst(self) -> None:
        for name in INSTANCES:
            federation, a = self.lending("ocm")
            federation.simulator.faults.next("rate_limited")
            borrower = Borrower(federation, a, name)
            response = borrower.ask()
            self.assertEqual(response.status, 429)
            self.assertTrue(1 <= borrower.leaves_alone <= 60)
            self.assertIsNone(response.header("x-codex-primary-used-percent"))
            federation.close()

    def test_people_do_not_see_it(self) -> None:
        federation, a = self.lending("ocm")
        federation.simulator.faults.next("rate_limited")
        response = Borrower(federation, a, "alice").send().responses()[-1]
        self.assertEqual(response.status, 429)
        self.assertIsNone(response.header("x-codex-active-limit"))
        self.assertIsNone(response.header("x-codex-primary-reset-at"))

    def test_a_refused_upgrade(self) -> None:
        """It reads the answer until the connection ends: that must be at once."""
        federation, a = self.lending("ocm")
        federation.simulator.faults.next("exhausted;window=five_hour", endpoint="websocket")
        for name in INSTANCES:
            status, waited = Borrower(federation, a, name).upgrade()
            self.assertGreaterEqual(status, 400)
            self.assertLess(waited, 2, f"of {UPGRADE_PATIENCE} s")
        self.assertLess(Borrower(federation, a, "wrong").upgrade()[1], 2)


class LenderTests(SynchronousTestCase):
    """``b`` is ours, and borrows from sing-box before it uses its own account."""

    kind = "ccm"

    def setUp(self) -> None:
        self.begin()

    def begin(self, fails_polls: bool = False) -> None:
        """Start ``b``. ``fails_polls``: the lender does not tell its status."""
        self.federation = federation = Federation(self, self.kind)
        self.answers = [(400, PROMPT_TOO_LONG)]
        self.lender = Lender(federation, LENDER, lambda body: self.answers[0])
        self.lender.fails_polls = fails_polls
        account = federation.account("b1") if self.kind == "ccm" else federation.codex_account("b1")
        self.b = federation.add(
            B,
            [
                account,
                external("friend", "b", url=f"http://127.0.0.1:{LENDER}"),
                "{tag: both, type: balancer, credentials: [friend, b1], strategy: fallback}",
            ],
            [user("alice", "both", allow_external_usage=True)],
        )
        self.client = Borrower(federation, self.b, "alice")  # a client like any other

    def turn(self) -> int:
        """Send a turn as a client does, and return the status of the answer."""
        return self.client.send().responses()[-1].status

    def test_a_429_without_a_word(self) -> None:
        """It may stand for a 400: another member serves, the lender is polled at once, and nothing is remembered."""
        self.federation.pass_time(10)
        polls = self.lender.polls
        for number in (1, 2, 3):
            self.assertEqual(self.turn(), 200)
            self.assertEqual(self.lender.turns, number, "it is asked first again")
            self.federation.settle()
        self.assertEqual(self.lender.polls, polls + 1, "and one poll will do for all of a moment")
        self.assertTrue(self.b.external("friend").is_usable())
        self.assertTrue(self.b.external("friend").state.holds.is_empty)
        served = json.dumps({"type": "message", "usage": {"input_tokens": 1}}).encode()
        self.answers[:] = [(200, served)]
        before = len(self.federation.turns())
        self.assertEqual(self.turn(), 200)
        self.assertEqual(len(self.federation.turns()), before, "the lender has served")

    def test_a_400_of_the_client(self) -> None:
        """The own account answers what the provider has said to the lender, too: the client learns it."""
        self.federation.simulator.faults.next("too_long")
        self.assertEqual(self.turn(), 400)
        self.assertEqual(self.lender.turns, 1)
        self.assertTrue(self.b.external("friend").is_usable())

    def test_a_lender_without_an_account(self) -> None:
        """Its own 400: left alone, and asked every five minutes whether that has changed."""
        self.lender.is_refused = True
        self.assertEqual(self.turn(), 200)
        self.assertFalse(self.b.external("friend").is_usable())
        self.assertEqual(self.turn(), 200)
        self.assertEqual(self.lender.turns, 1)
        self.lender.is_refused = False
        self.federation.pass_time(302, 2)
        self.assertTrue(self.b.external("friend").is_usable())

    def test_a_start_at_which_it_does_not_answer(self) -> None:
        self.begin(fails_polls=True)
        friend = self.b.external("friend")
        self.lender.fails_polls = False
        self.assertFalse(friend.is_usable())
        self.federation.pass_time(4)
        self.assertTrue(friend.is_usable())


class CodexLenderTests(LenderTests):
    """The same for Codex."""

    kind = "ocm"
