"""The meaning of the Claude dialect's requests and responses."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.metering import ClaudeMetering
from ccmproxy.dialects.claude.traffic import ClaudeTraffic
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.known_words import echo_of
from ccmproxy.dialects.oauth import ApiKey, OAuthToken
from ccmproxy.http.headers import IDENTITY
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead, first_value
from ccmproxy.policy.answers import DEFAULT_BLOCK, AnswerKind, Verdict
from ccmproxy.policy.borrowers import ToldLimit
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.state.window_status import WindowKind

TRAFFIC = ClaudeTraffic()
NOW = 1_795_000_000.0
LATER = int(NOW) + 3600
UNIFIED = b"anthropic-ratelimit-unified-"


def inspect(
    body: object, *headers: tuple[bytes, bytes], path: bytes = b"/v1/messages?beta=true"
) -> RequestFacts:
    """Facts of a request with this body (JSON unless bytes)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return TRAFFIC.inspect(RequestHead(b"POST", path, list(headers)), Body([raw[:7], raw[7:]]))


class InspectTests(SynchronousTestCase):
    """Spec 4.1 and the session ids that the real clients send."""

    def test_a_turn_of_the_cli(self) -> None:
        facts = inspect(
            {
                "model": "claude-opus-4-5",
                "stream": True,
                "messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "x"}],
                "metadata": {"user_id": json.dumps({"device_id": "d", "session_id": "json-session"})},
            },
            (b"X-Claude-Code-Session-Id", b"header-session"),
            (b"x-claude-code-agent-id", b"a9ea"),
            (b"anthropic-beta", b"claude-code-20250219, oauth-2025-04-20"),
            (b"anthropic-beta", b"x"),
        )
        self.assertEqual((facts.model, facts.stream, facts.messages), ("claude-opus-4-5", True, 2))
        self.assertEqual((facts.session, facts.agent), ("header-session", "a9ea"))
        self.assertEqual(facts.features, ("claude-code-20250219", "oauth-2025-04-20", "x"))
        self.assertTrue(facts.client_is_oauth)

    def test_session_sources_in_order(self) -> None:
        """F10: a reverse proxy may have dropped the header; the body still has it."""
        as_json = {"metadata": {"user_id": json.dumps({"session_id": "from-json"})}}
        legacy = {"metadata": {"user_id": "user_ab_account__session_c1-d2"}}
        self.assertEqual(inspect(as_json).session, "from-json")
        self.assertEqual(inspect(legacy).session, "c1-d2")
        self.assertEqual(inspect(legacy, (b"x-claude-code-session-id", b"h")).session, "h")
        self.assertEqual(inspect(legacy, (b"x-claude-code-session-id", b" ")).session, "c1-d2")

    def test_an_unknown_user_id_means_no_session(self) -> None:
        for user_id in (
            "me",
            "",
            "{",
            "{}",
            '{"session_id": 5}',
            "[1]",
            5,
            None,
            {"a": 1},
            "user_session_",
            "_session_a b",
        ):
            self.assertIsNone(inspect({"metadata": {"user_id": user_id}}).session, user_id)

    def test_a_session_id_is_fit_for_a_log_line(self) -> None:
        self.assertIsNone(inspect({}, (b"x-claude-code-session-id", b"a\tb")).session)
        self.assertIsNone(inspect({}, (b"x-claude-code-session-id", b"a" * 201)).session)
        self.assertIsNone(inspect({}, (b"x-claude-code-session-id", "ä".encode())).session)

    def test_wrong_types_hide_only_themselves(self) -> None:
        facts = inspect(
            {"model": "m", "messages": "no list", "metadata": {"user_id": "_session_s"}, "stream": 1}
        )
        self.assertEqual((facts.model, facts.session, facts.messages, facts.stream), ("m", "s", None, None))
        facts = inspect({"model": 5, "metadata": {"user_id": "_session_s"}})
        self.assertEqual((facts.session, facts.is_opaque), ("s", False))
        self.assertIsNone(inspect({"model": 5}).model)

    def test_bodies_that_are_not_understood(self) -> None:
        deep = b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        huge = b'{"model": "m", "max_tokens": ' + b"9" * 100_000 + b"}"
        for body in (b"", b"not json", b"[]", b"5", b'"a"', b"\xff", b'{"model":', deep, b"[" * 200_000):
            self.assertEqual(inspect(body), RequestFacts(is_opaque=body != b""), body[:20])
        self.assertEqual(inspect(huge).model, "m")
        self.assertEqual(inspect(b'{"model": "a", "model": "b"}').model, "b")

    def test_a_compressed_body_is_not_looked_into(self) -> None:
        facts = inspect({"model": "m"}, (b"content-encoding", b"gzip"))
        self.assertEqual((facts.model, facts.is_opaque), (None, True))

    def test_counting_tokens_costs_nothing(self) -> None:
        self.assertTrue(inspect({}).billable)
        self.assertFalse(inspect({}, path=b"/v1/messages/count_tokens?beta=true").billable)
        self.assertFalse(inspect(b"", path=b"/v1/models").billable)

    @given(st.binary(max_size=200))
    def test_never_raises(self, body: bytes) -> None:
        inspect(body)

    def test_fast_mode_needs_an_account_of_ones_own(self) -> None:
        facts = RequestFacts(features=("a", "fast-mode-2026-01-01"))
        self.assertIsNone(TRAFFIC.check(facts, True))
        refused = TRAFFIC.check(facts, False)
        assert refused is not None
        self.assertIn("Extra usage", refused[1])
        self.assertIsNone(TRAFFIC.check(RequestFacts(features=("a",)), False))


class UpstreamHeadTests(SynchronousTestCase):
    """Spec 3.6 and 4.3."""

    def head(
        self,
        *headers: tuple[bytes, bytes],
        key: bool = False,
        overrides: dict[str, tuple[str, ...]] | None = None,
    ) -> Headers:
        head = RequestHead(b"POST", b"/v1/messages?beta=true&x=%41", [(b"Host", b"proxy"), *headers])
        authorization = ApiKey("sk-key") if key else OAuthToken("at")
        upstream = TRAFFIC.upstream_head(head, authorization, b"api.example", b"/base", overrides or {})
        self.assertEqual((upstream.method, upstream.target), (b"POST", b"/base/v1/messages?beta=true&x=%41"))
        return upstream.headers

    def test_the_accounts_token_replaces_the_clients(self) -> None:
        headers = self.head((b"Authorization", b"Bearer user"), (b"x-api-key", b"user"), (b"X-App", b"cli"))
        self.assertEqual(
            headers,
            [
                (b"Host", b"api.example"),
                (b"X-App", b"cli"),
                (b"anthropic-beta", b"oauth-2025-04-20"),
                (b"Authorization", b"Bearer at"),
                IDENTITY,
            ],
        )

    def test_the_oauth_beta_goes_in_front_once(self) -> None:
        self.assertIn((b"Anthropic-Beta", b"oauth-2025-04-20,b,a"), self.head((b"Anthropic-Beta", b"b,a")))
        self.assertIn(
            (b"anthropic-beta", b"b, oauth-2025-04-20"),
            self.head((b"anthropic-beta", b"b, oauth-2025-04-20")),
        )
        twice = self.head((b"anthropic-beta", b"a"), (b"anthropic-beta", b"b"))
        self.assertEqual(twice[1:3], [(b"anthropic-beta", b"oauth-2025-04-20,a"), (b"anthropic-beta", b"b")])

    def test_an_api_key_goes_without_it(self) -> None:
        headers = self.head(
            (b"anthropic-beta", b"oauth-2025-04-20, a"), (b"Authorization", b"Bearer user"), key=True
        )
        self.assertEqual(
            headers,
            [(b"Host", b"api.example"), (b"anthropic-beta", b"a"), (b"x-api-key", b"sk-key"), IDENTITY],
        )
        self.assertIsNone(
            first_value(self.head((b"anthropic-beta", b"oauth-2025-04-20"), key=True), b"anthropic-beta")
        )

    def test_accept_encoding_is_identity_unless_the_operator_sets_it(self) -> None:
        """Spec 12.5, F59: without the field, any coding would do."""
        for key in (False, True):
            headers = self.head((b"Accept-Encoding", b"gzip, br"), key=key)
            self.assertEqual([pair for pair in headers if pair[0].lower() == b"accept-encoding"], [IDENTITY])
        headers = self.head((b"Accept-Encoding", b"gzip"), overrides={"accept-encoding": ("br",)})
        self.assertEqual(first_value(headers, b"accept-encoding"), b"br")

    def test_the_operators_headers_win(self) -> None:
        headers = self.head((b"User-Agent", b"cli"), overrides={"User-Agent": ("team",)})
        self.assertEqual(first_value(headers, b"user-agent"), b"team")


def verdict(status: int, body: bytes | None = None, echo: str = "", **headers: object) -> Verdict:
    """Class of an answer; ``five_reset`` style names are those of the family."""
    fields = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    return TRAFFIC.classify(ResponseHead(status, b"", fields), body, NOW, echo)


def error_body(message: str, kind: str = "invalid_request_error") -> bytes:
    """The body of an error of the provider."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


def refused(family: dict[str, Any], model: str | None = None, body: bytes | None = b"") -> Verdict:
    """Class of a 429 with these fields of the family."""
    fields = [(UNIFIED + name.encode(), str(value).encode()) for name, value in family.items()]
    return TRAFFIC.classify(ResponseHead(429, b"", fields), body, NOW, "", model)


class ClassifyTests(SynchronousTestCase):
    """Spec 4.4 and 4.6."""

    def test_plain_classes(self) -> None:
        for status, kind in (
            (200, AnswerKind.OK),
            (204, AnswerKind.OK),
            (400, AnswerKind.NEEDS_BODY),
            (401, AnswerKind.NEEDS_BODY),
            (402, AnswerKind.NEEDS_BODY),
            (403, AnswerKind.NEEDS_BODY),
            (404, AnswerKind.OTHER),
            (429, AnswerKind.NEEDS_BODY),
            (500, AnswerKind.OTHER),
            (529, AnswerKind.OTHER),
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

    def test_only_a_revoked_403_is_about_the_token(self) -> None:
        self.assertIs(verdict(403, b"OAuth token has been revoked").kind, AnswerKind.AUTH_FAILED)
        # Another 403 is put to a second opinion (spec 12.1).
        self.assertIs(verdict(403, b"not for you").kind, AnswerKind.DENIED)

    def test_every_row_of_the_known_words(self) -> None:
        """Cases 01, 02, 03: each sentence as the provider writes it, with its full stop (spec 12.1, F48, F52)."""
        for known, kind in (
            (
                "OAuth authentication is currently not allowed for this organization.",
                AnswerKind.ACCOUNT_REFUSED,
            ),
            ("This organization has been disabled.", AnswerKind.ACCOUNT_REFUSED),
            ("OAuth token has been revoked. Please obtain a new token.", AnswerKind.AUTH_FAILED),
            ("OAuth token has been revoked.", AnswerKind.AUTH_FAILED),
        ):
            found = verdict(403, error_body(known))
            self.assertEqual((found.kind, found.sentence), (kind, known))
        self.assertIs(
            verdict(400, error_body("This organization has been disabled.")).kind, AnswerKind.ACCOUNT_REFUSED
        )
        about_request = Verdict(
            AnswerKind.DENIED,
            is_about_request=True,
            is_final=True,
            sentence="The long context beta is not yet available for this subscription.",
        )
        self.assertEqual(verdict(400, error_body(about_request.sentence)), about_request)
        extra = "Extra usage is required for long context requests."
        busy = Verdict(AnswerKind.BUSY, is_about_request=True, is_final=True, sentence=extra)
        for field in ({}, {"x_should_retry": "true"}, {"x_should_retry": "false"}):
            fields: dict[str, Any] = field
            self.assertEqual(verdict(429, error_body(extra), **fields), busy)

    def test_an_echoed_word_refuses_no_account(self) -> None:
        words = "This organization has been disabled."
        echo = echo_of(RequestHead(b"POST", b"/v1/messages", [(b"x-app", words.encode())]), "")
        self.assertIs(verdict(403, error_body(words), echo).kind, AnswerKind.DENIED)
        self.assertIs(verdict(400, error_body(words), echo).kind, AnswerKind.CLIENT_ERROR)

    def test_400s_that_speak_of_an_account(self) -> None:
        """Spec 12.1: they are put to a second opinion; what is said of the request's size is not."""
        for message, kind in (
            ("Your credit balance is too low. Please go to Plans & Billing.", AnswerKind.DENIED),
            ("This workspace has no access.", AnswerKind.DENIED),
            ("prompt is too long: 210000 tokens > 200000 maximum", AnswerKind.CLIENT_ERROR),
            ("prompt is too long: your plan allows 200000 tokens", AnswerKind.CLIENT_ERROR),
            ("messages: unexplained accountability", AnswerKind.CLIENT_ERROR),
            ("tools.0.name: too short", AnswerKind.CLIENT_ERROR),
        ):
            self.assertIs(verdict(400, error_body(message)).kind, kind, message)

    def test_compressed_refusals_are_read(self) -> None:
        """Case 23, F59."""
        body = error_body("OAuth token has been revoked.")
        found = verdict(403, gzip.compress(body), content_encoding="gzip")
        self.assertIs(found.kind, AnswerKind.AUTH_FAILED)
        self.assertIs(
            verdict(403, body, content_encoding="gzip").kind, AnswerKind.AUTH_FAILED, "already decoded"
        )

    def test_the_representative_claim_names_the_reset(self) -> None:
        for claim, expected in (
            ("5h", LATER),
            ("five_hour", LATER),
            ("7d", LATER + 1),
            ("seven_day", LATER + 1),
        ):
            found = refused(
                {
                    "status": "rejected",
                    "representative-claim": claim,
                    "5h-reset": LATER,
                    "7d-reset": LATER + 1,
                    "reset": LATER + 2,
                }
            )
            self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, expected), claim)
        self.assertEqual(
            refused({"status": "rejected", "representative-claim": "other", "reset": LATER + 2}).until,
            LATER + 2,
        )
        self.assertEqual(
            refused({"status": "rejected", "reset": LATER + 2}), Verdict(AnswerKind.RATE_LIMITED, LATER + 2)
        )

    def test_a_reset_or_a_claim_beside_windows_with_room_is_no_data(self) -> None:
        """Spec 12.1 point 1: they come with every burst, too."""
        room = {
            "5h-status": "allowed",
            "5h-utilization": 0.34,
            "7d-status": "allowed_warning",
            "7d-utilization": 0.8,
        }
        families: list[dict[str, object]] = [
            {"reset": LATER},
            {"representative-claim": "five_hour", "5h-reset": LATER},
            {"status": "allowed", "representative-claim": "seven_day", "reset": LATER, **room},
            {"status": "rejected", "representative-claim": "five_hour", "reset": LATER, **room},
            {"status": "rejected", "reset": LATER, **room},
        ]
        for family in families:
            self.assertIs(refused(family, body=None).kind, AnswerKind.NEEDS_BODY, family)
            self.assertEqual(refused(family), Verdict(AnswerKind.BUSY), family)
            headers = [(UNIFIED + name.encode(), str(value).encode()) for name, value in family.items()]
            self.assertEqual(ClaudeMetering().limits_from_headers(headers, NOW).rejected_until, 0.0, family)

    def test_a_windows_own_word_is_data(self) -> None:
        """Spec 12.1 point 1, whatever the overall status and the claim say."""
        for family in (
            {"7d-status": "rejected"},
            {"7d-utilization": "1.0"},
            {"7d-utilization": "1.02", "status": "allowed", "representative-claim": "five_hour"},
        ):
            fields: dict[str, Any] = {
                "7d-reset": LATER,
                "5h-reset": LATER + 9,
                "5h-utilization": 0.2,
                **family,
            }
            self.assertEqual(refused(fields, body=None), Verdict(AnswerKind.RATE_LIMITED, LATER), family)
        self.assertEqual(refused({"7d-utilization": "0.996", "7d-reset": LATER}), Verdict(AnswerKind.BUSY))

    def test_an_overage_only_window_refuses_the_model_that_was_asked_for(self) -> None:
        """Case 04: no model is called after that window, and the account goes on serving others."""
        family: dict[str, object] = {
            "status": "rejected",
            "representative-claim": "seven_day_overage_included",
            "reset": LATER,
            "5h-status": "allowed",
            "7d-status": "allowed",
            "7d_oi-status": "rejected",
            "7d_oi-utilization": "1.02",
            "7d_oi-reset": LATER + 1,
            "overage-status": "rejected",
        }
        model = "claude-fable-5-1"
        limited = Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER + 1, model=model)
        self.assertEqual(refused(family, model), limited)
        del family["representative-claim"]
        self.assertEqual(refused(family, model), limited)
        self.assertEqual(refused(family, None), replace(limited, model=""))
        headers = [(UNIFIED + name.encode(), str(value).encode()) for name, value in family.items()]
        update = ClaudeMetering().limits_from_headers(headers, NOW)
        self.assertEqual((update.models, update.model_rejections, update.rejected_until), ({}, {}, 0.0))
        # A burst beside it is still a burst.
        self.assertEqual(refused({**family, "status": "allowed"}, model), Verdict(AnswerKind.BUSY))

    def test_another_models_window_refuses_nobody_else(self) -> None:
        opus: dict[str, object] = {"status": "allowed", "7d_opus-status": "rejected", "7d_opus-reset": LATER}
        self.assertEqual(refused(opus, "claude-sonnet-4-5"), Verdict(AnswerKind.BUSY))
        self.assertEqual(refused(opus, "claude-opus-4-5"), Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER))
        claimed = {**opus, "representative-claim": "seven_day_opus"}
        self.assertEqual(
            refused(claimed, "claude-sonnet-4-5"),
            Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER, model="claude-sonnet-4-5"),
        )

    def test_malformed_resets_fall_back(self) -> None:
        """F46: a reset that the upstream names is explicit, one that we assume is not."""
        for bad in ("soon", "", "nan", "inf", "1e30", "-5", str(int(NOW) - 10)):
            self.assertEqual(
                refused({"status": "rejected", "reset": bad}),
                Verdict(AnswerKind.RATE_LIMITED, NOW + DEFAULT_BLOCK, False),
                bad,
            )

    def test_a_models_window_is_that_models(self) -> None:
        for fields in (
            {"representative-claim": "seven_day_opus", "status": "rejected", "reset": LATER},
            {
                "status": "rejected",
                "7d_opus-status": "rejected",
                "7d_opus-reset": LATER,
                "5h-status": "allowed",
            },
        ):
            self.assertEqual(refused(fields), Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER))

    def test_retry_after_without_the_family(self) -> None:
        """Spec 12.2: a wait alone is no data; it is told on as it came."""
        self.assertEqual(verdict(429, b"", retry_after=7200), Verdict(AnswerKind.BUSY, wait=7200))
        self.assertEqual(verdict(429, b"", retry_after=0), Verdict(AnswerKind.BUSY, wait=0))

    def test_a_429_that_says_nothing_is_a_burst(self) -> None:
        """F5: a burst 429 without any quota data is not a quota."""
        self.assertEqual(verdict(429, b""), Verdict(AnswerKind.BUSY))
        self.assertEqual(verdict(429, b"", retry_after="soon"), Verdict(AnswerKind.BUSY))

    def test_a_429_of_one_request_marks_nothing(self) -> None:
        self.assertIs(verdict(429, b"", x_should_retry="true").kind, AnswerKind.BUSY)

    def test_an_api_keys_own_reset(self) -> None:
        found = verdict(
            429,
            anthropic_ratelimit_tokens_remaining=0,
            anthropic_ratelimit_tokens_reset="2026-11-18T12:26:40Z",
            anthropic_ratelimit_requests_remaining=5,
            anthropic_ratelimit_requests_reset="2026-11-19T12:26:40Z",
        )
        self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, 1_795_004_800))
        # Nothing is left, and no reset is named (spec 12.1).
        found = verdict(429, anthropic_ratelimit_tokens_remaining=0, retry_after=30)
        self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, NOW + 30))
        found = verdict(429, anthropic_ratelimit_tokens_remaining=0)
        self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, NOW + DEFAULT_BLOCK, False))

    @given(
        st.dictionaries(
            st.from_regex(r"[a-z0-9_-]{1,25}", fullmatch=True)
            | st.sampled_from(["status", "5h-status", "7d-utilization", "representative-claim", "reset"]),
            st.text(max_size=12) | st.sampled_from(["rejected", "allowed", "1.0", "five_hour"]),
        ),
        st.binary(max_size=60),
    )
    def test_a_429_is_a_limit_only_with_data(self, family: dict[str, str], body: bytes) -> None:
        """Spec 12.1: some status says ``rejected``, or some utilization is 100 % or more."""
        fields = [(UNIFIED + name.encode(), value.encode()) for name, value in family.items()]
        found = TRAFFIC.classify(ResponseHead(429, b"", fields), body, NOW)
        if found.kind is AnswerKind.BUSY:
            return
        self.assertIn(found.kind, (AnswerKind.RATE_LIMITED, AnswerKind.MODEL_RATE_LIMITED))
        rejected = any(value.strip().lower() == "rejected" for value in family.values())
        full = any(
            re.match(r"\s*[+]?0*[1-9]", value) for name, value in family.items() if "utilization" in name
        )
        self.assertTrue(rejected or full, family)


def stream_event(name: str, **data: object) -> bytes:
    """One event, as the upstream writes it."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


class ClassifyStreamTests(SynchronousTestCase):
    """The first event of a stream (F13)."""

    def verdict(self, data: bytes, **family: object) -> Verdict | None:
        headers = [
            (UNIFIED + name.replace("_", "-").encode(), str(value).encode()) for name, value in family.items()
        ]
        return TRAFFIC.classify_stream(ResponseHead(200, b"OK", headers), data, NOW)

    def error(self, kind: object, **family: object) -> Verdict | None:
        return self.verdict(stream_event("error", error={"type": kind, "message": "m"}), **family)

    def test_nothing_is_known_before_the_first_event_is_whole(self) -> None:
        stream = stream_event("error", error={"type": "overloaded_error", "message": "größer"})
        for size in range(len(stream)):
            self.assertIsNone(self.verdict(stream[:size]), size)
        self.assertEqual(self.verdict(stream), Verdict(AnswerKind.STREAM_FAILED))

    def test_a_message_begins(self) -> None:
        """Whatever comes after it."""
        failed = stream_event("error", error={"type": "overloaded_error"})
        for name in ("message_start", "ping", "message", "error_of_another_kind"):
            self.assertEqual(self.verdict(stream_event(name)), Verdict(AnswerKind.OK))
            self.assertEqual(self.verdict(stream_event(name) + failed), Verdict(AnswerKind.OK))

    def test_the_name_of_an_event_counts(self) -> None:
        """The name decides, as it does for the clients: another event is no error, whatever its data."""
        for name in (b"", b"event: ping\n", b"event: message_start\n"):
            data = name + b'data: {"type": "error", "error": {"type": "overloaded_error"}}\n\n'
            self.assertEqual(self.verdict(data), Verdict(AnswerKind.OK))

    def test_failures_that_another_account_may_not_meet(self) -> None:
        for kind in ("api_error", "overloaded_error", "timeout_error"):
            self.assertEqual(self.error(kind), Verdict(AnswerKind.STREAM_FAILED))

    def test_the_requests_own_fault(self) -> None:
        for kind in ("invalid_request_error", "not_found_error", "something_new", "", 5, None):
            self.assertEqual(self.error(kind), Verdict(AnswerKind.OK), kind)
        for data in (b"event: error\ndata: {\n\n", b"event: error\ndata:\n\n", b"event: error\ndata: []\n\n"):
            self.assertEqual(self.verdict(data), Verdict(AnswerKind.OK))

    def test_a_rate_limit_without_figures_is_a_burst(self) -> None:
        """F5: a short block, which is ours and not the upstream's."""
        burst = Verdict(AnswerKind.BUSY, sentence="m")
        self.assertEqual(self.error("rate_limit_error"), burst)
        self.assertEqual(self.error("rate_limit_error", status="allowed", reset=LATER), burst)

    def test_a_rate_limit_with_the_heads_figures(self) -> None:
        """The figures mean the same as beside a 429."""
        self.assertEqual(
            self.error("rate_limit_error", status="rejected", reset=LATER),
            Verdict(AnswerKind.RATE_LIMITED, LATER),
        )
        self.assertEqual(
            self.error(
                "rate_limit_error",
                status="rejected",
                representative_claim="seven_day_opus",
                reset=LATER,
            ),
            Verdict(AnswerKind.MODEL_RATE_LIMITED, LATER),
        )

    def test_refusals_of_the_account(self) -> None:
        """Spec 12.1: as an answer of the status that the type stands for."""
        for kind, expected in (
            ("authentication_error", AnswerKind.AUTH_FAILED),
            ("permission_error", AnswerKind.DENIED),
            ("billing_error", AnswerKind.DENIED),
        ):
            self.assertEqual(self.error(kind), Verdict(expected, sentence="m"), kind)

    @given(
        st.binary(max_size=60)
        | st.text(max_size=40).map(lambda text: b"event: error\ndata: " + text.encode() + b"\n\n")
    )
    def test_never_raises(self, data: bytes) -> None:
        self.verdict(data, status="rejected", reset="soon")


class ErrorTests(SynchronousTestCase):
    """Spec 4.2, in the format that the CLI shows."""

    def decode(self, answer: tuple[ResponseHead, bytes]) -> tuple[dict[bytes, bytes], dict[str, Any]]:
        return dict(answer[0].headers), json.loads(answer[1])

    def test_shape(self) -> None:
        headers, body = self.decode(TRAFFIC.error(502, "upstream_unreachable", "m", "req_1"))
        self.assertEqual(
            body, {"type": "error", "error": {"type": "api_error", "message": "m"}, "request_id": "req_1"}
        )
        self.assertEqual(headers[b"Content-Type"], b"application/json")
        self.assertEqual(headers[b"X-CCM-Error"], b"upstream_unreachable")
        self.assertEqual(headers[b"X-CCM-Request-Id"], b"req_1")
        self.assertNotIn(b"x-should-retry", headers)

    def test_types(self) -> None:
        for status, kind in (
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (413, "request_too_large"),
        ):
            self.assertEqual(self.decode(TRAFFIC.error(status, "r", "m", "i"))[1]["error"]["type"], kind)
        self.assertEqual(
            self.decode(TRAFFIC.error(429, "user_limit", "m", "i"))[1]["error"]["type"], "billing_error"
        )

    def test_a_401_is_not_tried_again(self) -> None:
        self.assertEqual(self.decode(TRAFFIC.error(401, "r", "m", "i"))[0][b"x-should-retry"], b"false")

    def test_exhausted(self) -> None:
        availability = Availability("rate_limited", "rate_limited", "", NOW + 7980)
        headers, body = self.decode(TRAFFIC.exhausted(RequestFacts(), availability, None, "i", NOW))
        self.assertEqual(body["error"]["type"], "rate_limit_error")
        self.assertEqual(body["error"]["message"], "all credentials rate-limited, earliest reset in 2h13m")
        self.assertEqual(headers[b"x-should-retry"], b"false")
        self.assertFalse([name for name in headers if name.startswith(UNIFIED)])

    def exhausted(self, availability: Availability, **windows: float) -> dict[str, str]:
        """The unified fields that a client that speaks OAuth gets, by what follows the prefix."""
        total = Aggregate(
            windows.get("short", 20.0),
            int(NOW) + 9000,
            windows.get("weekly", 34.0),
            int(NOW) + 400_000,
            20.0,
            availability,
        )
        answer = TRAFFIC.exhausted(RequestFacts(client_is_oauth=True), availability, total, "i", NOW)
        return {
            name.removeprefix(UNIFIED).decode(): value.decode()
            for name, value in answer[0].headers
            if name.startswith(UNIFIED)
        }

    def test_exhausted_for_a_client_that_speaks_oauth(self) -> None:
        """Spec 12.2, F50: claim and reset of the window that closes the account which is free first, shown as full."""
        fields = self.exhausted(Availability("rate_limited", "short_window", "", NOW + 7200), weekly=99.0)
        self.assertEqual(
            (fields["status"], fields["representative-claim"], fields["reset"]),
            ("rejected", "five_hour", str(int(NOW) + 7200)),
        )
        self.assertEqual((fields["5h-utilization"], fields["5h-reset"]), ("1.000000", str(int(NOW) + 7200)))
        self.assertEqual(
            (fields["7d-utilization"], fields["7d-reset"]), ("0.990000", str(int(NOW) + 400_000))
        )
        fields = self.exhausted(Availability("rate_limited", "weekly_window", "", NOW + 7200), short=100.0)
        self.assertEqual(
            (fields["representative-claim"], fields["reset"]), ("seven_day", str(int(NOW) + 7200))
        )
        self.assertEqual(fields["7d-utilization"], "1.000000")
        for seconds, claim in ((7200, "five_hour"), (90_000, "seven_day")):
            fields = self.exhausted(Availability("rate_limited", "rate_limited", "", NOW + seconds))
            self.assertEqual(
                (fields["representative-claim"], fields["reset"]), (claim, str(int(NOW) + seconds))
            )

    def test_no_unified_fields_for_what_is_short_or_unknown(self) -> None:
        for reset_at in (NOW + 60, NOW - 5, 0.0):
            self.assertEqual(self.exhausted(Availability("rate_limited", "short_window", "", reset_at)), {})

    def told(self, headers: Headers, window: WindowKind, seconds: int) -> dict[bytes, bytes]:
        """The unified fields for another instance, made of these."""
        found = TRAFFIC.told_to_instance(headers, ToldLimit(window, int(NOW) + seconds))
        unified = [(name.removeprefix(UNIFIED), value) for name, value in found if name.startswith(UNIFIED)]
        self.assertEqual(len(unified), len(dict(unified)), "a field is there twice")
        return dict(unified)

    def test_what_another_instance_is_told(self) -> None:
        """Spec 14: claim and reset, which are no evidence of anything by themselves (spec 12.1)."""
        headers: Headers = [(b"retry-after", b"7"), (b"X-CCM-Error", b"busy")]
        claims: dict[WindowKind, bytes] = {"short": b"5h", "weekly": b"7d"}
        for window, claim in claims.items():
            told = self.told(headers, window, 7)
            self.assertEqual(told, {b"representative-claim": claim, claim + b"-reset": b"%d" % (NOW + 7)})
        found = TRAFFIC.told_to_instance(headers, ToldLimit("short", int(NOW) + 7))
        self.assertEqual(found[:2], headers)
        verdict = TRAFFIC.classify(ResponseHead(429, b"", found), b"{}", NOW)
        self.assertEqual((verdict.kind, verdict.wait), (AnswerKind.BUSY, 7))

    def test_what_an_instance_is_told_of_its_clients_windows(self) -> None:
        """Spec 12.2: what is said beside it is of the same window and reset, or is left out."""
        availability = Availability("rate_limited", "weekly_window", "", NOW + 90_000)
        total = Aggregate(20.0, int(NOW) + 9000, 34.0, int(NOW) + 400_000, 20.0, availability)
        answer = TRAFFIC.exhausted(RequestFacts(client_is_oauth=True), availability, total, "i", NOW)
        told = self.told(answer[0].headers, "weekly", 90_000)
        self.assertEqual(
            (told[b"status"], told[b"representative-claim"], told[b"7d-utilization"], told[b"reset"]),
            (b"rejected", b"7d", b"1.000000", told[b"7d-reset"]),
        )
        told = self.told(answer[0].headers, "short", 60)
        self.assertEqual(set(told), {b"representative-claim", b"5h-reset"})

    def test_busy(self) -> None:
        """Spec 12.2, F49: clients wait for it, and go on."""
        answer = TRAFFIC.busy(RequestFacts(client_is_oauth=True), RequestHead(b"POST", b"/"), 7, "m", "i")
        headers, body = self.decode(answer)
        self.assertEqual((answer[0].status, headers[b"retry-after"]), (429, b"7"))
        self.assertEqual(headers[b"X-CCM-Error"], b"busy")
        self.assertEqual(body["error"], {"type": "rate_limit_error", "message": "m"})
        self.assertNotIn(b"x-should-retry", headers)
        self.assertFalse([name for name in headers if name.startswith(UNIFIED)])

    def test_a_401_about_the_request(self) -> None:
        """Spec 12.3: the provider's words, and a status that tells nobody that its own token is bad."""
        body = gzip.compress(
            error_body("OAuth authentication is currently not supported.", "authentication_error")
        )
        head = ResponseHead(
            401,
            b"Unauthorized",
            [
                (b"content-type", b"application/json"),
                (b"Content-Encoding", b"gzip"),
                (b"x-should-retry", b"true"),
                (UNIFIED + b"status", b"allowed"),
                (b"request-id", b"req_theirs"),
            ],
        )
        answer, relayed = TRAFFIC.about_request(head, body, "req_ours")
        self.assertEqual((answer.status, relayed), (403, body))
        self.assertEqual(
            answer.headers,
            [
                (b"content-type", b"application/json"),
                (b"Content-Encoding", b"gzip"),
                (b"X-CCM-Request-Id", b"req_ours"),
                (b"request-id", b"req_ours"),
            ],
        )
        empty = self.decode(TRAFFIC.about_request(ResponseHead(401, b"", []), b"", "i"))
        self.assertIn("refuses this request", empty[1]["error"]["message"])

    def test_a_relayed_refusal_is_as_it_came(self) -> None:
        head = ResponseHead(429, b"", [(b"a", b"b")])
        self.assertEqual(TRAFFIC.relayed_refusal(head, Verdict(AnswerKind.BUSY)), [(b"a", b"b")])
