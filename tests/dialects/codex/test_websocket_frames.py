"""Tests for :mod:`ccmproxy.dialects.codex.websocket_frames`."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.dialects.codex.traffic import CodexTraffic
from ccmproxy.dialects.codex.websocket_frames import LARGEST_DECODED, CodexFrames
from ccmproxy.dialects.usage import Tokens
from ccmproxy.dialects.websocket_messages import OUTPUT, PASSING, ClientFrame, UpstreamFrame
from ccmproxy.http.message import Headers
from ccmproxy.interfaces.facets import IFrames
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import Window
from tests.effort import Effort

NOW = 1_795_000_000.0
FRAMES = CodexFrames()


def message(**fields: Any) -> bytes:
    """An event as the upstream writes it."""
    return json.dumps(fields, separators=(",", ":")).encode()


class ClientTests(SynchronousTestCase):
    """What clients send."""

    def test_provides(self) -> None:
        verifyObject(IFrames, FRAMES)

    def test_turns(self) -> None:
        self.assertEqual(
            FRAMES.client_frame(message(type="response.create", model="gpt-5.4", input=[])),
            ClientFrame(True, False, "gpt-5.4"),
        )
        self.assertEqual(
            FRAMES.client_frame(message(model="gpt-5.4", generate=False, type="response.create")),
            ClientFrame(True, True, "gpt-5.4"),
        )
        self.assertEqual(
            FRAMES.client_frame(b' { "generate" : true , "type" : "response.create" } '),
            ClientFrame(True, False, None),
        )

    def test_others(self) -> None:
        for data in (
            message(type="response.processed"),
            b"",
            b"null",
            b"[]",
            b'"response.create"',
            b"{",
            b"\xff",
        ):
            self.assertEqual(FRAMES.client_frame(data), ClientFrame(), data)

    def test_wrong_types(self) -> None:
        """Judging a wrong type is left to the upstream; the message is a turn all the same."""
        self.assertEqual(FRAMES.client_frame(message(type=["response.create"])), ClientFrame())
        self.assertEqual(
            FRAMES.client_frame(message(type="response.create", model={"a": 1}, generate="false")),
            ClientFrame(True, False, None),
        )
        self.assertEqual(
            FRAMES.client_frame(message(type="response.create", model="line\nbreak")),
            ClientFrame(True, unusual_model="line break"),
        )

    def test_all_models(self) -> None:
        """Spec 9.6: every model that a message may ask for, whatever its type seems to be."""
        data = b'{"type":"response.create","model":"b","model":"a"}'
        self.assertEqual(FRAMES.client_frame(data), ClientFrame(True, model="a"))
        self.assertEqual(FRAMES.client_frame(data, True), ClientFrame(True, model="a", names=("b", "a")))
        other = message(type="response.processed", model="a")
        self.assertEqual(FRAMES.client_frame(other, True), ClientFrame(names=("a",)))
        self.assertEqual(FRAMES.client_frame(message(type="response.processed"), True), ClientFrame())
        for unread in (b"{", b"[]", b"x" * (LARGEST_DECODED + 1)):
            self.assertEqual(FRAMES.client_frame(unread, True), ClientFrame(is_opaque=True))
        many = message(type="response.create", model="a", input=["model"] * 100_000)
        self.assertEqual(FRAMES.client_frame(many, True), ClientFrame(True, model="a", is_opaque=True))

    def test_a_refusal_of_ours(self) -> None:
        head, body = CodexTraffic().error(403, "model_not_allowed", "not this one", "req_1")
        event = json.loads(FRAMES.refusal(head, body))
        self.assertEqual((event["type"], event["status"]), ("error", 403))
        self.assertEqual(
            (event["error"]["code"], event["error"]["message"]), ("model_not_allowed", "not this one")
        )
        self.assertEqual(event["headers"]["x-request-id"], "req_1")
        self.assertNotIn("content-type", event["headers"])

    @given(st.binary(max_size=200))
    def test_garbage(self, data: bytes) -> None:
        """Never raises."""
        FRAMES.client_frame(data)
        FRAMES.client_frame(data, True)
        FRAMES.upstream_frame(data, NOW)

    def test_large_messages_are_not_decoded(self) -> None:
        """F63: they pass all the same, and begin a turn if they begin like one."""
        begin = b'{"type":"response.create","model":"m","input":'
        for data, expected in (
            (begin + b'"' + b"x" * 3_000_000 + b'"}', ClientFrame(True, model="m")),
            (begin + b"[" + b"1," * 1_500_000 + b"1]}", ClientFrame(True)),
            (begin + b'"' + b"x" * LARGEST_DECODED + b'"}', ClientFrame(True)),
            (
                b'{"model":"m","type":"response.create","input":"' + b"x" * LARGEST_DECODED + b'"}',
                ClientFrame(),
            ),
        ):
            with Effort(memory=True) as effort:
                self.assertEqual(FRAMES.client_frame(data), expected)
            self.assertLess(effort.peak, 100_000)


class UpstreamTests(SynchronousTestCase):
    """What the upstream sends."""

    def test_most_pass(self) -> None:
        """Messages before the output, and the output."""
        for kind in (
            "response.created",
            "response.in_progress",
            "response.metadata",
            "codex.response.metadata",
        ):
            self.assertIs(FRAMES.upstream_frame(message(type=kind), NOW), PASSING, kind)
        for kind in ("response.output_text.delta", "response.output_item.added"):
            self.assertIs(FRAMES.upstream_frame(message(type=kind, delta="x"), NOW), OUTPUT, kind)
            self.assertIs(FRAMES.upstream_frame(message(delta="x", type=kind), NOW), OUTPUT, kind)

    def test_rate_limits(self) -> None:
        """However the event is formatted; it is hidden even if it reports nothing that counts."""
        event = {
            "rate_limits": {
                "primary": {"used_percent": 13.5, "window_minutes": 300, "reset_at": NOW + 60},
                "secondary": {"used_percent": 35.0, "window_minutes": 10080, "reset_at": NOW + 600},
            }
        }
        for data in (
            message(type="codex.rate_limits", **event),
            message(**event, type="codex.rate_limits"),
            json.dumps({"type": "codex.rate_limits", **event}, indent=1).encode(),
            message(**event, type="@").replace(b"@", b"codex.rate\\u005flimits"),
            message(type="@", **event).replace(b"@", b"codex.rate\\u005flimits"),
        ):
            frame = FRAMES.upstream_frame(data, NOW)
            self.assertTrue(frame.is_hidden, data)
            assert frame.limits is not None
            self.assertEqual(frame.limits.short, Window(13.5, NOW + 60, 18000.0))
        events: list[dict[str, Any]] = [
            {},
            {"rate_limits": 5},
            {"rate_limits": {"primary": []}},
            {"credits": "x"},
        ]
        for rest in events:
            self.assertTrue(FRAMES.upstream_frame(message(type="codex.rate_limits", **rest), NOW).is_hidden)

    def test_ends(self) -> None:
        usage = {"input_tokens": 100, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 40}}
        frame = FRAMES.upstream_frame(
            message(type="response.completed", response={"model": "gpt-5.4", "usage": usage}), NOW
        )
        self.assertTrue(frame.ends_turn)
        assert frame.reading is not None
        self.assertEqual(frame.reading.tokens, Tokens(input=60, output=7, cache_read=40))
        self.assertEqual(frame.reading.model, "gpt-5.4")
        for kind in ("response.failed", "response.incomplete"):
            self.assertTrue(FRAMES.upstream_frame(message(type=kind, response={}), NOW).ends_turn)
        responses: list[Any] = [5, None, [], {"usage": "x"}, {"usage": {"input_tokens": "x"}}, {"model": 5}]
        for response in responses:
            frame = FRAMES.upstream_frame(message(type="response.completed", response=response), NOW)
            self.assertTrue(frame.ends_turn, response)

    def test_errors(self) -> None:
        """An error event means the same as the HTTP response that it stands for."""
        data = message(
            type="error",
            status=429,
            error={"type": "usage_limit_reached", "resets_at": int(NOW) + 60},
            headers={
                "x-codex-primary-used-percent": "100.0",
                "n": 5,
                "b": True,
                "bad name": "x",
                "z": [],
                "y": "a\nb",
            },
        )
        frame = FRAMES.upstream_frame(data, NOW)
        self.assertTrue(frame.ends_turn)
        assert frame.refusal is not None
        self.assertEqual(frame.refusal.head.status, 429)
        self.assertEqual(
            frame.refusal.head.headers,
            [(b"x-codex-primary-used-percent", b"100.0"), (b"n", b"5"), (b"b", b"true")],
        )
        self.assertEqual(frame.refusal.body, data)
        alias = FRAMES.upstream_frame(message(type="error", status_code=500), NOW)
        assert alias.refusal is not None
        self.assertEqual(alias.refusal.head.status, 500)

    def test_errors_without_a_meaning(self) -> None:
        """Clients ignore these events as well."""
        for fields in (
            {},
            {"status": "429"},
            {"status": True},
            {"status": 200},
            {"status": 9e9},
            {"status": None},
        ):
            self.assertIs(FRAMES.upstream_frame(message(type="error", **fields), NOW), PASSING, fields)
        self.assertIs(FRAMES.upstream_frame(b'{"type":"error",', NOW), PASSING)
        frame = FRAMES.upstream_frame(message(type="error", status=400, headers=[1], error=[2]), NOW)
        assert frame.refusal is not None
        self.assertEqual(frame.refusal.head.headers, [])

    def test_large_reports_are_not_built(self) -> None:
        """F63: only their type counts."""
        much = b'"a":[%b1]}' % (b"1," * 9_000_000)
        for begin, expected in (
            (b'{"type":"error",', PASSING),
            (b'{"type":"codex.rate_limits",', UpstreamFrame(is_hidden=True)),
            (b'{"type":"response.failed",', UpstreamFrame(is_output=True, ends_turn=True)),
            (b'{ "type":"error",', PASSING),
        ):
            data = begin + much
            with Effort(memory=True) as effort:
                self.assertEqual(FRAMES.upstream_frame(data, 0.0), expected)
            self.assertLess(effort.peak, 100_000)

    def test_connection_limit(self) -> None:
        for fields in ({"status": 400}, {}):
            error = {"code": "websocket_connection_limit_reached"}
            frame = FRAMES.upstream_frame(message(type="error", error=error, **fields), NOW)
            self.assertTrue(frame.connection_limit and frame.ends_turn)
            self.assertIsNone(frame.refusal)
            self.assertIsNone(frame.verdict, "it is about this connection alone (spec 12.2)")
        failed = message(type="response.failed", response={"error": error})
        frame = FRAMES.upstream_frame(failed, NOW)
        self.assertTrue(frame.connection_limit and frame.ends_turn)
        self.assertIsNone(frame.verdict)

    def verdict(self, kind: str, **fields: Any) -> Verdict | None:
        """What a message means for the credential."""
        frame = FRAMES.upstream_frame(message(type=kind, **fields), NOW)
        if kind == "response.failed":
            assert frame.reading is not None
            self.assertEqual(frame.reading.refusal, frame.verdict)
        return frame.verdict

    def test_what_an_error_means_for_the_credential(self) -> None:
        """Spec 10, 12.2, F51: 429 with data and without, 401."""
        reset = int(NOW) + 3600
        used_up = {"type": "usage_limit_reached", "message": "m", "resets_at": reset}
        self.assertEqual(
            self.verdict("error", status=429, error=used_up), Verdict(AnswerKind.RATE_LIMITED, reset)
        )
        headers = {"x-codex-primary-used-percent": "100.0", "x-codex-primary-reset-at": reset}
        self.assertEqual(
            self.verdict("error", status=429, error={"code": "x"}, headers=headers),
            Verdict(AnswerKind.RATE_LIMITED, reset),
        )
        self.assertEqual(
            self.verdict("error", status=429, error={"message": "m"}, headers={"retry-after": 2}),
            Verdict(AnswerKind.BUSY, wait=2, sentence="m"),
        )
        self.assertEqual(
            self.verdict("error", status=401, error={"message": "m"}),
            Verdict(AnswerKind.AUTH_FAILED, sentence="m"),
        )
        self.assertIsNone(self.verdict("error", status=503, error={"code": "server_is_overloaded"}))

    def test_what_a_failed_response_means_for_the_credential(self) -> None:
        reset = int(NOW) + 3600
        cases: tuple[tuple[str, dict[str, Any], Verdict | None], ...] = (
            ("usage_limit_reached", {"resets_at": reset}, Verdict(AnswerKind.RATE_LIMITED, reset)),
            (
                "rate_limit_exceeded",
                {"message": "try again in 1.5s"},
                Verdict(AnswerKind.BUSY, wait=1.5, sentence="try again in 1.5s"),
            ),
            ("server_error", {}, None),
        )
        for code, fields, expected in cases:
            error = {"code": code, **fields}
            self.assertEqual(self.verdict("response.failed", response={"error": error}), expected)

    def test_an_error_without_a_status_is_learnt_from(self) -> None:
        """Clients ignore it, so that it ends no turn."""
        error = {"type": "usage_limit_reached", "resets_in_seconds": 60}
        frame = FRAMES.upstream_frame(message(type="error", error=error), NOW)
        self.assertEqual(frame, UpstreamFrame(verdict=Verdict(AnswerKind.RATE_LIMITED, NOW + 60)))


class HandshakeTests(SynchronousTestCase):
    """Paths and fields."""

    def test_paths(self) -> None:
        self.assertTrue(FRAMES.serves(b"/v1/responses"))
        self.assertTrue(FRAMES.serves(b"/v1/responses/x"))
        self.assertFalse(FRAMES.serves(b"/v1/models"))

    def test_request_fields(self) -> None:
        """The protocol version is added if the client names none."""
        added = [(b"OpenAI-Beta", b"responses_websockets=2026-02-06")]
        self.assertEqual(FRAMES.request_headers([]), added)
        own: Headers = [(b"openai-beta", b"mine")]
        self.assertEqual(FRAMES.request_headers(own), own)

    def test_answer_fields(self) -> None:
        kept: Headers = [
            (b"X-Codex-Turn-State", b"1"),
            (b"x-reasoning-included", b"true"),
            (b"OpenAI-Model", b"m"),
        ]
        dropped: Headers = [
            (b"Set-Cookie", b"x"),
            (b"Date", b"x"),
            (b"Sec-WebSocket-Accept", b"x"),
            (b"X-Other", b"x"),
        ]
        self.assertEqual(FRAMES.answer_headers([*dropped, *kept, *dropped]), kept)

    def test_aggregate(self) -> None:
        """The event is readable for clients, and for ourselves."""
        whole = Aggregate(12.5, int(NOW) + 60, 30.0, int(NOW) + 600, 10.0, Availability("usable"))
        frame = FRAMES.upstream_frame(FRAMES.aggregate(whole), NOW)
        assert frame.limits is not None
        self.assertEqual(frame.limits.short, Window(12.5, NOW + 60, 18000.0))
