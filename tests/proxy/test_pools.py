"""Pools of accounts: clients do not notice that an account is used up while another has room (spec 4.4, 6)."""

from __future__ import annotations

import json
import os
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.watch import POLL_INTERVAL, SETTLE
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.simulator.steps import Pace
from ccmproxy.state.inputs import TokenUnavailable
from tests.conversation import TOKEN, Client, message_request
from tests.pooled import BOB, PoolWorld

MIXED = ("pro", "max_5x", "max_20x", "team", "max_20x")


class StickinessTests(SynchronousTestCase):
    """Sticky sessions: a conversation stays on its account."""

    def test_a_session_stays(self) -> None:
        world = PoolWorld(self)
        first = world.served("s")
        world.served("t")
        for _ in range(5):
            self.assertEqual(world.served("s"), first)

    def test_new_sessions_go_where_most_is_left(self) -> None:
        world = PoolWorld(self, ("pro", "max_20x"))
        self.assertEqual(world.served("s"), "a2")

    def test_a_session_is_told_of_with_its_scores(self) -> None:
        world = PoolWorld(self)
        world.served("s")
        world.served("s")
        lines = [event for event in world.events if "is served by" in str(event.get("log_format"))]
        self.assertEqual(len(lines), 1)
        self.assertIn("least-used, scores a1 ", lines[0]["reason"])
        self.assertIn("a2 ", lines[0]["reason"])

    def test_subagents_stay_with_their_session(self) -> None:
        """F11: subagents send the session's id, so they share its account and its prompt cache."""
        world = PoolWorld(self)
        first = world.served("s")
        for agent in ("x", "y", "z"):
            headers = (("X-Claude-Code-Agent-Id", agent),)
            self.assertEqual(world.served("s", headers=headers), first)

    def test_subagents_may_be_spread(self) -> None:
        """F11: the operator may choose that subagents count as separate sessions."""
        world = PoolWorld(self, spread=True)
        world.served("s")
        by = {world.served("s", headers=(("X-Claude-Code-Agent-Id", agent),)) for agent in "abcd"}
        self.assertEqual(by, {"a1", "a2"})

    def test_ones_own_sessions_only(self) -> None:
        world = PoolWorld(self)
        tag = world.served("alices")
        self.assertEqual(world.where(), {"alices": tag})
        self.assertEqual(world.where(BOB), {})
        listed = world.get("/ccm/v1/sessions").json()["sessions"][0]
        self.assertEqual(listed["since"], int(world.clock.seconds()))
        self.assertEqual(listed["models"], ["claude-opus-4-5"])

    def test_the_list_needs_a_token(self) -> None:
        world = PoolWorld(self)
        self.assertEqual(world.get("/ccm/v1/sessions", token=None).status, 401)
        self.assertEqual(world.get("/ccm/v1/sessions", method="POST").status, 405)


class ExhaustionTests(SynchronousTestCase):
    """Accounts that are used up, one after the other."""

    def test_one_of_two(self) -> None:
        """The request that meets the 429 is served by another account, and the session stays on that account."""
        world = PoolWorld(self)
        first = world.served("s")
        world.exhaust(first)
        second = world.served("s")
        self.assertNotEqual(second, first)
        self.assertEqual(len(world.turns()), 3)
        self.assertEqual(world.served("s"), second)
        self.assertEqual(len(world.turns()), 4)
        self.assertEqual(set(world.results()), {"served"})
        moved = [event for event in world.events if "moves from" in str(event.get("log_format"))]
        self.assertEqual([(event["before"], event["credential"]) for event in moved], [(first, second)])

    def test_all_but_one_of_five(self) -> None:
        world = PoolWorld(self, MIXED)
        for tag in ("a1", "a2", "a3", "a5"):
            world.exhaust(tag)
        for session in "stuvw":
            self.assertEqual(world.served(session), "a4")
        # Each of the other accounts was tried at most once.
        self.assertLessEqual(len(world.turns()), 5 + 4)

    def test_all_of_fifty(self) -> None:
        """One request is sent to eight accounts at most (spec 12.1), and its client comes again as long as others may
        have room. Each account is tried once, and in the end the client is told once when the first is usable again.
        """
        world = PoolWorld(self, MIXED * 10)
        for number in range(1, 51):
            world.exhaust(f"a{number}", resets_in=3600.0 + 60 * number)
        for sent in (8, 16, 24, 32, 40, 48):
            response = world.answer(session="s")
            self.assertEqual((response.status, len(world.turns())), (429, sent))
            self.assertIsNone(response.header("x-should-retry"))
            self.assertIn(response.header("retry-after"), ("1", "2", "3"))
        response = world.answer(session="s")
        self.assertEqual(response.status, 429)
        self.assertEqual(response.header("x-should-retry"), "false")
        self.assertIn("all credentials rate-limited, earliest reset in 1h1m", response.error["message"])
        self.assertFalse(any(name.startswith(b"anthropic-ratelimit") for name, _ in response.headers))
        self.assertEqual(len(world.turns()), 50)
        self.assertEqual(world.answer(session="t").status, 429)
        self.assertEqual(len(world.turns()), 50)

    def test_resets_pass(self) -> None:
        world = PoolWorld(self)
        world.exhaust("a1", resets_in=600.0)
        world.exhaust("a2", resets_in=1200.0)
        self.assertEqual(world.answer(session="s").status, 429)
        world.network.advance(601)
        self.assertEqual(world.served("s"), "a1")
        world.network.advance(600)
        world.exhaust("a1")
        self.assertEqual(world.served("s"), "a2")
        self.assertEqual(world.results().count("rate_limited"), 1)

    def test_a_used_up_week_is_left_alone_until_its_end(self) -> None:
        """F46: an explicit reset takes precedence over every default."""
        world = PoolWorld(self)
        world.exhaust("a1", "seven_day", resets_in=86400.0)
        for session in "stu":
            world.served(session)
        world.network.advance(3600)
        for session in "vwxyz":
            self.assertEqual(world.served(session), "a2")
        self.assertLessEqual(Counter(map(world.by, world.turns()))["a1"], 3)

    def test_a_429_that_concerns_one_request(self) -> None:
        """F5: after a 429 without data about limits, another account serves, and the first one's state is unchanged."""
        world = PoolWorld(self)
        first = world.served("s")
        world.simulator.faults.next("rate_limited")
        second = world.served("s")
        self.assertNotEqual(first, second)
        self.assertEqual([account.is_usable() for account in world.accounts], [True, True])
        world.exhaust(second)
        self.assertEqual(world.served("s"), first)

    def test_a_client_that_leaves_while_another_account_is_asked(self) -> None:
        """The first account's refusal is held in case that nobody serves; it goes with the client."""
        world = PoolWorld(self)
        world.simulator.faults.next("rate_limited")
        world.simulator.faults.next("slow;seconds=60")
        client = world.ask(session="s")
        self.assertEqual(len(world.turns()), 2)
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.results(), ["client_gone"])
        self.assertEqual([len(account.leases) for account in world.accounts], [0, 0])

    def test_what_all_refuse_alike_is_charged_to_nobody(self) -> None:
        """Not even where clients ask again, while no further opinion is sought: two callers prove nothing then."""
        world = PoolWorld(self, strategy="fallback")
        world.simulator.faults.always("rate_limited")
        for token in (TOKEN, TOKEN, BOB, BOB):
            self.assertEqual(world.answer(token=token).status, 429)
        self.assertEqual(len(world.turns()), 2 + 1 + 2 + 1)
        world.simulator.faults.clear()
        self.assertEqual(world.served("s"), "a1")

    def test_the_first_after_a_rest_that_tells_nothing(self) -> None:
        """Others need not wait for it: the next request may be the first."""
        world = PoolWorld(self, strategy="fallback")
        world.simulator.faults.next("rate_limited")
        self.assertEqual(world.served("s"), "a2")
        self.assertEqual(world.served("t"), "a2")
        world.network.advance(6)
        world.simulator.faults.next("too_long")
        self.assertEqual(world.answer(session="u").status, 400)
        self.assertEqual(world.by(world.turns()[-1]), "a1")
        self.assertEqual(world.served("v"), "a1")

    def test_the_caps_are_kept(self) -> None:
        """A reserve is kept for the owner of the account: no request uses it."""
        world = PoolWorld(self)
        world.login_of("a1").set_utilization("seven_day", 99.0, 86400.0)
        world.login_of("a2").set_utilization("seven_day", 40.0, 86400.0)
        world.poll()
        for session in "stuv":
            self.assertEqual(world.served(session), "a2")

    def test_a_model_that_is_used_up_goes_elsewhere(self) -> None:
        """Requests for the account's other models stay on it."""
        world = PoolWorld(self, ("max_20x", "max_20x"), start=False)
        for login in world.logins:
            login.windows["seven_day_opus"] = type(login.windows["seven_day"])(
                7 * 86400.0, login.windows["seven_day"].allowance / 2, recurring=True
            )
        world.start()
        first = world.served("s", model="claude-opus-4-6")
        world.exhaust(first, "seven_day_opus", 86400.0)
        second = world.served("s", model="claude-opus-4-6")
        self.assertNotEqual(second, first)
        world.exhaust(second, "seven_day_opus", 86400.0)
        response = world.answer(session="s", model="claude-opus-4-6")
        self.assertEqual(response.status, 429)
        self.assertEqual(world.served("s", model="claude-sonnet-4-6"), second)

    def test_nothing_is_answered_twice(self) -> None:
        """After any refusals, each request gets one response, and the upstream has served one turn for it."""
        world = PoolWorld(self, MIXED)
        for round_ in range(10):
            if round_ % 2 and round_ < 8:
                world.exhaust(f"a{1 + round_ // 2}")
            world.served(f"s{round_}")
        served = [turn for turn in world.turns() if turn.status == 200]
        self.assertEqual(len(served), world.results().count("served"))


class MovingTests(SynchronousTestCase):
    """Sessions move when they must, and are spread if many move."""

    def test_a_hundred_sessions_spread(self) -> None:
        """F8: if a used-up account makes a hundred sessions move at once, each other account gets its share of them."""
        world = PoolWorld(self, ("max_20x", "max_20x", "max_20x", "max_5x", "pro"), strategy="fallback")
        sessions = [f"s{number}" for number in range(100)]
        for session in sessions:
            world.served(session)
        self.assertEqual(world.spread_of(sessions), {"a1": 100})
        config = world.service.config
        # Now the same sessions with the default strategy.
        text = world.configuration.replace("strategy: fallback", "strategy: least-used")
        world.reload(text)
        self.assertNotEqual(world.service.config, config)
        self.assertEqual(world.spread_of(sessions), {"a1": 100})
        world.exhaust("a1")
        clients = [world.ask(session=session) for session in sessions]
        for client in clients:
            self.assertEqual(world.last(client).status, 200)
        spread = world.spread_of(sessions)
        self.assertEqual(spread["a1"], 0)
        # The shares are proportional to the remaining capacity, 10 : 10 : 5 : 1.
        for tag, least, most in (("a2", 30, 46), ("a3", 30, 46), ("a4", 14, 24), ("a5", 1, 7)):
            self.assertTrue(least <= spread[tag] <= most, spread)

    def test_an_account_that_disappears_and_comes_back(self) -> None:
        """F9: its sessions move at once, and no request is refused; when the account is back, it is used again."""
        world = PoolWorld(self)
        tags = {session: world.served(session) for session in ("s", "t")}
        self.assertEqual(set(tags.values()), {"a1", "a2"})
        gone = world.paths[0]
        os.rename(gone, gone + ".away")
        world.network.advance(POLL_INTERVAL)
        world.network.advance(SETTLE)
        for session in tags:
            self.assertEqual(world.served(session), "a2")
        os.rename(gone + ".away", gone)
        world.network.advance(POLL_INTERVAL)
        world.network.advance(SETTLE)
        world.network.advance(60)
        self.assertEqual({world.served(f"n{number}") for number in range(4)}, {"a1", "a2"})

    def test_a_login_that_is_over(self) -> None:
        """If neither the token nor a refresh is accepted, another account serves; the client never gets a 401."""
        world = PoolWorld(self)
        first = world.served("s")
        world.login_of(first).log_out()
        self.assertNotEqual(world.served("s"), first)
        self.assertEqual(set(world.results()), {"served"})

    def test_fallback_returns(self) -> None:
        """Sessions return to the preferred account as soon as it serves again."""
        world = PoolWorld(self, strategy="fallback")
        self.assertEqual(world.served("s"), "a1")
        world.exhaust("a1")
        self.assertEqual(world.served("s"), "a2")
        self.assertEqual(world.served("s"), "a2")
        world.network.advance(5 * 3600.0 + 1)
        self.assertEqual(world.served("s"), "a1")

    def test_round_robin(self) -> None:
        world = PoolWorld(self, MIXED, strategy="round-robin")
        self.assertEqual([world.served(f"s{n}") for n in range(6)], ["a1", "a2", "a3", "a4", "a5", "a1"])

    def test_random_is_random(self) -> None:
        world = PoolWorld(self, MIXED, strategy="random")
        self.assertEqual({world.served(f"s{n}") for n in range(60)}, {"a1", "a2", "a3", "a4", "a5"})

    def test_an_overloaded_upstream_blocks_nobody(self) -> None:
        """F6: a 5xx is relayed, and says nothing about the account."""
        world = PoolWorld(self)
        first = world.served("s")
        for fault in ("529", "500", "503", "502"):
            world.simulator.faults.next(fault)
            self.assertEqual(world.answer(session="s").status, int(fault))
        self.assertEqual(world.served("s"), first)

    def test_an_account_whose_way_is_down(self) -> None:
        """It is tried twice, then another account serves; the session stays on that account."""
        world = PoolWorld(self, strategy="fallback")
        world.unreachable("a1")
        client = world.ask(session="s")
        world.until(lambda: bool(client.responses()), 3)
        self.assertEqual(world.last(client).status, 200)
        self.assertEqual(world.by(world.turns()[-1]), "a2")
        self.assertEqual(world.where(), {"s": "a2"})
        account = world.accounts[0]
        self.assertEqual(account.outcomes[LeaseOutcome.UNREACHABLE], 1)
        self.assertTrue(account.is_usable())

    def test_a_request_that_took_long_to_come(self) -> None:
        """A slow upload by the client does not count as time spent on unreachable upstreams."""
        world = PoolWorld(self, strategy="fallback")
        world.unreachable("a1")
        data = message_request("x" * 1000, session="s")
        client, _ = world.connect()
        for at in range(0, len(data), 100):
            world.send(data[at : at + 100], client)
            world.network.advance(4)
        world.network.advance(1)
        self.assertEqual(world.last(client).status, 200)

    def test_a_network_that_swallows_everything(self) -> None:
        """Not every account is tried in turn until its time-out, because the client would give up long before."""
        world = PoolWorld(self, MIXED * 2)
        world.served("s")
        world.upstream.hanging = True
        for pump in world.upstream.connections:
            pump.server.abortConnection()
        world.network.flush()
        client = world.ask(session="s")
        world.until(lambda: bool(client.responses()), 45)
        self.assertEqual(world.last(client).status, 502)
        self.assertGreater(world.upstream.attempts, 2)

    def test_a_network_that_is_down_moves_nobody(self) -> None:
        """Every account is tried, and none can be reached; each session stays on the account with its prompt cache."""
        world = PoolWorld(self, MIXED, strategy="round-robin")
        before = {session: world.served(session) for session in ("s", "t", "u")}
        world.upstream.refusing = True
        for pump in world.upstream.connections:
            pump.server.abortConnection()
        world.network.flush()
        for session in before:
            client = world.ask(session=session)
            world.until(lambda client=client: bool(client.responses()), 3)  # type: ignore[misc]
            self.assertEqual(world.last(client).status, 502)
        self.assertEqual(world.where(), before)
        world.upstream.refusing = False
        self.assertEqual({session: world.served(session) for session in before}, before)

    def test_a_prompt_that_is_too_long_goes_nowhere_else(self) -> None:
        world = PoolWorld(self)
        world.simulator.faults.next("too_long")
        self.assertEqual(world.answer(session="s").status, 400)
        self.assertEqual(len(world.turns()), 1)


class StreamTests(SynchronousTestCase):
    """Event streams: retries are possible until the first byte was sent to the client, and not after it."""

    def streamed(self, world: PoolWorld, session: str, prompt: str = "hello") -> bytes:
        response = world.answer(prompt, session=session, stream=True)
        self.assertEqual(response.status, 200)
        return response.body

    def test_a_stream_that_begins_with_an_error(self) -> None:
        """F13: the client gets the stream of another account."""
        for kind in ("overloaded_error", "api_error", "rate_limit_error"):
            world = PoolWorld(self)
            world.simulator.faults.next(f"error_first;type={kind}")
            body = self.streamed(world, "s")
            self.assertTrue(body.startswith(b"event: message_start"), kind)
            self.assertIn(b"event: message_stop", body)
            self.assertNotIn(b"event: error", body)
            self.assertEqual(len(world.turns()), 2)
            self.assertEqual(len({world.by(turn) for turn in world.turns()}), 2)
            world.close()

    def test_which_is_the_requests_own_fault(self) -> None:
        world = PoolWorld(self)
        world.simulator.faults.next("error_first;type=invalid_request_error")
        self.assertIn(b"event: error", self.streamed(world, "s"))
        self.assertEqual(len(world.turns()), 1)

    def test_which_nobody_can_do_better(self) -> None:
        """If no other account can serve, the client gets the error unchanged."""
        world = PoolWorld(self)
        world.simulator.faults.always("error_first")
        self.assertTrue(self.streamed(world, "s").startswith(b"event: error"))
        self.assertEqual(len(world.turns()), 2)

    def test_with_one_account_nothing_is_held_back(self) -> None:
        world = PoolWorld(self, ("max_20x",))
        world.simulator.faults.next("error_first")
        self.assertTrue(self.streamed(world, "s").startswith(b"event: error"))
        self.assertEqual(len(world.turns()), 1)

    def test_a_silent_stream_is_not_waited_for_long(self) -> None:
        """The head is sent before a proxy in between times out."""
        world = PoolWorld(self)
        world.simulator.faults.next("slow_first_token;seconds=20")
        client = world.ask(session="s", stream=True)
        self.assertEqual(client.received, b"")
        world.network.advance(3.1)
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200"))
        world.network.advance(20)
        self.assertIn(b"message_stop", world.last(client).body)
        self.assertEqual(len(world.turns()), 1)

    def test_an_error_in_the_middle_is_relayed(self) -> None:
        """F13, F14: there is no retry, because a part of the response was sent already."""
        world = PoolWorld(self)
        world.simulator.faults.next("error_mid")
        body = self.streamed(world, "s")
        self.assertTrue(body.startswith(b"event: message_start"))
        self.assertIn(b"event: error", body)
        self.assertEqual(len(world.turns()), 1)
        self.assertEqual(world.results(), ["failed"])

    def test_a_stream_that_breaks_off_is_broken_off(self) -> None:
        """F14: there is no retry after the first byte."""
        world = PoolWorld(self)
        world.simulator.faults.next("cut")
        client = world.ask(session="s", stream=True)
        world.network.advance(1)
        self.assertTrue(client.broken)
        self.assertFalse(client.responses()[0].complete)
        self.assertEqual(len(world.turns()), 1)

    def test_a_thousand_streams_while_accounts_flip(self) -> None:
        """Nothing is lost or answered twice, and no client sees a 429 while an account has room."""
        world = PoolWorld(self, MIXED * 2)
        for number, login in enumerate(world.logins):
            login.set_utilization("five_hour", 0.0, 4.0 + 2 * number)
        world.simulator.pace = Pace(each=8.0)
        clients: list[Client] = []
        for number in range(1000):
            if number % 100 == 50:
                # Another account is used up, while an earlier one becomes usable again.
                world.exhaust(f"a{1 + number // 100}")
                world.network.advance(2.0)
            clients.append(world.ask(f"[[say:{number}]]", session=f"s{number % 250}", stream=True))
        self.assertGreater(world.simulator.max_concurrent, 900)
        for _ in range(12):
            world.network.advance(8.0)
        for number, client in enumerate(clients):
            response = world.last(client)
            self.assertEqual(response.status, 200)
            self.assertIn(f'"text":"{number}"'.encode(), response.body.replace(b'": "', b'":"'))
            self.assertEqual(response.body.count(b"event: message_stop"), 1)
        self.assertEqual(Counter(world.results()), {"served": 1000})
        counters = [login.counters for login in world.logins]
        self.assertEqual(sum(each.turns - each.refused_turns for each in counters), 1000)
        self.assertGreater(sum(each.refused_turns for each in counters), 5)

    def test_streams_in_flight_outlive_their_account(self) -> None:
        """Spec 5.3: responses that have begun continue to their end."""
        world = PoolWorld(self)
        world.simulator.faults.next("stall;at=mid;seconds=5")
        stalled = world.ask(session="s", stream=True)
        first = world.by(world.turns()[0])
        world.exhaust(first)
        self.assertNotEqual(world.served("s"), first)
        world.network.advance(6)
        self.assertIn(b"message_stop", world.last(stalled).body)
        self.assertEqual(set(world.results()), {"served"})


class InterruptTests(SynchronousTestCase):
    """Requests that wait on an account when it stops being usable move to another one (spec 5.3, 6.5)."""

    def test_who_waits_is_left_where_it_is(self) -> None:
        """An upstream may well answer what it has accepted, although the account is used up by now (spec 12.3)."""
        world = PoolWorld(self, strategy="fallback")
        world.simulator.faults.next("slow;seconds=5", times=2)
        world.simulator.faults.next("exhausted")
        waiting = [world.ask(session=session) for session in "st"]
        self.assertEqual([client.received for client in waiting], [b"", b""])
        self.assertEqual(world.served("u"), "a2")
        self.assertFalse(world.accounts[0].is_usable())
        self.assertEqual([client.received for client in waiting], [b"", b""])
        world.network.advance(5)
        for client in waiting:
            self.assertEqual(world.last(client).status, 200)
        self.assertEqual(Counter(map(world.by, world.turns())), {"a1": 3, "a2": 1})

    def test_who_waits_leaves_a_login_that_is_gone(self) -> None:
        """It cannot succeed there any more (spec 12.3), and another account can serve it."""
        world = PoolWorld(self, strategy="fallback")
        world.simulator.faults.next("hang")
        waiting = world.ask(session="s")
        self.assertEqual(waiting.received, b"")
        world.accounts[0].learn(TokenUnavailable("logged out"))
        world.network.flush()
        self.assertEqual(world.last(waiting).status, 200)
        self.assertEqual([world.by(turn) for turn in world.turns()], ["a1", "a2"])

    def test_rebalancing_moves_sessions_and_those_who_wait(self) -> None:
        world = PoolWorld(self, ("max_20x", "max_20x"), threshold=20, strategy="least-used")
        world.login_of("a2").set_utilization("seven_day", 50.0, 86400.0)
        world.login_of("a1").set_utilization("seven_day", 10.0, 86400.0)
        world.poll()
        self.assertEqual(world.served("s"), "a1")
        world.simulator.faults.next("hang")
        waiting = world.ask(session="s")
        # The usage of the other account is reset: the difference between 10 % and 0 % is more than 20 % / 10.
        world.network.advance(61)
        world.login_of("a2").set_utilization("seven_day", 0.0, 86400.0)
        world.poll()
        self.assertEqual(waiting.received, b"")
        self.assertEqual(world.served("s"), "a2")
        self.assertEqual(world.last(waiting).status, 200)
        lines = [event for event in world.events if "rebalances" in str(event.get("log_format"))]
        self.assertEqual(len(lines), 1)
        self.assertEqual(world.where(), {"s": "a2"})

    def rebalanced(self) -> tuple[PoolWorld, Client]:
        """A request that waits on ``a1`` when ``a2`` becomes the better account; session ``t`` is on ``a1`` too."""
        world = PoolWorld(self, ("max_20x", "max_20x"), threshold=20)
        world.login_of("a2").set_utilization("seven_day", 50.0, 86400.0)
        world.login_of("a1").set_utilization("seven_day", 10.0, 86400.0)
        world.poll()
        self.assertEqual((world.served("s"), world.served("t")), ("a1", "a1"))
        world.simulator.faults.next("hang")
        waiting = world.ask(session="s")
        world.network.advance(61)
        world.login_of("a2").set_utilization("seven_day", 0.0, 86400.0)
        world.poll()
        return world, waiting

    def test_the_better_one_cannot_be_reached(self) -> None:
        """A request that was moved by rebalancing is served by its former account."""
        world, waiting = self.rebalanced()
        world.unreachable("a2")
        other = world.ask(session="t")
        world.until(lambda: bool(waiting.responses() and other.responses()), 3)
        self.assertEqual([world.last(client).status for client in (waiting, other)], [200, 200])

    def test_it_comes_back_once(self) -> None:
        """The request returns to its former account only once; if that refuses it as well, the client is told."""
        world, waiting = self.rebalanced()
        world.unreachable("a2")
        world.simulator.faults.next("rate_limited", times=9)
        other = world.ask(session="t")
        world.until(lambda: bool(waiting.responses() and other.responses()), 3)
        self.assertEqual([world.last(client).status for client in (waiting, other)], [429, 429])
        self.assertEqual(len(world.turns()), 5)

    def test_the_better_one_is_used_up(self) -> None:
        world, waiting = self.rebalanced()
        world.exhaust("a2")
        other = world.ask(session="t")
        world.network.advance(1)
        self.assertEqual([world.last(client).status for client in (waiting, other)], [200, 200])

    def test_who_has_tried_the_better_one_is_left_where_it_is(self) -> None:
        """New sessions try the better account first, but requests that have tried it are not interrupted again."""
        world, first = self.rebalanced()
        assert first.transport is not None
        first.transport.loseConnection()
        world.network.flush()
        world.unreachable("a2")
        clients = []
        for number in range(6):
            world.simulator.faults.next("slow;seconds=30")
            clients.append(world.ask(session=f"n{number % 2}"))
            world.network.advance(0.5)
            world.network.advance(0.5)
        for _ in range(40):
            world.network.advance(1)
        self.assertEqual([world.last(client).status for client in clients], [200] * 6)

    def test_rebalancing_touches_no_other_pool(self) -> None:
        """Requests of another pool that wait on the same account are not interrupted."""
        other = "      - {tag: other, type: balancer, credentials: [a1]}"
        world = PoolWorld(self, ("max_20x", "max_20x"), threshold=20, more_credentials=other, bobs="other")
        world.login_of("a2").set_utilization("seven_day", 50.0, 86400.0)
        world.login_of("a1").set_utilization("seven_day", 10.0, 86400.0)
        world.poll()
        self.assertEqual(world.served("s"), "a1")
        world.simulator.faults.next("hang")
        bobs = world.ask(token=BOB, session="b")
        world.network.advance(61)
        world.login_of("a2").set_utilization("seven_day", 0.0, 86400.0)
        world.poll()
        self.assertEqual(world.served("s"), "a2")
        self.assertEqual(bobs.received, b"")
        assert bobs.transport is not None
        bobs.transport.loseConnection()
        world.network.flush()

    def test_nobody_leaves_the_last_one(self) -> None:
        """With nowhere else to go nothing is cancelled, not even where the login is gone (spec 12.3)."""
        world = PoolWorld(self, strategy="fallback")
        world.exhaust("a2")
        self.assertEqual(world.served("s"), "a1")
        world.simulator.faults.next("slow;seconds=5")
        world.simulator.faults.next("exhausted")
        waiting = world.ask(session="s")
        self.assertEqual(world.answer(session="t").status, 429)
        world.accounts[0].learn(TokenUnavailable("logged out"))
        self.assertEqual(waiting.received, b"")
        world.network.advance(5)
        self.assertEqual(world.last(waiting).status, 200)


class StateTests(SynchronousTestCase):
    """Users are shown the state of the pool, never that of an account (spec 8)."""

    def test_weighted(self) -> None:
        world = PoolWorld(self, ("max_20x", "max_5x"))
        world.login_of("a1").set_utilization("seven_day", 30.0, 86400.0)
        world.login_of("a2").set_utilization("seven_day", 90.0, 172800.0)
        world.poll()
        told = world.get("/ccm/v1/status").json()
        # Of the cap of 99 %, 69 % and 9 % remain, with weights 10 and 5.
        self.assertAlmostEqual(told["weekly_utilization"], 100 - (69 * 10 + 9 * 5) / 15, places=5)
        mean = world.clock.seconds() + (86400.0 * 10 + 172800.0 * 5) / 15
        self.assertAlmostEqual(told["weekly_reset"], mean, delta=1)
        self.assertEqual(told["plan_weight"], 15)
        response = world.answer(session="s")
        header = response.header("anthropic-ratelimit-unified-7d-utilization")
        assert header is not None
        self.assertAlmostEqual(float(header) * 100, told["weekly_utilization"], delta=1.0)
        self.assertEqual(response.header("x-ccm-plan-weight"), "15")

    def test_two_accounts_of_one_window_count_once(self) -> None:
        """F33."""
        world = PoolWorld(self, ("max_20x", "max_20x", "max_5x"), start=False)
        twin, other = world.logins[0], world.logins[1]
        other.windows, other.organization_uuid = twin.windows, twin.organization_uuid
        twin.set_utilization("seven_day", 60.0, 86400.0)
        world.logins[2].set_utilization("seven_day", 0.0, 86400.0)
        world.start()
        for session in "stuvwx":
            world.served(session)
        self.assertEqual(Counter(map(world.by, world.turns())).keys(), {"a1", "a2", "a3"})
        told = world.get("/ccm/v1/status").json()
        self.assertEqual(told["plan_weight"], 15)

    def test_watchers_are_told_of_each_change_once(self) -> None:
        world = PoolWorld(self)
        watcher = world.send(
            f"GET /ccm/v1/status?watch=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )

        def told() -> list[dict[str, object]]:
            return [json.loads(line) for line in watcher.responses()[0].body.splitlines()]

        self.assertEqual(len(told()), 1)
        world.served("s")
        world.network.advance(1)
        before = len(told())
        world.served("s")
        world.network.advance(1)
        self.assertEqual(len(told()), before)
        for tag in ("a1", "a2"):
            world.exhaust(tag)
        world.answer(session="s")
        world.network.advance(1)
        states = [line["availability"] for line in told()]
        self.assertEqual(states[-1]["state"], "rate_limited")  # type: ignore[index]
        self.assertEqual(len(told()), len({json.dumps(line) for line in told()}))

    def test_a_reset_is_complete(self) -> None:
        """F32: a refusal is forgotten when the window resets that caused it."""
        world = PoolWorld(self, ("max_20x",))
        login = world.exhaust("a1", resets_in=600.0)
        self.assertEqual(world.answer(session="s").status, 429)
        world.network.advance(601)
        self.assertEqual(world.served("s"), "a1")
        state = world.account.state
        self.assertEqual((state.rate_limited_until, state.rejected_until), (0, 0))
        self.assertLess(login.utilization("five_hour"), 100)
        self.assertEqual(world.get("/ccm/v1/status").json()["availability"]["state"], "usable")


class UserTests(SynchronousTestCase):
    """Users on pools and accounts of their own."""

    def test_different_users_on_different_pools(self) -> None:
        other = "      - {tag: other, type: balancer, credentials: [a2, a3]}"
        world = PoolWorld(self, ("max_20x",) * 3, members=("a1", "a2"), more_credentials=other, bobs="other")
        self.assertEqual({world.served(f"s{n}") for n in range(8)}, {"a1", "a2"})
        self.assertEqual({world.served(f"s{n}", token=BOB) for n in range(8)}, {"a2", "a3"})

    def test_one_account_for_one_user(self) -> None:
        world = PoolWorld(self, bobs="a2")
        self.assertEqual({world.served(f"s{n}", token=BOB) for n in range(4)}, {"a2"})
        world.exhaust("a2")
        self.assertEqual(world.answer(token=BOB).status, 429)
        self.assertEqual(world.served("s"), "a1")

    def test_fast_mode_is_refused_in_a_pool(self) -> None:
        """Fast mode costs extra, so it is only for users with an account of their own (spec 4.1)."""
        world = PoolWorld(self, bobs="a2")
        headers = (("anthropic-beta", "fast-mode-2026-02-01"),)
        self.assertEqual(world.answer(headers=headers).status, 400)
        self.assertEqual(world.answer(headers=headers, token=BOB).status, 200)

    def test_so_many_at_a_time(self) -> None:
        """F41: requests beyond the limit are never refused silently."""
        world = PoolWorld(self, more="    max_connections_per_user: 2")
        world.simulator.faults.next("hang", times=2)
        waiting = [world.ask(session=session) for session in "st"]
        refused = world.answer(session="u")
        self.assertEqual(refused.status, 429)
        self.assertEqual(refused.header("retry-after"), "1")
        self.assertIsNone(refused.header("x-should-retry"))
        self.assertIn("2 requests of this user", refused.error["message"])
        self.assertEqual(world.answer(token=BOB).status, 200)
        self.assertIn("alice refused: 2 requests are under way already", world.logged())
        assert waiting[0].transport is not None
        waiting[0].transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.served("u"), world.where()["u"])


class ReloadTests(SynchronousTestCase):
    """Pools come, go and change without a session being lost."""

    def test_sessions_of_unchanged_accounts_stay(self) -> None:
        world = PoolWorld(self, ("max_20x",) * 3)
        sessions = [f"s{number}" for number in range(12)]
        before = {session: world.served(session) for session in sessions}
        world.reload(world.configuration.replace('["a1", "a2", "a3"]', '["a1", "a2"]'))
        for session in sessions:
            now = world.served(session)
            if before[session] != "a3":
                self.assertEqual(now, before[session])
            else:
                self.assertIn(now, ("a1", "a2"))

    def test_a_pool_that_goes(self) -> None:
        world = PoolWorld(self)
        world.served("s")
        text = world.configuration.replace(
            "token: alice-token-4711, credential: pool", "token: alice-token-4711, credential: a2"
        )
        world.reload(text)
        self.assertEqual(world.served("s"), "a2")

    def test_watchers_see_new_members(self) -> None:
        world = PoolWorld(self, ("max_20x",) * 3, members=("a1", "a2"))
        world.reload(world.configuration.replace('["a1", "a2"]', '["a1", "a2", "a3"]'))
        self.assertEqual(world.get("/ccm/v1/status").json()["plan_weight"], 30)
