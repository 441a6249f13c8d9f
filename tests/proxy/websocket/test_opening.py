"""Tests for :mod:`ccmproxy.proxy.websocket.opening`: handshakes, on both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex import CODEX
from ccmproxy.dialects.codex.websocket_frames import CodexFrames
from ccmproxy.interfaces.credentials import ICredential
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.simulator.codex.simulated_account import CodexAccount
from ccmproxy.state.inputs import TokenUnavailable
from tests.conversation import PROXY, TOKEN, World
from tests.proxy.websocket.scene import (
    CREATE,
    START,
    ClientSocket,
    Scene,
    UpstreamSocket,
    event,
    upgrade_request,
)

#: How an upstream refuses a handshake where its account has as many WebSockets as it may have.
NO_MORE_SOCKETS = b'{"error": {"code": "websocket_connection_limit_reached", "message": "too many"}}'


class HandshakeTests(SynchronousTestCase):
    """Handshakes that succeed, and handshakes that are refused before the upstream is asked."""

    def test_upstream_first(self) -> None:
        """Nothing is sent to the client before the upstream has agreed."""
        scene = Scene(self)
        scene.on_asked = lambda socket: None
        client = scene.open()
        self.assertEqual(client.head, b"")
        scene.upstream.accept()
        scene.settle()
        self.assertEqual(client.status, 101)

    def test_what_the_upstream_is_asked(self) -> None:
        """The client's fields without those of its own connection and handshake, plus the account's."""
        scene = Scene(self, options=ProxyOptions(overrides={"X-Operator": ["yes"]}))
        scene.open(
            ("session-id", "s1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("chatgpt-account-id", "the client's own"),
            ("Sec-WebSocket-Protocol", "chat"),
            compress=True,
        )
        upstream = scene.upstream
        self.assertTrue(upstream.head.startswith(b"GET /v1/responses HTTP/1.1\r\n"), upstream.head)
        fields = {name.lower(): value for name, value in upstream.fields()}
        self.assertEqual(fields[b"host"], b"127.0.0.1:9000")
        self.assertEqual(fields[b"authorization"], b"Bearer sk-secret-a")
        self.assertEqual(fields[b"session-id"], b"s1")
        self.assertEqual(fields[b"openai-beta"], b"responses_websockets=2026-02-06")
        self.assertEqual(fields[b"x-operator"], b"yes")
        self.assertEqual((fields[b"connection"], fields[b"upgrade"]), (b"Upgrade", b"websocket"))
        self.assertNotEqual(fields[b"sec-websocket-key"], b"AAAAAAAAAAAAAAAAAAAAAA==")
        for name in (b"x-forwarded-for", b"chatgpt-account-id", b"sec-websocket-protocol"):
            self.assertNotIn(name, fields)
        self.assertEqual(len(fields), len(upstream.fields()), "a field is there twice")

    def test_the_clients_own_version_of_the_protocol(self) -> None:
        scene = Scene(self)
        scene.open(("OpenAI-Beta", "responses_websockets=2027-01-01"))
        self.assertEqual(scene.upstream.field("openai-beta"), b"responses_websockets=2027-01-01")

    def test_what_the_client_is_answered(self) -> None:
        """The upstream's fields that the client may see, and the aggregate in place of one account's state."""
        scene = Scene(self)
        scene.observe(0, 40.0)
        scene.on_asked = lambda socket: socket.accept(
            ("x-codex-turn-state", "ts-1"),
            ("x-codex-primary-used-percent", "30"),
            ("x-reasoning-included", "true"),
            ("openai-model", "gpt-5.4"),
            ("Set-Cookie", "a=b"),
        )
        client = scene.open()
        self.assertEqual(client.status, 101)
        self.assertEqual(client.field("x-codex-turn-state"), b"ts-1")
        self.assertEqual(client.field("x-reasoning-included"), b"true")
        self.assertEqual(client.field("openai-model"), b"gpt-5.4")
        self.assertEqual(client.field("x-codex-primary-used-percent"), b"41.00")  # of the cap of 99 %
        self.assertEqual(client.field("x-ocm-request-id"), b"req_1")
        self.assertIsNone(client.field("set-cookie"))

    def test_bad_handshakes(self) -> None:
        """The client is told what is wrong, in the dialect's format; the upstream is not asked."""
        scene = Scene(self)
        for fields, status in (
            ((("Sec-WebSocket-Key", ""),), 400),
            ((("Sec-WebSocket-Key", "short"),), 400),
            ((("Sec-WebSocket-Version", ""),), 426),
            ((("Sec-WebSocket-Version", "8"),), 426),
            ((("Connection", "keep-alive"),), 400),
            ((("Upgrade", "xwebsocket"),), 400),
        ):
            client = scene.open(*fields)
            self.assertEqual(client.status, status, fields)
            self.assertIn("message", json.loads(client.received)["error"])
            self.assertEqual(client.field("x-ccm-error"), b"bad_handshake")
            self.assert_ended(client)
        self.assertEqual(client.field("sec-websocket-version"), None)
        self.assertEqual(scene.open(("Sec-WebSocket-Version", "8")).field("sec-websocket-version"), b"13")
        self.assertEqual(scene.upstreams, [])

    def assert_ended(self, client: ClientSocket) -> None:
        """Spec 10, F69: some clients read a refusal until the connection ends."""
        self.assertEqual(client.field("connection"), b"close")
        self.assertIsNotNone(client.lost)

    def test_refusals_end_the_connection(self) -> None:
        """Whoever refuses: this instance, for itself or for all accounts, or the upstream."""
        used_up = json.dumps({"error": {"type": "usage_limit_reached", "resets_in_seconds": 3600}}).encode()
        for status, body in ((429, used_up), (403, b"{}"), (500, b"{}")):
            scene = Scene(self)
            scene.on_asked = lambda socket, status=status, body=body: socket.answer(  # type: ignore[misc]
                status, body
            )
            for _ in range(2):
                client = scene.open()
                self.assertEqual(client.status, status)
                self.assert_ended(client)
        scene = Scene(self, options=ProxyOptions(max_per_user=1))
        self.assertEqual(scene.open().status, 101)
        client = scene.open()
        self.assertEqual((client.status, client.field("x-ccm-error")), (429, b"too_many_requests"))
        self.assert_ended(client)

    def test_not_an_upgrade(self) -> None:
        """HTTP/1.0, another method, or a body is refused."""
        scene = Scene(self)
        for request in (
            upgrade_request().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            upgrade_request(method="POST"),
            upgrade_request(("Content-Length", "2")) + b"{}",
        ):
            client, _ = scene.dial()
            client.transport.write(request)
            scene.settle()
            self.assertEqual(client.status, 400, request)
        self.assertEqual(scene.upstreams, [])

    def test_other_paths(self) -> None:
        """On paths without a WebSocket, the field is ignored, and the request is an ordinary one."""
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.answer(200, b"[]")
        client, _ = scene.dial()
        client.transport.write(upgrade_request(path="/v1/models"))
        scene.settle()
        self.assertEqual((client.status, client.received), (200, b"[]"))
        self.assertIsNone(scene.upstream.field("upgrade"))

    def test_dialects_without_websocket(self) -> None:
        scene = Scene(self, dialect=replace(CODEX, frames=None))
        scene.on_asked = lambda socket: socket.answer(200, b"[]")
        self.assertEqual(scene.open().status, 200)

    def test_credentials_without_websocket(self) -> None:
        """If no credential speaks WebSocket, the answer is 426; if one does, it is used."""

        class Frames(CodexFrames):
            """Only ``b`` speaks WebSocket."""

            def speaks(self, credential: ICredential) -> bool:
                """Whether the credential is ``b``."""
                return credential.tag == "b"

        scene = Scene(self, dialect=replace(CODEX, frames=Frames()))
        client = scene.open()
        self.assertEqual((client.status, client.field("x-ccm-error")), (426, b"no_websocket"))
        scene = Scene(self, 3, dialect=replace(CODEX, frames=Frames()))
        self.assertEqual(scene.open().status, 101)
        self.assertEqual(scene.upstream.field("authorization"), b"Bearer sk-secret-b")

    def test_no_new_ones_while_shutting_down(self) -> None:
        """Neither new requests nor those in progress open a WebSocket."""
        scene = Scene(self)
        scene.on_asked = lambda socket: None
        waiting = scene.open()
        scene.forwarder.close_websockets(10)
        scene.upstream.accept()
        scene.settle()
        self.assertEqual(waiting.status, 503)
        self.assertEqual(scene.open().status, 503)


class RefusalTests(SynchronousTestCase):
    """The upstream does not agree."""

    def test_rate_limited(self) -> None:
        """The next account is tried without the client noticing, and the limits in the refusal are recorded."""
        scene = Scene(self, 2)
        body = json.dumps({"error": {"type": "usage_limit_reached", "resets_at": int(START) + 600}}).encode()

        def asked(socket: UpstreamSocket) -> None:
            if socket.field("authorization") == b"Bearer sk-secret-a":
                socket.answer(429, body, ("x-codex-primary-used-percent", "100"))
            else:
                socket.accept()

        scene.on_asked = asked
        client = scene.open()
        self.assertEqual(client.status, 101)
        self.assertFalse(scene.accounts[0].is_usable())
        self.assertEqual(scene.accounts[0].outcomes[LeaseOutcome.REFUSED], 1)
        client.say(CREATE)
        scene.settle()
        self.assertEqual(scene.upstream.messages, [CREATE])

    def test_all_rate_limited(self) -> None:
        """The client is told in the dialect's format, over HTTP."""
        scene = Scene(self, 2)
        body = json.dumps({"error": {"type": "usage_limit_reached", "resets_at": int(START) + 600}}).encode()
        scene.on_asked = lambda socket: socket.answer(429, body)
        client = scene.open()
        self.assertEqual(client.status, 429)
        self.assertEqual(json.loads(client.received)["error"]["type"], "usage_limit_reached")
        self.assertEqual(json.loads(client.received)["error"]["resets_at"], int(START) + 600)

    def test_relayed_refusals(self) -> None:
        """Status, fields and body are relayed as plain HTTP."""
        for status in (400, 403, 404, 426, 500, 503):
            scene = Scene(self)
            scene.on_asked = lambda socket, status=status: socket.answer(  # type: ignore[misc]
                status, b'{"detail":"no"}', ("Retry-After", "7"), ("x-codex-primary-used-percent", "3")
            )
            client = scene.open()
            self.assertEqual((client.status, client.received), (status, b'{"detail":"no"}'))
            self.assertEqual(client.field("retry-after"), b"7")
            self.assertIsNone(client.field("x-codex-primary-used-percent"))
            self.assertIsNone(client.field("upgrade"))

    def test_a_refusal_that_takes_its_time(self) -> None:
        """The time-out of the handshake applies to the head only."""
        scene = Scene(self)
        head = b"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n"
        scene.on_asked = lambda socket: socket.transport.write(head + b"no")
        client = scene.open()
        scene.pass_time(30)
        scene.upstream.transport.write(b"pe")
        scene.settle()
        self.assertEqual((client.status, client.received), (500, b"nope"))

    def test_refused_token(self) -> None:
        """The client never gets a 401, because its own token is valid, nor a 502, because it cannot help to try again
        (spec 12.3)."""
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.answer(401)
        for _ in range(2):
            client = scene.open()
            self.assertEqual((client.status, client.field("x-ccm-error")), (400, b"credential_unavailable"))
        self.assertEqual(len(scene.upstreams), 1)

    def test_an_answer_that_is_none(self) -> None:
        """200, a redirection, a 101 without or with a wrong Sec-WebSocket-Accept, or with unrequested extensions."""
        bad = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        for answer in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            bad + b"\r\n",
            bad + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            b"HTTP/1.1 101 X\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
        ):
            scene = Scene(self)
            scene.on_asked = lambda socket, answer=answer: socket.transport.write(answer)  # type: ignore[misc]
            client = scene.open()
            self.assertEqual(
                (client.status, client.field("x-ccm-error")), (502, b"upstream_malformed"), answer
            )
            self.assertEqual(scene.results(), ["upstream_malformed"])

    def test_extension_that_nobody_asked_for(self) -> None:
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.accept(("Sec-WebSocket-Extensions", "x-strange"))
        self.assertEqual(scene.open().status, 502)

    def test_cannot_be_reached(self) -> None:
        """There is one retry, then the other account is tried, then the client is told."""
        scene = Scene(self, 2)
        scene.upstream_listener.refusing = True
        client = scene.open()
        self.assertEqual((client.status, client.field("x-ccm-error")), (502, b"upstream_unreachable"))
        self.assertEqual(scene.upstream_listener.attempts, 4)

    def test_closed_without_an_answer(self) -> None:
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.transport.loseConnection()
        client = scene.open()
        self.assertEqual((client.status, client.field("x-ccm-error")), (502, b"upstream_lost"))

    def test_never_answered(self) -> None:
        """The time-out expires before clients give up."""
        scene = Scene(self)
        scene.on_asked = lambda socket: None
        client = scene.open()
        scene.pass_time(11)
        self.assertEqual(client.head, b"")
        scene.pass_time(3)
        self.assertEqual((client.status, client.field("x-ccm-error")), (504, b"upstream_timeout"))
        self.assertIsNotNone(scene.upstream.lost)

    def test_no_more_sockets(self) -> None:
        """Another account opens it, and for a minute none is asked for there; nothing else changes (spec 12.2)."""
        for status in (400, 429):
            scene = Scene(self, 2)
            first = scene.open()
            self.assertEqual(
                (first.status, scene.upstream.field("authorization")), (101, b"Bearer sk-secret-a")
            )

            def answer(socket: UpstreamSocket, status: int = status) -> None:
                if socket.field("authorization") == b"Bearer sk-secret-a":
                    socket.answer(status, NO_MORE_SOCKETS)
                else:
                    socket.accept()

            scene.on_asked = answer
            for _ in range(2):
                self.assertEqual(scene.open().status, 101)
                self.assertEqual(scene.upstream.field("authorization"), b"Bearer sk-secret-b")
            self.assertEqual(scene.upstream_listener.attempts, 4)
            self.assertTrue(scene.accounts[0].is_usable())
            self.assertIsNone(first.closed)
            scene.on_asked = lambda socket: socket.accept()
            scene.pass_time(60)
            self.assertEqual(scene.open().status, 101)
            self.assertEqual(scene.upstream.field("authorization"), b"Bearer sk-secret-a")

    def test_no_more_sockets_anywhere(self) -> None:
        """The client is told to use HTTP, and without asking the upstream again for a minute."""
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.answer(400, NO_MORE_SOCKETS)
        for _ in range(2):
            client = scene.open()
            self.assertEqual((client.status, client.field("x-ccm-error")), (426, b"no_websocket"))
        self.assertEqual(scene.upstream_listener.attempts, 1)

    def test_interrupted(self) -> None:
        """If the account's login is gone while its upstream is asked, the next account is tried; not for a window that
        is full by now (spec 12.3)."""
        scene = Scene(self, 2)
        scene.on_asked = lambda socket: None
        client = scene.open()
        scene.observe(0, 100.0)
        scene.settle()
        self.assertEqual(scene.upstream.field("authorization"), b"Bearer sk-secret-a")
        scene.accounts[0].learn(TokenUnavailable("logged out"))
        scene.settle()
        self.assertEqual(scene.upstream.field("authorization"), b"Bearer sk-secret-b")
        scene.upstream.accept()
        scene.settle()
        self.assertEqual(client.status, 101)

    def test_a_client_that_leaves_meanwhile(self) -> None:
        scene = Scene(self)
        scene.on_asked = lambda socket: None
        client = scene.open()
        client.transport.loseConnection()
        scene.settle()
        self.assertIsNotNone(scene.upstream.lost)
        self.assertEqual(scene.results(), ["client_gone"])


class SimulatorTests(SynchronousTestCase):
    """Whole conversations with the simulator, whose frames are autobahn's."""

    def say(self, scene: Scene, client: ClientSocket, **fields: object) -> list[dict[str, Any]]:
        """Send one request, and return its events; the client's recorded messages are cleared."""
        client.events.clear()
        client.say(event("response.create", model="gpt-5.4", store=False, stream=True, **fields))
        scene.pass_time(3)
        return [json.loads(data) for data in client.messages]

    def test_a_session(self) -> None:
        """A warm-up and two turns that build on each other, on one connection, compressed on both sides."""
        scene = Scene(self, plans=["pro"])
        client = scene.open(("session-id", "s1"), compress=True)
        self.assertEqual(client.status, 101, client.received)
        warm = self.say(scene, client, input=[], generate=False)
        self.assertEqual([each["type"] for each in warm][-1], "response.completed")
        self.assertEqual(scene.results(), [])
        previous = warm[-1]["response"]["id"]
        for _ in range(2):
            events = self.say(
                scene,
                client,
                previous_response_id=previous,
                input=[
                    {
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": "größer?"}],
                    }
                ],
            )
            kinds = [each["type"] for each in events]
            self.assertEqual(kinds[-1], "response.completed", events[-1])
            self.assertIn("response.output_text.delta", kinds)
            previous = events[-1]["response"]["id"]
        self.assertEqual(scene.results(), ["served", "served"])
        entry = next(entry for entry in scene.log if entry.get("result") == "served")
        self.assertGreater(entry["tokens"].output, 0)
        request = scene.simulator.requests[-1]
        self.assertEqual(request.header(b"chatgpt-account-id"), scene.logins[0].account_id.encode())

    def test_a_used_up_account(self) -> None:
        """The next turn is served by the other account, without the client noticing."""
        scene = Scene(self, plans=["plus", "pro"])
        client = scene.open()
        scene.logins[0].exhaust()
        events = self.say(scene, client, input=[])
        self.assertEqual([each for each in events if each["type"] == "error"], [])
        self.assertEqual(client.code, 1012)
        again = scene.open()
        events = self.say(scene, again, input=[])
        self.assertEqual(events[-1]["type"], "response.completed", events)


OCM = """
services:
  - type: ocm
    listen_port: 8080
    credential_path: {path}
    users:
      - {{name: alice, token: {token}}}
    upstream:
      api_url: http://127.0.0.1:9000/backend-api/codex
      token_url: http://127.0.0.1:9000/oauth/token
      usage_url: http://127.0.0.1:9000/backend-api/wham/usage
{more}
"""


class ServiceTests(SynchronousTestCase):
    """The whole service, from its configuration to its end."""

    def started(self) -> tuple[World, CodexAccount]:
        """Start the service with one login. Returns it with that login at the simulator."""
        world = World(self, configuration=OCM, start=False, with_file=False)
        login = world.simulator.add_codex_account()
        with open(world.path, "wb") as file:
            file.write(login.credentials_document())
        world.start()
        return world, login

    def connect(self, world: World) -> ClientSocket:
        """Return a client whose handshake has succeeded."""
        client = ClientSocket(False)
        world.network.endpoint(*PROXY).connect(Factory.forProtocol(lambda: client))
        world.network.flush()
        client.transport.write(upgrade_request(("Authorization", f"Bearer {TOKEN}")))
        world.network.flush()
        self.assertEqual(client.status, 101, client.received)
        return client

    def test_a_handshake_with_a_token_that_is_not_accepted_any_more(self) -> None:
        """The login is refreshed as for any request for a model, although the handshake costs nothing (spec 3.4)."""
        world, login = self.started()
        login.expire_access_token()
        self.connect(world)
        self.assertEqual(len(world.simulator.requests.of("token")), 1)

    def test_a_service_that_stops(self) -> None:
        """Its open WebSockets are closed, and nothing of them is left."""
        world, _ = self.started()
        client = self.connect(world)
        stopped = world.service.stopService()
        world.network.flush()
        self.assertEqual(client.code, 1001)
        for _ in range(10):
            world.network.advance(1)
        self.successResultOf(stopped)
        self.assertIsNotNone(client.lost)
        self.assertEqual(world.upstream.open_connections, [])
