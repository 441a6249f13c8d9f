"""Used-up accounts: what clients are told, and when requests are interrupted or served again (spec 4.2, 4.4, 4.6)."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.retry import LeaseOutcome
from tests.conversation import Response, World
from tests.proxy.raw_upstream import RawUpstream, http_response

FAMILY = "anthropic-ratelimit-unified-"
OAUTH = (("anthropic-beta", "claude-code-20250219,oauth-2025-04-20"),)
HOUR = 3600.0


def family(response: Response) -> dict[str, str]:
    """The rate-limit headers of a response, by their names without the common prefix."""
    return {
        name.decode().lower()[len(FAMILY) :]: value.decode()
        for name, value in response.headers
        if name.decode().lower().startswith(FAMILY)
    }


class RateLimitCase(SynchronousTestCase):
    """Checks that several tests share."""

    def assert_told(self, response: Response, wait: str) -> None:
        """Check that the client is told once, in the dialect's format, when to retry."""
        self.assertEqual((response.status, response.error["type"]), (429, "rate_limit_error"))
        self.assertEqual(response.error["message"], f"all credentials rate-limited, earliest reset in {wait}")
        self.assertEqual(response.header("x-should-retry"), "false")
        self.assertEqual(response.header("x-ccm-error"), "rate_limited")
        self.assertEqual(response.header("x-ccm-request-id"), response.json()["request_id"])


class ExhaustedTests(RateLimitCase):
    """An account whose window is used up."""

    def test_the_client_is_told_once(self) -> None:
        world = World(self)
        world.login.exhaust("five_hour", 2 * HOUR + 13 * 60)
        response = world.answer()
        self.assert_told(response, "2h13m")
        self.assertEqual(family(response), {})
        self.assertIsNone(response.header("retry-after"))
        self.assertEqual(world.results(), ["rate_limited"])
        self.assertEqual(world.account.outcomes[LeaseOutcome.REFUSED], 1)

    def test_a_client_that_speaks_oauth_is_told_in_headers(self) -> None:
        world = World(self)
        world.login.exhaust("five_hour", 2 * HOUR)
        response = world.answer(headers=OAUTH)
        self.assert_told(response, "2h")
        fields = family(response)
        self.assertEqual((fields["status"], fields["representative-claim"]), ("rejected", "five_hour"))
        self.assertEqual(fields["5h-reset"], str(int(world.clock.seconds() + 2 * HOUR)))
        self.assertEqual(fields["reset"], fields["5h-reset"])

    def test_the_next_request_does_not_touch_the_upstream(self) -> None:
        world = World(self)
        world.login.exhaust("five_hour", HOUR)
        world.answer()
        world.network.advance(600)
        asked = len(world.simulator.requests.of("turn"))
        self.assert_told(world.answer(), "50m")
        self.assertEqual(len(world.simulator.requests.of("turn")), asked)

    def test_after_the_reset_it_is_served_again(self) -> None:
        """F7: a reset that is hours away is reported to the client at once, and not waited for."""
        world = World(self)
        world.login.exhaust("seven_day", 30 * HOUR)
        self.assert_told(world.answer(), "1d6h")
        world.network.advance(30 * HOUR - 10)
        self.assertEqual(world.answer().status, 429)
        world.network.advance(20)
        self.assertEqual(world.answer().status, 200)

    def test_an_account_that_is_known_to_be_used_up_is_not_asked_at_all(self) -> None:
        world = World(self, start=False)
        world.login.exhaust("five_hour", HOUR)
        world.start()
        self.assert_told(world.answer(), "1h")
        self.assertEqual(world.simulator.requests.of("turn"), [])

    def test_the_window_that_the_headers_of_a_served_answer_show_as_full(self) -> None:
        """At its cap, the account pauses although the upstream would still serve (reserve)."""
        world = World(self)
        world.login.set_utilization("five_hour", 99, HOUR)
        self.assertEqual(world.answer().status, 200)
        self.assert_told(world.answer(), "1h")
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_an_explicit_reset_wins_over_any_default(self) -> None:
        """F46: neither a short Retry-After in the same response nor a default shortens a window of hours."""
        world = World(self)
        world.login.exhaust("five_hour", 5 * HOUR)
        self.assert_told(world.answer("[[simulate:exhausted;retry_after=20]]"), "5h")
        world.account.rate_limited(world.clock.seconds() + 60, False)
        for _ in range(4):
            world.network.advance(HOUR)
            self.assertEqual(world.answer().status, 429)
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)
        world.network.advance(HOUR + 10)
        self.assertEqual(world.answer().status, 200)


class BurstTests(RateLimitCase):
    """429s without data about windows."""

    def burst(self, world: World, *headers: tuple[str, str]) -> RawUpstream:
        body = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}'
        return RawUpstream(world, [http_response(429, *headers, body=body)])

    def assert_passed_on(self, response: Response) -> None:
        """Check that the client got the upstream's own answer."""
        self.assertEqual((response.status, response.error["type"]), (429, "rate_limit_error"))
        self.assertEqual(response.error["message"], "slow down")
        self.assertEqual(family(response), {})

    def end_burst(self, world: World) -> None:
        world.upstream.factory = world.simulator.factory
        for pump in world.upstream.connections:
            pump.server.abortConnection()
        world.network.flush()

    def test_a_burst_is_passed_on(self) -> None:
        """F5: where nobody else can be asked, the client gets it as it came, and backs off by itself; the account is
        neither taken for used up nor left alone, as nothing tells whether the burst is about it (spec 12.2)."""
        world = World(self)
        self.burst(world)
        self.assert_passed_on(world.answer())
        self.assertTrue(world.account.is_usable())
        self.end_burst(world)
        self.assertEqual(world.answer().status, 200)

    def test_retry_after_of_a_burst(self) -> None:
        world = World(self)
        self.burst(world, ("Retry-After", "30"), ("x-should-retry", "false"))
        response = world.answer()
        self.assert_passed_on(response)
        self.assertEqual((response.header("retry-after"), response.header("x-should-retry")), ("30", "false"))

    def test_a_retry_after_of_hours_is_answered_at_once(self) -> None:
        """F7: the request does not wait for it, and neither does any later one."""
        world = World(self)
        self.burst(world, ("Retry-After", "36000"))
        before = world.clock.seconds()
        self.assert_passed_on(world.answer())
        self.assertEqual(world.clock.seconds(), before)
        self.end_burst(world)
        self.assertEqual(world.answer().status, 200)

    def test_malformed_resets_are_ignored(self) -> None:
        for name, value in (
            ("Retry-After", "soon"),
            ("Retry-After", "-5"),
            ("Retry-After", "9" * 400),
            (FAMILY + "reset", "NaN"),
            (FAMILY + "5h-reset", "1e999"),
            (FAMILY + "5h-reset", "17x"),
            (FAMILY + "representative-claim", "\xff"),
        ):
            world = World(self)
            self.burst(world, (name, value))
            self.assertEqual(world.answer().status, 429, (name, value))
            world.upstream.factory = world.simulator.factory
            world.network.advance(601)
            self.assertEqual(world.answer().status, 200, (name, value))

    def test_a_429_of_one_request_is_relayed_and_marks_nothing(self) -> None:
        """Spec 4.7: ``x-should-retry: true`` and no data of the family."""
        world = World(self)
        upstream = self.burst(world, ("x-should-retry", "true"), ("retry-after", "3"), ("request-id", "r"))
        response = world.answer()
        self.assertEqual((response.status, response.error["message"]), (429, "slow down"))
        self.assertEqual(response.header("x-should-retry"), "true")
        self.assertEqual(response.header("retry-after"), "3")
        self.assertIsNone(response.header("x-ccm-error"))
        self.assertTrue(world.account.is_usable())
        world.answer()
        # Besides, the usage endpoint is asked, which may know more of it (spec 12.1).
        turns = [data for data in upstream.received if data.startswith(b"POST /v1/messages")]
        self.assertEqual((len(turns), len(upstream.received)), (2, 3))
        self.assertEqual(world.results(), ["failed", "failed"])

    def test_overloads_do_not_block(self) -> None:
        """F6: an overload does not block the account, even with a Retry-After."""
        world = World(self)
        for _ in range(3):
            self.assertEqual(world.answer("[[simulate:unavailable;retry_after=600]]").status, 503)
        self.assertEqual(world.answer().status, 200)


class ModelWindowTests(RateLimitCase):
    """The window of one model makes that model unusable, not the account (spec 4.7)."""

    def world(self) -> World:
        world = World(self, start=False)
        login = world.simulator.add_account("bob", model_windows=("seven_day_opus",))
        world.login = world.logins[0] = login
        world.write_login()
        world.start()
        return world

    def test_the_other_models_go_on(self) -> None:
        world = self.world()
        world.login.exhaust("seven_day_opus", 24 * HOUR)
        self.assert_told(world.answer(model="claude-opus-4-6"), "1d")
        self.assertEqual(world.answer(model="claude-haiku-4-5").status, 200)
        asked = len(world.simulator.requests.of("turn"))
        self.assert_told(world.answer(model="claude-opus-5"), "1d")
        self.assertEqual(len(world.simulator.requests.of("turn")), asked)
        world.network.advance(24 * HOUR + 1)
        self.assertEqual(world.answer(model="claude-opus-5").status, 200)

    def test_requests_of_other_models_are_not_interrupted(self) -> None:
        world = self.world()
        waiting = world.ask("[[simulate:slow;seconds=5]]", model="claude-haiku-4-5")
        world.login.exhaust("seven_day_opus", 24 * HOUR)
        self.assertEqual(world.answer(model="claude-opus-4-6").status, 429)
        world.network.advance(5)
        self.assertEqual(waiting.responses()[0].status, 200)

    def test_a_window_that_fits_no_model_of_ours(self) -> None:
        """A limit whose family matches no model name is reported to the client as a rate limit."""
        world = World(self)
        reset = str(int(world.clock.seconds() + 2 * HOUR))
        RawUpstream(
            world,
            [
                http_response(
                    429,
                    (FAMILY + "status", "rejected"),
                    (FAMILY + "representative-claim", "seven_day_oi"),
                    (FAMILY + "7d_oi-status", "rejected"),
                    (FAMILY + "7d_oi-reset", reset),
                    ("x-should-retry", "true"),
                )
            ],
        )
        self.assert_told(world.answer(), "2h")

    def test_a_model_that_is_served_from_paid_overage_alone(self) -> None:
        """The refusal names a window that has no model's name, while the account's own windows have room: the model
        that was asked for is not asked for there again before the reset, and other models go on (spec 12.1)."""
        world = World(self)
        reset = str(int(world.clock.seconds() + 2 * HOUR))
        upstream = RawUpstream(
            world,
            [
                http_response(
                    429,
                    (FAMILY + "status", "rejected"),
                    (FAMILY + "representative-claim", "seven_day_overage_included"),
                    (FAMILY + "reset", reset),
                    (FAMILY + "7d-status", "allowed"),
                    (FAMILY + "7d-utilization", "0.69"),
                    (FAMILY + "7d-reset", reset),
                    (FAMILY + "7d_oi-status", "rejected"),
                    (FAMILY + "7d_oi-utilization", "1.02"),
                    (FAMILY + "7d_oi-reset", reset),
                    ("retry-after", "7200"),
                ),
            ],
        )
        self.assert_told(world.answer(model="claude-fable-5-1"), "2h")
        self.assert_told(world.answer(model="claude-fable-5-1"), "2h")
        self.assertEqual(len(upstream.received), 1)
        world.upstream.factory = world.simulator.factory
        for pump in world.upstream.connections:
            pump.server.abortConnection()
        world.network.flush()
        self.assertEqual(world.answer(model="claude-haiku-4-5").status, 200)
        self.assert_told(world.answer(model="claude-fable-5-1"), "2h")

    def test_a_model_window_while_the_usage_endpoint_fails(self) -> None:
        world = self.world()
        world.simulator.faults.always("server_error", endpoint="usage")
        world.network.advance(2 * HOUR)
        self.assertEqual(world.account.snapshot(world.clock.seconds()).availability.reason, "poll_failed")
        world.login.exhaust("seven_day_opus", 24 * HOUR)
        self.assert_told(world.answer(model="claude-opus-4-6"), "1d")
        self.assertEqual(world.answer(model="claude-haiku-4-5").status, 200)

    def test_a_model_window_without_a_reset(self) -> None:
        world = World(self)
        RawUpstream(
            world,
            [
                http_response(
                    429,
                    (FAMILY + "status", "rejected"),
                    (FAMILY + "representative-claim", "seven_day_opus"),
                )
            ],
        )
        response = world.answer()
        self.assertEqual((response.status, response.error["type"]), (429, "rate_limit_error"))
        self.assertEqual(response.header("x-should-retry"), "false")


class InterruptTests(RateLimitCase):
    """Spec 5.3: waiting requests are cancelled, responses that have begun continue."""

    def test_waiting_requests_and_streams_go_on(self) -> None:
        """A window that is used up cancels nothing that the upstream has accepted (spec 12.3)."""
        world = World(self)
        running = world.ask("[[tokens:60]] [[simulate:stall;at=mid;seconds=30]]", stream=True)
        waiting = [world.ask("[[simulate:slow;seconds=20]]") for _ in range(5)]
        self.assertIn(b"message_start", running.received)
        self.assertFalse(running.responses()[0].complete)
        world.login.exhaust("five_hour")
        self.assert_told(world.answer(), "5h")
        self.assertEqual([client.received for client in waiting], [b""] * 5)
        states = [request.state for request in world.simulator.requests.of("turn")]
        self.assertNotIn("gone", states)
        world.network.advance(30)
        self.assertEqual([client.responses()[0].status for client in waiting], [200] * 5)
        self.assertTrue(running.responses()[0].complete)
        self.assertIn(b"message_stop", running.received)
        self.assertEqual(world.account.outcomes[LeaseOutcome.INTERRUPTED], 0)
        self.assertEqual(world.account.outcomes[LeaseOutcome.SERVED], 6)

    def test_failing_polls_interrupt_nobody(self) -> None:
        """F6: a failing usage endpoint says nothing about the account, so no request is cancelled or refused."""
        world = World(self)
        world.simulator.faults.always("server_error", endpoint="usage")
        world.network.advance(HOUR - 10)
        waiting = world.ask("[[simulate:slow;seconds=30]]")
        world.network.advance(20)
        self.assertEqual(world.account.snapshot(world.clock.seconds()).availability.reason, "poll_failed")
        self.assertEqual(waiting.received, b"")
        world.network.advance(10)
        self.assertEqual(waiting.responses()[0].status, 200)
        self.assertEqual(world.answer().status, 200)

    def test_failing_polls_do_not_open_a_reserve(self) -> None:
        """A window at its cap keeps the account unusable even if the usage endpoint fails."""
        world = World(self)
        world.login.set_utilization("seven_day", 99, resets_in=50 * HOUR)
        world.answer()
        self.assertEqual(world.answer().status, 429)
        world.simulator.faults.always("server_error", endpoint="usage")
        world.network.advance(HOUR + 10)
        self.assertEqual(world.answer().status, 429)

    def test_failing_polls_are_not_shown_as_a_limit(self) -> None:
        """F26: a served response does not say that everything is used up."""
        world = World(self)
        world.answer()
        self.assertEqual(family(world.answer())["status"], "allowed")
        world.simulator.faults.always("server_error", endpoint="usage")
        world.network.advance(HOUR + 10)
        response = world.answer()
        self.assertEqual((response.status, family(response)["status"]), (200, "allowed"))
        self.assertEqual(world.get("/ccm/v1/status").json()["five_hour_utilization"], 1)
        world.simulator.faults.clear()
        world.network.advance(120)
        self.assertEqual(family(world.answer())["status"], "allowed")

    def test_a_request_that_waits_for_a_token(self) -> None:
        """It was let in before the account was used up, and nobody else can serve it: the upstream says what it can. As
        it serves what was sent after the limit, the limit is over (spec 12.5)."""
        world = World(self)
        world.answer()
        world.expire_login()
        world.simulator.faults.next("slow;seconds=3", endpoint="token")
        waiting = world.ask()
        self.assertEqual(waiting.received, b"")
        world.account.rate_limited(world.clock.seconds() + HOUR, True)
        world.network.advance(3)
        self.assertEqual(waiting.responses()[0].status, 200)
        self.assertTrue(world.account.is_usable())

    def test_an_account_that_dies_under_a_session(self) -> None:
        """F9: when the login is removed, later requests are refused at once. What the upstream has accepted it may
        still answer, and nobody else could (spec 12.3)."""
        world = World(self)
        waiting = world.ask("[[simulate:slow;seconds=20]]", session="s")
        os.remove(world.path)
        world.until(lambda: not world.account.is_usable(), 5)
        response = world.answer(session="s")
        self.assertEqual((response.status, response.error["type"]), (400, "invalid_request_error"))
        self.assertEqual(response.header("x-ccm-error"), "credential_unavailable")
        world.network.advance(20)
        self.assertEqual(waiting.responses()[0].status, 200)
        world.write_login()
        world.network.advance(2)
        self.assertEqual(world.answer(session="s").status, 200)
