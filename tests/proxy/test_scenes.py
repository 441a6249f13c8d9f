"""One scene for each row of the table of spec 12: what a refusal is about, who is told, what changes for the others.

Each scene is a whole service with several accounts and users, in memory: the program asks the scripted accounts of a
pool, and what clients, the status endpoint and the log say of it is compared with the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.holds import DENIED_TIME
from tests.proxy.manual_upstream import event
from tests.proxy.neighbours import ACCOUNTS, KINDS, ODD, TOKENS, Scene
from tests.proxy.raw_upstream import http_response
from tests.proxy.scripted_upstream import refusal

HOUR = 3600.0


class ScenesCase(SynchronousTestCase):
    """What all scenes share."""

    def scenes(self, *dialects: str) -> Iterator[Scene]:
        """A scene for each dialect, both unless told else."""
        for dialect in dialects or tuple(KINDS):
            self.scene = Scene(self, dialect)
            yield self.scene


class RequestTests(ScenesCase):
    """The request: the client that sent it is told, nothing changes."""

    #: By dialect: a refusal, and how many of three accounts are asked before the client gets it.
    REFUSED = {
        "claude": (
            (400, "prompt is too long: 250000 tokens > 200000 maximum", "invalid_request_error", 1),
            (400, "The long context beta is not yet available for this subscription.", "error", 2),
            (403, "This option is not for you", "permission_error", 2),
            (413, "Request exceeds the maximum size", "request_too_large", 1),
            (429, "Extra usage is required for long context requests.", "rate_limit_error", 3),
            (429, "slow down", "rate_limit_error", 3),
        ),
        "codex": (
            (400, "Your input exceeds the context window of this model.", "invalid_request_error", 1),
            (403, "This option is not for you", "forbidden", 2),
            (404, "Nothing is here", "not_found", 1),
            (429, "To use Codex, upgrade to Plus", "usage_not_included", 3),
            (429, "slow down", "rate_limit_exceeded", 3),
        ),
    }

    def test_refused_by_all_alike(self) -> None:
        """The first answer passes as it came, and within a minute the like is asked of one account only."""
        for dialect, rows in self.REFUSED.items():
            for status, words, kind, asked in rows:
                (scene,) = self.scenes(dialect)
                scene.refuse(refusal(status, words, ("x-of", "the provider"), kind=kind), *ACCOUNTS)
                for number in (asked, 1):
                    response = scene.told("alice", "warm")
                    self.assertEqual((response.status, response.error["message"]), (status, words))
                    self.assertEqual((response.header("x-of"), scene.mark(response)), ("the provider", None))
                    self.assertFalse([name for name, _ in response.headers if b"ratelimit" in name.lower()])
                    self.assertEqual(scene.asked(), list(ACCOUNTS[:number]), words)
                # Somebody whose only account it is hears the same.
                response = scene.told("carol", "warm")
                self.assertEqual((response.status, response.error["message"]), (status, words))
                self.assertEqual(scene.asked(), ["a1"])
                scene.assert_neighbours_unchanged()
                scene.assert_nobody_charged()
                self.assertFalse(scene.is_logged("not usable"), words)
                scene.finish()


class ConnectionTests(ScenesCase):
    """One connection: it ends, and its neighbours stay."""

    def test_an_answer_breaks_off(self) -> None:
        """Its client sees that it is not whole; it is not sent again, and no account is charged."""
        for scene in self.scenes():
            client = scene.say("alice", "warm", "[[simulate:cut;at=mid]]", stream=True)
            scene.network.advance(1)
            (response,) = client.responses()
            self.assertEqual((response.status, response.complete, client.broken), (200, False, True))
            self.assertEqual(scene.asked(), ["a1"])
            scene.assert_neighbours_unchanged()
            scene.assert_nobody_charged()
            scene.finish()

    def test_a_websocket_has_lived_for_too_long(self) -> None:
        """It is told so and ends; those of others stay, and new ones are opened where it was."""
        (scene,) = self.scenes("codex")
        mine, others = scene.socket("alice"), scene.socket("bob")
        self.assertEqual((mine.status, others.status, scene.asked()), (101, 101, ["a1", "a1"]))
        told = scene.turn(mine, "[[simulate:connection_limit]]")
        self.assertIn("error", told)
        self.assertIn(b"websocket_connection_limit_reached", b"".join(mine.messages))
        self.assertIsNotNone(mine.lost or mine.closed)
        self.assertEqual(scene.turn(others)[-1], "response.completed")
        self.assertIsNone(others.closed)
        again = scene.socket("alice")
        self.assertEqual((again.status, scene.asked()), (101, ["a1"]))
        scene.assert_neighbours_unchanged()
        scene.assert_nobody_charged()
        for client in (others, again):
            client.transport.loseConnection()
        scene.finish()

    def test_an_account_has_no_more_websockets_to_give(self) -> None:
        """New WebSockets go elsewhere for a minute, or their clients are told to use HTTP. Nothing else moves."""
        (scene,) = self.scenes("codex")
        others = scene.socket("bob")
        scene.asked()
        body = b'{"error": {"code": "websocket_connection_limit_reached", "message": "too many"}}'
        scene.upstream_says.scripts["a1"] = lambda asked: (
            http_response(429, body=body) if b"Upgrade: websocket" in asked else None
        )
        mine = scene.socket("alice")
        self.assertEqual((mine.status, scene.asked()), (101, ["a1", "a2"]))
        carols = scene.socket("carol")
        self.assertEqual(
            (carols.status, carols.field("x-ccm-error"), scene.asked()), (426, b"no_websocket", [])
        )
        del scene.upstream_says.scripts["a1"]
        self.assertEqual(scene.turn(others)[-1], "response.completed")
        scene.assert_neighbours_unchanged()
        scene.assert_nobody_charged()
        scene.network.advance(60)
        again = scene.socket("carol")
        self.assertEqual((again.status, scene.asked()), (101, ["a1"]))
        for client in (mine, others, again, carols):
            client.transport.loseConnection()
        scene.close()


class CombinationTests(ScenesCase):
    """One account, endpoint, model and set of betas: only that combination, until the time given."""

    def others_go_on(self, scene: Scene) -> None:
        """Everything but the combination goes where it always went."""
        for user in ("alice", "bob"):
            scene.assert_served(["a1"], user, "of-another-model", model=scene.other_model)
        if scene.dialect == "claude":
            betas = (("anthropic-beta", "other-2026-01-01"),)
            scene.assert_served(["a1"], "bob", "of-other-betas", headers=betas)
            scene.assert_served(["a1"], "bob", "counts", path="/v1/messages/count_tokens")

    def test_it_rests(self) -> None:
        """A 429 without data: another account serves. Warm sessions stay, cold ones of this combination go elsewhere
        for the time that was named, and nobody is told of anything."""
        for scene in self.scenes():
            kind = {"claude": "rate_limit_error", "codex": "rate_limit_exceeded"}[scene.dialect]
            scene.refuse(refusal(429, "slow down", ("Retry-After", "8"), kind=kind), "a1")
            scene.assert_served(["a1", "a2"], "alice", "moved", ODD)
            scene.assert_neighbours_unchanged()
            for user in ("alice", "bob"):
                scene.assert_served(["a2"], user, "cold")
            self.others_go_on(scene)
            # Carol, whose only account it is, has cold work too: she is told the wait, and that it is a short one.
            response = scene.told("carol", "cold", "hello")
            self.assertIn((response.status, scene.mark(response)), ((429, "busy"), (503, "busy")))
            self.assertIn(int(response.header("retry-after") or 0), range(7, 12))
            self.assertIsNone(response.header("x-should-retry"))
            self.assertEqual(scene.asked(), [])
            self.assertFalse(scene.is_logged("not usable"))
            scene.network.advance(8)
            scene.assert_served(["a1"], "bob", "after-the-rest")
            scene.assert_served(["a1"], "carol", "cold")
            scene.assert_served(["a2"], "alice", "moved")
            scene.network.advance(12)
            self.assertEqual(scene.running.responses()[0].status, 200)
            scene.close()

    def test_it_is_denied(self) -> None:
        """A refusal that another account does not share: the combination goes there for ten minutes."""
        for scene in self.scenes():
            scene.refuse(refusal(403, "computer says no", kind="permission_error"), "a1")
            scene.assert_served(["a1", "a2"], "alice", "warm", ODD)
            self.others_go_on(scene)
            for user in TOKENS:
                self.assertEqual(scene.status(user), scene.before[user])
            for user in ("alice", "bob"):
                scene.assert_served(["a2"], user, "new")
            # Nobody else can serve carol: her request is sent there all the same.
            scene.assert_served(["a1"], "carol", "warm")
            self.assertFalse(scene.is_logged("not usable"))
            self.assertEqual(scene.running.received, b"")
            scene.network.advance(20)
            self.assertEqual(scene.running.responses()[0].status, 200)
            scene.network.advance(DENIED_TIME - 20)
            scene.assert_served(["a1"], "bob", "later")
            scene.close()

    def test_a_model_that_the_account_may_not_use(self) -> None:
        """Known words: the model goes elsewhere at once, other models stay; where nobody else is, the words pass."""
        (scene,) = self.scenes("codex")
        words = f"The '{scene.model}' model is not supported when using Codex with a ChatGPT account."
        scene.refuse(http_response(400, body=json.dumps({"detail": words}).encode()), "a1")
        response = scene.told("carol", "warm")
        self.assertEqual((response.status, response.json()["detail"]), (400, words))
        self.assertEqual((scene.mark(response), scene.asked()), (None, ["a1"]))
        scene.assert_served(["a2"], "alice", "new")
        self.others_go_on(scene)
        for user in TOKENS:
            self.assertEqual(scene.status(user), scene.before[user])
        scene.finish()


class LoginTests(ScenesCase):
    """The login: it is refreshed, and is bad until it changes if that does not help."""

    def test_a_refresh_mends_it(self) -> None:
        """Nobody notices anything, and only the one account's login is refreshed."""
        for scene in self.scenes():
            scene.login_of("a1").expire_access_token()
            scene.assert_served(["a1", "a1"], "alice", "warm")
            scene.assert_neighbours_unchanged()
            refreshed = [login.counters.refreshes for login in scene.all_logins]
            self.assertEqual(refreshed, [1, 0, 0])
            scene.assert_nobody_charged()
            scene.finish()

    def test_it_is_dead(self) -> None:
        """Another account serves at once, also what was waiting there. Who has no other is told whom to ask, and the
        operator how to mend it; a new login ends it."""
        for scene in self.scenes():
            scene.login_of("a1").log_out()
            # Bob's request cannot succeed there any more: it goes with her.
            scene.assert_served(["a1", "a2", "a2"], "alice", "warm")
            self.assertEqual(scene.running.received, b"")
            for user in ("alice", "bob"):
                self.assertEqual(scene.status(user)["state"], "usable")
                scene.assert_served(["a2"], user, "warm-too")
                scene.assert_served(["a2"], user, "new")
            for _ in range(3):
                response = scene.told("carol", "warm")
                self.assertEqual((response.status, scene.mark(response)), (400, "credential_unavailable"))
                self.assertIn("log in again", response.error["message"])
            self.assertEqual(scene.asked(), [])
            self.assertEqual(scene.status("carol")["state"], "unavailable")
            self.assertTrue(scene.is_logged("log in again"))
            scene.login_of("a1").log_in()
            scene.write("a1")
            scene.see_files()
            scene.assert_served(["a1"], "carol", "warm")
            self.assertEqual(scene.status("carol")["state"], "usable")
            scene.assert_served(["a1"], "bob", "newer")
            scene.finish()


class CapacityTests(ScenesCase):
    """What the account has left: it pauses until its window's reset."""

    def test_one_account_is_used_up(self) -> None:
        """Another one serves. Only who has no other is told: that it is used up, and until when."""
        for scene in self.scenes():
            scene.login_of("a1").exhaust("five_hour")
            scene.assert_served(["a1", "a2"], "alice", "warm")
            self.assertEqual(scene.running.received, b"")
            for user in ("alice", "bob"):
                scene.assert_served(["a2"], user, "warm-too")
                self.assertEqual(scene.status(user), scene.before[user])
            response = scene.told("carol", "warm")
            self.assertEqual((response.status, scene.mark(response)), (429, "rate_limited"))
            self.assertRegex(
                response.error["message"], "^all credentials rate-limited, earliest reset in [45]h"
            )
            self.assertEqual(scene.asked(), [])
            told = scene.status("carol")
            self.assertEqual(told["state"], "rate_limited")
            self.assertGreater(told["reset_at"], scene.clock.seconds() + 4 * HOUR)
            self.assertTrue(scene.is_logged("not usable: rate-limited until"))
            scene.network.advance(20)
            self.assertEqual(scene.running.responses()[0].status, 200)
            scene.network.advance(told["reset_at"] - scene.clock.seconds() + 1)
            scene.assert_served(["a1"], "carol", "warm")
            scene.assert_served(["a1"], "bob", "new")
            scene.close()

    def test_all_are_used_up(self) -> None:
        """Everybody is told the reset of the account that is free first, and no account is asked any more."""
        for scene in self.scenes():
            for tag in ACCOUNTS:
                scene.login_of(tag).exhaust("five_hour")
            resets = scene.login_of("a1").windows["five_hour"].resets_at
            self.assertEqual(scene.told("alice", "warm").status, 429)
            self.assertEqual(scene.asked(), ["a1", "a2", "a3"])
            for user in TOKENS:
                response = scene.told(user, "warm")
                self.assertEqual((response.status, scene.mark(response)), (429, "rate_limited"), user)
                told = scene.status(user)
                self.assertEqual((told["state"], told["reset_at"]), ("rate_limited", int(resets or 0)))
                if scene.dialect == "claude":
                    self.assertEqual(response.header("x-should-retry"), "false")
                else:
                    self.assertEqual(response.error["type"], "usage_limit_reached")
                    self.assertEqual(response.error["resets_at"], int(resets or 0))
                self.assertIsNone(response.header("retry-after"))
            self.assertEqual(scene.asked(), [])
            scene.finish()


class AccountTests(ScenesCase):
    """The account itself: it is not used, and the operator is told."""

    REFUSED = {
        "claude": (400, {"error": {"message": "This organization has been disabled."}}, "has been disabled"),
        "codex": (402, {"detail": {"code": "deactivated_workspace"}}, "deactivated_workspace"),
    }

    def test_it_is_closed(self) -> None:
        """Its sessions move, and the provider's sentence is in the log; polls find out when it is served again."""
        for scene in self.scenes():
            status, body, words = self.REFUSED[scene.dialect]
            said = http_response(status, body=json.dumps(body).encode())
            scene.refuse(said, "a1")
            scene.assert_served(["a1", "a2"], "alice", "warm", ODD)
            # What it has accepted it may finish, and everybody's sessions go elsewhere.
            self.assertEqual(scene.running.received, b"")
            for user in ("alice", "bob"):
                for session in ("warm", "warm-too", "new"):
                    scene.assert_served(["a2"], user, session)
                self.assertEqual(scene.status(user), scene.before[user])
            self.assertTrue(scene.is_logged("not usable: the provider refuses this account: "))
            self.assertTrue(scene.is_logged(words))
            # Who has no other account is told why, in the provider's words, and nobody is asked.
            response = scene.told("carol", "warm")
            self.assertEqual((response.status, scene.asked()), (400, []))
            self.assertIn(words, response.error["message"])
            told = scene.status("carol")
            self.assertEqual((told["state"], told["reason"]), ("temporarily_blocked", "refused"))
            # The first good poll lets one request find out.
            scene.network.advance(61)
            self.assertEqual(scene.running.responses()[0].status, 200)
            self.assertEqual((scene.told("carol", "warm").status, scene.asked()), (status, ["a1"]))
            self.assertEqual((scene.told("carol", "warm").status, scene.asked()), (400, []))
            scene.upstream_says.scripts.clear()
            scene.network.advance(301)
            scene.assert_served(["a1"], "carol", "warm")
            self.assertEqual(scene.status("carol")["state"], "usable")
            scene.assert_served(["a1"], "bob", "newer")
            scene.close()

    def test_its_words_in_the_clients_own_request(self) -> None:
        """A client cannot have an account refused by words that it sends itself."""
        for scene in self.scenes("claude"):
            _, body, _ = self.REFUSED[scene.dialect]
            said = http_response(400, body=json.dumps(body).encode())
            scene.refuse(said, *ACCOUNTS)
            words = (("X-Note", "This organization has been disabled."),)
            response = scene.told("alice", "warm", headers=words)
            self.assertEqual((response.status, scene.asked()), (400, ["a1"]))
            scene.assert_neighbours_unchanged()
            scene.assert_nobody_charged()
            scene.finish()


class ProviderTests(ScenesCase):
    """The provider: the client is told, nothing changes."""

    def test_it_is_overloaded_or_broken(self) -> None:
        """Relayed as it came, and sent once: the others are the same provider's."""
        for status in (500, 503, 529):
            for scene in self.scenes():
                scene.refuse(
                    refusal(status, "not now", ("Retry-After", "7"), kind="overloaded_error"), *ACCOUNTS
                )
                response = scene.told("alice", "warm")
                self.assertEqual((response.status, response.error["message"]), (status, "not now"))
                self.assertEqual((response.header("retry-after"), scene.mark(response)), ("7", None))
                self.assertEqual(scene.asked(), ["a1"])
                response = scene.told("carol", "warm")
                self.assertEqual((response.status, scene.asked()), (status, ["a1"]))
                scene.assert_neighbours_unchanged()
                scene.assert_nobody_charged()
                self.assertFalse(scene.is_logged("not usable"))
                scene.finish()

    def test_streams_that_begin_with_it(self) -> None:
        """One more account is asked, before the client has anything; then the first stream passes as it came."""
        payloads = {
            "claude": (
                "error",
                {"type": "error", "error": {"type": "overloaded_error", "message": "not now"}},
            ),
            "codex": (
                "response.failed",
                {
                    "type": "response.failed",
                    "response": {"error": {"code": "server_is_overloaded", "message": "not now"}},
                },
            ),
        }
        for scene in self.scenes():
            name, payload = payloads[scene.dialect]
            body = event(name, json.dumps(payload))
            said = http_response(200, body=body, content_type="text/event-stream")
            scene.refuse(said, "a1")
            scene.assert_served(["a1", "a2"], "alice", "warm", ODD, stream=True)
            scene.refuse(said, *ACCOUNTS)
            response = scene.told("bob", "warm", stream=True)
            self.assertEqual((response.status, scene.asked()), (200, ["a1", "a2"]))
            self.assertIn(b"not now", response.body)
            scene.upstream_says.scripts.clear()
            scene.assert_neighbours_unchanged()
            scene.assert_nobody_charged()
            scene.finish()
