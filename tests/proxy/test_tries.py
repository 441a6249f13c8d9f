"""One request through all that accounts may say to it: who is asked, what the client gets, who is charged (spec 12)."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.account import LoginAccount
from ccmproxy.credentials.login.standing import TokenStanding
from ccmproxy.state.holds import DENIED_TIME
from ccmproxy.state.inputs import TokenAvailable, TokenUnavailable
from tests.conversation import TOKEN, Response
from tests.pooled import BOB, PoolWorld
from tests.proxy.manual_upstream import event
from tests.proxy.raw_upstream import http_response
from tests.proxy.scripted_upstream import CodexPoolWorld, Remote, ScriptedUpstream, refusal
from tests.proxy.test_codex import only, request

STATUS = "/ccm/v1/status"
OPUS, SONNET = "claude-opus-4-5", "claude-sonnet-4-5"
BUSY = refusal(429, "slow down", kind="rate_limit_error")
UNAUTHORIZED = refusal(401, "Invalid bearer token", kind="authentication_error")
FORBIDDEN = refusal(403, "computer says no", kind="permission_error")
DISABLED_WORDS = "This organization has been disabled."
DISABLED = refusal(403, DISABLED_WORDS, kind="permission_error")
#: A client that is known to wait, and one that is not.
WAITS = (("User-Agent", "claude-cli/2.1.330 (external, cli)"),)
UNKNOWN = (("User-Agent", "curl/8"),)
SERVED = http_response(200, body=b'{"type":"message","usage":{"input_tokens":1}}')
#: For a pool with a remote instance, which bob may use.
FRIEND = (
    '      - {tag: friend, type: external, token: friend-token-4711, url: "http://127.0.0.1:7000/team"}\n'
)
BOBS = "pool, allow_external_usage: true"


class TriesCase(SynchronousTestCase):
    """A pool whose accounts say what a test wants, and what several tests look at."""

    def begin(self, accounts: int = 2, **options: Any) -> None:
        """A pool of so many equal accounts; new sessions go to ``a1`` first."""
        plans = ("max_20x",) * accounts
        self.world = PoolWorld(self, plans, **options)
        self.upstream = ScriptedUpstream(self.world)
        self.scripts = self.upstream.scripts

    def status(self, token: str = TOKEN) -> str:
        """The state that the status tells."""
        return str(self.world.get(STATUS, token).json()["availability"]["state"])

    def assert_served_by(self, tags: list[str], session: str | None = None, **options: Any) -> None:
        """Check that a request is served, after it was sent to these accounts in this order."""
        response = self.world.answer(session=session, **options)
        self.assertEqual(response.status, 200, response.body[:200])
        self.assertEqual(self.upstream.asked(), tags)

    def assert_refused(
        self, tags: list[str], status: int, words: str, session: str | None = None, **options: Any
    ) -> Response:
        """Check that the client gets the provider's refusal after these accounts were asked."""
        response = self.world.answer(session=session, **options)
        self.assertEqual((response.status, response.error["message"]), (status, words))
        self.assertIsNone(response.header("x-ccm-error"))
        self.assertEqual(self.upstream.asked(), tags)
        return response

    def assert_nobody_charged(self) -> None:
        """Check that nothing is held against any account."""
        for account in self.world.accounts:
            self.assertTrue(account.state.holds.is_empty, account)
            self.assertIsNone(account.state.refused)
            self.assertTrue(account.is_usable())

    def held(self) -> list[str]:
        """Tags of the accounts that hold back some combination."""
        return [account.tag for account in self.world.accounts if account.state.holds.combinations]

    def refused(self) -> list[str]:
        """Tags of the accounts that count as refused by their provider."""
        return [account.tag for account in self.world.accounts if account.state.refused is not None]


class BusyTests(TriesCase):
    """429 without data (spec 12.1, 12.2)."""

    def test_another_serves(self) -> None:
        """The combination rests for 5 s, for cold sessions only, and nobody is told of it."""
        self.begin(strategy="fallback")
        self.assert_served_by(["a1"], "warm")
        self.world.poll()
        before = self.world.get(STATUS).json()
        self.scripts["a1"] = BUSY
        self.assert_served_by(["a1", "a2"], "refused")
        del self.scripts["a1"]
        self.assertEqual(self.held(), ["a1"])
        self.assertEqual(self.world.get(STATUS).json()["availability"], before["availability"])
        self.assertNotIn("rate_limited", self.world.get(STATUS).body.decode())
        for session in "uvw":
            self.assert_served_by(["a2"], session)
        self.assert_served_by(["a1"], "warm")

    def test_the_rest_ends(self) -> None:
        self.begin(strategy="fallback")
        self.scripts["a1"] = BUSY
        self.assert_served_by(["a1", "a2"], "s")
        del self.scripts["a1"]
        self.world.network.advance(4.9)
        self.assert_served_by(["a2"], "t")
        self.world.network.advance(0.2)
        self.assert_served_by(["a1"], "u")
        # A session that a rest has moved does not return within 5 min.
        self.assert_served_by(["a2"], "s")

    def test_a_rest_as_long_as_it_was_asked_for(self) -> None:
        self.begin(strategy="fallback")
        self.scripts["a1"] = refusal(429, "slow down", ("Retry-After", "20"))
        self.assert_served_by(["a1", "a2"], "s")
        del self.scripts["a1"]
        self.world.network.advance(19)
        self.assert_served_by(["a2"], "t")
        self.world.network.advance(2)
        self.assert_served_by(["a1"], "u")

    def test_others_of_its_requests_go_on(self) -> None:
        """Another model, and other betas, are not concerned."""
        self.begin(strategy="fallback")
        self.scripts["a1"] = BUSY
        self.assert_served_by(["a1", "a2"], "s", model=OPUS)
        del self.scripts["a1"]
        self.assert_served_by(["a1"], "t", model=SONNET)
        self.assert_served_by(["a1"], "u", model=OPUS, headers=(("anthropic-beta", "other-2026-01-01"),))
        self.assert_served_by(["a2"], "v", model=OPUS)

    def test_all_refuse(self) -> None:
        """Three of five accounts are asked, the first answer passes as it came, and nobody is charged. For a minute the
        like is sent once only."""
        self.begin(5)
        for tag in ("a1", "a2", "a3", "a4", "a5"):
            self.scripts[tag] = refusal(429, f"slow down, {tag}", ("Retry-After", "7"), ("x-of", tag))
        response = self.assert_refused(["a1", "a2", "a3"], 429, "slow down, a1", "s")
        self.assertEqual((response.header("x-of"), response.header("retry-after")), ("a1", "7"))
        self.assert_nobody_charged()
        for seconds in (1, 30, 28):
            self.world.network.advance(seconds)
            response = self.world.answer(session="s")
            self.assertEqual((response.status, len(self.upstream.asked())), (429, 1))
            self.assert_nobody_charged()
        self.assertEqual(self.status(), "usable")
        self.world.network.advance(2)
        self.assertEqual(self.world.answer(session="s").status, 429)
        self.assertEqual(len(self.upstream.asked()), 3)

    def test_another_model_may_be_put_to_others_meanwhile(self) -> None:
        self.begin(3)
        self.scripts = self.upstream.scripts = dict.fromkeys(("a1", "a2", "a3"), BUSY)
        self.world.answer(session="s", model=OPUS)
        self.assertEqual(len(self.upstream.asked()), 3)
        self.world.answer(session="s", model=SONNET)
        self.assertEqual(len(self.upstream.asked()), 3)

    def test_a_caller_is_heard_by_others_six_times_a_minute(self) -> None:
        self.begin(2)
        self.scripts["a1"] = self.scripts["a2"] = BUSY
        sends = []
        for number in range(8):
            self.world.answer(model=f"claude-opus-4-{number}")
            sends.append(len(self.upstream.asked()))
        self.assertEqual(sends, [2] * 6 + [1] * 2)
        self.world.answer(token=BOB)
        self.assertEqual(len(self.upstream.asked()), 2)

    def test_words_about_the_request_charge_nobody(self) -> None:
        self.begin()
        words = "Extra usage is required for long context requests."
        self.scripts["a1"] = refusal(429, words, kind="rate_limit_error")
        self.assert_served_by(["a1", "a2"], "s")
        self.assert_nobody_charged()
        self.scripts["a2"] = self.scripts["a1"]
        self.assert_refused(["a2", "a1"], 429, words, "s")
        self.assert_nobody_charged()

    def test_counting_tokens_never_touches_turns(self) -> None:
        """Not even when two callers and two models are refused there."""
        self.begin(strategy="fallback")
        self.scripts["a1"] = BUSY
        path = "/v1/messages/count_tokens"
        self.assert_served_by(["a1", "a2"], "s", path=path)
        self.assert_served_by(["a1", "a2"], "s", path=path, token=BOB, model=SONNET)
        del self.scripts["a1"]
        self.assert_served_by(["a1"], "t")

    def test_other_endpoints_never_touch_turns(self) -> None:
        """Not even when two callers are refused there, by 429 or 403, with another account or without."""
        for said in (BUSY, FORBIDDEN):
            for accounts in (2, 1):
                self.begin(accounts, strategy="fallback")
                self.scripts["a1"] = said
                self.scripts["a2"] = SERVED
                for token in (TOKEN, BOB):
                    self.world.answer(session="s", path="/v1/files", token=token)
                self.scripts.clear()
                self.upstream.asked()
                self.assert_served_by(["a1"], "t")
                self.assertEqual(self.refused(), [])
                self.world.close()

    def test_the_second_is_used_up(self) -> None:
        """That is no opinion: it is charged to the second, and the third is asked; it serves, so the first rests."""
        self.begin(3)
        self.scripts["a1"] = BUSY
        self.world.exhaust("a2", resets_in=3600.0)
        self.assert_served_by(["a1", "a2", "a3"], "s")
        self.assertEqual(self.held(), ["a1"])
        self.assertFalse(self.world.accounts[1].is_usable())

    def test_the_second_is_overloaded(self) -> None:
        """No opinion, and nobody else is left: the first answer passes, and nobody is charged."""
        self.begin(2)
        self.scripts = self.upstream.scripts
        self.scripts["a1"], self.scripts["a2"] = BUSY, refusal(529, "overloaded", kind="overloaded_error")
        self.assert_refused(["a1", "a2"], 429, "slow down", "s")
        self.assert_nobody_charged()

    def test_two_models_refused_there(self) -> None:
        """With nothing served in between the account as a whole rests."""
        self.begin(strategy="fallback")
        self.scripts["a1"] = BUSY
        self.assert_served_by(["a1", "a2"], "s", model=OPUS)
        self.assertIsNone(self.world.accounts[0].state.holds.account)
        self.assert_served_by(["a1", "a2"], "t", model=SONNET)
        self.assert_served_by(["a2"], "u", model="claude-haiku-4-5")


class LoginTests(TriesCase):
    """401 that a refresh does not mend (spec 12.3)."""

    def test_another_serves(self) -> None:
        """The combination is denied there for 10 min; the login stays good, as it serves polls."""
        self.begin(strategy="fallback")
        self.scripts["a1"] = UNAUTHORIZED
        self.assert_served_by(["a1", "a1", "a2"], "s")
        self.assertEqual(self.world.logins[0].counters.refreshes, 1)
        self.assertEqual((self.held(), self.status()), (["a1"], "usable"))
        del self.scripts["a1"]
        self.world.network.advance(DENIED_TIME - 5)
        self.assert_served_by(["a2"], "t")
        self.assert_served_by(["a1"], "u", model=SONNET)
        self.world.network.advance(10)
        self.assert_served_by(["a1"], "v")

    def test_refused_there_too(self) -> None:
        """It is about the request: the provider's words, never with a status that speaks of the client's token."""
        self.begin(3, strategy="fallback")
        self.upstream.scripts = dict.fromkeys(("a1", "a2", "a3"), UNAUTHORIZED)
        self.assert_refused(["a1", "a1", "a2", "a2"], 403, "Invalid bearer token", "s")
        self.assert_nobody_charged()
        self.assertEqual(self.status(), "usable")
        # Within a minute: nobody else is asked, and no further refresh is made.
        response = self.world.answer(session="s")
        self.assertEqual((response.status, len(self.upstream.asked())), (403, 1))
        self.assertEqual([login.counters.refreshes for login in self.world.logins], [1, 1, 0])

    def test_an_unknown_path_forces_no_refresh(self) -> None:
        self.begin()
        self.scripts["a1"] = self.scripts["a2"] = UNAUTHORIZED
        for _ in range(3):
            response = self.world.answer(session="s", path="/v1/strange")
            self.assertEqual((response.status, response.error["message"]), (403, "Invalid bearer token"))
        self.assertLessEqual(len(self.upstream.asked()), 4)
        self.assertEqual([login.counters.refreshes for login in self.world.logins], [0, 0])
        self.assert_nobody_charged()

    def test_an_unknown_path_while_the_usage_endpoint_says_nothing(self) -> None:
        """One odd request with a token that has served nothing yet takes the account from nobody, unless the usage
        endpoint refuses the login as well."""
        for fault, status in (("500", 200), ("429;retry_after=60", 200), ("unauthorized", 400)):
            self.begin(1, start=False)
            self.world.simulator.faults.always(fault, endpoint="usage")
            self.world.start()
            self.scripts["a1"] = UNAUTHORIZED
            self.world.answer(session="s", path="/v1/strange")
            del self.scripts["a1"]
            self.assertEqual(self.world.answer(session="t", token=BOB).status, status, fault)
            self.world.close()

    def test_a_login_that_cannot_be_refreshed(self) -> None:
        """Its first refusal counts as the one after a refresh: everybody is told whom to ask, and no more is sent."""
        self.begin(1)
        self.world.logins[0].log_in()
        document = json.loads(self.world.logins[0].credentials_document())
        document["claudeAiOauth"]["refreshToken"] = None
        with open(self.world.paths[0], "w", encoding="utf-8") as file:
            json.dump(document, file)
        self.world.see_files()
        self.assert_served_by(["a1"], "s")
        self.world.logins[0].revoke()
        for asked in (["a1"], []):
            response = self.world.answer(session="s")
            reason = response.header("x-ccm-error")
            self.assertEqual((response.status, reason), (400, "credential_unavailable"))
            self.assertIn("log in again", response.error["message"])
            self.assertEqual(self.upstream.asked(), asked)

    def test_the_others_are_used_up(self) -> None:
        """The client is told so, and not that the trouble is a passing one (spec 12.3)."""
        self.begin(strategy="fallback")
        self.world.exhaust("a2", resets_in=3600.0)
        self.world.poll()
        self.world.simulator.faults.always("unauthorized", endpoint="usage")
        self.scripts["a1"] = UNAUTHORIZED
        account = self.world.accounts[0]
        assert isinstance(account, LoginAccount)
        account._standing = TokenStanding()
        response = self.world.answer(session="s")
        self.assertEqual((response.status, response.header("x-ccm-error")), (429, "rate_limited"))

    def test_codex(self) -> None:
        world = CodexPoolWorld(self)
        world.upstream_says.scripts = {"a1": UNAUTHORIZED, "a2": UNAUTHORIZED}
        response = only(world.send(request("hello", "session-id: s")))
        self.assertEqual((response.status, response.error["message"]), (400, "Invalid bearer token"))
        self.assertEqual(world.upstream_says.asked(), ["a1", "a1", "a2", "a2"])
        del world.upstream_says.scripts["a2"]


class DeniedTests(TriesCase):
    """402, 403, and 400s that speak of an account (spec 12.1)."""

    REFUSALS = (
        (403, "computer says no"),
        (402, "please pay"),
        (400, "Your organization does not do that."),
    )

    def test_refused_by_two(self) -> None:
        for status, words in self.REFUSALS:
            self.begin(4)
            self.upstream.scripts = dict.fromkeys(("a1", "a2", "a3", "a4"), refusal(status, words))
            self.assert_refused(["a1", "a2"], status, words, "s")
            self.assert_nobody_charged()
            self.world.close()

    def test_served_by_another(self) -> None:
        for status, words in self.REFUSALS:
            self.begin(strategy="fallback")
            self.scripts["a1"] = refusal(status, words)
            self.assert_served_by(["a1", "a2"], "s")
            self.assertEqual((self.held(), self.refused()), (["a1"], []))
            del self.scripts["a1"]
            self.assert_served_by(["a2"], "t")
            self.assert_served_by(["a1"], "u", model=SONNET)
            self.world.close()

    def test_a_prompt_is_not_sent_twice_to_hear_the_same_again(self) -> None:
        self.begin(3)
        words = "prompt is too long: your subscription allows 200000 tokens"
        self.upstream.scripts = dict.fromkeys(("a1", "a2", "a3"), refusal(400, words))
        self.assert_refused(["a1"], 400, words, "s")
        self.assert_nobody_charged()

    def test_refused_to_two_callers_and_served_elsewhere(self) -> None:
        """With nothing served there in between, the account itself is refused."""
        self.begin(strategy="fallback")
        self.scripts["a1"] = FORBIDDEN
        self.assert_served_by(["a1", "a2"], "s")
        self.assertEqual(self.refused(), [])
        self.assert_served_by(["a1", "a2"], "t", token=BOB, model=SONNET)
        self.assertEqual(self.refused(), ["a1"])


class RefusedAccountTests(TriesCase):
    """Known words about the account (spec 12.1, 12.3)."""

    def test_its_sessions_move(self) -> None:
        for status in (400, 403):
            self.begin()
            self.assert_served_by(["a1"], "s")
            self.scripts["a1"] = refusal(status, DISABLED_WORDS)
            self.assert_served_by(["a1", "a2"], "s")
            self.assertEqual((self.refused(), self.world.where()["s"]), (["a1"], "a2"))
            self.assertIn(DISABLED_WORDS, self.world.accounts[0].state.refused.sentence)  # type: ignore[union-attr]
            self.assert_served_by(["a2"], "s")
            self.assert_served_by(["a2"], "new", model=SONNET)
            self.assertIn(DISABLED_WORDS, self.world.logged())
            self.world.close()

    def test_all_are_refused_one_by_one(self) -> None:
        """One request has one account refused, and the client is told with the provider's words."""
        self.begin(3)
        self.upstream.scripts = dict.fromkeys(("a1", "a2", "a3"), DISABLED)
        self.assertEqual(self.world.answer(session="s").status, 403)
        self.assertEqual(self.refused(), ["a1"])

    def test_words_that_the_client_has_sent(self) -> None:
        """They prove nothing, whether they stand in a field, in the path, or where the model should be."""
        for options in (
            {"model": DISABLED_WORDS},
            {"headers": (("X-Note", DISABLED_WORDS),)},
            {"path": "/v1/messages?note=This%20organization%20has%20been%20disabled."},
        ):
            self.begin(3)
            self.upstream.scripts = dict.fromkeys(("a1", "a2", "a3"), DISABLED)
            self.assert_refused(["a1", "a2"], 403, DISABLED_WORDS, "s", **options)
            self.assert_nobody_charged()
            self.world.close()

    def test_codex(self) -> None:
        world = CodexPoolWorld(self)
        body = b'{"detail": {"code": "deactivated_workspace"}}'
        world.upstream_says.scripts["a1"] = http_response(402, body=body)
        response = only(world.send(request("hello", "session-id: s")))
        self.assertEqual((response.status, world.upstream_says.asked()), (200, ["a1", "a2"]))
        self.assertIsNotNone(world.accounts[0].state.refused)
        self.assertEqual(only(world.send(request("hello", "session-id: t"))).status, 200)
        self.assertEqual(world.upstream_says.asked(), ["a2"])

    def test_codex_and_a_model_called_like_a_known_word(self) -> None:
        world = CodexPoolWorld(self)
        said = http_response(403, body=b'{"error": {"code": "deactivated_workspace", "message": "no"}}')
        world.upstream_says.scripts = {"a1": said, "a2": said}
        response = only(world.send(request("hello", model="deactivated_workspace")))
        self.assertEqual((response.status, world.upstream_says.asked()), (403, ["a1", "a2"]))
        for account in world.accounts:
            self.assertIsNone(account.state.refused)

    def test_a_model_whose_name_is_a_sentence(self) -> None:
        """A model of any characters is what the client has sent, whatever spaces the provider makes of them."""
        for model in (DISABLED_WORDS, "This  organization\nhas been disabled.", "x" * 300 + DISABLED_WORDS):
            self.begin()
            self.upstream.scripts = dict.fromkeys(("a1", "a2"), DISABLED)
            self.assert_refused(["a1", "a2"], 403, DISABLED_WORDS, "s", model=model)
            self.assert_nobody_charged()
            self.world.close()

    def test_a_body_that_cannot_be_read(self) -> None:
        """What a provider may repeat of it is not known, so that no words prove anything."""
        for coding, body in (("", b"{"), ("Content-Encoding: gzip\r\n", gzip.compress(b'{"model": "m"}'))):
            self.begin()
            self.upstream.scripts = dict.fromkeys(("a1", "a2"), DISABLED)
            head = (
                "POST /v1/messages HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {TOKEN}\r\n{coding}Content-Length: {len(body)}\r\n\r\n"
            )
            response = only(self.world.send(head.encode() + body))
            self.assertEqual((response.status, self.upstream.asked()), (403, ["a1", "a2"]))
            self.assert_nobody_charged()
            self.world.close()

    def test_codex_and_a_model_that_is_not_for_the_account(self) -> None:
        world = CodexPoolWorld(self)
        words = b"The 'gpt-5.4' model is not supported when using Codex with a ChatGPT account."
        world.upstream_says.scripts["a1"] = http_response(400, body=b'{"detail": "%b"}' % words)
        for session, asked in (("s", ["a1", "a2"]), ("s", ["a2"]), ("t", ["a2"])):
            response = only(world.send(request("hello", f"session-id: {session}")))
            self.assertEqual((response.status, world.upstream_says.asked()), (200, asked))
        self.assertTrue(world.accounts[0].is_usable())
        self.assertIsNone(world.accounts[0].state.refused)
        del world.upstream_says.scripts["a1"]
        only(world.send(request("hello", "session-id: u", model="gpt-5.5")))
        self.assertEqual(world.upstream_says.asked(), ["a1"])


class StreamTests(TriesCase):
    """Streams that begin with an error."""

    def stream(self, kind: str, message: str) -> bytes:
        payload = f'{{"type":"error","error":{{"type":"{kind}","message":"{message}"}}}}'
        return http_response(200, body=event("error", payload), content_type="text/event-stream")

    def test_another_serves(self) -> None:
        """What the provider's trouble is charges nobody; a 429 in a stream makes the combination rest."""
        for kind, held in (
            ("overloaded_error", []),
            ("api_error", []),
            ("rate_limit_error", ["a1"]),
            ("permission_error", ["a1"]),
        ):
            self.begin()
            self.scripts["a1"] = self.stream(kind, "no")
            self.assert_served_by(["a1", "a2"], "s", stream=True)
            self.assertEqual((self.held(), self.refused()), (held, []), kind)
            self.world.close()

    def test_the_last_account_has_not_served_either(self) -> None:
        """Nobody is charged for what was served nowhere, although nobody is left to ask instead of the last one."""
        for refused in (BUSY, FORBIDDEN, UNAUTHORIZED):
            self.begin(2)
            self.scripts["a1"], self.scripts["a2"] = refused, self.stream("overloaded_error", "no")
            response = self.world.answer(session="s", stream=True)
            self.assertEqual(response.status, 429 if refused is BUSY else 403)
            self.assert_nobody_charged()
            self.world.close()

    def test_refused_by_two(self) -> None:
        """The first stream passes as it came."""
        self.begin(4)
        for tag in ("a1", "a2", "a3", "a4"):
            self.scripts[tag] = self.stream("overloaded_error", f"by {tag}")
        response = self.world.answer(session="s", stream=True)
        self.assertEqual(response.status, 200)
        self.assertIn(b"by a1", response.body)
        self.assertNotIn(b"by a2", response.body)
        self.assertEqual(self.upstream.asked(), ["a1", "a2"])
        self.assert_nobody_charged()


class PatienceTests(TriesCase):
    """A warm cache is worth a short wait (spec 12.2)."""

    def warm(self, seconds: int = 3, **options: Any) -> None:
        """A session that ``a1`` has served, and which it then refuses with a wait."""
        self.begin(**options)
        self.assert_served_by(["a1"], "s", headers=WAITS)
        self.scripts["a1"] = refusal(429, "slow down", ("Retry-After", str(seconds)))

    def test_it_is_told_the_wait_and_stays(self) -> None:
        self.warm()
        response = self.assert_refused(["a1"], 429, "slow down", "s", headers=WAITS)
        self.assertEqual(response.header("retry-after"), "3")
        self.assert_nobody_charged()
        self.world.network.advance(3)
        del self.scripts["a1"]
        self.assert_served_by(["a1"], "s", headers=WAITS)

    def test_once_in_a_minute(self) -> None:
        self.warm()
        self.assertEqual(self.world.answer(session="s", headers=WAITS).status, 429)
        self.world.network.advance(3)
        self.upstream.asked()
        self.assert_served_by(["a1", "a2"], "s", headers=WAITS)
        self.assertEqual(self.world.where()["s"], "a2")

    def test_others_fail_over(self) -> None:
        """A client that may not wait, a session that is cold, a wait that is too long, and a pool without patience."""
        self.warm()
        self.assert_served_by(["a1", "a2"], "s", headers=UNKNOWN)
        self.world.close()
        self.warm(seconds=6)
        self.assert_served_by(["a1", "a2"], "s", headers=WAITS)
        self.world.close()
        for seconds in (3, 0):
            self.warm(seconds, strategy="least-used\n        patience: 0")
            self.assert_served_by(["a1", "a2"], "s", headers=WAITS)
            self.world.close()
        self.warm(strategy="fallback")
        self.assert_served_by(["a1", "a2"], "cold", headers=WAITS)

    def test_after_five_minutes_it_is_cold(self) -> None:
        self.warm()
        self.world.network.advance(301)
        self.assert_served_by(["a1", "a2"], "s", headers=WAITS)

    def test_codex_by_version(self) -> None:
        for agent, status, asked in (
            ("codex_cli_rs/0.169.0", 429, ["a1"]),
            ("codex_cli_rs/0.168.9", 200, ["a1", "a2"]),
        ):
            world = CodexPoolWorld(self)
            turn = request("hello", "session-id: s", f"User-Agent: {agent}")
            self.assertEqual(only(world.send(turn)).status, 200)
            said = refusal(429, "no", ("Retry-After", "3"), kind="rate_limit_exceeded")
            world.upstream_says.scripts["a1"] = said
            world.upstream_says.asked()
            self.assertEqual((only(world.send(turn)).status, world.upstream_says.asked()), (status, asked))
            world.close()


class ShortWaitTests(TriesCase):
    """When all are used up (spec 12.2)."""

    def test_for_less_than_a_minute(self) -> None:
        self.begin()
        self.world.exhaust("a1", resets_in=40.0)
        self.world.exhaust("a2", resets_in=3600.0)
        for asked in (["a1", "a2"], []):
            response = self.world.answer(session="s")
            self.assertEqual((response.status, response.header("x-ccm-error")), (429, "busy"))
            self.assertIsNone(response.header("x-should-retry"))
            self.assertIn(int(response.header("retry-after") or 0), range(40, 52))
            self.assertEqual(self.upstream.asked(), asked)
        self.world.network.advance(41)
        self.assert_served_by(["a1"], "s")

    def test_for_an_hour(self) -> None:
        self.begin()
        for tag in ("a1", "a2"):
            self.world.exhaust(tag, resets_in=3600.0)
        response = self.world.answer(session="s")
        self.assertEqual((response.status, response.header("x-ccm-error")), (429, "rate_limited"))
        self.assertEqual(response.header("x-should-retry"), "false")
        self.assertIsNone(response.header("retry-after"))
        self.assertEqual(self.status(), "rate_limited")

    def test_a_reset_that_is_nearer_than_a_rest(self) -> None:
        self.begin(3, strategy="fallback")
        self.scripts["a1"] = refusal(429, "slow down", ("Retry-After", "50"))
        self.assert_served_by(["a1", "a2"], "s")
        self.world.exhaust("a2", resets_in=20.0)
        self.world.exhaust("a3", resets_in=3600.0)
        response = self.world.answer(session="t")
        self.assertEqual((response.status, response.header("x-ccm-error")), (429, "busy"))
        self.assertIn(int(response.header("retry-after") or 0), range(20, 27))

    def test_rests(self) -> None:
        """They are waits too: nobody is told that all is used up while accounts merely rest."""
        self.begin(3, strategy="fallback")
        self.scripts["a1"] = refusal(429, "slow down", ("Retry-After", "30"))
        self.scripts["a2"] = refusal(429, "slow down", ("Retry-After", "50"))
        self.assert_served_by(["a1", "a2", "a3"], "s")
        self.assertEqual(self.held(), ["a1", "a2"])
        self.world.exhaust("a3", resets_in=3600.0)
        response = self.world.answer(session="t")
        self.assertEqual((response.status, response.header("x-ccm-error")), (429, "busy"))
        self.assertIn(int(response.header("retry-after") or 0), range(30, 39))
        self.assertEqual((self.upstream.asked(), self.status()), (["a3"], "usable"))

    def test_codex_by_version(self) -> None:
        for agent, status in (
            ("codex_cli_rs/0.169.0 (Linux)", 429),
            ("codex_cli_rs/0.168.9 (Linux)", 503),
            ("curl/8", 503),
        ):
            world = CodexPoolWorld(self, resets_in=40.0)
            for login in world.codex:
                login.exhaust()
            response = only(world.send(request("hello", f"User-Agent: {agent}")))
            self.assertEqual((response.status, response.header("x-ccm-error")), (status, "busy"), agent)
            self.assertIn(int(response.header("retry-after") or 0), range(40, 52))
            self.assertNotIn(b"usage_limit_reached", response.body)
            world.close()

    def test_codex_for_an_hour(self) -> None:
        world = CodexPoolWorld(self, resets_in=3600.0)
        for login in world.codex:
            login.exhaust()
        response = only(world.send(request("hello", "User-Agent: codex_cli_rs/0.169.0 (Linux)")))
        self.assertEqual((response.status, response.error["type"]), (429, "usage_limit_reached"))


class CodexBusyTests(SynchronousTestCase):
    """What of a 429 is different for Codex (spec 12.2)."""

    def told(self, **error: object) -> Response:
        """What the client gets when both accounts refuse with this error."""
        world = CodexPoolWorld(self)
        said = refusal(429, "no", **error)  # type: ignore[arg-type]
        world.upstream_says.scripts = {"a1": said, "a2": said}
        response = only(world.send(request("hello", "session-id: s")))
        self.assertEqual((response.status, response.error["message"]), (429, "no"))
        self.assertEqual(world.upstream_says.asked(), ["a1", "a2"])
        for account in world.accounts:
            self.assertTrue(account.state.holds.is_empty)
            self.assertTrue(account.is_usable())
        world.close()
        return response

    def test_a_relayed_burst_gets_a_wait(self) -> None:
        self.assertEqual(self.told(kind="rate_limit_exceeded").header("retry-after"), "5")

    def test_final_words_get_none(self) -> None:
        self.assertIsNone(self.told(kind="usage_not_included").header("retry-after"))


class NumberOfSendsTests(TriesCase):
    """No request is sent more than min(accounts + 2, 8) times, whatever is said to it (spec 12.1)."""

    def test_two_accounts(self) -> None:
        """Each of them refuses the token twice: that is the limit."""
        self.begin()
        self.scripts["a1"] = self.scripts["a2"] = UNAUTHORIZED
        self.world.answer(session="s")
        self.assertEqual(len(self.upstream.asked()), 4)

    def test_ten_accounts(self) -> None:
        """Beyond the limit the client is told to come again at once, as others have room."""
        self.begin(10)
        for number in range(1, 10):
            self.world.exhaust(f"a{number}", resets_in=3600.0)
        response = self.world.answer(session="s")
        self.assertEqual((response.status, response.header("x-ccm-error")), (429, "busy"))
        self.assertEqual(len(self.upstream.asked()), 8)
        self.assertEqual(self.world.answer(session="s").status, 200)
        self.assertEqual(len(self.upstream.asked()), 2)

    def test_any_mixture(self) -> None:
        """And at most one account is refused by it."""
        rng = random.Random(12)
        said = (
            BUSY,
            UNAUTHORIZED,
            FORBIDDEN,
            DISABLED,
            refusal(400, "your plan"),
            refusal(529, "overloaded"),
        )
        for _ in range(25):
            self.begin(accounts := rng.randrange(1, 11))
            for number in range(1, accounts + 1):
                if rng.random() < 0.4:
                    self.world.exhaust(f"a{number}", resets_in=3600.0)
                else:
                    self.scripts[f"a{number}"] = rng.choice(said)
            response = self.world.answer(session="s")
            self.assertNotIn(response.status, (200, 401))
            self.assertLessEqual(len(self.upstream.asked()), min(accounts + 2, 8))
            self.assertLessEqual(len(self.refused()), 1)
            self.world.close()


class CountingTests(TriesCase):
    """What counts as a send (spec 12.1)."""

    def test_the_client_goes_while_a_refusal_is_read(self) -> None:
        """Nobody needs another token then."""
        self.begin(1)
        self.scripts["a1"] = UNAUTHORIZED[: UNAUTHORIZED.index(b"\r\n\r\n") + 10]
        client = self.world.ask(session="s")
        assert client.transport is not None
        client.transport.loseConnection()
        self.world.network.flush()
        self.world.network.advance(15)
        self.assertEqual(self.upstream.asked(), ["a1"])
        self.assertEqual(self.world.logins[0].counters.refreshes, 0)
        self.assertEqual(self.world.accounts[0].in_flight, 0)


class InterruptTests(TriesCase):
    """What an upstream has accepted is cancelled only if it cannot succeed there any more (spec 12.3, F47)."""

    def setUp(self) -> None:
        self.begin(strategy="fallback")
        self.scripts["a1"] = b""
        self.client = self.world.ask(session="s")
        self.assertEqual(self.upstream.asked(), ["a1"])

    def test_another_request_is_refused_there(self) -> None:
        del self.scripts["a1"]
        self.world.exhaust("a1", resets_in=3600.0)
        self.assert_served_by(["a1", "a2"], "t")
        self.assertFalse(self.world.accounts[0].is_usable())
        self.assertEqual((self.client.received, self.upstream.asked()), (b"", []))

    def test_the_login_is_gone(self) -> None:
        self.world.accounts[0]._apply(TokenUnavailable("logged out"))
        self.world.network.flush()
        self.assertEqual((self.world.last(self.client).status, self.upstream.asked()), (200, ["a2"]))

    def swap(self, gone: int, back: int) -> None:
        """The login of one account is gone, and that of another one is there again."""
        self.world.accounts[back]._apply(TokenAvailable(1.0))
        self.world.accounts[gone]._apply(TokenUnavailable("logged out"))
        self.world.network.flush()

    def test_a_second_time(self) -> None:
        """Nobody is left that it has not left: it waits where it is, and is not told that there is no credential."""
        self.scripts["a2"] = b""
        self.swap(gone=0, back=1)
        self.assertEqual((self.client.received, self.upstream.asked()), (b"", ["a2"]))
        for gone, back in ((1, 0), (0, 1)):
            self.swap(gone, back)
            self.assertEqual((self.client.received, self.upstream.asked()), (b"", []))

    def test_the_login_is_gone_and_nobody_else_can_serve(self) -> None:
        self.world.accounts[1]._apply(TokenUnavailable("logged out"))
        self.world.accounts[0]._apply(TokenUnavailable("logged out"))
        self.world.network.flush()
        self.assertEqual((self.client.received, self.upstream.asked()), (b"", []))


class NoOpinionTests(TriesCase):
    """Keys and remote instances give no evidence; they take over only as the pool's strategy says (spec 12.1)."""

    def test_the_same_workspace(self) -> None:
        """Two logins of one identity are one opinion (F33)."""
        for is_same in (False, True):
            world = CodexPoolWorld(self, is_same_workspace=is_same)
            world.upstream_says.scripts["a1"] = FORBIDDEN
            response = only(world.send(request("hello", "session-id: s")))
            self.assertEqual((response.status, world.upstream_says.asked()), (200, ["a1", "a2"]))
            self.assertEqual(world.accounts[0].state.holds.is_empty, is_same)
            world.close()

    def begin_with_key(self) -> None:
        key = "      - {tag: key, api_key: KEY}\n"
        self.begin(1, members=("a1", "key"), more_credentials=key, strategy="fallback")

    def test_a_key_serves_after_a_burst(self) -> None:
        self.begin_with_key()
        self.scripts = self.upstream.scripts
        self.scripts["a1"] = BUSY
        self.scripts["key"] = SERVED
        self.assert_served_by(["a1", "key"], "s")
        self.assert_nobody_charged()

    def test_a_key_serves_after_bursts_to_different_callers(self) -> None:
        """The key is no evidence, but the account rests as with any refusal that different callers meet in a row."""
        self.begin_with_key()
        self.scripts["a1"] = BUSY
        self.scripts["key"] = SERVED
        self.assert_served_by(["a1", "key"], "s")
        self.assert_served_by(["a1", "key"], "s")
        self.assert_served_by(["a1", "key"], "t", token=BOB)
        self.assert_served_by(["key"], "u")

    def test_a_key_is_not_asked_about_a_login_or_an_account(self) -> None:
        for said, status, asked in ((FORBIDDEN, 403, ["a1"]), (UNAUTHORIZED, 403, ["a1", "a1"])):
            self.begin_with_key()
            self.scripts["a1"] = said
            response = self.world.answer(session="s")
            self.assertEqual((response.status, self.upstream.asked()), (status, asked))
            self.assert_nobody_charged()
            self.world.close()

    def begin_with_remote(self, *members: str) -> Remote:
        """A pool of an account and a remote instance, in this order of preference."""
        self.begin(1, members=members, more_credentials=FRIEND, strategy="fallback", bobs=BOBS, start=False)
        remote = Remote(self.world)
        self.world.start()
        remote.script = SERVED
        return remote

    def test_a_remote_instance_serves_after_a_burst(self) -> None:
        remote = self.begin_with_remote("a1", "friend")
        self.scripts["a1"] = BUSY
        self.assert_served_by(["a1"], "s", token=BOB)
        self.assertEqual(remote.turns, 1)
        self.assert_nobody_charged()

    def test_a_remote_instance_is_not_asked_about_a_login_or_an_account(self) -> None:
        for said in (FORBIDDEN, UNAUTHORIZED):
            remote = self.begin_with_remote("a1", "friend")
            self.scripts["a1"] = said
            response = self.world.answer(session="s", token=BOB)
            self.assertEqual((response.status, remote.turns), (403, 0))
            self.assert_nobody_charged()
            self.world.close()

    def test_a_remote_instances_own_refusal(self) -> None:
        """An account serves what it refuses, and nothing is held against it."""
        for said in (BUSY, FORBIDDEN):
            remote = self.begin_with_remote("friend", "a1")
            remote.script = said
            self.assert_served_by(["a1"], "s", token=BOB)
            self.assertEqual(remote.turns, 1)
            external = next(each.external for each in self.world.entry.externals.values())
            self.assertTrue(external.state.holds.is_empty)
            self.assertIsNone(external.state.refused)
            self.world.close()
