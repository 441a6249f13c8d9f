"""Tests of ccmproxy's own endpoints: their common rules, and the list of sessions."""

from __future__ import annotations

import json
from datetime import datetime

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude import CLAUDE
from ccmproxy.dialects.codex import CODEX
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.surfaces.own_endpoints import LARGEST_BODY
from tests.conversation import ANONYMOUS, TOKEN, World
from tests.pooled import BOB, PoolWorld
from tests.proxy.test_codex import CodexWorld, request

HOUR = 3600.0
SESSIONS = "/ccm/v1/sessions"
CLAUDE_USAGE = "/api/oauth/usage"
CODEX_USAGE = ("/backend-api/wham/usage", "/api/codex/usage")
OPUS, HAIKU = "claude-opus-4-5", "claude-haiku-4-5"


class SessionsTests(SynchronousTestCase):
    """``GET /ccm/v1/sessions``."""

    def test_where_they_are(self) -> None:
        world = World(self)
        began = int(world.clock.seconds())
        world.answer(session="first", model=OPUS)
        world.network.advance(10)
        world.answer(session="second", model=OPUS)
        world.network.advance(10)
        world.answer(session="first", model=HAIKU)
        world.answer()
        response = world.get(SESSIONS)
        self.assertEqual(response.status, 200)
        self.assertEqual(
            response.json(),
            {
                "sessions": [
                    {
                        "session": "first",
                        "agent": "",
                        "credential": "default",
                        "since": began,
                        "last_use": began + 20,
                        "models": [OPUS, HAIKU],
                    },
                    {
                        "session": "second",
                        "agent": "",
                        "credential": "default",
                        "since": began + 10,
                        "last_use": began + 10,
                        "models": [OPUS],
                    },
                ]
            },
        )

    def test_how_it_is_said(self) -> None:
        """The answer is one line of JSON that must not be cached."""
        world = World(self)
        response = world.get(SESSIONS)
        self.assertEqual(response.body, b'{"sessions": []}\n')
        self.assertEqual(response.header("content-type"), "application/json")
        self.assertEqual(response.header("cache-control"), "no-store")
        self.assertRegex(response.header("x-ccm-request-id") or "", "^req_")

    def test_nobody_elses(self) -> None:
        world = PoolWorld(self)
        for token, session in ((TOKEN, "hers"), (BOB, "his"), (BOB, "hers")):
            world.answer(session=session, token=token)
        self.assertEqual(set(world.where()), {"hers"})
        self.assertEqual(set(world.where(BOB)), {"his", "hers"})

    def test_without_users_everybody_is_the_same(self) -> None:
        world = World(self, configuration=ANONYMOUS)
        world.answer(session="s", token=None)
        listed = world.get(SESSIONS, token=None).json()["sessions"]
        self.assertEqual([each["session"] for each in listed], ["s"])

    def test_looking_is_no_use_of_a_session(self) -> None:
        world = World(self)
        world.answer(session="s")
        last_use = world.get(SESSIONS).json()["sessions"][0]["last_use"]
        world.network.advance(60)
        self.assertEqual(world.get(SESSIONS).json()["sessions"][0]["last_use"], last_use)

    def test_subagents_of_their_own(self) -> None:
        world = PoolWorld(self, spread=True)
        for agent in ((), (("X-Claude-Code-Agent-Id", "a9ea"),)):
            world.answer(session="s", headers=agent)
        listed = world.get(SESSIONS).json()["sessions"]
        self.assertEqual({(each["session"], each["agent"]) for each in listed}, {("s", ""), ("s", "a9ea")})
        self.assertEqual(len({each["credential"] for each in listed}), 2)


class ClientUsageTests(SynchronousTestCase):
    """What a client asks its provider for the usage of its account (spec 9.5)."""

    def test_claude(self) -> None:
        """The pool's windows, as the status and the header fields have them."""
        world = PoolWorld(self, start=False)
        for login, used in zip(world.logins, (20.0, 40.0), strict=True):
            login.set_utilization("five_hour", used, 2 * HOUR)
            login.set_utilization("seven_day", used / 2, 100 * HOUR)
        world.start()
        response = world.get(CLAUDE_USAGE)
        self.assertEqual((response.status, response.header("content-type")), (200, "application/json"))
        said, status = response.json(), world.get("/ccm/v1/status").json()
        for name, utilization, reset in (
            ("five_hour", "five_hour_utilization", "five_hour_reset"),
            ("seven_day", "weekly_utilization", "weekly_reset"),
        ):
            self.assertAlmostEqual(said[name]["utilization"], status[utilization], delta=0.05)
            self.assertEqual(datetime.fromisoformat(said[name]["resets_at"]).timestamp(), status[reset])
        self.assertEqual(said["five_hour"]["utilization"], 31.0, "the remainder up to the cap of 99 % counts")

    def test_codex(self) -> None:
        world = CodexWorld(self)
        world.codex.set_utilization("five_hour", 30.0, 2 * HOUR)
        world.codex.set_utilization("seven_day", 50.0, 100 * HOUR)
        world.send(request("hello"))
        answers = [world.get(path).json() for path in CODEX_USAGE]
        self.assertEqual(answers[0], answers[1])
        limit = answers[0]["rate_limit"]
        self.assertEqual((limit["allowed"], limit["limit_reached"]), (True, False))
        status = world.get("/ocm/v1/status").json()
        self.assertGreaterEqual(limit["primary_window"]["used_percent"], 30)
        self.assertEqual(limit["primary_window"]["used_percent"], int(status["five_hour_utilization"]))
        self.assertEqual(limit["secondary_window"]["limit_window_seconds"], 604800)

    def test_what_an_account_tells_is_read_back(self) -> None:
        """Whoever reads the provider's answer reads ours: our own polls do."""
        total = Aggregate(30.0, 1_795_003_600, 60.0, 1_795_100_000, 5.0, Availability("usable"))
        for dialect, now in ((CLAUDE, 1_795_000_000.0), (CODEX, 1_795_000_000.0)):
            told = json.dumps(dialect.metering.client_usage(total, now)).encode()
            limits = dialect.account.usage_answer(told, now)
            assert limits.short is not None and limits.weekly is not None
            self.assertEqual((limits.short.utilization, limits.short.resets_at), (30.0, 1_795_003_600))
            self.assertEqual((limits.weekly.utilization, limits.weekly.resets_at), (60.0, 1_795_100_000))

    def test_used_up(self) -> None:
        world = World(self)
        world.login.exhaust("five_hour", HOUR)
        world.answer()
        said = world.get(CLAUDE_USAGE).json()
        self.assertEqual(said["five_hour"]["utilization"], 100.0)
        total = Aggregate(100.0, 1_795_003_600, 60.0, 0, 5.0, Availability("rate_limited"))
        said = CODEX.metering.client_usage(total, 1_795_000_000.5)
        self.assertEqual((said["rate_limit"]["allowed"], said["rate_limit"]["limit_reached"]), (False, True))
        self.assertEqual(said["rate_limit_reached_type"], {"type": "rate_limit_reached"})
        self.assertEqual(
            said["rate_limit"]["primary_window"],
            {
                "used_percent": 100,
                "limit_window_seconds": 18000,
                "reset_after_seconds": 3600,
                "reset_at": 1_795_003_600,
            },
        )
        weekly = said["rate_limit"]["secondary_window"]
        self.assertEqual((weekly["reset_after_seconds"], weekly["reset_at"]), (0, 0), "not known")

    def test_nothing_known(self) -> None:
        """No figures are made up."""
        total = Aggregate(0.0, 0, 0.0, 0, 5.0, Availability("usable"), is_known=False)
        said = CLAUDE.metering.client_usage(total, 1.0)
        self.assertEqual((said["five_hour"], said["seven_day"]), (None, None))
        self.assertIsNone(CODEX.metering.client_usage(total, 1.0)["rate_limit"])

    def test_who_may_ask(self) -> None:
        """Users, with GET; and in either dialect only for what its own client asks."""
        world = World(self)
        for token in (None, "wrong"):
            self.assertEqual(world.get(CLAUDE_USAGE, token=token).status, 401)
        self.assertEqual(world.get(CLAUDE_USAGE, method="POST").status, 405)
        for path in (*CODEX_USAGE, CLAUDE_USAGE + "/", "/api/oauth/profile", "/api/oauth/token"):
            self.assertEqual(world.get(path).status, 404, path)
        self.assertEqual(len(world.simulator.requests.of("usage")), 1, "the account's own poll")


class RefusalTests(SynchronousTestCase):
    """Requests that are refused."""

    def test_who_asks_must_say_so(self) -> None:
        world = World(self)
        for token in (None, "wrong"):
            response = world.get(SESSIONS, token=token)
            self.assertEqual((response.status, response.error["type"]), (401, "authentication_error"))
            self.assertNotIn(b"sessions", response.body)

    def test_other_methods(self) -> None:
        world = World(self)
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            response = world.get(SESSIONS, method=method)
            self.assertEqual((response.status, response.header("allow")), (405, "GET"), method)
            self.assertEqual(response.header("x-ccm-error"), "method_not_allowed")

    def test_a_body_is_read_and_not_looked_at(self) -> None:
        """The next request on the connection is answered."""
        world = World(self)
        head = f"GET {SESSIONS} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {TOKEN}\r\n"
        client = world.send(f"{head}Content-Length: 5\r\n\r\nhello{head}\r\n".encode())
        self.assertEqual([response.status for response in client.responses()], [200, 200])

    def test_a_body_that_is_too_large_or_malformed(self) -> None:
        world = World(self)
        head = f"GET {SESSIONS} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {TOKEN}\r\n"
        for rest, status, reason in (
            (f"Content-Length: {LARGEST_BODY + 1}\r\n\r\n", 413, "body_too_large"),
            ("Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "body_malformed"),
        ):
            response = world.send((head + rest).encode()).responses()[0]
            self.assertEqual((response.status, response.header("x-ccm-error")), (status, reason))
