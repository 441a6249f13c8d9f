"""What is secret stays so: in the log at every level, in errors to clients, in errors of the configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import ConfigurationError, load_text
from ccmproxy.root.logs import daemon_observer
from ccmproxy.simulator.faults import FAULTS
from tests.conversation import CONFIGURATION, SECRET_PREFIXES, TOKEN, World, message_request
from tests.proxy.manual_upstream import STREAM_HEAD, ManualUpstream

#: In prompts, so also in what is sent upstream.
PROMPT = "marker-of-a-prompt-5309"
#: In answers, said on demand.
ANSWER = "marker-of-an-answer-8675"
WRONG = "a-wrong-token-that-is-somebody-elses-1729"


class SecretTests(SynchronousTestCase):
    """Everything that is logged in this process during a test, and every error that a client was given."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.errors: list[bytes] = []
        self.secrets = {TOKEN, PROMPT, ANSWER, WRONG, *SECRET_PREFIXES}

    def logged(self) -> str:
        """All of it: fields, messages, tracebacks, and as the daemon would write it in either form."""
        text = [repr(event) for event in self.events]
        text += [eventAsText(event) for event in self.events]
        for form in ("text", "json"):
            path = self.mktemp()
            observer = daemon_observer(path, "debug", form)
            for event in self.events:
                observer(event)
            text.append(Path(path).read_text())
        return "\n".join(text)

    def check(self) -> None:
        """Nothing secret was told, and something was."""
        logged = self.logged()
        self.assertGreater(len(self.events), 0)
        for secret in self.secrets:
            # Not assertNotIn: it would print the secret.
            self.assertFalse(secret in logged, f"{secret[:6]}… was logged")
            for error in self.errors:
                self.assertFalse(secret.encode() in error, f"{secret[:6]}… was told to a client")

    def talk(self, world: World, prompt: str = "", **options: Any) -> None:
        """One turn, whatever comes of it."""
        client = world.ask(f"{PROMPT} [[say:{ANSWER}]] {prompt}", **options)
        for _ in range(30):
            if client.broken or (client.responses() and client.responses()[-1].complete):
                break
            world.network.advance(1)
        for response in client.responses():
            if response.header("x-ccm-error") is not None:
                self.errors.append(bytes(client.received))
        if not client.broken:
            assert client.transport is not None
            client.transport.abortConnection()
            world.network.flush()

    def test_turns_and_every_fault_of_the_upstream(self) -> None:
        for fault in sorted(FAULTS):
            world = World(self, more="      first_byte_timeout: 10s\n      idle_timeout: 10s\n")
            for stream in (False, True):
                self.talk(world, f"[[simulate:{fault}]]", stream=stream, session=f"s-{fault}")
            world.close()
        self.check()
        self.assertGreater(len(self.errors), 5)

    def test_every_fault_of_the_token_endpoint(self) -> None:
        for fault in sorted(FAULTS):
            for expire in (8 * 3600, 0):
                world = World(self)
                world.simulator.faults.always(fault, endpoint="token")
                if expire:
                    world.clock.advance(expire)
                else:
                    world.login.revoke()
                self.talk(world)
                self.talk(world, stream=True)
                world.close()
        self.check()
        self.assertGreater(len(self.errors), 5)

    def test_every_fault_of_usage_and_profile(self) -> None:
        for endpoint in ("usage", "profile"):
            for fault in sorted(FAULTS):
                world = World(self, start=False)
                world.simulator.faults.always(fault, endpoint=endpoint)
                with open(world.path, "wb") as file:
                    file.write(world.login.credentials_document(plan_known=False))
                world.start()
                for _ in range(70):
                    world.network.advance(1)
                self.talk(world)
                world.close()
        self.check()

    def test_strangers(self) -> None:
        world = World(self)
        for headers in (
            (("Authorization", f"Bearer {WRONG}"),),
            (("Authorization", f"Basic {WRONG}"),),
            (("Authorization", WRONG),),
            (("X-Api-Key", WRONG),),
            (("Api-Key", WRONG), ("Authorization", f"Bearer {TOKEN}")),
            (("Authorization", f"Bearer {WRONG}"), ("Authorization", f"Bearer {TOKEN}")),
            (("Authorization", f"Bearer {TOKEN}{WRONG}"),),
            (("Cookie", f"session={WRONG}"), ("Proxy-Authorization", f"Basic {WRONG}")),
        ):
            self.talk(world, token=None, headers=headers)
            client = world.send(message_request(PROMPT, token=None, headers=headers, path="/elsewhere"))
            self.errors.append(bytes(client.received))
        self.check()
        self.assertGreater(len(self.errors), 12)

    def test_requests_that_are_none(self) -> None:
        world = World(self)
        request = message_request(PROMPT)
        for data in (
            request.replace(b"HTTP/1.1", b"HTTP/9.9"),
            request.replace(b"Host: proxy", b"Host proxy"),
            request.replace(b"Content-Length: ", b"Content-Length: x"),
            request.replace(b"Authorization: ", b"Authorization : "),
            request.replace(b"Bearer ", b"Bearer \x00"),
            request.replace(b"\r\n", b"\n"),
            request.replace(b"Host: proxy", b"Host: proxy\r\nX-Long: " + b"a" * 70000),
            request.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: "),
            request[: request.index(b"Bearer") + 20],
            request[:-20],
        ):
            client = world.send(data)
            for _ in range(70):
                if client.broken:
                    break
                world.network.advance(1)
            self.errors.append(bytes(client.received))
        self.check()

    def test_bodies_that_are_none(self) -> None:
        world = World(self)
        for body in (
            PROMPT.encode(),
            b'{"metadata": {"user_id": "%b"}}' % PROMPT.encode(),
            b'{"model": "%b' % PROMPT.encode(),
            b'{"model": ["%b"]}' % PROMPT.encode(),
            b"\xff" + PROMPT.encode(),
        ):
            self.talk(world, body=body)
            self.talk(world, body=body, headers=(("Content-Encoding", "gzip"),))
        self.check()

    def test_logins_that_are_broken(self) -> None:
        world = World(self)
        document = Path(world.path).read_bytes()
        loaded = json.loads(document)
        oauth = loaded["claudeAiOauth"]
        variants: list[bytes] = [
            b"",
            document[:-10],
            document.replace(b"{", b"[", 1),
            b"\xff" + document,
            json.dumps(oauth["accessToken"]).encode(),
            json.dumps({"claudeAiOauth": oauth["accessToken"]}).encode(),
        ]
        for field in oauth:
            for value in (
                None,
                [oauth["accessToken"]],
                {"x": oauth["refreshToken"]},
                "x" + oauth["accessToken"],
                5,
            ):
                variants.append(json.dumps({"claudeAiOauth": {**oauth, field: value}}).encode())
        for variant in variants:
            Path(world.path).write_bytes(variant)
            world.see_files()
            self.talk(world)
        os.unlink(world.path)
        os.mkdir(world.path)
        world.see_files()
        self.talk(world)
        self.check()
        self.assertGreater(len(self.errors), 5)

    def test_garbage_that_quotes(self) -> None:
        """An upstream that sends back what it was sent, everywhere where that can be put."""
        world = World(self)
        upstream = ManualUpstream(world)
        quoted = b""
        for answer in (
            b"%b\r\n\r\n",
            b"HTTP/1.1 200 %b\r\nX-A: \x00\r\n\r\n",
            b"HTTP/1.1 %b OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n%b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n",
            STREAM_HEAD + b"%b\r\n",
            b"HTTP/1.1 403 X\r\nContent-Length: 500\r\n\r\n%b",
            b"HTTP/1.1 429 X\r\nRetry-After: %b\r\nanthropic-ratelimit-unified-reset: %b\r\nContent-Length: 0\r\n\r\n",
        ):
            client = world.ask(PROMPT)
            received = bytes(upstream.last.received)
            start = received.lower().index(b"authorization: bearer ") + 22
            quoted = received[start : received.index(b"\r\n", start)]
            upstream.last.transport.write(answer.replace(b"%b", quoted + PROMPT.encode()))
            world.network.flush()
            upstream.last.transport.loseConnection()
            world.network.flush()
            if b"x-ccm-error" in client.received.lower():
                self.errors.append(bytes(client.received))
            world.clock.advance(301)
            world.network.flush()
        self.assertTrue(quoted.startswith(b"sk-ant-oat"))
        self.check()

    def test_configurations_with_errors(self) -> None:
        """A secret is never echoed, wherever it was put by mistake."""
        world = World(self)
        good = CONFIGURATION.format(path=world.path, token=TOKEN, more="")
        self.talk(world)
        for old, new in (
            (f"token: {TOKEN}", f"token: [{TOKEN}]"),
            (f"token: {TOKEN}", f"tokn: {TOKEN}"),
            (f"token: {TOKEN}", f"token: {{a: {TOKEN}}}"),
            (f"token: {TOKEN}", f"token: {TOKEN}, token_env: X"),
            (
                f"token: {TOKEN}",
                f"token: {TOKEN}, credential: {TOKEN}x"[:-1].replace(f"credential: {TOKEN}", "credential: b"),
            ),
            ("    users:", f"    api_key: {TOKEN}\n    users:"),
            (
                f"      - {{name: alice, token: {TOKEN}}}",
                f"      - {{name: alice, token: {TOKEN}}}\n      - {{name: bob, token: {TOKEN}}}",
            ),
            (f"token: {TOKEN}}}", f"token: {TOKEN}"),
            (f"token: {TOKEN}", f'token: "{TOKEN}\\q"'),
            (f"token: {TOKEN}", f"token: !!python/object {TOKEN}"),
            ("name: alice", "name: 5"),
        ):
            self.assertIn(old, good)
            try:
                load_text(good.replace(old, new), "test.yaml")
            except ConfigurationError as error:
                self.errors.append(f"{error} {error!r} {error.__cause__!r} {error.__context__!r}".encode())
        self.assertGreater(len(self.errors), 7)
        self.check()
