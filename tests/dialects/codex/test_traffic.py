"""The meaning of the Codex dialect's requests and responses."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import zstandard
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.dialects.codex.metering import TOLD_PLAN
from ccmproxy.dialects.codex.traffic import WAITING_CLIENTS, CodexTraffic
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.oauth import ApiKey, OAuthToken
from ccmproxy.dialects.own_errors import BUSY_REASON
from ccmproxy.http.headers import IDENTITY
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead, first_value
from ccmproxy.interfaces.facets import ITraffic
from ccmproxy.policy.answers import DEFAULT_BLOCK, AnswerKind, Verdict
from ccmproxy.policy.borrowers import ToldLimit
from ccmproxy.state.availability import Availability

TRAFFIC = CodexTraffic()
NOW = 1_795_000_000.0
LATER = int(NOW) + 3600


def inspect(
    body: object, *headers: tuple[bytes, bytes], path: bytes = b"/v1/responses", method: bytes = b"POST"
) -> RequestFacts:
    """Facts of a request with this body (JSON unless bytes)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return TRAFFIC.inspect(RequestHead(method, path, list(headers)), Body([raw[:7], raw[7:]]))


class InspectTests(SynchronousTestCase):
    """Spec 4.1 and what the real clients send."""

    def test_a_turn_of_the_cli(self) -> None:
        facts = inspect(
            {
                "model": "gpt-5.4",
                "stream": True,
                "input": [{"type": "message"}, {"type": "message"}],
                "prompt_cache_key": "body-session",
            },
            (b"session-id", b"s-1"),
            (b"thread-id", b"s-1"),
            (b"x-codex-beta-features", b"remote_compaction_v2"),
        )
        self.assertEqual((facts.model, facts.stream, facts.messages), ("gpt-5.4", True, 2))
        self.assertEqual((facts.session, facts.agent), ("s-1", None))
        self.assertEqual((facts.features, facts.client_is_oauth), (("remote_compaction_v2",), False))
        self.assertEqual((facts.operation, facts.billable), ("responses", True))

    def test_session_sources_in_order(self) -> None:
        """F10: proxies in between drop names with underscores; the body still has it."""
        body = {"prompt_cache_key": "b"}
        fields = [(b"session-id", b"1"), (b"Session_Id", b"2"), (b"conversation_id", b"3")]
        self.assertEqual([inspect(body, *fields[at:]).session for at in range(4)], ["1", "2", "3", "b"])
        self.assertEqual(inspect(body, (b"session-id", b" "), *fields[1:]).session, "2")
        self.assertIsNone(inspect({"prompt_cache_key": "a b"}).session)
        self.assertIsNone(inspect({"prompt_cache_key": 5}).session)

    def test_a_thread_of_its_own_is_an_agent(self) -> None:
        self.assertEqual(inspect({}, (b"session-id", b"s"), (b"thread-id", b"t")).agent, "t")

    def test_operations(self) -> None:
        for method, path, operation, billable in (
            (b"POST", b"/v1/responses?x=1", "responses", True),
            (b"POST", b"/v1/responses/", "responses", True),
            (b"GET", b"/v1/responses", "responses", False),
            (b"POST", b"/v1/responses/compact", "responses/compact", True),
            (b"POST", b"/v1/chat/completions", "chat/completions", True),
            (b"GET", b"/v1/models?client_version=0.169.0", None, False),
            (b"GET", b"/v1/responses/resp_1", None, False),
        ):
            facts = inspect(b"", path=path, method=method)
            self.assertEqual((facts.operation, facts.billable), (operation, billable), path)

    def test_chat_completions_have_messages(self) -> None:
        facts = inspect({"model": "m", "messages": [1, 2, 3], "input": [1]}, path=b"/v1/chat/completions")
        self.assertEqual(facts.messages, 3)

    def test_compressed_bodies_are_looked_into(self) -> None:
        """F31."""
        body = b'{"model": "m", "prompt_cache_key": "k"}'
        for coding, data in ((b"zstd", zstandard.compress(body)), (b"gzip", gzip.compress(body))):
            facts = inspect(data, (b"Content-Encoding", coding))
            self.assertEqual((facts.model, facts.session), ("m", "k"))
        self.assertIsNone(inspect(zstandard.compress(body), (b"content-encoding", b"br")).model)

    def test_wrong_types_hide_only_themselves(self) -> None:
        facts = inspect({"model": 5, "stream": 1, "input": "hi", "prompt_cache_key": "k"})
        self.assertEqual((facts.model, facts.stream, facts.messages, facts.session), (None, None, None, "k"))

    def test_bodies_that_are_not_understood(self) -> None:
        deep = b'{"input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        for body in (b"", b"no json", b"[]", b"5", b"\xff", b'{"model":', deep, b"[" * 200_000):
            expected = RequestFacts(operation="responses", is_opaque=body != b"")
            self.assertEqual(inspect(body), expected, body[:20])
        facts = inspect({"model": "m"}, (b"content-type", b"multipart/form-data"))
        self.assertEqual((facts.model, facts.is_opaque), (None, True))

    @given(st.binary(max_size=200), st.sampled_from([b"zstd", b"gzip", b"identity"]), st.binary(max_size=20))
    def test_never_raises(self, body: bytes, coding: bytes, header: bytes) -> None:
        inspect(body, (b"content-encoding", coding), (b"session-id", header), path=b"/v1/" + header)

    def test_chat_completions_need_a_key(self) -> None:
        chat = RequestFacts(operation="chat/completions")
        refused = TRAFFIC.check(chat, True)
        assert refused is not None
        self.assertEqual(refused[0], "api_key_only")
        self.assertIsNone(TRAFFIC.check(chat, True, True))
        self.assertIsNone(TRAFFIC.check(RequestFacts(operation="responses"), False))


class UpstreamHeadTests(SynchronousTestCase):
    """Spec 3.6 and 4.3."""

    def head(
        self,
        *headers: tuple[bytes, bytes],
        key: bool = False,
        bound: bool = False,
        overrides: dict[str, tuple[str, ...]] | None = None,
    ) -> RequestHead:
        head = RequestHead(b"POST", b"/v1/responses?x=%41", [(b"Host", b"proxy"), *headers])
        authorization = ApiKey("sk-key") if key else OAuthToken("at", account_id="acc-1")
        return TRAFFIC.upstream_head(head, authorization, b"up", b"/base", overrides or {}, bound)

    def test_the_account_replaces_the_client(self) -> None:
        client = (
            (b"Authorization", b"Bearer user"),
            (b"ChatGPT-Account-ID", b"own"),
            (b"x-api-key", b"user"),
        )
        upstream = self.head(*client, (b"originator", b"codex_exec"), (b"Content-Encoding", b"zstd"))
        self.assertEqual((upstream.method, upstream.target), (b"POST", b"/base/responses?x=%41"))
        self.assertEqual(
            upstream.headers,
            [
                (b"Host", b"up"),
                (b"originator", b"codex_exec"),
                (b"Content-Encoding", b"zstd"),
                (b"ChatGPT-Account-Id", b"acc-1"),
                (b"Authorization", b"Bearer at"),
                IDENTITY,
            ],
        )

    def test_an_api_key_keeps_the_path(self) -> None:
        upstream = self.head((b"chatgpt-account-id", b"own"), key=True)
        self.assertEqual(upstream.target, b"/base/v1/responses?x=%41")
        self.assertEqual(upstream.headers, [(b"Host", b"up"), (b"Authorization", b"Bearer sk-key"), IDENTITY])

    def test_an_account_without_an_id(self) -> None:
        upstream = TRAFFIC.upstream_head(RequestHead(b"GET", b"/v1/models"), OAuthToken("at"), b"h", b"", {})
        self.assertEqual(upstream.target, b"/models")
        self.assertEqual(upstream.headers, [(b"Host", b"h"), (b"Authorization", b"Bearer at"), IDENTITY])

    def test_the_turn_state_passes_only_to_its_issuer(self) -> None:
        state = (b"X-Codex-Turn-State", b"ts-1")
        self.assertNotIn(state, self.head(state).headers)
        self.assertIn(state, self.head(state, bound=True).headers)

    def test_accept_encoding_is_identity_unless_the_operator_sets_it(self) -> None:
        """Spec 12.5, F59: without the field, any coding would do."""
        for key in (False, True):
            fields = self.head((b"Accept-Encoding", b"gzip"), key=key).headers
            self.assertEqual([pair for pair in fields if pair[0].lower() == b"accept-encoding"], [IDENTITY])
        headers = self.head(overrides={"accept-encoding": ("br",), "User-Agent": ("team",)}).headers
        self.assertEqual(first_value(headers, b"accept-encoding"), b"br")
        self.assertEqual(first_value(headers, b"user-agent"), b"team")


def verdict(status: int, body: object = None, **headers: object) -> Verdict:
    """Class of an answer; a body that is neither None nor bytes is JSON."""
    return asked(status, body, headers)


def asked(
    status: int, body: object, headers: Mapping[str, object], echo: str = "", model: str | None = None
) -> Verdict:
    """The same for a request with this echo, for this model."""
    fields = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return TRAFFIC.classify(ResponseHead(status, b"", fields), raw, NOW, echo, model)


def usage_limit(**fields: object) -> dict[str, object]:
    """The body of a used-up account."""
    return {"error": {"type": "usage_limit_reached", "message": "m", "plan_type": "team", **fields}}


BURST = {"error": {"type": "requests", "code": "rate_limit_exceeded", "message": "m"}}
LIMITED = AnswerKind.RATE_LIMITED


class ClassifyTests(SynchronousTestCase):
    """Spec 4.4 and 4.6."""

    def test_facet(self) -> None:
        self.assertTrue(verifyObject(ITraffic, TRAFFIC))

    def test_plain_classes(self) -> None:
        for status, kind in (
            (200, AnswerKind.OK),
            (400, AnswerKind.NEEDS_BODY),
            (401, AnswerKind.NEEDS_BODY),
            (402, AnswerKind.NEEDS_BODY),
            (403, AnswerKind.NEEDS_BODY),
            (404, AnswerKind.OTHER),
            (429, AnswerKind.NEEDS_BODY),
            (503, AnswerKind.OTHER),
        ):
            self.assertIs(verdict(status).kind, kind, status)
        # The words of these say what they are about (spec 12.1).
        for status, kind in (
            (400, AnswerKind.CLIENT_ERROR),
            (401, AnswerKind.AUTH_FAILED),
            (402, AnswerKind.DENIED),
            (403, AnswerKind.DENIED),
            (429, AnswerKind.BUSY),
        ):
            self.assertIs(verdict(status, b"").kind, kind, status)
        self.assertIs(verdict(403, b"OAuth token has been revoked").kind, AnswerKind.AUTH_FAILED)
        self.assertIs(verdict(403, b"not for you").kind, AnswerKind.DENIED)

    def test_every_row_of_the_known_words(self) -> None:
        """In each shape that was seen (spec 12.3)."""
        for code in ("deactivated_workspace", "invalid_workspace_selected"):
            for status, body in (
                (402, {"detail": {"code": code}}),
                (403, {"error": {"code": code, "message": "m"}}),
                (401, {"error": {"type": code}}),
            ):
                said: dict[str, Any] = body
                self.assertIs(verdict(status, said).kind, AnswerKind.ACCOUNT_REFUSED, body)
        self.assertEqual(
            verdict(402, {"detail": {"code": "deactivated_workspace"}}).sentence, "deactivated_workspace"
        )

    def test_a_model_that_the_account_may_not_use(self) -> None:
        """Case 08, F53: the model, in whatever quotes; the account serves others."""
        words = "The 'gpt-5.6-sol' model is not supported when using Codex with a ChatGPT account."
        for body in ({"detail": words}, {"error": {"type": "invalid_request_error", "message": words}}):
            said: dict[str, Any] = body
            expected = Verdict(AnswerKind.MODEL_REFUSED, sentence=words)
            self.assertEqual(asked(400, said, {}, "model: gpt-5.6-sol"), expected)
        echo = "is not supported when using codex with a chatgpt account"
        self.assertIs(
            asked(400, {"detail": words}, {}, f"x: the a model {echo}").kind, AnswerKind.CLIENT_ERROR
        )

    def test_final_words_are_no_usage_limit(self) -> None:
        """Spec 12.2: they reach the client unchanged, whatever the windows look like."""
        for code, is_about_request in (("usage_not_included", True), ("insufficient_quota", False)):
            expected = Verdict(
                AnswerKind.BUSY, is_about_request=is_about_request, is_final=True, sentence="m"
            )
            for fields in ({}, {"x_codex_primary_used_percent": 100 if is_about_request else 20}):
                said: dict[str, Any] = fields
                self.assertEqual(verdict(429, {"error": {"type": code, "message": "m"}}, **said), expected)

    def test_a_compressed_body_names_the_reset(self) -> None:
        """Case 23, F59."""
        body = json.dumps(usage_limit(resets_at=LATER)).encode()
        for coding, data in (
            ("gzip", gzip.compress(body)),
            ("deflate", zlib.compress(body)),
            ("zstd", zstandard.compress(body)),
        ):
            self.assertEqual(verdict(429, data, content_encoding=coding), Verdict(LIMITED, LATER), coding)

    def test_the_header_comes_first(self) -> None:
        body = usage_limit(resets_at=LATER + 5, resets_in_seconds=7)
        own = {"x_codex_primary_reset_at": LATER}
        self.assertEqual(verdict(429, body, **own, retry_after=9), Verdict(LIMITED, LATER))
        # A reset alone says nothing (spec 12.1 point 1).
        self.assertEqual(verdict(429, b"", **own), Verdict(AnswerKind.BUSY))
        other = {"x_codex_active_limit": "codex_other", "x_codex_other_primary_reset_at": LATER + 1}
        self.assertEqual(verdict(429, body, **own, **other), Verdict(LIMITED, LATER + 1))
        self.assertEqual(verdict(429, body, **own, x_codex_active_limit="premium"), Verdict(LIMITED, LATER))

    def test_the_used_up_window_counts(self) -> None:
        windows = {
            "x_codex_primary_used_percent": 40,
            "x_codex_primary_reset_at": LATER,
            "x_codex_secondary_used_percent": 100,
            "x_codex_secondary_reset_at": LATER + 9,
        }
        self.assertEqual(verdict(429, usage_limit(), **windows), Verdict(LIMITED, LATER + 9))

    def test_the_reset_of_a_window_with_room_is_not_the_used_up_ones(self) -> None:
        windows = {
            "x_codex_primary_used_percent": 40,
            "x_codex_primary_reset_at": LATER,
            "x_codex_secondary_used_percent": 100,
        }
        self.assertEqual(verdict(429, BURST, **windows), Verdict(LIMITED, NOW + DEFAULT_BLOCK, False))

    def test_then_the_body(self) -> None:
        for fields, until in (
            ({"resets_at": LATER, "resets_in_seconds": 7}, LATER),
            ({"resets_in_seconds": 7}, NOW + 7),
            ({"resets_at": "soon", "resets_in_seconds": 7}, NOW + 7),
            ({"resets_at": NOW - 10, "resets_in_seconds": 7.5}, NOW + 7.5),
        ):
            body: dict[str, Any] = fields
            self.assertEqual(verdict(429, usage_limit(**body), retry_after=9), Verdict(LIMITED, until))
        found = verdict(429, usage_limit(resets_at=LATER), x_codex_primary_reset_at="soon")
        self.assertEqual(found, Verdict(LIMITED, LATER))

    def test_then_retry_after_then_a_default(self) -> None:
        """F46: a reset that the upstream names is explicit, one that we assume is not."""
        self.assertEqual(verdict(429, usage_limit(), retry_after=9), Verdict(LIMITED, NOW + 9))
        full = {"x_codex_primary_used_percent": 100}
        self.assertEqual(verdict(429, BURST, **full), Verdict(LIMITED, NOW + DEFAULT_BLOCK, False))
        kinds: list[object] = ["soon", True, -5, 1e300, None, [], LATER * 1000]
        for bad in kinds:
            found = verdict(429, usage_limit(resets_at=bad, resets_in_seconds=None))
            # Used up, but nobody says until when: no data (spec 12.1 point 1).
            self.assertEqual(found, Verdict(AnswerKind.BUSY, is_final=True, sentence="m"), bad)

    def test_a_burst_is_no_quota(self) -> None:
        """F5: a burst is no quota while the windows have room."""
        room = {"x_codex_primary_used_percent": 20, "x_codex_primary_reset_at": LATER}
        for headers in ({}, room):
            fields: dict[str, Any] = headers
            busy = Verdict(AnswerKind.BUSY, sentence="m")
            self.assertEqual(verdict(429, BURST, **fields), busy)
            # Spec 12.2: a wait alone is no data; it is told on as it came.
            self.assertEqual(verdict(429, BURST, **fields, retry_after=3), replace(busy, wait=3))
        self.assertEqual(verdict(429, usage_limit(), **room), Verdict(LIMITED, LATER))

    def test_another_limit_is_its_models(self) -> None:
        found = verdict(
            429,
            usage_limit(resets_at=LATER),
            x_codex_active_limit="codex_bengalfox",
            x_codex_bengalfox_limit_name="GPT-5.3-Codex-Spark",
        )
        self.assertEqual(found, Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER))

    def test_another_limit_refuses_the_model_that_was_asked_for(self) -> None:
        """Where no model is called like it."""
        fields = {"x_codex_active_limit": "codex_fox", "x_codex_fox_limit_name": "GPT-5.3-Codex-Spark"}
        body = usage_limit(resets_at=LATER)
        limited = Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER)
        self.assertEqual(asked(429, body, fields, model="gpt-5.3-codex-spark"), limited)
        other = asked(429, body, fields, model="gpt-5.4")
        self.assertEqual(other, replace(limited, model="gpt-5.4"))

    def test_an_api_keys_own_reset(self) -> None:
        fields = {"x_ratelimit_remaining_tokens": 0, "x_ratelimit_reset_tokens": "1m30.5s"}
        self.assertEqual(verdict(429, BURST, **fields), Verdict(LIMITED, NOW + 90.5))
        found = verdict(429, BURST, x_ratelimit_remaining_tokens=0)
        self.assertEqual(found, Verdict(LIMITED, NOW + DEFAULT_BLOCK, False))

    @given(
        st.binary(max_size=40) | st.dictionaries(st.text(max_size=5), st.integers() | st.floats()),
        st.dictionaries(
            st.sampled_from(["x_codex_primary_reset_at", "x_codex_active_limit", "retry_after"])
            | st.just("x_codex_secondary_used_percent"),
            st.text(max_size=9).filter(lambda text: text.isprintable()) | st.floats() | st.integers(),
        ),
    )
    def test_never_raises(self, body: object, headers: dict[str, object]) -> None:
        raw = body if isinstance(body, bytes) else {"error": {**dict(body), "resets_at": 1e400}}  # type: ignore[call-overload]
        found = verdict(429, raw, **headers)
        self.assertIn(found.kind, (LIMITED, AnswerKind.MODEL_RATE_LIMITED, AnswerKind.BUSY))


def stream_event(kind: str, name: str | None = None, **data: object) -> bytes:
    """One event, as the upstream writes it."""
    return f"event: {name or kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def failed(code: object) -> bytes:
    """A response that fails at once."""
    return stream_event(
        "response.failed", response={"status": "failed", "error": {"code": code, "message": "m"}}
    )


class ClassifyStreamTests(SynchronousTestCase):
    """The first event of a stream (F13)."""

    def verdict(self, data: bytes) -> Verdict | None:
        return TRAFFIC.classify_stream(ResponseHead(200, b"OK", []), data, NOW)

    def test_nothing_is_known_before_the_first_event_is_whole(self) -> None:
        stream = failed("server_is_overloaded")
        for size in range(len(stream)):
            self.assertIsNone(self.verdict(stream[:size]), size)
        self.assertEqual(self.verdict(stream), Verdict(AnswerKind.STREAM_FAILED))

    def test_a_response_begins(self) -> None:
        """Whatever comes after it."""
        for kind in ("response.created", "response.completed", "response.incomplete", "something.new"):
            for stream in (stream_event(kind), stream_event(kind) + failed("server_error")):
                self.assertEqual(self.verdict(stream), Verdict(AnswerKind.OK), kind)

    def test_reports_of_the_accounts_state_are_passed_over(self) -> None:
        report = stream_event("codex.rate_limits", rate_limits={})
        self.assertIsNone(self.verdict(report * 3))
        self.assertEqual(self.verdict(report + failed("server_error")), Verdict(AnswerKind.STREAM_FAILED))
        self.assertEqual(self.verdict(report + stream_event("response.created")), Verdict(AnswerKind.OK))

    def test_failures_that_another_account_may_not_meet(self) -> None:
        for code in ("server_error", "server_is_overloaded", "slow_down", None):
            self.assertEqual(self.verdict(failed(code)), Verdict(AnswerKind.STREAM_FAILED), code)
        for data in (
            stream_event("error", code="server_error"),
            stream_event("error", error={"type": "server_error"}),
            stream_event("response.failed"),
            b"event: response.failed\ndata: {\n\n",
        ):
            self.assertEqual(self.verdict(data), Verdict(AnswerKind.STREAM_FAILED), data)

    def test_the_type_in_the_data_counts(self) -> None:
        """The type in the data decides, as it does for the clients."""
        self.assertEqual(self.verdict(stream_event("response.created", name="error")), Verdict(AnswerKind.OK))
        self.assertEqual(
            self.verdict(stream_event("error", name="message", code="slow_down")),
            Verdict(AnswerKind.STREAM_FAILED),
        )

    def test_the_requests_own_fault(self) -> None:
        for code in ("context_length_exceeded", "invalid_prompt", "something_new"):
            self.assertEqual(self.verdict(failed(code)), Verdict(AnswerKind.OK), code)

    def test_a_limit_without_a_reset_is_no_data(self) -> None:
        """The next poll, or the next 429, knows more."""
        for code in ("usage_limit_reached", "rate_limit_exceeded"):
            expected = Verdict(AnswerKind.BUSY, is_final=code == "usage_limit_reached", sentence="m")
            self.assertEqual(self.verdict(failed(code)), expected, code)

    def test_a_limit_with_its_reset(self) -> None:
        error = {"code": "usage_limit_reached", "resets_at": LATER}
        stream = stream_event("response.failed", response={"error": error})
        self.assertEqual(self.verdict(stream), Verdict(LIMITED, LATER))

    @given(
        st.binary(max_size=60)
        | st.text(max_size=40).map(lambda text: b"event: error\ndata: " + text.encode() + b"\n\n")
    )
    def test_never_raises(self, data: bytes) -> None:
        self.verdict(data)


class ErrorTests(SynchronousTestCase):
    """Spec 4.2, in the format that the CLI shows."""

    def decode(self, answer: tuple[ResponseHead, bytes]) -> tuple[dict[bytes, bytes], dict[str, Any]]:
        return dict(answer[0].headers), json.loads(answer[1])

    def test_shape(self) -> None:
        headers, body = self.decode(TRAFFIC.error(502, "upstream_unreachable", "m", "req_1"))
        error = {"type": "api_error", "code": "upstream_unreachable", "message": "m", "param": None}
        self.assertEqual(body, {"error": error})
        self.assertEqual(headers[b"Content-Type"], b"application/json")
        self.assertEqual(headers[b"X-CCM-Error"], b"upstream_unreachable")
        self.assertEqual((headers[b"X-OCM-Request-Id"], headers[b"x-request-id"]), (b"req_1", b"req_1"))

    def test_types_and_extra_fields(self) -> None:
        headers, body = self.decode(TRAFFIC.error(401, "unauthenticated", "m", "i", [(b"a", b"b")]))
        self.assertEqual(body["error"]["type"], "authentication_error")
        self.assertEqual((headers[b"x-should-retry"], headers[b"a"]), (b"false", b"b"))

    def test_exhausted(self) -> None:
        """The client shows it as a single, final sentence (observed)."""
        availability = Availability("rate_limited", "rate_limited", "", NOW + 7979.5)
        answer = TRAFFIC.exhausted(RequestFacts(), availability, None, "i", NOW)
        headers, body = self.decode(answer)
        self.assertEqual(answer[0].status, 429)
        self.assertEqual(
            body["error"],
            {
                "type": "usage_limit_reached",
                "message": "all credentials rate-limited, earliest reset in 2h13m",
                "plan_type": TOLD_PLAN,
                "resets_at": int(NOW) + 7980,
                "resets_in_seconds": 7980,
            },
        )
        self.assertEqual((headers[b"X-CCM-Error"], headers[b"x-should-retry"]), (b"rate_limited", b"false"))
        self.assertEqual(headers[b"X-CCM-Reset-In"], b"7980")
        names: Headers = answer[0].headers
        self.assertFalse([name for name, _ in names if name.startswith(b"x-codex")])

    def test_busy(self) -> None:
        """Spec 12.2, F49: 429 for clients that wait then, 503 for all others; never a usage limit."""
        for agent, status in (
            (b"codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm (codex_exec; 0.169.0)", 429),
            (b"codex_cli_rs/0.171.2", 429),
            (b"OpenAI/Python 3.54.0", 429),
            (b"codex_exec/0.148.0", 503),
            (b"codex_exec", 503),
            (b"something/1.0", 503),
        ):
            head = RequestHead(b"POST", b"/v1/responses", [(b"User-Agent", agent)])
            answer = TRAFFIC.busy(RequestFacts(), head, 7, "m", "i")
            headers, body = self.decode(answer)
            self.assertEqual((answer[0].status, headers[b"Retry-After"]), (status, b"7"), agent)
            self.assertEqual(headers[b"X-CCM-Error"], BUSY_REASON.encode())
            self.assertNotIn(b"x-should-retry", headers)
            self.assertNotEqual(body["error"]["type"], "usage_limit_reached")
        nameless = TRAFFIC.busy(RequestFacts(), RequestHead(b"POST", b"/"), 7, "m", "i")
        self.assertEqual(nameless[0].status, 503)
        self.assertTrue(all(client.source for client in WAITING_CLIENTS))

    def test_what_another_instance_is_told(self) -> None:
        """Spec 14: the limit and its reset, which are no evidence of anything by themselves (spec 12.1)."""
        headers: Headers = [(b"Retry-After", b"7"), (b"x-codex-primary-reset-at", b"1")]
        for window in ("short", "weekly"):
            told = TRAFFIC.told_to_instance(headers, ToldLimit(window, LATER))
            self.assertEqual(
                told,
                [
                    headers[0],
                    (b"x-codex-active-limit", b"codex"),
                    (b"x-codex-primary-reset-at", b"%d" % LATER),
                ],
            )
            verdict = TRAFFIC.classify(ResponseHead(429, b"", told), b"{}", NOW)
            self.assertEqual((verdict.kind, verdict.wait), (AnswerKind.BUSY, 7))

    def test_a_401_about_the_request(self) -> None:
        """Spec 12.3: the provider's words with 400, which the CLI shows and does not try again."""
        head = ResponseHead(
            401, b"", [(b"Content-Type", b"application/json"), (b"x-codex-primary-used-percent", b"9")]
        )
        answer, body = TRAFFIC.about_request(head, b'{"detail": "no"}', "i")
        self.assertEqual((answer.status, body), (400, b'{"detail": "no"}'))
        self.assertEqual(
            [name for name, _ in answer.headers], [b"Content-Type", b"X-OCM-Request-Id", b"x-request-id"]
        )
        self.assertIn(
            "refuses this request", self.decode(TRAFFIC.about_request(head, b"", "i"))[1]["error"]["message"]
        )

    def test_a_relayed_refusal_gets_a_wait(self) -> None:
        """Spec 12.2: without Retry-After the CLI gives up at once."""
        for status, headers, is_final, waits in (
            (429, [], False, [b"5"]),
            (429, [(b"retry-after", b"9")], False, [b"9"]),
            (429, [], True, []),
            (403, [], False, []),
        ):
            given: Headers = list(headers)
            verdict = Verdict(AnswerKind.BUSY, is_final=is_final)
            shown = TRAFFIC.relayed_refusal(ResponseHead(status, b"", given), verdict)
            self.assertEqual([value for name, value in shown if name.lower() == b"retry-after"], waits)
            self.assertEqual(given, headers, "the answer's own fields stay as they are")

    def test_exhausted_without_an_end(self) -> None:
        _, body = self.decode(TRAFFIC.exhausted(RequestFacts(), Availability("rate_limited"), None, "i", NOW))
        self.assertNotIn("resets_at", body["error"])
        self.assertEqual(body["error"]["message"], "all credentials rate-limited")
