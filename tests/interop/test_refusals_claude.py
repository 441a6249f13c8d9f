"""Claude Code meets refusals: straight at the provider's, and the same through ccmproxy, with one account and with two,
and through an instance of ccmproxy that borrows from another one.

Through ccmproxy the client ends alike, shows the provider's sentence, and costs the upstream no more requests, unless
another account made it better (spec 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccmproxy.simulator import ClaudeAccount, upstream_settings
from tests.interop.claude_cli import claude_command, client_environment, run_program
from tests.interop.refusal_stages import ALONE, SHARED, RefusalCase, Seen, Stage, Way, without_changes
from tests.interop.scripted import Answer, FieldValue, ScriptedSimulator, http_date

MODEL = "claude-opus-4-6"
OTHER_MODEL = "claude-sonnet-4-6"
LONG_CONTEXT = "Extra usage is required for long context requests."
CLOSED = "OAuth authentication is currently not allowed for this organization."
DISABLED = "This organization has been disabled."
BURST = "This request would exceed your account's rate limit. Please try again later."


def refusal(status: int, kind: str, message: str, **headers: FieldValue) -> Answer:
    """An error in Claude's shape. ``headers``: names with underscores for hyphens."""
    document = {"type": "error", "error": {"type": kind, "message": message}}
    return Answer(
        status, document, headers=tuple((name.replace("_", "-"), value) for name, value in headers.items())
    )


def burst(**headers: FieldValue) -> Answer:
    """A 429 that says nothing of what is left."""
    return refusal(429, "rate_limit_error", BURST, **headers)


def broken_off(kind: str, message: str) -> Answer:
    """A stream that is refused after its first words."""
    message_start = {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 1},
        },
    }
    events: tuple[Mapping[str, Any], ...] = (
        message_start,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half of"}},
        {"type": "error", "error": {"type": kind, "message": message}},
    )
    return Answer(200, events=events)


class TokenTests(RefusalCase):
    """The client with a plain token, as a user of a gateway has it."""

    service_type = "ccm"
    variable = "ANTHROPIC_AUTH_TOKEN"

    def setUp(self) -> None:
        super().setUp()
        self.stages["direct"].simulator.script.is_gateway = True

    def find_command(self) -> list[str] | str:
        return claude_command("latest")

    def add_account(self, simulator: ScriptedSimulator, name: str) -> ClaudeAccount:
        return simulator.add_account(name)

    def login(self, account: Any) -> bytes:
        assert isinstance(account, ClaudeAccount)
        return account.credentials_document()

    def upstream_settings(self, url: str) -> Mapping[str, str]:
        return upstream_settings(url)

    async def run_client(self, stage: Stage, *arguments: str) -> Seen:
        before = len(stage.turns())
        settings = {self.variable: stage.token, "CLAUDE_CODE_MAX_RETRIES": "2"}
        outcome = await run_program(
            self.reactor,
            [*self.command, "-p", *arguments],
            client_environment(stage.home, stage.url, **settings),
            stage.home,
        )
        return Seen(outcome.code, without_changes(outcome.output), outcome.output, stage.turns()[before:])

    # For a time ---------------------------------------------------------------------------------------------------

    async def test_seconds(self) -> None:
        self.say(burst(retry_after="2"), account="a", times=1)
        seen = await self.everywhere("[[say:waited]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "waited"))
        self.assertEqual(seen["direct"].turns, (("a", 429), ("a", 200)))
        self.same(seen)
        self.better(seen, "waited")

    async def test_date(self) -> None:
        answer = burst(retry_after=http_date(3))
        self.say(answer, account="a", times=1)
        seen = await self.everywhere("[[say:waited]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "waited"))
        self.same(seen)
        self.better(seen, "waited")

    async def test_nothing(self) -> None:
        self.say(burst(), account="a", times=1)
        seen = await self.everywhere("[[say:again]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "again"))
        self.same(seen)
        self.better(seen, "again")

    async def test_everybody_refuses(self) -> None:
        """The refusal is about the request: it is relayed as it came, and the second account is asked once."""
        self.say(burst(retry_after="1"))
        seen = await self.everywhere("[[say:no]]")
        self.assertEqual(seen["direct"].code, 1)
        self.assertIn(BURST, seen["direct"].output)
        self.same(seen)
        self.no_better(seen)

    async def test_one_model(self) -> None:
        """The other model is served by the same account, at once."""
        answer = burst(retry_after="1")
        self.say(answer, account="a", model=MODEL)
        seen = await self.everywhere("--model", MODEL, "[[say:one]]")
        self.assertEqual(seen["direct"].code, 1)
        self.assertIn(BURST, seen["direct"].output)
        self.same(seen)
        self.better(seen, "one")
        others = await self.everywhere("--model", OTHER_MODEL, "[[say:other]]")
        for way, other in others.items():
            self.assertEqual((other.code, other.said, other.turns), (0, "other", (("a", 200),)), way)

    async def test_count_tokens(self) -> None:
        """Counting tokens is refused; turns are served by the same account as before."""
        answer = burst(retry_after="2")
        self.say(answer, "count_tokens")
        counted = await self.everywhere("/context")
        for way, stage in self.stages.items():
            self.assertGreater(len(stage.simulator.requests.of("count_tokens")), 0, way)
        for way in (*ALONE, *SHARED):
            self.assertEqual(counted[way].code, counted["direct"].code, way)
        for way, seen in (await self.everywhere("[[say:still here]]")).items():
            self.assertEqual((seen.code, seen.said, seen.turns), (0, "still here", (("a", 200),)), way)

    async def test_long_context(self) -> None:
        """The words are about the request: they reach the client, and nobody is charged."""
        answer = refusal(429, "rate_limit_error", LONG_CONTEXT)
        self.say(answer, model=MODEL)
        seen = await self.everywhere("--model", MODEL, "[[say:no]]")
        self.assertEqual(seen["direct"].code, 1)
        self.same(seen)
        self.no_better(seen)
        for way, other in (await self.everywhere("--model", OTHER_MODEL, "[[say:other]]")).items():
            self.assertEqual((other.code, other.turns), (0, (("a", 200),)), way)

    async def test_long_context_of_one_account(self) -> None:
        answer = refusal(429, "rate_limit_error", LONG_CONTEXT)
        self.say(answer, account="a")
        seen = await self.everywhere("[[say:served]]")
        self.assertEqual(seen["direct"].code, 1)
        self.same(seen)
        self.better(seen, "served")

    # In a stream --------------------------------------------------------------------------------------------------

    async def test_burst_in_mid_stream(self) -> None:
        """The client asks again; where there is another account, the repetition goes there."""
        seen = await self.in_mid_stream("rate_limit_error")
        for way in SHARED:
            self.assertEqual(seen[way].accounts, ["a", "b"], way)

    async def test_overloaded_in_mid_stream(self) -> None:
        """That is about the provider: the repetition goes to the same account, whose cache is warm."""
        seen = await self.in_mid_stream("overloaded_error")
        for way in SHARED:
            self.assertEqual(seen[way].accounts, ["a", "a"], way)

    async def in_mid_stream(self, kind: str) -> dict[Way, Seen]:
        """A stream that ends with an error of this type, once; the client gets over it."""
        self.say(broken_off(kind, "refused in the middle"), account="a", times=1)
        seen = await self.everywhere("[[say:whole]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "whole"), seen["direct"].output)
        self.same(seen, (*ALONE, *SHARED))
        return seen

    # Logins and accounts ------------------------------------------------------------------------------------------

    async def test_dead_login(self) -> None:
        """No refresh is accepted any more: the user is told whom to ask, once."""
        for stage in self.stages.values():
            stage.accounts["a"].expire_refresh_token()
            stage.accounts["a"].expire_access_token()
        seen = await self.everywhere("[[say:served]]")
        self.assertEqual(seen["direct"].code, 1)
        self.check_bad_login(seen)
        for way in ALONE:
            self.assertIn("log in again", seen[way].output, way)
        for way in SHARED:
            self.assertEqual((seen[way].code, seen[way].said), (0, "served"), (way, seen[way].output))

    async def test_refused_after_a_refresh(self) -> None:
        """Refreshes succeed, and the new token is refused like the old one."""
        answer = refusal(401, "authentication_error", "Invalid authentication credentials")
        self.say(answer, account="a")
        seen = await self.everywhere("[[say:served]]")
        self.assertEqual(seen["direct"].code, 1)
        # The new token serves polls, so the provider's words are passed on, as something about the request.
        self.check_bad_login(seen, "403")
        for way in SHARED:
            self.assertEqual((seen[way].code, seen[way].said), (0, "served"), (way, seen[way].output))
            self.assertLessEqual(seen[way].accounts.count("a"), 2, way)

    def check_bad_login(self, seen: Mapping[Way, Seen], status: str = "400") -> None:
        """The client ended like one with a bad login of its own, without insisting."""
        for way in ALONE:
            proxied = seen[way]
            self.assertEqual(proxied.code, seen["direct"].code, way)
            self.assertIn(status, proxied.output, way)
            self.assertNotIn("temporary", proxied.output, way)
            self.assertLessEqual(len(proxied.turns), 2, way)

    async def test_closed_account(self) -> None:
        """The client has words of its own for this sentence."""
        await self.check_refused_account(
            refusal(403, "permission_error", CLOSED), "has disabled Claude subscription"
        )

    async def test_disabled_organization(self) -> None:
        await self.check_refused_account(refusal(400, "invalid_request_error", DISABLED), DISABLED)

    async def check_refused_account(self, answer: Answer, shown: str) -> None:
        """The provider's sentence reaches the user of the account; nobody is sent there any more."""
        self.say(answer, account="a")
        sentence = str((answer.document or {})["error"]["message"])
        first = await self.everywhere("[[say:served]]")
        self.assertEqual(first["direct"].code, 1)
        self.assertIn(shown, first["direct"].output)
        self.same(first)
        second = await self.everywhere("[[say:served]]")
        for way in ALONE:
            self.assertEqual((second[way].code, second[way].turns), (1, ()), way)
            self.assertTrue(
                shown in second[way].output or sentence in second[way].output, (way, second[way].output)
            )
        for way in SHARED:
            self.assertEqual((first[way].code, first[way].said), (0, "served"), (way, first[way].output))
            self.assertEqual(first[way].accounts, ["a", "b"], way)
            self.assertEqual((second[way].code, second[way].accounts), (0, ["b"]), way)


class LoginTests(TokenTests):
    """The client that believes itself logged in with a subscription."""

    variable = "CLAUDE_CODE_OAUTH_TOKEN"
