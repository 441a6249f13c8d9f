"""What is learnt from an answer after its first byte: refusals in mid-stream, and that it was served (spec 12.2)."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.inputs import TokenAvailable
from tests.pooled import BOB, PoolWorld
from tests.proxy.manual_upstream import START, TEXT, event
from tests.proxy.raw_upstream import http_response
from tests.proxy.scripted_upstream import CodexPoolWorld, ScriptedUpstream
from tests.proxy.test_codex import only, request
from tests.proxy.websocket.scene import (
    COMPLETED,
    CREATE,
    CREATED,
    DELTA,
    SECRET,
    ClientSocket,
    FixedLogin,
    Scene,
)
from tests.proxy.websocket.scene import event as message

SONNET = "claude-sonnet-4-5"


def stream(*events: bytes) -> bytes:
    """A whole stream of these events."""
    return http_response(200, body=b"".join(events), content_type="text/event-stream")


def claude_error(kind: str, words: str = "slow down") -> bytes:
    """An error event of Claude's."""
    return event("error", json.dumps({"type": "error", "error": {"type": kind, "message": words}}))


def failed(code: str, words: str = "no", **more: object) -> bytes:
    """A stream of Codex that begins, and then fails."""
    error = {"code": code, "message": words, **more}
    return stream(
        event("response.created", '{"type":"response.created","response":{"id":"r1"}}'),
        event("response.output_text.delta", '{"type":"response.output_text.delta","delta":"so far"}'),
        event("response.failed", json.dumps({"type": "response.failed", "response": {"error": error}})),
    )


class ClaudeTests(SynchronousTestCase):
    """Claude's ``error`` in mid-stream."""

    def setUp(self) -> None:
        self.world = PoolWorld(self, strategy="fallback")
        self.upstream = ScriptedUpstream(self.world)

    def refuse(self, kind: str = "rate_limit_error", session: str | None = "s", **options: Any) -> None:
        """``a1`` refuses a turn of the session in mid-stream, and its client gets the stream as it came."""
        said = stream(START, TEXT, claude_error(kind))
        self.upstream.scripts["a1"] = said
        response = self.world.answer(session=session, stream=True, **options)
        self.assertEqual((response.status, response.body), (200, said.partition(b"\r\n\r\n")[2]))
        self.assertEqual(self.upstream.asked(), ["a1"])
        del self.upstream.scripts["a1"]

    def asked(self, session: str | None = "s", **options: Any) -> list[str]:
        """The accounts that the session's next request goes to."""
        self.world.served(session, **options)
        return self.upstream.asked()

    @property
    def holds(self) -> int:
        """How many combinations the first account holds back."""
        return len(self.world.accounts[0].state.holds.combinations)

    def test_the_next_request_is_the_second_opinion(self) -> None:
        """It goes elsewhere, and charges the first account once it is served there, and not before."""
        self.refuse()
        self.assertEqual(self.holds, 0)
        self.assertEqual(self.asked("t"), ["a1"])
        self.assertEqual(self.asked(), ["a2"])
        self.assertEqual(self.holds, 1)
        self.assertEqual(self.asked("u"), ["a2"])
        self.assertEqual(self.asked("v", model=SONNET), ["a1"])

    def test_a_denial(self) -> None:
        """The combination is denied there, and no account is refused for what a stream says."""
        self.refuse("permission_error")
        self.assertEqual(self.asked(), ["a2"])
        self.assertEqual(self.holds, 1)
        self.assertIsNone(self.world.accounts[0].state.refused)
        self.world.network.advance(300)
        self.assertEqual(self.asked("u"), ["a2"])

    def test_the_provider_is_overloaded(self) -> None:
        """Nobody is charged."""
        self.refuse("overloaded_error")
        self.asked()
        self.assertEqual(self.holds, 0)
        self.assertEqual(self.asked("u"), ["a1"])

    def test_another_session_or_user_is_no_opinion(self) -> None:
        self.refuse()
        self.assertEqual(self.asked("s", token=BOB), ["a1"])
        self.assertEqual(self.holds, 0)

    def test_another_model_is_no_opinion(self) -> None:
        self.refuse()
        self.asked(model=SONNET)
        self.assertEqual(self.holds, 0)

    def test_refused_there_too(self) -> None:
        """Nobody is charged."""
        self.refuse()
        self.upstream.scripts["a2"] = stream(START, TEXT, claude_error("rate_limit_error"))
        self.world.answer(session="s", stream=True)
        self.assertEqual(self.upstream.asked(), ["a2"])
        self.assertEqual([account.state.holds.is_empty for account in self.world.accounts], [True, True])

    def test_after_a_minute(self) -> None:
        self.refuse()
        self.world.network.advance(61)
        self.assertEqual(self.asked(), ["a1"])
        self.assertEqual(self.holds, 0)

    def test_without_a_session(self) -> None:
        """Nobody knows which request is the next one."""
        self.refuse(session=None)
        self.assertEqual(self.asked(None), ["a1"])
        self.assertEqual(self.holds, 0)

    def test_a_session_is_warm_where_it_was_served_to_the_end(self) -> None:
        """A rest of the account's leaves it there; a session whose stream broke off is cold, and goes elsewhere."""
        self.assertEqual(self.asked("warm"), ["a1"])
        self.upstream.scripts["a1"] = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"
        client = self.world.ask(session="cold")
        assert client.transport is not None
        client.transport.loseConnection()
        self.world.network.flush()
        self.assertEqual(self.upstream.asked(), ["a1"])
        self.refuse()
        self.asked()
        self.assertEqual((self.asked("warm"), self.asked("cold")), (["a1"], ["a2"]))


class KeyTests(SynchronousTestCase):
    """A session leaves for another account, never for a key for this alone (spec 12.1)."""

    def asked(self, *members: str) -> list[str]:
        """Who is asked for a turn that ``a1`` refuses in mid-stream, and for the session's next one."""
        key = "      - {tag: key, api_key: KEY}\n"
        plans = ("max_20x",) * (len(members) - 1)
        world = PoolWorld(self, plans, members=members, more_credentials=key, strategy="fallback")
        upstream = ScriptedUpstream(world)
        upstream.scripts["a1"] = stream(START, TEXT, claude_error("rate_limit_error"))
        world.answer(session="s", stream=True)
        del upstream.scripts["a1"]
        world.served("s")
        return upstream.asked()

    def test_the_session_stays(self) -> None:
        self.assertEqual(self.asked("a1", "key"), ["a1", "a1"])

    def test_the_key_is_passed_over(self) -> None:
        self.assertEqual(self.asked("a1", "key", "a2"), ["a1", "a2"])


class CodexTests(SynchronousTestCase):
    """``response.failed`` after output has begun."""

    def setUp(self) -> None:
        self.world = CodexPoolWorld(self)
        self.says = self.world.upstream_says

    def refuse(self, said: bytes) -> None:
        """``a1`` fails a turn of the session."""
        self.says.scripts["a1"] = said
        response = only(self.world.send(request("hello", "session-id: s")))
        self.assertEqual(response.body.count(b"so far"), 1)
        self.assertIn(b"response.failed", response.body)
        self.assertEqual(self.says.asked(), ["a1"])
        del self.says.scripts["a1"]

    def next(self, session: str = "s") -> list[str]:
        """The accounts that the session's next request goes to."""
        response = only(self.world.send(request("hello", f"session-id: {session}")))
        self.assertEqual(response.status, 200)
        return self.says.asked()

    def test_used_up(self) -> None:
        """With its reset: the account pauses until then, for everybody."""
        resets_at = int(self.world.clock.seconds() + 3600)
        self.refuse(failed("usage_limit_reached", resets_at=resets_at))
        self.assertFalse(self.world.accounts[0].is_usable())
        self.assertEqual([self.next(), self.next("t"), self.next("u")], [["a2"]] * 3)

    def test_a_burst(self) -> None:
        """Its wait is the rest's, once another account has served the session."""
        self.refuse(failed("rate_limit_exceeded", "Rate limit reached. Please try again in 20s."))
        self.assertTrue(self.world.accounts[0].is_usable())
        self.assertTrue(self.world.accounts[0].state.holds.is_empty)
        self.assertEqual(self.next(), ["a2"])
        (hold,) = self.world.accounts[0].state.holds.combinations.values()
        self.assertEqual((hold.is_rest, hold.until), (True, self.world.clock.seconds() + 20))

    def test_a_refused_token(self) -> None:
        """It is refreshed, so that the next request has another one."""
        self.refuse(failed("token_expired"))
        self.assertEqual(self.world.codex[0].counters.refreshes, 1)
        self.assertTrue(self.world.accounts[0].is_usable())

    def test_a_token_that_stays_refused(self) -> None:
        """After the refresh a second refusal makes the login bad, although the streams began well (spec 12.3)."""
        self.world.simulator.faults.always("unauthorized", endpoint="usage")
        for _ in range(2):
            self.refuse(failed("token_expired"))
        # One for the request, and one for the poll that finds out whether the login is good again.
        self.assertEqual(self.world.codex[0].counters.refreshes, 2)
        self.assertEqual(
            self.world.accounts[0].snapshot(self.world.clock.seconds()).availability.state, "unavailable"
        )
        self.assertEqual(self.next(), ["a2"])

    def test_a_token_that_is_good_for_polls(self) -> None:
        """Then the second refusal is about the request: the session moves, and the login stays."""
        for _ in range(2):
            self.refuse(failed("token_expired"))
        self.assertTrue(self.world.accounts[0].is_usable())
        self.assertEqual((self.next(), self.next("t")), (["a2"], ["a1"]))

    def test_another_identity_in_between(self) -> None:
        """What the last one refused is not charged to it (spec 12.5)."""
        self.refuse(failed("rate_limit_exceeded", "Rate limit reached. Please try again in 20s."))
        self.world.accounts[0]._apply(TokenAvailable(1.0, "another workspace"))
        self.assertEqual(self.next(), ["a2"])
        self.assertTrue(self.world.accounts[0].state.holds.is_empty)


class WebSocketTests(SynchronousTestCase):
    """Refusals within a WebSocket are learnt from like any other."""

    def test_a_turn_fails_with_a_reset(self) -> None:
        scene = Scene(self, accounts=2)
        client = scene.open(("session-id", "s"))
        self.assertEqual(scene.upstream.field("authorization"), f"Bearer {SECRET}a".encode())
        client.say(CREATE)
        scene.settle()
        error = {"code": "usage_limit_reached", "message": "no", "resets_at": scene.clock.seconds() + 3600}
        refusal = message("response.failed", response={"id": "r1", "error": error})
        for said in (CREATED, DELTA, refusal):
            scene.upstream.say(said)
        scene.settle()
        self.assertEqual(client.without_limits()[:3], [CREATED, DELTA, refusal])
        self.assertFalse(scene.accounts[0].is_usable())
        scene.open(("session-id", "s"))
        self.assertEqual(scene.upstream.field("authorization"), f"Bearer {SECRET}b".encode())

    def test_a_turn_is_charged_to_its_model(self) -> None:
        """The handshake names none. Once another account has served the like, the model rests, and others do not."""
        scene = Scene(self, accounts=2, kind=FixedLogin)
        client = scene.open(("session-id", "s"))
        client.say(CREATE)
        scene.settle()
        refusal = message(
            "response.failed", response={"error": {"code": "rate_limit_exceeded", "message": "no"}}
        )
        for said in (CREATED, DELTA, refusal):
            scene.upstream.say(said)
        scene.settle()
        self.assertTrue(scene.accounts[0].state.holds.is_empty)
        again = scene.open(("session-id", "s"))
        self.assertEqual(scene.upstream.field("authorization"), f"Bearer {SECRET}b".encode())
        again.say(CREATE)
        scene.settle()
        for said in (CREATED, DELTA, COMPLETED):
            scene.upstream.say(said)
        scene.settle()
        (held,) = scene.accounts[0].state.holds.combinations
        self.assertEqual((held.endpoint, held.model), ("/v1/responses", "gpt-5.4"))

    def refuse_model(self, scene: Scene) -> ClientSocket:
        """The account to which a session connects may not use the model of its turn. Returns the client."""
        client = scene.open(("session-id", "s"))
        client.say(CREATE)
        scene.settle()
        words = "The 'gpt-5.4' model is not supported when using Codex with a ChatGPT account."
        scene.upstream.say(message("error", status=400, error={"message": words}, detail=words))
        scene.settle()
        return client

    def test_a_model_that_is_not_for_the_account(self) -> None:
        """The turn is begun anew on another account. Once that has served it, the first one is not asked again."""
        scene = Scene(self, accounts=2, kind=FixedLogin)
        client = self.refuse_model(scene)
        self.assertEqual((client.without_limits(), client.code), ([], 1012))
        self.assertTrue(scene.accounts[0].state.holds.is_empty, "nobody has served it yet (spec 12.5)")
        again = scene.open(("session-id", "s"))
        self.assertEqual(scene.upstream.field("authorization"), f"Bearer {SECRET}b".encode())
        again.say(CREATE)
        scene.settle()
        for said in (CREATED, DELTA, COMPLETED):
            scene.upstream.say(said)
        scene.settle()
        self.assertEqual(list(scene.accounts[0].state.holds.models), ["gpt-5.4"])

    def test_a_model_that_is_for_nobody(self) -> None:
        """The second refusal is the client's, and nothing is kept of the model."""
        scene = Scene(self, accounts=3, kind=FixedLogin)
        self.assertEqual(self.refuse_model(scene).without_limits(), [])
        client = self.refuse_model(scene)
        self.assertEqual(scene.upstream.field("authorization"), f"Bearer {SECRET}b".encode())
        (refusal,) = client.without_limits()
        self.assertIn(b"is not supported", refusal)
        for account in scene.accounts:
            self.assertTrue(account.state.holds.is_empty)
