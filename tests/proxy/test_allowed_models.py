"""Users who may not ask for every model: what they are refused, and that nobody gets around it (spec 9.6)."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.named_models import MOST_QUICK_TOKENS
from ccmproxy.dialects.request_documents import LARGEST_LOOKED_INTO
from tests.conversation import CONFIGURATION, TOKEN, Response, World
from tests.proxy.manual_work import ManualWork
from tests.proxy.test_codex import CONFIGURATION as CODEX_CONFIGURATION
from tests.proxy.test_codex import CodexWorld, only, request

OPUS, SONNET = "claude-opus-4-5", "claude-sonnet-4-5"
ONLY_SONNET = "models: [claude-sonnet-*, claude-haiku-4-5]"
TOLD = "this token may use only: claude-sonnet-*, claude-haiku-4-5"


def limited(configuration: str, options: str) -> str:
    """The configuration with these options of alice's."""
    return configuration.replace("token: {token}}}", f"token: {{token}}, {options}}}}}")


def turn(**fields: Any) -> dict[str, Any]:
    """The body of a turn without a model."""
    return {"max_tokens": 100, "messages": [{"role": "user", "content": "hello"}], **fields}


class ClaudeWorld(World):
    """A world in which alice may ask for sonnet and one haiku."""

    def __init__(self, case: SynchronousTestCase, options: str = ONLY_SONNET, **others: Any) -> None:
        super().__init__(case, configuration=limited(CONFIGURATION, options), **others)

    def say(
        self, body: bytes | dict[str, Any], path: str = "/v1/messages", *fields: tuple[str, str]
    ) -> Response:
        """The answer to this body."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.answer(body=raw, path=path, headers=fields)

    def asked(self) -> int:
        """How many turns and counts have reached the upstream."""
        return sum(len(self.simulator.requests.of(each)) for each in ("turn", "count_tokens"))


class ClaudeTests(SynchronousTestCase):
    """Over HTTP, in the words of Claude."""

    def refused(self, world: ClaudeWorld, response: Response, words: str) -> None:
        """Check that it is a refusal for good, with these words, and that nobody else was asked."""
        self.assertEqual((response.status, response.error["type"]), (403, "permission_error"), response.body)
        self.assertEqual(response.header("x-ccm-error"), "model_not_allowed")
        self.assertEqual(response.header("x-should-retry"), "false")
        self.assertIsNone(response.header("retry-after"))
        self.assertIn(words, response.error["message"])
        self.assertIn(TOLD, response.error["message"])
        self.assertEqual(world.asked(), 0)
        self.assertEqual(set(world.results()), {"model_not_allowed"})

    def test_allowed(self) -> None:
        world = ClaudeWorld(self)
        for model in (SONNET, "claude-haiku-4-5"):
            self.assertEqual(world.answer(model=model).status, 200)
        self.assertEqual(world.asked(), 2)

    def test_not_allowed(self) -> None:
        world = ClaudeWorld(self)
        for model in (OPUS, "claude-haiku-4-5-20251001", "Claude-Sonnet-4-5", ""):
            self.refused(world, world.answer(model=model), "this model is not allowed")

    def test_an_unusual_name(self) -> None:
        """A name that somebody might read as another one."""
        for options in (ONLY_SONNET, "models: ['*', claude-sonnet-*, claude-haiku-4-5]"):
            world = ClaudeWorld(self, options)
            for model in (
                f" {SONNET}",
                f"{SONNET}\n",
                f"{SONNET}\u200b",
                f"{SONNET} {OPUS}",
                SONNET + "x" * 200,
            ):
                self.assertEqual(world.answer(model=model).status, 403, model)
            self.assertEqual(world.asked(), 0)

    def test_counting_tokens(self) -> None:
        world = ClaudeWorld(self)
        path = "/v1/messages/count_tokens"
        self.refused(world, world.say(turn(model=OPUS), path), "this model is not allowed")
        packed = gzip.compress(json.dumps(turn(model=SONNET)).encode())
        self.refused(world, world.say(packed, path, ("Content-Encoding", "gzip")), "cannot read which model")
        self.assertEqual(world.say(turn(model=SONNET), path).status, 200)
        self.assertEqual(world.say(turn(), path).header("x-ccm-error"), None)
        self.assertEqual(world.asked(), 2)

    def test_twice(self) -> None:
        """Which of two the provider takes is not known; nor whether it minds escapes and capitals."""
        world = ClaudeWorld(self)
        rest = json.dumps(turn())[1:]
        for names in (
            f'"model": "{OPUS}", "model": "{SONNET}"',
            f'"model": "{SONNET}", "model": "{OPUS}"',
            f'"MODEL": "{OPUS}", "model": "{SONNET}"',
            f'"mod\\u0065l": "{OPUS}", "model": "{SONNET}"',
            f'"model": ["{OPUS}"], "model": "{SONNET}"',
            f'"tools": [{{"name": "advisor", "model": "{OPUS}"}}], "model": "{SONNET}"',
        ):
            response = world.say(f"{{{names}, {rest}".encode())
            self.refused(world, response, "this model is not allowed")

    def test_hidden(self) -> None:
        world = ClaudeWorld(self)
        plain = json.dumps(turn(model=SONNET)).encode()
        for body, fields in (
            (gzip.compress(plain), [("Content-Encoding", "gzip")]),
            (plain, [("Content-Encoding", "identity"), ("Content-Encoding", "deflate")]),
            (plain.decode().encode("utf-16"), []),
            (b"\xef\xbb\xbf" + plain, []),
            (plain[:-1], []),
            (b"[" + plain + b"]", []),
            (plain[:-1] + b', "x": "' + b"x" * LARGEST_LOOKED_INTO + b'"}', []),
        ):
            self.refused(world, world.say(body, "/v1/messages", *fields), "cannot read which model")

    def test_not_as_json(self) -> None:
        """A body that is JSON to us, and may be something else to the provider."""
        world = ClaudeWorld(self)
        body = json.dumps(turn(model=SONNET))
        for kind in ("application/json; charset=utf-7", "application/x-www-form-urlencoded", "text/plain"):
            data = "\r\n".join(
                (
                    "POST /v1/messages HTTP/1.1",
                    "Host: proxy",
                    f"Authorization: Bearer {TOKEN}",
                    f"Content-Type: {kind}",
                    f"Content-Length: {len(body)}",
                    "",
                    body,
                )
            )
            (response,) = world.send(data.encode()).responses()
            self.refused(world, response, "cannot read which model")

    def test_no_model(self) -> None:
        world = ClaudeWorld(self)
        batch = {"requests": [{"custom_id": "1", "params": turn(model=OPUS)}]}
        for body, path in (
            (turn(), "/v1/messages"),
            (turn(model=None), "/v1/messages?beta=true"),
            (turn(model=None), "/v1/messages/"),
            (batch, "/v1/messages/batches"),
            ({"agent": "agent_1"}, "/v1/sessions"),
        ):
            response = world.say(body, path)
            words = "this model is not allowed" if "model" in body else "names no model"
            self.refused(world, response, words)
        self.refused(world, world.say(b""), "names no model")

    def test_what_asks_no_model(self) -> None:
        world = ClaudeWorld(self)
        for path in ("/v1/models", "/ccm/v1/status", "/ccm/v1/sessions"):
            self.assertEqual(world.get(path).status, 200, path)
        self.assertNotEqual(world.say(b"--x", "/v1/files").header("x-ccm-error"), "model_not_allowed")
        self.assertNotEqual(world.say(b"", "/v1/messages/batches/b/cancel").status, 403)

    def test_in_the_other_thread(self) -> None:
        """A body that takes long to look into is looked into there, as thoroughly."""
        tools = [{"input_schema": {"model": "x"}}] * (MOST_QUICK_TOKENS // 8)
        for model, status in ((SONNET, 200), (OPUS, 403)):
            work = ManualWork()
            world = ClaudeWorld(self, work_queue=lambda work=work: work)
            client = world.ask(body=json.dumps(turn(model=model, tools=tools)).encode())
            self.assertEqual(client.responses(), [])
            work.do_next()
            world.network.flush()
            self.assertEqual(client.responses()[0].status, status)

    def test_before_a_credential_is_chosen(self) -> None:
        """It is said also where nobody could serve the model."""
        world = ClaudeWorld(self, with_file=False)
        self.assertEqual(world.answer(model=OPUS).header("x-ccm-error"), "model_not_allowed")
        self.assertEqual(world.answer(model=SONNET).header("x-ccm-error"), "credential_unavailable")

    def test_everybody_else(self) -> None:
        world = World(self)
        self.assertEqual(world.answer(model=OPUS).status, 200)
        self.assertNotEqual(world.answer(body=b'{"model": "a", "model": "b"}').status, 403)

    def test_a_reload(self) -> None:
        """It counts for the next request, on the same connection too."""
        world = ClaudeWorld(self)
        client = world.ask(model=OPUS)
        world.reload(world.configuration.replace("claude-haiku-4-5", "claude-opus-*"))
        world.ask(model=OPUS, client=client)
        world.reload(world.configuration)
        world.ask(model=OPUS, client=client)
        self.assertEqual([response.status for response in client.responses()], [403, 200, 403])


class CodexTests(SynchronousTestCase):
    """Over HTTP, in the words of Codex."""

    def world(self) -> CodexWorld:
        """A world in which alice may ask for one family."""
        return CodexWorld(self, configuration=limited(CODEX_CONFIGURATION, "models: gpt-5.*"))

    def test_a_turn(self) -> None:
        world = self.world()
        self.assertEqual(only(world.send(request("hello"))).status, 200)
        refused = only(world.send(request("hello", model="gpt-6")))
        self.assertEqual((refused.status, refused.header("x-ccm-error")), (403, "model_not_allowed"))
        self.assertEqual(refused.header("x-should-retry"), "false")
        self.assertEqual(
            refused.error,
            {
                "type": "permission_error",
                "code": "model_not_allowed",
                "message": "this model is not allowed: this token may use only: gpt-5.*",
                "param": None,
            },
        )
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_other_operations(self) -> None:
        world = self.world()
        for path in ("/v1/responses/compact", "/v1/chat/completions", "/v1/batches", "/v1/embeddings"):
            refused = only(world.send(request("hello", path=path, model=None)))
            self.assertEqual(
                (refused.status, refused.header("x-ccm-error")), (403, "model_not_allowed"), path
            )
        self.assertNotEqual(only(world.send(request("hello", path="/v1/files", model=None))).status, 403)
        self.assertEqual(len(world.simulator.requests.of("turn")), 0)

    def test_compressed(self) -> None:
        """The Codex CLI compresses, so that is looked into."""
        world = self.world()
        for model, status in (("gpt-5.4", 200), ("gpt-6", 403)):
            head, _, body = request("hello", "Content-Encoding: gzip", model=model).partition(b"\r\n\r\n")
            packed = gzip.compress(body)
            head = head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % len(packed))
            self.assertEqual(only(world.send(head + b"\r\n\r\n" + packed)).status, status)
