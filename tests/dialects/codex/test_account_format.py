"""The official CLI's ``auth.json``, and the answers of the token and usage endpoints."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex import CODEX
from ccmproxy.dialects.codex.account_format import (
    CLAIM,
    CLIENT_ID,
    REFRESH_INTERVAL,
    CodexAccountFormat,
    claims,
)
from ccmproxy.dialects.oauth import AnswerMalformed, ApiKey, CredentialFileError, OAuthToken, RefreshRefused
from ccmproxy.state.limits import Credits, Window

FORMAT = CodexAccountFormat()
URLS = CODEX.urls
NOW = 1_795_000_000.0
REFRESHED = "2026-11-18T11:06:40.250000Z"
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def jwt(**said: object) -> str:
    """A token with these claims, and an invalid signature, which nothing verifies."""
    parts = [{"alg": "RS256"}, said]
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "SECRET-signature"])


def document(exp: object = NOW + 3600, plan: object = "team", **changes: Any) -> bytes:
    """A file as the CLI writes it; ``changes`` of its tokens."""
    tokens = {
        "id_token": jwt(email="a@b", **{CLAIM: {"chatgpt_plan_type": plan, "chatgpt_account_id": "claimed"}}),
        "access_token": jwt(exp=exp),
        "refresh_token": "rt-SECRET",
        "account_id": "acc-1",
    }
    tokens.update(changes)
    return json.dumps(
        {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": REFRESHED}
    ).encode()


def token(**changes: Any) -> OAuthToken:
    """What is read from such a file."""
    parsed = FORMAT.parse(document(**changes))
    assert isinstance(parsed, OAuthToken)
    return parsed


class FileTests(SynchronousTestCase):
    """Spec 3.1."""

    def test_read(self) -> None:
        read = token()
        self.assertEqual((read.access_token, read.refresh_token), (jwt(exp=NOW + 3600), "rt-SECRET"))
        self.assertEqual((read.expires_at, read.plan, read.account_id), (NOW + 3600, "team", "acc-1"))
        self.assertEqual(read.last_refresh, 1_795_000_000.25)
        self.assertNotIn("SECRET", repr(read))

    def test_the_account_may_stand_in_a_claim_alone(self) -> None:
        self.assertEqual(token(account_id=None).account_id, "claimed")
        self.assertEqual(token(account_id="a\r\nX: b").account_id, "claimed")

    def test_api_key_mode(self) -> None:
        for content, found in (
            ({"OPENAI_API_KEY": "sk-SECRET"}, "sk-SECRET"),
            ({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-SECRET"}, "sk-SECRET"),
            ({"OPENAI_API_KEY": "sk-SECRET", "tokens": {"access_token": "at"}}, "sk-SECRET"),
            (
                {"auth_mode": "chatgpt", "OPENAI_API_KEY": "sk-SECRET", "tokens": {"access_token": "at"}},
                None,
            ),
        ):
            read = FORMAT.parse(json.dumps(content).encode())
            self.assertEqual(read.key if isinstance(read, ApiKey) else None, found, content)
            self.assertNotIn("SECRET", repr(read))

    def test_personal_access_token(self) -> None:
        """A bearer token that never expires and is never refreshed; so is an opaque one without a refresh token."""
        for content in (
            {"auth_mode": "personalAccessToken", "personal_access_token": "at-1", "OPENAI_API_KEY": None},
            {"personal_access_token": "at-1"},
            {"OPENAI_API_KEY": None, "tokens": {"id_token": "", "access_token": "at-1", "refresh_token": ""}},
        ):
            read = FORMAT.parse(json.dumps(content).encode())
            self.assertEqual(read, OAuthToken("at-1"), content)
            assert isinstance(read, OAuthToken)
            self.assertFalse(FORMAT.refresh_due(read, NOW + 10**9))
            self.assertFalse(FORMAT.can_refresh(read))
        named = {"auth_mode": "personalAccessToken", "personal_access_token": "at-1", "account_id": "acc-2"}
        read = FORMAT.parse(json.dumps(named).encode())
        self.assertEqual(read, OAuthToken("at-1", account_id="acc-2"))

    def test_kinds_that_are_not_supported_are_named(self) -> None:
        for mode, named in (
            ("agentIdentity", "agentIdentity"),
            ("newKind", "newKind"),
            ("SEC RET", "unknown"),
        ):
            content = json.dumps({"auth_mode": mode, "agent_identity": "SECRET"}).encode()
            error = self.assertRaises(CredentialFileError, FORMAT.parse, content)
            self.assertIn(f"of the kind {named}, which is not supported", str(error))
            self.assertIn("codex login", str(error))
            self.assertNotIn("SEC", str(error))
        both = {"auth_mode": "agentIdentity", "tokens": {"access_token": "SECRET"}}
        error = self.assertRaises(CredentialFileError, FORMAT.parse, json.dumps(both).encode())
        self.assertIn("of the kind agentIdentity", str(error))
        odd = FORMAT.parse(json.dumps({"auth_mode": "newKind", "tokens": {"access_token": "at"}}).encode())
        self.assertEqual(odd, OAuthToken("at"))

    def test_every_defect_has_its_sentence_and_quotes_nothing(self) -> None:
        for content, sentence in (
            (b"", "credential file is empty"),
            (b'{"tokens": {"access_token": "SECRET', "credential file is not valid JSON"),
            (b'["SECRET"]', "credential file is not a JSON object"),
            (b'{"other": "SECRET"}', "tokens field not found"),
            (b'{"tokens": "SECRET"}', "tokens is not a JSON object"),
            (b'{"auth_mode": "apikey"}', "OPENAI_API_KEY field not found"),
            (b'{"auth_mode": "personalAccessToken"}', "personal_access_token field not found"),
            (
                b'{"personal_access_token": "SECRET\\nX: b"}',
                "personal_access_token holds characters that no token has",
            ),
            (b'{"OPENAI_API_KEY": "SE CRET"}', "OPENAI_API_KEY holds characters that no key has"),
            (document(access_token=""), "tokens holds no access_token"),
            (document(access_token=7), "tokens holds no access_token"),
            (
                document(access_token="SECRET\r\nX: b"),
                "tokens.access_token holds characters that no token has",
            ),
        ):
            error = self.assertRaises(CredentialFileError, FORMAT.parse, content)
            self.assertEqual(str(error), sentence)

    def test_odd_types_beside_the_token_do_no_harm(self) -> None:
        kinds: list[object] = [None, "soon", [], {}, True, -1, 1e400, 10**400, -1e400]
        for odd in kinds:
            read = token(exp=odd, plan=odd, refresh_token=odd, id_token=odd, account_id=odd)
            self.assertIsNone(read.expires_at)

    def test_what_is_no_jwt_tells_nothing(self) -> None:
        for text in (None, "", "a.b", "a.b.c", "a.ä.c", "a.W10.c", "a..c", "a.bm8.c", "a.b!.c"):
            self.assertEqual(claims(text), {})
        self.assertEqual(claims(jwt(exp=5))["exp"], 5)

    def test_a_write_keeps_what_belongs_to_others(self) -> None:
        original = {**json.loads(document(future=[1])), "other": {"kept": True}}
        merged = json.loads(FORMAT.merge(json.dumps(original).encode(), token(access_token="new")))
        self.assertEqual((merged["other"], merged["tokens"]["future"]), ({"kept": True}, [1]))
        self.assertEqual(merged["tokens"]["access_token"], "new")
        self.assertEqual((merged["auth_mode"], merged["last_refresh"]), ("chatgpt", REFRESHED))

    def test_what_was_written_is_read_back(self) -> None:
        self.assertEqual(FORMAT.parse(FORMAT.merge(b"", token())), token())
        self.assertEqual(FORMAT.parse(FORMAT.merge(b"broken", token())), token())
        self.assertNotIn("refresh_token", json.loads(FORMAT.merge(b"", OAuthToken("at")))["tokens"])

    @given(ANY_JSON)
    def test_any_json_is_read_or_refused(self, value: object) -> None:
        for content in (value, {"tokens": value}, {"tokens": {"access_token": "a", "id_token": value}}):
            try:
                FORMAT.parse(json.dumps(content).encode())
            except CredentialFileError:
                pass

    @given(st.binary(max_size=50))
    def test_any_bytes_are_refused(self, content: bytes) -> None:
        self.assertRaises(CredentialFileError, FORMAT.parse, content)

    @given(st.text(max_size=40))
    def test_any_claims(self, text: str) -> None:
        claims(f"a.{text}.c")
        claims(jwt(said=text))


class RefreshTests(SynchronousTestCase):
    """Spec 3.3."""

    def test_due_five_minutes_before_the_expiry(self) -> None:
        self.assertFalse(FORMAT.refresh_due(token(), NOW + 3600 - 301))
        self.assertTrue(FORMAT.refresh_due(token(), NOW + 3600 - 300))

    def test_a_known_expiry_makes_the_last_refresh_meaningless(self) -> None:
        self.assertFalse(FORMAT.refresh_due(token(exp=NOW + 10**8), NOW + REFRESH_INTERVAL + 1))

    def test_without_an_expiry_due_after_eight_days(self) -> None:
        opaque = token(access_token="opaque")
        assert opaque.last_refresh is not None
        self.assertFalse(FORMAT.refresh_due(opaque, opaque.last_refresh + REFRESH_INTERVAL - 1))
        self.assertTrue(FORMAT.refresh_due(opaque, opaque.last_refresh + REFRESH_INTERVAL))
        self.assertTrue(FORMAT.refresh_due(OAuthToken("opaque", "rt"), NOW))

    def test_never_due_without_a_refresh_token(self) -> None:
        self.assertFalse(FORMAT.refresh_due(token(refresh_token=None), NOW + 10**6))
        self.assertFalse(FORMAT.can_refresh(token(refresh_token="")))

    def test_the_request(self) -> None:
        request = FORMAT.refresh_request(token(), URLS)
        self.assertEqual((request.method, request.url), ("POST", "https://auth.openai.com/oauth/token"))
        self.assertEqual(
            json.loads(request.body or b""),
            {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": "rt-SECRET"},
        )
        self.assertNotIn("SECRET", repr(request))

    def answer(self, status: int, body: object, **headers: str) -> OAuthToken:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return FORMAT.refresh_answer(status, named, raw, token(), NOW)

    def test_a_new_login(self) -> None:
        fresh = self.answer(
            200,
            {
                "access_token": jwt(exp=NOW + 9000),
                "refresh_token": "rt2",
                "id_token": jwt(**{CLAIM: {"chatgpt_plan_type": "pro"}}),
                "expires_in": 5,
            },
        )
        self.assertEqual((fresh.expires_at, fresh.refresh_token, fresh.plan), (NOW + 9000, "rt2", "pro"))
        self.assertEqual((fresh.account_id, fresh.last_refresh), ("acc-1", NOW))

    def test_what_the_answer_leaves_out_stays(self) -> None:
        fresh = self.answer(200, {"access_token": "a2"})
        self.assertEqual((fresh.access_token, fresh.refresh_token, fresh.plan), ("a2", "rt-SECRET", "team"))
        self.assertIsNone(fresh.expires_at)
        rotated = self.answer(200, {"refresh_token": "rt2"})
        self.assertEqual((rotated.access_token, rotated.refresh_token), (token().access_token, "rt2"))

    def test_odd_values_beside_a_new_refresh_token_do_not_lose_it(self) -> None:
        """The old refresh token is used up by now."""
        kinds: list[object] = [None, 5, "", [], "SE CRET"]
        for odd in kinds:
            fresh = self.answer(200, {"access_token": odd, "id_token": odd, "refresh_token": "rt2"})
            self.assertEqual((fresh.access_token, fresh.refresh_token), (token().access_token, "rt2"))
            self.assertEqual(FORMAT.parse(FORMAT.merge(document(), fresh)), fresh)

    def refused(self, status: int, body: object, **headers: str) -> RefreshRefused:
        error = self.assertRaises(RefreshRefused, self.answer, status, body, **headers)
        assert isinstance(error, RefreshRefused)
        self.assertNotIn("SECRET", str(error))
        return error

    def test_429(self) -> None:
        refused = self.refused(429, {"error": "invalid_grant"}, retry_after="120")
        self.assertEqual((refused.rate_limited, refused.retry_after, refused.permanent), (True, 120, False))

    def test_permanent_and_passing_refusals(self) -> None:
        for code in (
            "refresh_token_expired",
            "refresh_token_reused",
            "refresh_token_invalidated",
            "invalid_grant",
            # Spec 12.4: a browser session that is over, openai/codex pull request 27351.
            "app_session_expired",
            "invalid_refresh_token",
            "app_session_terminated",
        ):
            self.assertTrue(self.refused(400, {"error": code}).permanent)
            self.assertTrue(self.refused(400, {"error": {"code": code, "message": "SECRET"}}).permanent)
        self.assertTrue(self.refused(401, b"<html>SECRET").permanent)
        for status, body in (
            (500, b"SECRET"),
            (400, {"error": "invalid_request"}),
            (400, {"error": "invalid_scope"}),
            (403, b""),
            (302, b""),
        ):
            self.assertFalse(self.refused(status, body).permanent)

    def test_nonsense_with_200(self) -> None:
        bodies: list[object] = [
            *(b"", b"<html>SECRET", b"[" * 100_000, [], {}),
            *({"access_token": 5}, {"access_token": ""}, {"access_token": "SE CRET"}),
        ]
        for body in bodies:
            self.assertFalse(self.refused(200, body).permanent)


def window(used: object, seconds: object, reset: object) -> dict[str, object]:
    """One window as the usage endpoint tells it."""
    return {
        "used_percent": used,
        "limit_window_seconds": seconds,
        "reset_after_seconds": 60,
        "reset_at": reset,
    }


class UsageTests(SynchronousTestCase):
    """Spec 3.5 and 5.2."""

    def test_the_request(self) -> None:
        request = FORMAT.usage_request(token(), URLS)
        self.assertEqual(request.url, "https://chatgpt.com/backend-api/wham/usage")
        self.assertIn(("ChatGPT-Account-Id", "acc-1"), request.headers)
        self.assertIn(("User-Agent", URLS.user_agent), request.headers)
        self.assertNotIn("SECRET", repr(request))
        self.assertNotIn("ChatGPT-Account-Id", dict(FORMAT.usage_request(OAuthToken("at"), URLS).headers))

    def test_usage(self) -> None:
        update = FORMAT.usage_answer(
            json.dumps(
                {
                    "plan_type": "team",
                    "rate_limit": {
                        "allowed": True,
                        "primary_window": window(13, 18000, NOW + 60),
                        "secondary_window": window(35, 604800, NOW + 600),
                    },
                    "additional_rate_limits": [
                        {
                            "limit_name": "GPT-5.3-Codex-Spark",
                            "metered_feature": "codex_bengalfox",
                            "rate_limit": {
                                "primary_window": window(100, 3600, 0),
                                "secondary_window": None,
                            },
                        },
                        {"limit_name": "empty", "rate_limit": None},
                        "odd",
                    ],
                    "credits": {"has_credits": True, "unlimited": False, "balance": "5.00", "future": []},
                }
            ).encode(),
            NOW,
        )
        self.assertEqual(update.short, Window(13, NOW + 60, 18000))
        self.assertEqual(update.weekly, Window(35, NOW + 600, 604800))
        self.assertEqual(list(update.named), ["codex_bengalfox"])
        spark = update.named["codex_bengalfox"]
        self.assertEqual((spark.name, spark.short), ("GPT-5.3-Codex-Spark", Window(100, NOW + 60, 3600)))
        self.assertEqual(update.credits, Credits(True, False, "5.00"))

    def test_windows_are_placed_by_their_own_lengths(self) -> None:
        """F34."""
        weekly, monthly = window(13, 604800, NOW + 60), window(3, 2592000, NOW + 600)
        body = {"rate_limit": {"primary_window": weekly, "secondary_window": None}}
        update = FORMAT.usage_answer(json.dumps(body).encode(), NOW)
        self.assertEqual((update.short, update.weekly), (None, Window(13, NOW + 60, 604800)))
        body = {"rate_limit": {"primary_window": monthly, "secondary_window": weekly}}
        update = FORMAT.usage_answer(json.dumps(body).encode(), NOW)
        assert update.short is not None and update.weekly is not None
        self.assertEqual((update.short.length, update.weekly.length), (604800, 2592000))

    def test_accounts_without_limits(self) -> None:
        self.assertFalse(FORMAT.usage_answer(b'{"rate_limit": null}', NOW).has_data)

    def test_an_answer_that_is_no_object_is_malformed(self) -> None:
        for body in (b"", b"[]", b"<html>", b"[" * 100_000):
            self.assertRaises(AnswerMalformed, FORMAT.usage_answer, body, NOW)

    def test_an_answer_without_limits_says_nothing(self) -> None:
        """It is no failure: the headers of answers suffice (spec 3.5)."""
        for body in (b"{}", b'{"plan_type": "pro", "spend": {}}'):
            self.assertFalse(FORMAT.usage_answer(body, NOW).has_data)

    def test_the_plan_of_a_usage_answer(self) -> None:
        """Spec 12.5: it weighs from then on, whatever the tokens say; an odd one is as if it were not said."""
        upgraded = FORMAT.usage_plan(b'{"plan_type": "pro"}', token(plan="plus"))
        self.assertEqual((upgraded.plan, FORMAT.plan_weight(upgraded)), ("pro", 10))
        for body in (b"{}", b'{"plan_type": null}', b'{"plan_type": 5}', b"<html>", b"[]"):
            self.assertEqual(FORMAT.usage_plan(body, token(plan="plus")), token(plan="plus"))

    @given(ANY_JSON)
    def test_any_json_is_read_or_refused(self, value: object) -> None:
        for content in (
            value,
            {"rate_limit": value, "credits": value, "additional_rate_limits": value},
            {"rate_limit": {"primary_window": value, "secondary_window": {"used_percent": value}}},
            {"rate_limit": None, "additional_rate_limits": [{"limit_name": value, "rate_limit": value}]},
        ):
            try:
                FORMAT.usage_answer(json.dumps(content).encode(), NOW)
            except AnswerMalformed:
                pass

    def test_no_profile(self) -> None:
        self.assertIsNone(FORMAT.profile_request(token(plan=None), URLS))
        self.assertEqual(FORMAT.profile_answer(b"", token()), token())

    def test_plan_weight(self) -> None:
        for plan, weight in (("pro", 10), ("prolite", 5), ("plus", 1), ("team", 1), (None, 1)):
            self.assertEqual(FORMAT.plan_weight(token(plan=plan)), weight)
        self.assertEqual(FORMAT.plan_weight(ApiKey("k")), 1)

    def test_rejected_tokens(self) -> None:
        self.assertTrue(FORMAT.token_rejected(401, b""))
        self.assertFalse(FORMAT.token_rejected(403, b"forbidden"))

    def test_where_the_file_is(self) -> None:
        self.assertEqual(FORMAT.default_path({}, "/home/a"), "/home/a/.codex/auth.json")
        self.assertEqual(FORMAT.default_path({"CODEX_HOME": "/c/"}, "/home/a"), "/c/auth.json")


class DialectTests(SynchronousTestCase):
    """The dialect as a whole, as long as it is not among the offered ones."""

    def test_addresses(self) -> None:
        self.assertEqual(URLS.api_url, "https://chatgpt.com/backend-api/codex")
        self.assertEqual(URLS.key_api_url, "https://api.openai.com")
        self.assertTrue(URLS.user_agent.startswith("ccmproxy/"))
        self.assertEqual(CODEX.request_id_header, b"X-OCM-Request-Id")
