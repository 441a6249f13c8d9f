"""Answers that are easily taken for more than they say, or for less: one conversation for each (spec 12)."""

from __future__ import annotations

import json
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.account import LoginAccount
from ccmproxy.simulator.codex.simulated_account import CodexAccount
from tests.conversation import World
from tests.proxy.neighbours import ACCOUNTS, KINDS, ODD, Scene, turn_message
from tests.proxy.scripted_upstream import refusal
from tests.proxy.test_rate_limits import HOUR, OAUTH, family

COUNT = "/v1/messages/count_tokens"
BUSY = refusal(429, "slow down", ("Retry-After", "2"), kind="rate_limit_error")


class CountTokensTests(SynchronousTestCase):
    """What an account says to count_tokens is about nobody's turns."""

    def test_nobody_is_cancelled(self) -> None:
        """Carol, with a single account, and bob, in a pool, have turns under way where alice's counting is refused."""
        scene = Scene(self, "claude")
        carols = scene.say("carol", "thinking", "[[simulate:slow;seconds=8]]")
        scene.asked()
        scene.refuse(BUSY, *ACCOUNTS)
        response = scene.told("alice", "counts", path=COUNT)
        self.assertEqual((response.status, response.header("retry-after")), (429, "2"))
        self.assertEqual(scene.asked(), list(ACCOUNTS))
        response = scene.told("carol", "counts", path=COUNT)
        self.assertEqual((response.status, response.error["message"]), (429, "slow down"))
        self.assertEqual(scene.asked(), ["a1"])
        scene.assert_neighbours_unchanged()
        scene.assert_nobody_charged()
        scene.network.advance(8)
        self.assertEqual([response.status for response in carols.responses()], [200])
        self.assertEqual(scene.asked(), [])
        scene.network.advance(12)
        self.assertEqual([response.status for response in scene.running.responses()], [200])
        scene.close()


class OneAccountTests(SynchronousTestCase):
    """What the client of a single account is told."""

    def scenes(self) -> Iterator[Scene]:
        """A scene for each dialect."""
        for dialect in KINDS:
            yield Scene(self, dialect)

    def test_two_seconds_are_two_seconds(self) -> None:
        """A client that waits them out goes on, as it does directly: it is not told that anything is used up."""
        for scene in self.scenes():
            scene.refuse(BUSY, "a1")
            response = scene.told("carol", "warm")
            self.assertEqual((response.status, response.header("retry-after")), (429, "2"))
            self.assertEqual((response.error["message"], scene.mark(response)), ("slow down", None))
            self.assertIsNone(response.header("x-should-retry"))
            self.assertNotIn(b"usage_limit_reached", response.body)
            self.assertEqual(scene.status("carol"), scene.before["carol"])
            scene.network.advance(2)
            scene.upstream_says.scripts.clear()
            scene.asked()
            scene.assert_served(["a1"], "carol", "warm", ODD)
            scene.assert_neighbours_unchanged()
            scene.close()

    def test_a_burst_is_no_weekly_limit(self) -> None:
        """A client that speaks OAuth is shown no window as rejected while all of them have room."""
        world = World(self)
        world.login.set_utilization("seven_day", 34.0, 100 * HOUR)
        self.assertEqual(world.answer(headers=OAUTH).status, 200)
        world.simulator.faults.always("rate_limited;retry_after=2", endpoint="turn")
        response = world.answer(headers=OAUTH)
        self.assertEqual((response.status, response.header("retry-after")), (429, "2"))
        self.assertEqual(family(response), {})
        world.simulator.faults.clear()
        self.assertNotEqual(family(world.answer(headers=OAUTH))["status"], "rejected")

    def test_a_plan_without_codex_is_not_used_up(self) -> None:
        """The provider's word reaches the client, and no time that will never be true."""
        scene = Scene(self, "codex")
        words = "To use Codex with your ChatGPT plan, upgrade to Plus"
        scene.refuse(refusal(429, words, kind="usage_not_included"), *ACCOUNTS)
        for user, asked in (("carol", ["a1"]), ("alice", list(ACCOUNTS))):
            response = scene.told(user, "warm")
            self.assertEqual((response.status, response.error["message"]), (429, words))
            self.assertEqual(response.error["type"], "usage_not_included")
            self.assertNotIn("resets_at", response.error)
            self.assertIsNone(response.header("retry-after"))
            self.assertEqual(scene.asked(), asked)
        scene.assert_neighbours_unchanged()
        scene.assert_nobody_charged()
        scene.finish()

    def test_a_login_that_stays_refused(self) -> None:
        """Not 502, which clients try again for minutes: at once whom to ask. Polls are refused, too, so that nothing
        says that the token is good."""
        for scene in self.scenes():
            for endpoint in ("turn", "usage"):
                scene.simulator.faults.always("unauthorized", endpoint=endpoint)
            scene.login_of("a1").revoke()
            for _ in range(2):
                response = scene.told("carol", "warm")
                self.assertEqual((response.status, scene.mark(response)), (400, "credential_unavailable"))
                self.assertIn("log in", response.error["message"])
            self.assertEqual(scene.asked(), ["a1", "a1"])
            # Once for the requests, and once for the poll that looks whether the login is good.
            self.assertEqual(scene.login_of("a1").counters.refreshes, 2)
            self.assertEqual(scene.status("carol")["state"], "unavailable")
            scene.simulator.faults.clear()
            # A probe finds out that it is good again.
            scene.network.advance(61)
            scene.asked()
            scene.assert_served(["a1"], "carol", "warm")
            scene.close()


#: What Codex takes as one frame (bytes).
LARGEST_FRAME = 16 * 1024 * 1024


def frame_sizes(data: bytes) -> list[int]:
    """The payload sizes of a client's frames (RFC 6455 section 5.2): a mask of four bytes is before each payload."""
    sizes, at = [], 0
    while at < len(data):
        size, head = data[at + 1] & 0x7F, 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[at + 2 : at + head], "big")
        sizes.append(size)
        at += head + 4 + size
    return sizes


class WebSocketTests(SynchronousTestCase):
    """What is said within a WebSocket."""

    def test_a_401_is_followed_by_another_token(self) -> None:
        """The client connects again, and its next turn is sent with a token that is not refused."""
        scene = Scene(self, "codex")
        client = scene.socket("carol")
        scene.asked()
        self.assertIn("error", scene.turn(client, "[[simulate:unauthorized]]"))
        self.assertEqual(scene.login_of("a1").counters.refreshes, 1)
        client.transport.loseConnection()
        before = scene.login_of("a1").access_token
        again = scene.socket("carol")
        self.assertEqual((again.status, scene.asked()), (101, ["a1"]))
        self.assertEqual(scene.turn(again)[-1], "response.completed")
        self.assertEqual(scene.login_of("a1").access_token, before)
        again.transport.loseConnection()
        scene.finish()

    def test_a_message_of_more_than_16_mib(self) -> None:
        """It comes in pieces and leaves in pieces: as one frame it would be refused there."""
        scene = Scene(self, "codex")
        client = scene.socket("carol")
        scene.asked()
        text = turn_message("x" * (17 * 1024 * 1024))
        assert client.connection is not None
        half = len(text) // 2
        for first, data in ((True, text[:half]), (False, text[half:])):
            # RFC 6455 section 5.4: the first frame has the type of the message, the last one says that it is the last.
            head = bytes([0x01 if first else 0x80, 0xFF]) + len(data).to_bytes(8, "big") + bytes(4)
            client.transport.write(head + data)
        scene.network.advance(1)
        self.assertIsNone(client.closed)
        sizes = frame_sizes(b"".join(scene.upstream_says.passed_on))
        self.assertLessEqual(max(sizes), LARGEST_FRAME)
        self.assertGreaterEqual(sum(sizes), len(text))
        self.assertEqual(json.loads(client.messages[-1])["type"], "response.completed")
        client.transport.loseConnection()
        scene.finish()


#: How 81 % of an account with a cap of 99 % is shown.
SHOWN = 82


class FigureTests(SynchronousTestCase):
    """Figures that contradict what is known."""

    def shown(self, world: World) -> float:
        """The utilization of the short window as the status tells it."""
        return float(world.get("/ccm/v1/status").json()["five_hour_utilization"])

    def test_lower_figures_ask_for_a_poll(self) -> None:
        """Answers say 5 % where 81 % is known: they are not believed, and the poll that they cause decides."""
        for moved in (0.0, -HOUR):
            world = World(self, start=False)
            world.login.set_utilization("five_hour", 81.0, 4 * HOUR)
            world.start()
            self.assertEqual(self.shown(world), SHOWN)
            polls = len(world.simulator.requests.of("usage"))
            world.login.set_utilization("five_hour", 5.0, 4 * HOUR + moved)
            world.network.advance(30)
            self.assertEqual(world.answer().status, 200)
            self.assertEqual(len(world.simulator.requests.of("usage")), polls + 1)
            self.assertLess(self.shown(world), 10, moved)
            world.close()

    def test_answers_that_are_not_believed_keep_no_poll_away(self) -> None:
        """While the endpoint is closed the old figure stays; then it is asked within the hour, whoever answers."""
        world = World(self, start=False)
        world.login.set_utilization("five_hour", 81.0, 4 * HOUR)
        world.start()
        stale = world.simulator.requests.of("usage")[-1]
        self.assertEqual(stale.status, 200)
        world.simulator.faults.always("rate_limited;retry_after=600", endpoint="usage")
        world.login.set_utilization("five_hour", 5.0, 4 * HOUR)
        for _ in range(60):
            world.network.advance(30)
            self.assertEqual(world.answer().status, 200)
        self.assertEqual(self.shown(world), SHOWN)
        world.simulator.faults.clear()
        for _ in range(60):
            world.network.advance(60)
            self.assertEqual(world.answer().status, 200)
        self.assertLess(self.shown(world), 20)


class PlanTests(SynchronousTestCase):
    """An account that was just upgraded."""

    def test_the_usage_answer_names_the_plan(self) -> None:
        """Its file still names the smaller plan: it weighs as much as the other one as soon as it is polled."""
        scene = Scene(self, "codex")
        account = scene.login_of("a1")
        assert isinstance(account, CodexAccount)
        upgraded, account.plan = account.plan, "plus"
        # The access token names the plan as well.
        account.log_in()
        scene.write("a1")
        account.plan = upgraded
        scene.simulator.faults.always("server_error", endpoint="usage")
        scene.see_files()
        mine, other = scene.accounts[0], scene.accounts[1]
        self.assertLess(mine.state.plan_weight, other.state.plan_weight)
        scene.simulator.faults.clear()
        scene.network.advance(15)
        assert isinstance(mine, LoginAccount)
        mine._poller.poll()
        scene.network.flush()
        self.assertEqual(mine.state.plan_weight, other.state.plan_weight)
        scene.see_files()
        self.assertEqual(mine.state.plan_weight, other.state.plan_weight)
        scene.finish()
