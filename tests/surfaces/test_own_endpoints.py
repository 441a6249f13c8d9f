"""Tests of ccmproxy's own endpoints: their common rules, and the list of sessions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.surfaces.own_endpoints import LARGEST_BODY
from tests.conversation import ANONYMOUS, TOKEN, World
from tests.pooled import BOB, PoolWorld

SESSIONS = "/ccm/v1/sessions"
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
