"""Requests through the proxy to the simulated upstream: what the client gets, and what the upstream receives."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace

from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.remote.external import External
from ccmproxy.dialects.claude.metering import ClaudeMetering
from ccmproxy.dialects.claude.traffic import ClaudeTraffic
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.usage import Tokens, UsageMeter
from ccmproxy.http.message import ResponseHead, first_value, values
from ccmproxy.policy.answers import Verdict
from tests.conversation import START, TOKEN, Client, World, message_request
from tests.pooled import BOB
from tests.proxy.raw_upstream import RawUpstream, http_response

FAMILY = b"anthropic-ratelimit-unified-"
MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-4-5","content":[],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}'
)


class TurnTests(SynchronousTestCase):
    """The ordinary case."""

    def test_a_turn(self) -> None:
        world = World(self)
        response = world.answer("[[say:It works.]]")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json()["content"][0]["text"], "It works.")
        self.assertEqual(world.results(), ["served"])

    def test_a_long_path_does_not_fill_the_log(self) -> None:
        world = World(self)
        world.get("/v1/" + "a" * 5000)
        self.assertNotIn("a" * 200, world.logged())

    def test_a_streamed_turn(self) -> None:
        world = World(self)
        response = world.answer("[[tokens:50]]", stream=True)
        self.assertEqual(response.status, 200)
        self.assertTrue(response.body.startswith(b"event: message_start"))
        self.assertIn(b"event: message_stop", response.body)
        self.assertEqual(world.results(), ["served"])

    def test_turns_on_one_connection(self) -> None:
        world = World(self)
        client, _ = world.connect()
        for number in range(3):
            world.ask(f"[[say:{number}]]", client=client)
        texts = [response.json()["content"][0]["text"] for response in client.responses()]
        self.assertEqual(texts, ["0", "1", "2"])
        self.assertFalse(client.broken)
        # The connection to the upstream is reused.
        self.assertEqual(len({request.peer for request in world.simulator.requests.of("turn")}), 1)

    def test_models_do_not_wait_for_anything(self) -> None:
        """F45: the list of models is served while the usage endpoint is silent and a turn is waiting."""
        world = World(self, start=False)
        world.simulator.faults.always("hang", endpoint="usage")
        world.start()
        waiting = world.ask("[[simulate:hang]]")
        response = world.get("/v1/models")
        self.assertEqual(response.status, 200)
        self.assertTrue(response.json()["data"])
        self.assertEqual(waiting.received, b"")
        assert waiting.transport is not None
        waiting.transport.loseConnection()

    def test_counting_tokens(self) -> None:
        world = World(self)
        response = world.answer(path="/v1/messages/count_tokens?beta=true")
        self.assertEqual(response.status, 200)
        self.assertIn("input_tokens", response.json())
        self.assertEqual(world.results(), ["served"])

    def test_a_head_request(self) -> None:
        world = World(self)
        RawUpstream(
            world, [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"]
        )
        client = world.send(
            f"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200 "))
        self.assertIn(b"Content-Length: 7\r\n", client.received)
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        self.assertEqual(world.results(), ["served"])


class RequestTests(SynchronousTestCase):
    """What the upstream receives (spec 3.6, 4.3)."""

    def test_headers_as_the_upstream_sees_them(self) -> None:
        world = World(self)
        world.answer(
            path="/v1/messages?beta=true&x=%41%2F",
            headers=(
                ("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14"),
                ("X-App", "cli"),
                ("User-Agent", "claude-cli/2.1.330 (external, cli)"),
                ("X-Stainless-Lang", "js"),
                ("x-repeated", "1"),
                ("X-Repeated", "2"),
                ("Accept-Encoding", "gzip, br"),
                ("Connection", "keep-alive, X-Private"),
                ("X-Private", "of this connection"),
                ("Keep-Alive", "timeout=5"),
                ("TE", "trailers"),
                ("Proxy-Authorization", "Basic eDp5"),
                ("CF-Ray", "1"),
                ("CF-Connecting-IP", "192.0.2.1"),
                ("CDN-Loop", "x"),
                ("X-Forwarded-For", "192.0.2.1"),
                ("Forwarded", "for=192.0.2.1"),
                ("X-Real-IP", "192.0.2.1"),
            ),
        )
        received = world.simulator.requests.of("turn")[0]
        self.assertEqual(received.target, b"/v1/messages?beta=true&x=%41%2F")
        self.assertEqual(
            [pair for pair in received.headers if pair[0].lower() not in (b"content-length",)],
            [
                (b"Host", b"127.0.0.1:9000"),
                (b"anthropic-version", b"2023-06-01"),
                (b"Content-Type", b"application/json"),
                (
                    b"anthropic-beta",
                    b"oauth-2025-04-20,claude-code-20250219,interleaved-thinking-2025-05-14",
                ),
                (b"X-App", b"cli"),
                (b"User-Agent", b"claude-cli/2.1.330 (external, cli)"),
                (b"X-Stainless-Lang", b"js"),
                (b"x-repeated", b"1"),
                (b"X-Repeated", b"2"),
                (b"Authorization", b"Bearer " + world.login.access_token.encode()),
                (b"Accept-Encoding", b"identity"),  # spec 12.5
            ],
        )
        self.assertEqual(values(received.headers, b"content-length"), [b"%d" % len(received.body)])

    def test_the_users_token_never_passes(self) -> None:
        world = World(self)
        world.answer()
        world.answer(token=None, headers=(("X-Api-Key", TOKEN),))
        for request in world.simulator.requests:
            self.assertNotIn(TOKEN.encode(), repr(request.headers).encode() + request.body)
        self.assertNotIn(TOKEN, world.logged())
        self.assertNotIn(world.login.access_token, world.logged())

    def test_the_services_headers_override(self) -> None:
        world = World(self, more="    headers: {User-Agent: team, X-App: [a, b], Accept-Encoding: identity}")
        world.answer(headers=(("User-Agent", "claude-cli"), ("X-App", "cli"), ("Accept-Encoding", "br")))
        received = world.simulator.requests.of("turn")[0]
        self.assertEqual(values(received.headers, b"user-agent"), [b"team"])
        self.assertEqual(values(received.headers, b"x-app"), [b"a", b"b"])
        self.assertEqual(values(received.headers, b"accept-encoding"), [b"identity"])

    def test_bodies_pass_byte_for_byte(self) -> None:
        """A body is forwarded unchanged, even if the proxy does not understand it."""
        world = World(self)
        upstream = RawUpstream(world, [http_response(200, body=MESSAGE)])
        bodies = (
            b"not json at all",
            b"\xff\xfe\x00",
            b"[]",
            b"{",
            b'{"model": 5, "messages": "none", "metadata": [], "stream": "yes"}',
            b'{"model": "a", "model" : "b",  "max_tokens": 1e400}',
            b'{"max_tokens": ' + b"9" * 5000 + b"}",
            b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"a": "\\ud800", "metadata": {"user_id": "\\ud800"}}',
            '{ "model":"claude-opus-4-5",\r\n\t"x": "größer 🙂" }'.encode(),
        )
        for number, body in enumerate(bodies, 1):
            response = world.answer(body=body)
            self.assertEqual(response.status, 200, body[:40])
            self.assertTrue(upstream.received[-1].endswith(b"\r\n\r\n" + body), body[:40])
            self.assertEqual(len(upstream.received), number)

    def test_a_chunked_body_arrives_whole(self) -> None:
        world = World(self)
        body = json.dumps(
            {"model": "claude-opus-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        ).encode()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
        head = message_request(body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        client = world.send(head + chunks)
        self.assertEqual(client.responses()[0].status, 200)
        received = world.simulator.requests.of("turn")[0]
        self.assertEqual(received.body, body)
        self.assertEqual(received.header(b"content-length"), b"%d" % len(body))
        self.assertIsNone(received.header(b"transfer-encoding"))

    def test_a_compressed_body_passes_as_it_came(self) -> None:
        world = World(self)
        upstream = RawUpstream(world, [http_response(200, body=MESSAGE)])
        body = gzip.compress(b'{"model": "claude-opus-4-5"}')
        world.answer(body=body, headers=(("Content-Encoding", "gzip"),))
        self.assertIn(b"Content-Encoding: gzip\r\n", upstream.received[0])
        self.assertTrue(upstream.received[0].endswith(body))

    def test_a_body_that_is_too_large(self) -> None:
        world = World(self, more="    max_request_body: 1KiB")
        response = world.answer("x" * 2000)
        self.assertEqual((response.status, response.error["type"]), (413, "request_too_large"))
        self.assertEqual(response.header("x-ccm-error"), "body_too_large")
        self.assertEqual(world.simulator.requests.of("turn"), [])
        self.assertEqual(world.results(), ["body_too_large"])

    def test_a_body_that_turns_out_to_be_too_large(self) -> None:
        world = World(self, more="    max_request_body: 1KiB")
        head = message_request(body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        client = world.send(head + b"400\r\n" + b"x" * 1024 + b"\r\n")
        self.assertEqual(client.received, b"")
        world.send(b"1\r\nx\r\n", client)
        self.assertEqual(client.responses()[0].status, 413)
        self.assertEqual(world.simulator.requests.of("turn"), [])

    def test_expect_continue(self) -> None:
        world = World(self)
        request = message_request(headers=(("Expect", "100-continue"),))
        head, blank, body = request.partition(b"\r\n\r\n")
        client = world.send(head + blank)
        self.assertEqual(bytes(client.received), b"HTTP/1.1 100 Continue\r\n\r\n")
        world.send(body, client)
        self.assertEqual(client.responses()[0].status, 200)
        self.assertIsNone(world.simulator.requests.of("turn")[0].header(b"expect"))

    def test_expectation_refused_before_the_body(self) -> None:
        """No "100 Continue" is sent to an unauthenticated client, or for a body that is too large."""
        world = World(self, more="    max_request_body: 1KiB")
        for token, size, status in (("wrong", 10, 401), (TOKEN, 5000, 413)):
            request = message_request("x" * size, token=token, headers=(("Expect", "100-continue"),))
            client = world.send(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self.assertTrue(client.received.startswith(b"HTTP/1.1 %d " % status), client.received[:40])

    def test_a_body_that_stops_arriving(self) -> None:
        world = World(self)
        client = world.send(message_request("x" * 100)[:-20])
        world.until(lambda: bool(client.responses()), 61)
        self.assertEqual(client.responses()[0].status, 408)
        self.assertEqual(client.responses()[0].error["type"], "timeout_error")
        self.assertEqual(world.results(), ["body_timeout"])

    def test_fast_mode_is_let_through_for_a_single_account(self) -> None:
        world = World(self)
        self.assertEqual(world.answer(headers=(("anthropic-beta", "fast-mode-2026-02-01"),)).status, 200)


class ResponseTests(SynchronousTestCase):
    """What the client receives (spec 4.3, 4.5, 8.3)."""

    def test_headers_as_the_client_sees_them(self) -> None:
        world = World(self)
        world.login.set_utilization("five_hour", 40, 7200)
        response = world.answer()
        names = [name.lower() for name, _ in response.headers]
        for name in (b"cf-ray", b"cf-cache-status", b"connection", b"transfer-encoding"):
            self.assertNotIn(name, names)
        upstream = world.simulator.requests.of("turn")[0]
        self.assertEqual(upstream.status, 200)
        self.assertIn(b"request-id", names)
        self.assertIn(b"server", names)
        self.assertRegex(response.header("x-ccm-request-id") or "", r"^req_[0-9a-f]{24}$")
        family = {
            name[len(FAMILY) :].decode(): value.decode()
            for name, value in response.headers
            if name.startswith(FAMILY)
        }
        reset = str(int(world.clock.seconds() + 7200))
        weekly = str(int(world.clock.seconds() + 7 * 86400))
        self.assertEqual(
            family,
            {
                "status": "allowed",
                "5h-utilization": "0.410000",
                "7d-utilization": "0.010000",
                "5h-reset": reset,
                "7d-reset": weekly,
                "representative-claim": "five_hour",
                "reset": reset,
            },
        )
        self.assertEqual(response.header("x-ccm-plan-weight"), "10")

    def test_fields_of_the_upstreams_connection(self) -> None:
        world = World(self)
        RawUpstream(
            world,
            [
                http_response(
                    200,
                    ("Connection", "keep-alive, X-Hop"),
                    ("X-Hop", "1"),
                    ("Keep-Alive", "timeout=5"),
                    ("X-Forwarded-Proto", "https"),
                    ("Set-Cookie", "a=1"),
                    ("Set-Cookie", "b=2"),
                    ("X-Kept", "naïve"),
                    body=MESSAGE,
                )
            ],
        )
        response = world.answer()
        self.assertEqual(values(response.headers, b"set-cookie"), [b"a=1", b"b=2"])
        self.assertEqual(first_value(response.headers, b"x-kept"), "naïve".encode("latin-1"))
        for name in (b"connection", b"x-hop", b"keep-alive", b"x-forwarded-proto"):
            self.assertEqual(values(response.headers, name), [])
        self.assertEqual(response.body, MESSAGE)

    def test_fields_that_only_we_may_send(self) -> None:
        """Spec 14: an instance that borrows from us would take the upstream's for ours."""
        for status in (200, 400, 429, 500):
            world = World(self)
            theirs = [
                ("X-CCM-Error", "credential_unavailable"),
                ("X-CCM-Request-Id", "req_theirs"),
                ("X-CCM-Reset-At", "4000000000"),
                ("x-ccm-plan-weight", "1000"),
                ("X-OCM-Error", "busy"),
                ("X-OCM-Request-Id", "req_theirs"),
            ]
            RawUpstream(world, [http_response(status, *theirs, body=MESSAGE)])
            response = world.answer()
            self.assertEqual(response.status, status)
            own = {
                name.lower(): value
                for name, value in response.headers
                if name.lower().startswith((b"x-ccm-", b"x-ocm-"))
            }
            self.assertNotIn(b"req_theirs", own.values())
            expected = {b"x-ccm-request-id", b"x-ccm-plan-weight"} if status == 200 else {b"x-ccm-request-id"}
            self.assertEqual(set(own), expected, status)
            self.assertNotEqual(own.get(b"x-ccm-plan-weight"), b"1000")
            world.close()

    def test_streams_are_not_buffered_by_nginx(self) -> None:
        """F17."""
        world = World(self)
        self.assertEqual(world.answer(stream=True).header("x-accel-buffering"), "no")
        self.assertIsNone(world.answer().header("x-accel-buffering"))

    def test_trailers_are_dropped(self) -> None:
        world = World(self)
        chunked = b"".join([b"%x\r\n%b\r\n" % (len(MESSAGE), MESSAGE), b"0\r\nX-Trailer: 1\r\n\r\n"])
        RawUpstream(
            world,
            [
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTrailer: X-Trailer\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n" + chunked
            ],
        )
        client = world.ask()
        self.assertEqual(client.responses()[0].body, MESSAGE)
        self.assertTrue(client.responses()[0].complete)
        self.assertNotIn(b"railer", client.received)

    def test_a_compressed_answer_passes_as_it_came(self) -> None:
        world = World(self)
        response = world.answer("[[say:packed]] [[simulate:gzip]]")
        self.assertEqual(response.header("content-encoding"), "gzip")
        self.assertIn(b"packed", gzip.decompress(response.body))

    def test_a_request_can_be_found_in_the_log(self) -> None:
        world = World(self)
        response = world.answer(session="s-1")
        finished = next(event for event in world.events if "result" in event)
        self.assertEqual(finished["request_id"], response.header("x-ccm-request-id"))
        expected = {
            "user": "alice",
            "status": 200,
            "session": "s-1",
            "model": "claude-opus-4-5",
            "credential": world.account.tag,
            "tries": 1,
        }
        self.assertEqual({name: finished[name] for name in expected}, expected)
        self.assertEqual(finished["tokens"].output, response.json()["usage"]["output_tokens"])

    def test_a_session_is_logged_once_per_model(self) -> None:
        world = World(self)
        for session, model in (("a", "claude-opus-5"), ("a", "claude-opus-5"), ("a", "claude-haiku-4-5")):
            world.answer(session=session, model=model)
        lines = [event for event in world.events if "is served by" in str(event.get("log_format"))]
        self.assertEqual([event["model"] for event in lines], ["claude-opus-5", "claude-haiku-4-5"])

    def test_prompts_and_answers_never_reach_the_log(self) -> None:
        world = World(self)
        world.answer("[[say:hush-hush]]", stream=True)
        world.answer("[[say:hush-hush]] [[simulate:cut;at=before_head;how=fin]]")
        world.answer("[[say:hush-hush]] [[simulate:error_mid]]", stream=True)
        self.assertNotIn("hush-hush", world.logged())


class MeteringTests(SynchronousTestCase):
    """The facts about a request and its response that are logged afterwards."""

    def finished(self, world: World) -> LogEvent:
        """The log event of the one concluded request."""
        (event,) = [event for event in world.events if "result" in event]
        return event

    def test_session_sources(self) -> None:
        """F10: the session is found in each known place, in order of precedence, even if others are missing."""

        def body(user_id: str) -> bytes:
            message = {"role": "user", "content": "x"}
            document = {"model": "claude-opus-5", "max_tokens": 5, "messages": [message]}
            return json.dumps({**document, "metadata": {"user_id": user_id}}).encode()

        for user_id, header, expected in (
            ('{"session_id": "json"}', None, "json"),
            ("user_1_account_2_session_old", None, "old"),
            ("user_1_account_2_session_old", "header", "header"),
            ("unknown form", None, "-"),
        ):
            world = World(self)
            response = world.answer(body=body(user_id), session=header)
            self.assertEqual(response.status, 200)
            self.assertEqual(self.finished(world)["session"], expected)

    def test_golden_sums(self) -> None:
        """F21: cache writes are counted by lifetime, cache reads separately, and cumulative figures only once."""
        events = (
            ("message_start", '{"type":"message_start","message":{"model":"claude-opus-5","usage":{'
             '"input_tokens":11,"cache_read_input_tokens":70000,"cache_creation_input_tokens":3000,'
             '"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":2000},'
             '"output_tokens":1,"service_tier":"standard"}}}'),
            ("ping", '{"type": "ping"}'),
            ("message_delta", '{"type":"message_delta","usage":{"output_tokens":40}}'),
            ("message_delta", '{"type":"message_delta","usage":{"input_tokens":11,"output_tokens":97,'
             '"cache_read_input_tokens":70000,"cache_creation_input_tokens":3000}}'),
            ("message_stop", '{"type":"message_stop"}'),
        )  # fmt: skip
        stream = "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events).encode()
        world = World(self)
        RawUpstream(world, [http_response(200, body=stream, content_type="text/event-stream")])
        self.assertEqual(world.answer(stream=True).body, stream)
        event = self.finished(world)
        self.assertEqual(
            event["tokens"],
            Tokens(
                input=11,
                output=97,
                cache_read=70000,
                cache_creation=3000,
                cache_creation_5m=1000,
                cache_creation_1h=2000,
            ),
        )
        self.assertEqual(event["tokens"].total_input, 73011)
        self.assertEqual((event["model"], event["result"]), ("claude-opus-5", "served"))

    def test_a_whole_message_and_its_stream_count_the_same(self) -> None:
        """F21: both give the figures that the account is really charged for."""
        counted = []
        for stream in (False, True):
            world = World(self)
            world.answer("[[say:the same words]]", stream=stream)
            tokens = self.finished(world)["tokens"]
            counted.append((tokens.input, tokens.output, tokens.cache_read, tokens.cache_creation))
        self.assertEqual(counted[0][1], counted[1][1])
        self.assertGreater(counted[0][1], 0)

    def test_durations(self) -> None:
        world = World(self)
        world.ask("[[simulate:slow;seconds=2]]")
        world.network.advance(2)
        event = self.finished(world)
        self.assertEqual((event["first_byte"], event["duration"]), (2, 2))


class ErrorTests(SynchronousTestCase):
    """Errors of the upstream that are relayed to the client (spec 4.4)."""

    def test_bad_requests_are_relayed(self) -> None:
        world = World(self)
        response = world.answer("[[simulate:too_long]]")
        self.assertEqual(response.status, 400)
        self.assertIn("prompt is too long", response.error["message"])
        self.assertIsNone(response.header("x-ccm-error"))
        self.assertEqual(response.header("x-should-retry"), "false")
        self.assertEqual(world.results(), ["failed"])

    def test_a_refused_signature_is_relayed_byte_for_byte(self) -> None:
        """F12: the client gets the upstream's own error, such as one about thinking blocks of another account."""
        world = World(self)
        body = b'{"type":"error",  "error":{"type":"invalid_request_error","message":' + (
            b'"messages.1.content.0: Invalid `signature` in `thinking` block"},"request_id":"req_x"}\n'
        )
        RawUpstream(
            world, [http_response(400, ("request-id", "req_x"), ("x-should-retry", "false"), body=body)]
        )
        response = world.answer()
        self.assertEqual((response.status, response.body), (400, body))
        self.assertEqual(response.header("request-id"), "req_x")
        self.assertIsNone(response.header("x-ccm-error"))
        self.assertEqual(len(world.upstream.factory.received), 1)  # type: ignore[attr-defined]

    def test_a_thought_of_another_account(self) -> None:
        """F12: the simulator itself rejects a thinking block that another account signed."""
        world = World(self)
        document = {
            "model": "claude-opus-4-5",
            "max_tokens": 5,
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "t", "signature": "AAAA"}],
                },
                {"role": "user", "content": "y"},
            ],
        }
        response = world.answer(body=json.dumps(document).encode())
        self.assertEqual(response.status, 400)
        self.assertIn("Invalid `signature`", response.error["message"])

    def test_trouble_of_the_upstream_is_relayed_and_blocks_nothing(self) -> None:
        """F6: however often the upstream fails, the account stays in use."""
        world = World(self)
        for fault, status in (
            ("overloaded", 529),
            ("server_error", 500),
            ("unavailable;retry_after=90", 503),
            ("bad_gateway", 502),
            ("404", 404),
            ("413", 413),
            ("408", 408),
            ("504", 504),
            ("599", 599),
        ):
            for _ in range(12):
                response = world.answer(f"[[simulate:{fault}]]")
                self.assertEqual(response.status, status, fault)
                self.assertIsNone(response.header("x-ccm-error"))
            self.assertEqual(world.answer().status, 200)
        self.assertTrue(world.account.is_usable())

    def test_errors_carry_no_rate_limit_headers(self) -> None:
        world = World(self)
        reset = ("anthropic-ratelimit-unified-5h-reset", "1795003600")
        RawUpstream(world, [http_response(500, ("anthropic-ratelimit-unified-status", "rejected"), reset)])
        response = world.answer()
        self.assertEqual(response.status, 500)
        self.assertEqual([name for name, _ in response.headers if name.lower().startswith(FAMILY)], [])

    def test_hints_to_the_client_pass(self) -> None:
        world = World(self)
        response = world.answer("[[simulate:unavailable;retry_after=90]]")
        self.assertEqual(response.header("retry-after"), "90")
        self.assertEqual(response.header("x-should-retry"), "true")

    def test_an_error_as_the_first_event_of_a_stream(self) -> None:
        """F13: the stream is relayed unchanged, and logged as failed."""
        world = World(self)
        response = world.answer("[[simulate:error_first]]", stream=True)
        self.assertEqual(response.status, 200)
        self.assertTrue(response.body.startswith(b"event: error"))
        self.assertEqual(world.results(), ["failed"])
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_an_error_in_the_middle_of_a_stream(self) -> None:
        """F13, F14: the client gets the events before the error, then the error; there is no retry."""
        world = World(self)
        response = world.answer("[[tokens:80]] [[simulate:error_mid]]", stream=True)
        self.assertIn(b"content_block_delta", response.body)
        self.assertIn(b"event: error", response.body)
        self.assertEqual(world.results(), ["failed"])
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_never_again_after_the_first_byte(self) -> None:
        """F14: if the upstream's stream breaks, so does the client's; the upstream is asked only once."""
        for fault in ("cut;at=mid", "cut;at=after_head", "cut;at=mid;how=fin", "no_last_chunk", "bad_chunk"):
            world = World(self)
            client = world.ask(f"[[tokens:80]] [[simulate:{fault}]]", stream=True)
            world.network.advance(1)
            self.assertTrue(client.broken, fault)
            self.assertFalse(any(response.complete for response in client.responses()), fault)
            self.assertEqual(len(world.simulator.requests.of("turn")), 1, fault)
            self.assertEqual(world.results(), ["truncated"], fault)
            self.assertEqual(world.answer().status, 200)

    def test_a_page_of_somebody_in_between(self) -> None:
        world = World(self)
        response = world.answer("[[simulate:html]]")
        self.assertIn(b"<!DOCTYPE html>", response.body)
        self.assertEqual(world.results(), ["unrecognised"])


class _BrokenTraffic(ClaudeTraffic):
    """Raises when a response arrives."""

    def classify(
        self, head: ResponseHead, body: bytes | None, now: float, echo: str = "", model: str | None = None
    ) -> Verdict:
        raise RuntimeError("defect")


class _BrokenMetering(ClaudeMetering):
    """Raises when a response is relayed."""

    def meter(self, facts: RequestFacts, head: ResponseHead, now: Callable[[], float]) -> UsageMeter:
        raise RuntimeError("defect")


class DefectTests(SynchronousTestCase):
    """An internal error fails only its own request, and leaves nothing behind."""

    def check(self, **defect: object) -> Client:
        world = World(self)
        forwarder = world.entry.forwarder
        sound = forwarder.context
        broken = replace(sound.dialect, **defect)  # type: ignore[arg-type]
        forwarder.context = replace(sound, dialect=broken)
        client = world.ask()
        forwarder.context = sound
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(world.account.leases, set())
        self.assertEqual(world.results(), ["internal_error"])
        self.assertEqual(world.answer().status, 200)
        return client

    def test_before_the_answer(self) -> None:
        client = self.check(traffic=_BrokenTraffic())
        self.assertEqual(client.responses()[0].header("x-ccm-error"), "internal_error")

    def test_at_the_answer(self) -> None:
        self.assertTrue(self.check(metering=_BrokenMetering()).broken)


#: A remote instance; and a pool of a remote instance, which comes first, and an account.
REMOTE = """
services:
  - type: ccm
    listen_port: 8080
    credentials:
{{credentials}}
      - {{{{tag: friend, type: external, token: friend-token-4711, url: "http://127.0.0.1:7000/team"}}}}
      - {{{{tag: pool, type: balancer, credentials: [friend, a1], strategy: fallback}}}}
    users:
      - {{{{name: alice, token: {{token}}, credential: {credential}, allow_external_usage: true}}}}
      - {{{{name: bob, token: {bob}, credential: {credential}, allow_external_usage: true}}}}
    headers: {{{{X-Team: ours}}}}
    upstream:
      api_url: http://127.0.0.1:9000
      token_url: http://127.0.0.1:9000/v1/oauth/token
      usage_url: http://127.0.0.1:9000/api/oauth/usage
      profile_url: http://127.0.0.1:9000/api/oauth/profile
"""
STATE = json.dumps(
    {
        "five_hour_utilization": 1,
        "five_hour_reset": 0,
        "weekly_utilization": 1,
        "weekly_reset": 0,
        "plan_weight": 10,
    }
).encode()
OURS = ("X-CCM-Request-Id", "req_theirs")


class _Remote(RawUpstream):
    """A remote instance whose status is usable, and which answers turns with the bytes of the test."""

    def __init__(self, world: World, *answers: bytes) -> None:
        simulator = world.upstream.factory
        super().__init__(world, [self.answer])
        world.upstream.factory = simulator
        world.network.listen("127.0.0.1", 7000, self)
        self.turns: list[bytes] = []
        self.status = http_response(200, body=STATE)
        self._answers = list(answers)

    def answer(self) -> bytes:
        """The response to the request that has just arrived."""
        request = self.received[-1]
        if b"?watch=true" in request:
            return http_response(404)
        if b"/ccm/v1/status" in request:
            return self.status
        self.turns.append(request)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class RemoteTests(SynchronousTestCase):
    """Responses of a remote instance (spec 4.4)."""

    def begin(self, *answers: bytes, credential: str = "pool") -> tuple[World, _Remote]:
        """A world whose remote answers turns with ``answers``, and that remote instance."""
        world = World(self, configuration=REMOTE.format(credential=credential, bob=BOB), start=False)
        remote = _Remote(world, *answers)
        world.start()
        return world, remote

    def friend(self, world: World) -> External:
        """The remote, as a credential."""
        return next(remote.external for remote in world.entry.externals.values())

    def by_us(self, world: World) -> int:
        """How many turns the local account has served."""
        return len(world.simulator.requests.of("turn"))

    def test_what_it_is_asked(self) -> None:
        world, remote = self.begin(http_response(200, OURS, body=MESSAGE))
        response = world.answer(headers=(("Accept-Encoding", "br"), ("X-CCM-Hops", "2")))
        self.assertEqual((response.status, response.body), (200, MESSAGE))
        (turn,) = remote.turns
        self.assertTrue(
            turn.startswith(b"POST /team/v1/messages?beta=true HTTP/1.1\r\nHost: 127.0.0.1:7000\r\n")
        )
        self.assertIn(b"\r\nAuthorization: Bearer friend-token-4711\r\n", turn)
        self.assertIn(b"\r\nx-ccm-hops: 3\r\n", turn)
        self.assertNotIn(TOKEN.encode(), turn)
        self.assertNotIn(b"X-Team", turn)
        self.assertEqual(self.by_us(world), 0)
        self.assertNotEqual(response.header("x-ccm-request-id"), "req_theirs")

    def test_rejected(self) -> None:
        """The remote has no credential: another one serves, and the remote is not used until it reports again."""
        for headers in ((OURS, ("X-CCM-Error", "credential_unavailable")), ()):
            world, remote = self.begin(http_response(400, *headers))
            self.assertEqual(world.answer().status, 200)
            self.assertEqual((len(remote.turns), self.by_us(world)), (1, 1))
            snapshot = self.friend(world).snapshot(world.clock.seconds())
            self.assertEqual(snapshot.availability.reason, "rejected")
            self.assertEqual(world.answer().status, 200)
            self.assertEqual((len(remote.turns), self.by_us(world)), (1, 2))
            self.friend(world)._poller.poll()
            world.network.flush()
            self.assertTrue(self.friend(world).is_usable())
            world.answer()
            self.assertEqual(len(remote.turns), 2)

    def test_rejected_and_nobody_else(self) -> None:
        """The client is told what ails the remote's credential, in the remote's words (spec 12.3), and the remote is
        asked again: only it knows when it serves again."""
        for credential in ("friend", "pool"):
            world, remote = self.begin(
                http_response(400, OURS, ("X-CCM-Error", "credential_unavailable"), body=b"theirs"),
                credential=credential,
            )
            if credential == "pool":
                world.account.reject()
            for number in (1, 2):
                response = world.answer()
                self.assertEqual(response.header("x-ccm-error"), "credential_unavailable")
                self.assertEqual((response.status, response.body), (400, b"theirs"))
                self.assertEqual(len(remote.turns), number)

    def test_rejected_and_others_serve_again_later(self) -> None:
        """The client is told when."""
        world, _ = self.begin(
            http_response(400, OURS, ("X-CCM-Error", "credential_unavailable"), body=b"theirs"),
        )
        world.account.rate_limited(world.clock.seconds() + 7200, True)
        response = world.answer()
        self.assertEqual((response.status, response.header("x-ccm-error")), (429, "rate_limited"))
        self.assertIn("earliest reset in 2h", response.error["message"])

    def test_rejected_by_something_else(self) -> None:
        """Of a 400 that is not marked as ccmproxy's, nothing is known: the client is told about the credential here."""
        world, _ = self.begin(http_response(400, body=b"theirs"), credential="friend")
        response = world.answer()
        self.assertEqual((response.status, response.header("x-ccm-error")), (400, "credential_unavailable"))
        self.assertNotIn(b"theirs", response.body)

    def test_served_after_all(self) -> None:
        """A remote that had no credential serves: it is usable again without waiting for its status."""
        unavailable = http_response(400, OURS, ("X-CCM-Error", "credential_unavailable"), body=b"theirs")
        world, _ = self.begin(unavailable, http_response(200, OURS, body=MESSAGE), credential="friend")
        self.assertEqual(world.answer().status, 400)
        self.assertFalse(self.friend(world).is_usable())
        self.assertEqual(world.answer().status, 200)
        self.assertTrue(self.friend(world).is_usable())

    def test_callers_in_a_row(self) -> None:
        """What a remote refuses to different callers is not held against it (spec 12.1): it has several accounts."""
        for status, words in ((403, "computer says no"), (429, "slow down")):
            body = json.dumps({"type": "error", "error": {"type": "error", "message": words}}).encode()
            world, remote = self.begin(http_response(status, OURS, body=body), credential="friend")
            for token, number in ((TOKEN, 1), (BOB, 2), (TOKEN, 3)):
                response = world.answer(token=token)
                self.assertEqual((response.status, response.error["message"]), (status, words))
                self.assertEqual(len(remote.turns), number)
            self.assertTrue(self.friend(world).is_usable())
            self.assertTrue(self.friend(world).state.holds.is_empty)

    def test_an_upstreams_400(self) -> None:
        """A 400 is the client's own error: it is relayed, and the credential's state does not change."""
        body = b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}'
        world, _ = self.begin(http_response(400, OURS, body=body))
        response = world.answer()
        self.assertEqual((response.status, response.body), (400, body))
        self.assertTrue(self.friend(world).is_usable())
        self.assertEqual(self.by_us(world), 0)

    def test_busy(self) -> None:
        """Another credential serves, and the remote's state does not change."""
        for status, reason in (
            (502, "upstream_auth"),
            (502, "upstream_unreachable"),
            (503, "shutting_down"),
            (508, "too_many_hops"),
            (429, "too_many_requests"),
        ):
            world, remote = self.begin(http_response(status, OURS, ("X-CCM-Error", reason)))
            for number in (1, 2):
                self.assertEqual(world.answer().status, 200)
                self.assertEqual((len(remote.turns), self.by_us(world)), (number, number))
            self.assertTrue(self.friend(world).is_usable())

    def test_busy_and_nobody_else(self) -> None:
        """The remote's response is relayed unchanged."""
        body = b'{"type":"error","error":{"type":"api_error","message":"going away"}}'
        for credential in ("friend", "pool"):
            world, remote = self.begin(
                http_response(503, OURS, ("X-CCM-Error", "shutting_down"), body=body), credential=credential
            )
            if credential == "pool":
                world.account.reject()
            response = world.answer()
            self.assertEqual((response.status, response.body), (503, body))
            self.assertEqual(response.header("x-ccm-error"), "shutting_down", "it is ours as well")
            self.assertEqual((len(remote.turns), self.by_us(world)), (1, 0))
            self.assertTrue(self.friend(world).is_usable())

    def test_used_up(self) -> None:
        """It names the end: until then another credential serves, or the client is told that time (spec 4.2)."""
        until = int(START + 7200)
        said = http_response(
            429, OURS, ("X-CCM-Error", "rate_limited"), ("X-CCM-Reset-At", str(until)), body=b"theirs"
        )
        for credential, status, by_us in (("pool", 200, 2), ("friend", 429, 0)):
            world, remote = self.begin(said, credential=credential)
            for _ in range(2):
                response = world.answer()
                self.assertEqual(response.status, status)
                self.assertNotIn(b"theirs", response.body)
            self.assertEqual((len(remote.turns), self.by_us(world)), (1, by_us))
            availability = self.friend(world).snapshot(world.clock.seconds()).availability
            self.assertEqual((availability.state, availability.reset_at), ("rate_limited", until))
            if credential == "friend":
                self.assertEqual(response.header("x-ccm-reset-at"), str(until))
            world.close()

    def test_used_up_by_another_clock(self) -> None:
        """Its clock is an hour ahead of ours, or behind: the number of seconds counts."""
        for ahead in (-3600, 3600):
            at = str(int(START + ahead + 20))
            world, _ = self.begin(
                http_response(
                    429,
                    OURS,
                    ("X-CCM-Error", "rate_limited"),
                    ("X-CCM-Reset-At", at),
                    ("X-CCM-Reset-In", "20"),
                ),
                credential="friend",
            )
            self.assertEqual(world.answer().status, 429)
            availability = self.friend(world).snapshot(world.clock.seconds()).availability
            self.assertEqual(availability.state, "rate_limited")
            self.assertAlmostEqual(availability.reset_at, START + 20, delta=1)
            world.close()

    def test_it_guesses_no_more_tokens(self) -> None:
        """Where too many wrong tokens have come from here, that instance is left alone for a while."""
        world, remote = self.begin(http_response(429, OURS, ("X-CCM-Error", "too_many_failures")))
        for number in (1, 2):
            self.assertEqual(world.answer().status, 200)
            self.assertEqual((len(remote.turns), self.by_us(world)), (1, number))
        self.assertFalse(self.friend(world).is_usable())

    def test_limits_on_its_refusals(self) -> None:
        """Spec 14: a ccmproxy says in fields of its own what is used up; the others are for other makes."""
        soon = ("anthropic-ratelimit-unified-5h-reset", "1795000600")
        limits = (
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-representative-claim", "5h"),
            ("anthropic-ratelimit-unified-5h-utilization", "1.0"),
            soon,
        )
        world, remote = self.begin(http_response(429, OURS, *limits))
        before = self.friend(world).state.limits
        for number in (1, 2):
            self.assertEqual(world.answer().status, 200)
            self.assertEqual((len(remote.turns), self.by_us(world)), (number, number))
        self.assertTrue(self.friend(world).is_usable())
        self.assertEqual(self.friend(world).state.limits, before)
        own = (("X-CCM-Error", "rate_limited"), ("X-CCM-Reset-At", "1795000300"))
        world, remote = self.begin(http_response(429, OURS, *limits, *own))
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(self.friend(world).state.rate_limited_until, 1795000300)

    def test_words_of_its_own_are_not_ours(self) -> None:
        """Spec 14: whoever borrows from us would put us aside for a refusal of our token at the remote."""
        for reason in ("too_many_failures", "no_such_word", "unauthenticated"):
            theirs = http_response(
                403, OURS, ("X-CCM-Error", reason), ("X-CCM-Reset-At", "4000000000"), ("X-OCM-Error", reason)
            )
            world, _ = self.begin(theirs, credential="friend")
            response = world.answer()
            for name in ("x-ccm-error", "x-ccm-reset-at", "x-ocm-error"):
                self.assertNotEqual(response.header(name), reason)
                self.assertNotEqual(response.header(name), "4000000000")
            world.close()

    def test_our_token_is_not_accepted(self) -> None:
        """The client never gets a 401, because its own token is valid."""
        world, remote = self.begin(http_response(401, OURS, ("X-CCM-Error", "unauthenticated")))
        self.assertEqual(world.answer().status, 200)
        self.assertEqual((len(remote.turns), self.by_us(world)), (1, 1))
        self.assertFalse(self.friend(world).is_usable())
        world, _ = self.begin(http_response(401), credential="friend")
        # At once as on every later request (spec 4.4): no client tries such an answer again.
        self.assertEqual(world.answer().status, 400)
        self.assertFalse("friend-token-4711" in world.logged(), "a token was logged")
