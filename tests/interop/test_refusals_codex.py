"""The Codex CLI meets refusals: straight at the provider's, and the same through ccmproxy with one account and two, and
through an instance of ccmproxy that borrows from another one.

Through ccmproxy the client ends alike, shows the provider's sentence, and costs the upstream no more requests, unless
another account made it better (spec 12). Over event streams, and over WebSocket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccmproxy.simulator import CodexAccount
from ccmproxy.simulator.codex.upstream import upstream_settings
from tests.interop.claude_cli import run_program
from tests.interop.codex_cli import Run, codex_command, codex_environment, write_configuration
from tests.interop.refusal_stages import ALONE, SHARED, RefusalCase, Seen, Stage, Way, without_changes
from tests.interop.scripted import Answer, FieldValue, ScriptedSimulator, http_date

MODEL = "gpt-5.4"
OTHER_MODEL = "gpt-5.4-mini"
BURST = "Rate limit reached for requests."
MIDDLE = "Rate limit reached for gpt-5.4 in organization org-1. Please try again in 1s."

#: Settings of a run: nobody waits for the last of many tries.
IMPATIENT = (
    "-c",
    "model_providers.mux.stream_max_retries=2",
    "-c",
    "model_providers.mux.request_max_retries=1",
)


def refusal(status: int, kind: str | None, code: str | None, message: str, **headers: FieldValue) -> Answer:
    """An error in OpenAI's shape. ``headers``: names with underscores for hyphens."""
    document = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(
        status, document, headers=tuple((name.replace("_", "-"), value) for name, value in headers.items())
    )


def burst(**headers: FieldValue) -> Answer:
    """A 429 that says nothing of what is left."""
    return refusal(429, "requests", "rate_limit_exceeded", BURST, **headers)


def broken_off(code: str, message: str, **more: Any) -> Answer:
    """A response that fails after its first words."""
    response: dict[str, Any] = {"id": "resp_1", "object": "response", "model": MODEL, "output": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    error = {"code": code, "message": message, **more}
    events: tuple[Mapping[str, Any], ...] = (
        {"type": "response.created", "sequence_number": 0, "response": {**response, "status": "in_progress"}},
        {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": item},
        {
            "type": "response.output_text.delta",
            "sequence_number": 2,
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": "half of",
        },
        {
            "type": "response.failed",
            "sequence_number": 3,
            "response": {**response, "status": "failed", "error": error},
        },
    )
    return Answer(200, events=events)


#: The refusal of a model that an account may not use.
LACKING = Answer(
    400, {"detail": f"The '{MODEL}' model is not supported when using Codex with a ChatGPT account."}
)


class StreamTests(RefusalCase):
    """The client over event streams."""

    service_type = "ocm"
    websockets = False

    def find_command(self) -> list[str] | str:
        return codex_command()

    def add_account(self, simulator: ScriptedSimulator, name: str) -> CodexAccount:
        return simulator.add_codex_account(name)

    def login(self, account: Any) -> bytes:
        assert isinstance(account, CodexAccount)
        return account.auth_document()

    def upstream_settings(self, url: str) -> Mapping[str, str]:
        return upstream_settings(url)

    async def run_client(self, stage: Stage, *arguments: str) -> Seen:
        before = len(stage.turns())
        base = f"{stage.url}/backend-api/codex" if stage.way == "direct" else f"{stage.url}/v1"
        write_configuration(
            stage.home, base, websockets=self.websockets, catalog_url=f"{base}/models" if self.catalog else ""
        )
        outcome = await run_program(
            self.reactor,
            [*self.command, "exec", "--skip-git-repo-check", "--json", *IMPATIENT, *arguments],
            codex_environment(stage.home, stage.token),
            stage.home,
        )
        run = Run(outcome)
        failed = run.of("turn.failed")
        said = str(failed[0]["error"]["message"]) if failed else "".join(run.said("agent_message")[-1:])
        return Seen(
            outcome.code, without_changes(said), outcome.output + outcome.errors, stage.turns()[before:]
        )

    #: Let the client ask for the list of models.
    catalog = False

    # For a time ---------------------------------------------------------------------------------------------------

    async def test_seconds(self) -> None:
        self.say(burst(retry_after="2"), account="a", times=1)
        seen = await self.everywhere("[[say:waited]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "waited"), seen["direct"].output)
        self.assertEqual(seen["direct"].turns, (("a", 429), ("a", 200)))
        self.same(seen)
        self.better(seen, "waited")

    async def test_date(self) -> None:
        answer = burst(retry_after=http_date(3))
        self.say(answer, account="a", times=1)
        seen = await self.everywhere("[[say:waited]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "waited"), seen["direct"].output)
        self.same(seen)
        self.better(seen, "waited")

    async def test_nothing(self) -> None:
        """Without a time the client gives up at once, so ccmproxy names one."""
        self.say(burst(), account="a", times=1)
        seen = await self.everywhere("[[say:again]]")
        self.assertEqual((seen["direct"].code, seen["direct"].turns), (1, (("a", 429),)))
        for way in ALONE:
            self.assertEqual((seen[way].code, seen[way].said), (0, "again"), (way, seen[way].output))
            self.assertEqual(seen[way].turns, (("a", 429), ("a", 200)), way)
        self.better(seen, "again")

    async def test_everybody_refuses(self) -> None:
        """The refusal is about the request: it is relayed as it came, and the second account is asked once."""
        self.say(burst(retry_after="1"))
        seen = await self.everywhere("[[say:no]]")
        self.assertEqual(seen["direct"].code, 1)
        self.same(seen)
        self.no_better(seen)

    async def test_one_model(self) -> None:
        """The other model is served by the same account, at once."""
        answer = burst(retry_after="1")
        self.say(answer, account="a", model=MODEL)
        seen = await self.everywhere("[[say:one]]")
        self.assertEqual(seen["direct"].code, 1)
        self.same(seen)
        self.better(seen, "one")
        others = await self.everywhere("--model", OTHER_MODEL, "[[say:other]]")
        for way, other in others.items():
            self.assertEqual((other.code, other.said, other.turns), (0, "other", (("a", 200),)), way)

    async def test_models(self) -> None:
        """The list of models is refused; turns are served by the same account as before."""
        self.catalog = True
        self.say(burst(retry_after="2"), "models")
        for way, seen in (await self.everywhere("[[say:still here]]")).items():
            self.assertEqual((seen.code, seen.said, seen.turns), (0, "still here", (("a", 200),)), way)
            self.assertGreater(len(self.stages[way].simulator.requests.of("models")), 0, way)

    async def test_plan_without_codex(self) -> None:
        """Not a limit that ends: the words reach the client, which does not insist, and nobody is charged."""
        answer = refusal(429, "usage_not_included", "usage_not_included", "Usage not included in your plan")
        self.say(answer, model=MODEL)
        seen = await self.everywhere("[[say:no]]")
        self.assertEqual(seen["direct"].code, 1)
        self.assertIn("upgrade to Plus", seen["direct"].said)
        self.same(seen)
        self.no_better(seen)
        for way, other in (await self.everywhere("--model", OTHER_MODEL, "[[say:other]]")).items():
            self.assertEqual((other.code, other.turns), (0, (("a", 200),)), way)

    # In a stream --------------------------------------------------------------------------------------------------

    async def test_burst_in_mid_stream(self) -> None:
        """The client asks again; where there is another account, the repetition goes there."""
        answer = broken_off("rate_limit_exceeded", MIDDLE)
        self.say(answer, account="a", times=1)
        seen = await self.everywhere("[[say:whole]]")
        self.assertEqual((seen["direct"].code, seen["direct"].said), (0, "whole"), seen["direct"].output)
        self.same(seen, (*ALONE, *SHARED))
        for way in SHARED:
            self.assertEqual(seen[way].accounts, ["a", "b"], way)

    async def test_used_up_in_mid_stream(self) -> None:
        """The account is used up in the middle of a turn: another one serves the repetition."""
        limit = {"type": "usage_limit_reached", "plan_type": "pro", "resets_in_seconds": 3600}
        answer = broken_off("usage_limit_reached", "The usage limit has been reached", **limit)
        self.say(answer, account="a")
        seen = await self.everywhere("[[say:whole]]")
        self.assertEqual(seen["direct"].code, 1)
        for way in ALONE:
            self.assertEqual(seen[way].code, 1, way)
            self.assertLessEqual(len(seen[way].turns), len(seen["direct"].turns), way)
        self.better(seen, "whole")
        for way in SHARED:
            self.assertEqual(seen[way].accounts, ["a", "b"], way)

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
        answer = refusal(
            401, "invalid_request_error", "invalid_token", "Could not parse your authentication token."
        )
        self.say(answer, account="a")
        seen = await self.everywhere("[[say:served]]")
        self.assertEqual(seen["direct"].code, 1)
        # Within a WebSocket the refusal passes as it came, and the client connects again by itself: less often than
        # without a proxy, as one refresh is all that is tried.
        most = len(seen["direct"].turns) - 1 if self.websockets else 2
        self.check_bad_login(seen, most)
        for way in SHARED:
            self.assertEqual((seen[way].code, seen[way].said), (0, "served"), (way, seen[way].output))
            self.assertLessEqual(seen[way].accounts.count("a"), 2, way)

    def check_bad_login(self, seen: Mapping[Way, Seen], most: int = 2) -> None:
        """The client gave up with our sentence, without insisting."""
        for way in ALONE:
            proxied = seen[way]
            self.assertEqual(proxied.code, 1, way)
            self.assertNotIn("upstream refuses", proxied.said, way)
            # What an open WebSocket says of the login passes, and the client connects again.
            if not self.websockets:
                self.assertNotIn("Reconnecting", proxied.output, way)
            self.assertLessEqual(len(proxied.turns), most, way)

    async def test_closed_account(self) -> None:
        """The provider's word reaches the user of the account; nobody is sent there any more."""
        word = "deactivated_workspace"
        # Over a WebSocket the error stands in the message's ``error``.
        answer = Answer(402, {"error": {"code": word}} if self.websockets else {"detail": {"code": word}})
        self.say(answer, account="a")
        first = await self.everywhere("[[say:served]]")
        self.assertEqual(first["direct"].code, 1)
        self.assertIn(word, first["direct"].output)
        second = await self.everywhere("[[say:served]]")
        for way in ALONE:
            self.assertEqual(first[way].code, 1, way)
            self.assertIn(word, first[way].output, way)
            self.assertLessEqual(len(first[way].turns), len(first["direct"].turns), way)
            self.assertEqual((second[way].code, second[way].turns), (1, ()), way)
            self.assertIn(word, second[way].output, way)
        for way in SHARED:
            self.assertEqual((first[way].code, first[way].said), (0, "served"), (way, first[way].output))
            self.assertEqual(first[way].accounts, ["a", "b"], way)
            self.assertEqual((second[way].code, second[way].accounts), (0, ["b"]), way)

    async def test_model_that_one_account_lacks(self) -> None:
        """The other account serves it, and the first one keeps serving what it has."""
        self.say(LACKING, account="a", model=MODEL)
        seen = await self.everywhere("[[say:served]]")
        self.assertEqual(seen["direct"].code, 1)
        self.assertIn("is not supported", seen["direct"].said)
        self.same(seen)
        self.better(seen, "served")
        for way, other in (await self.everywhere("--model", OTHER_MODEL, "[[say:other]]")).items():
            self.assertEqual((other.code, other.turns), (0, (("a", 200),)), way)


class WebSocketTests(StreamTests):
    """The client over WebSocket."""

    websockets = True

    async def test_nothing(self) -> None:
        """Within a WebSocket the refusal is passed on unchanged; the client gives up, unless another account serves."""
        self.say(burst(), account="a", times=1)
        seen = await self.everywhere("[[say:again]]")
        self.assertEqual((seen["direct"].code, seen["direct"].turns), (1, (("a", 429),)))
        for way in (*ALONE, *SHARED):
            if seen[way].code:
                self.same(seen, (way,))

    async def test_model_that_one_account_lacks(self) -> None:
        """Within a WebSocket the refusal is passed on, and is final for the client; the next turn goes to the other
        account, and the first one keeps serving what it has."""
        self.say(LACKING, account="a", model=MODEL)
        first = await self.everywhere("[[say:served]]")
        self.assertEqual(first["direct"].code, 1)
        self.assertIn("is not supported", first["direct"].said)
        self.same(first)
        second = await self.everywhere("[[say:served]]")
        for way in SHARED:
            if first[way].code:
                self.same(first, (way,))
            self.assertEqual((second[way].code, second[way].said), (0, "served"), (way, second[way].output))
            self.assertEqual(second[way].accounts, ["b"], way)
        for way, other in (await self.everywhere("--model", OTHER_MODEL, "[[say:other]]")).items():
            self.assertEqual((other.code, other.turns), (0, (("a", 200),)), way)
