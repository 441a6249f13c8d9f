"""The official CLI's credential file, and the answers of the token, usage and profile endpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.dialects.claude.account_format import CLIENT_ID, REFRESH_SCOPES, ClaudeAccountFormat
from ccmproxy.dialects.oauth import AnswerMalformed, ApiKey, CredentialFileError, OAuthToken, RefreshRefused

FORMAT = ClaudeAccountFormat()
URLS = DIALECTS["ccm"].urls
NOW = 1_795_000_000.0
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def document(**changes: Any) -> bytes:
    """A file as the CLI writes it."""
    login = {
        "accessToken": "at-secret",
        "refreshToken": "rt-secret",
        "expiresAt": int((NOW + 3600) * 1000),
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
        "rateLimitTier": "default_claude_max_20x",
    }
    login.update(changes)
    return json.dumps({"claudeAiOauth": login, "mcpOAuth": {"kept": True}}).encode()


def token(**changes: Any) -> OAuthToken:
    """What is read from such a file."""
    parsed = FORMAT.parse(document(**changes))
    assert isinstance(parsed, OAuthToken)
    return parsed


class FileTests(SynchronousTestCase):
    """Spec 3.1."""

    def test_read(self) -> None:
        read = token()
        self.assertEqual(read.access_token, "at-secret")
        self.assertEqual(read.refresh_token, "rt-secret")
        self.assertEqual(read.expires_at, NOW + 3600)
        self.assertEqual(read.scopes, ("user:inference", "user:profile"))
        self.assertEqual((read.plan, read.tier), ("max", "default_claude_max_20x"))
        self.assertNotIn("secret", repr(read))

    def test_every_defect_has_its_sentence_and_quotes_nothing(self) -> None:
        for content, sentence in (
            (b"", "credential file is empty"),
            (b" \n", "credential file is empty"),
            (b'{"claudeAiOauth": {"accessToken": "at-secret', "credential file is not valid JSON"),
            (b"\xff\xfe at-secret", "credential file is not valid JSON"),
            (b"[" * 100_000, "credential file is not valid JSON"),
            (b'["at-secret"]', "credential file is not a JSON object"),
            (b'{"other": "at-secret"}', "claudeAiOauth field not found"),
            (b'{"claudeAiOauth": "at-secret"}', "claudeAiOauth is not a JSON object"),
            (document(accessToken=""), "claudeAiOauth holds no accessToken"),
            (document(accessToken=7), "claudeAiOauth holds no accessToken"),
            (
                document(accessToken="a\r\nX: b"),
                "claudeAiOauth.accessToken holds characters that no token has",
            ),
        ):
            error = self.assertRaises(CredentialFileError, FORMAT.parse, content)
            self.assertEqual(str(error), sentence)

    def test_odd_types_beside_the_token_do_no_harm(self) -> None:
        kinds: list[object] = [None, "soon", [], {}, True, -1e400, 1e400, 10**400]
        for odd in kinds:
            read = token(expiresAt=odd, scopes=odd, refreshToken=odd, subscriptionType=odd)
            self.assertEqual(read.access_token, "at-secret")
        self.assertIsNone(token(expiresAt=0).expires_at)

    def test_a_write_keeps_what_belongs_to_others(self) -> None:
        original = json.loads(document(futureField=[1]))
        merged = json.loads(FORMAT.merge(json.dumps(original).encode(), token(accessToken="new")))
        self.assertEqual(merged["mcpOAuth"], {"kept": True})
        self.assertEqual(merged["claudeAiOauth"]["futureField"], [1])
        self.assertEqual(merged["claudeAiOauth"]["accessToken"], "new")
        self.assertEqual(merged["claudeAiOauth"]["expiresAt"], original["claudeAiOauth"]["expiresAt"])

    def test_what_was_written_is_read_back(self) -> None:
        self.assertEqual(FORMAT.parse(FORMAT.merge(b"", token())), token())

    @given(ANY_JSON)
    def test_any_json_is_read_or_refused(self, value: object) -> None:
        for content in (value, {"claudeAiOauth": value}):
            try:
                FORMAT.parse(json.dumps(content).encode())
            except CredentialFileError:
                pass

    @given(st.binary(max_size=50))
    def test_any_bytes_are_refused(self, content: bytes) -> None:
        self.assertRaises(CredentialFileError, FORMAT.parse, content)


class RefreshTests(SynchronousTestCase):
    """Spec 3.2."""

    def test_due_five_minutes_before_the_expiry(self) -> None:
        self.assertFalse(FORMAT.refresh_due(token(), NOW + 3600 - 301))
        self.assertTrue(FORMAT.refresh_due(token(), NOW + 3600 - 300))

    def test_never_due_without_expiry_scope_or_refresh_token(self) -> None:
        for changes in ({"expiresAt": 0}, {"scopes": ["user:profile"]}, {"refreshToken": None}):
            self.assertFalse(FORMAT.refresh_due(token(**changes), NOW + 10_000), changes)

    def test_the_request(self) -> None:
        request = FORMAT.refresh_request(token(), URLS)
        assert request.body is not None
        self.assertEqual(
            (request.method, request.url), ("POST", "https://platform.claude.com/v1/oauth/token")
        )
        self.assertEqual(
            json.loads(request.body),
            {
                "grant_type": "refresh_token",
                "refresh_token": "rt-secret",
                "client_id": CLIENT_ID,
                "scope": REFRESH_SCOPES,
            },
        )
        self.assertNotIn("secret", repr(request))
        own = FORMAT.refresh_request(token(scopes=["a", "b"]), URLS)
        self.assertEqual(json.loads(own.body or b"")["scope"], "a b")

    def test_with_the_scopes_of_the_file(self) -> None:
        """Spec 12.4: what a login of an older client was never granted is not asked for twice."""
        for scopes, asked in (
            (["user:inference", "user:profile"], "user:inference user:profile"),
            ([], None),
        ):
            request = FORMAT.narrower_refresh_request(token(scopes=scopes), URLS)
            assert request is not None
            body = json.loads(request.body or b"")
            self.assertEqual(body.get("scope"), asked)
            self.assertEqual((body["grant_type"], body["refresh_token"]), ("refresh_token", "rt-secret"))
        for same in (REFRESH_SCOPES.split(), ["a", "b"]):
            self.assertIsNone(FORMAT.narrower_refresh_request(token(scopes=same), URLS))

    def answer(self, status: int, body: object, **headers: str) -> OAuthToken:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return FORMAT.refresh_answer(status, named, raw, token(), NOW)

    def test_a_new_login(self) -> None:
        fresh = self.answer(
            200,
            {"access_token": "a2", "refresh_token": "r2", "expires_in": 28800, "scope": "user:inference x"},
        )
        self.assertEqual((fresh.access_token, fresh.refresh_token), ("a2", "r2"))
        self.assertEqual(fresh.expires_at, NOW + 28800)
        self.assertEqual(fresh.scopes, ("user:inference", "x"))
        self.assertEqual(fresh.plan, "max")

    def test_an_absent_refresh_token_stays(self) -> None:
        self.assertEqual(self.answer(200, {"access_token": "a2"}).refresh_token, "rt-secret")

    def test_odd_values_beside_a_new_token(self) -> None:
        """The old refresh token is used up: refusing the response would lose the login."""
        values: tuple[object, ...] = ("3600", 1e308, -5, 0, True, [], None)
        for odd in values:
            fresh = self.answer(
                200, {"access_token": "a2", "refresh_token": "r2", "expires_in": odd, "scope": [1]}
            )
            self.assertEqual((fresh.access_token, fresh.refresh_token), ("a2", "r2"))
            self.assertEqual((fresh.expires_at, fresh.scopes), (None, token().scopes))
            self.assertEqual(FORMAT.parse(FORMAT.merge(b"{}", fresh)), fresh)

    def test_whose_account_it_is(self) -> None:
        """F33: the organization, where it is present; a malformed value counts as missing."""
        said = {"access_token": "a2", "organization": {"uuid": "org-1", "name": "n"}}
        self.assertEqual(self.answer(200, said).account_id, "org-1")
        odd: tuple[object, ...] = (None, 5, "org-1", [], {}, {"uuid": None}, {"uuid": 7}, {"uuid": ""})
        for organization in odd:
            fresh = self.answer(200, {"access_token": "a2", "organization": organization})
            self.assertEqual((fresh.access_token, fresh.account_id), ("a2", None))
        known = replace(token(), account_id="org-0")
        for body, expected in ((said, "org-1"), ({"access_token": "a2"}, "org-0")):
            fresh = FORMAT.refresh_answer(200, {}, json.dumps(body).encode(), known, NOW)
            self.assertEqual(fresh.account_id, expected)

    def refused(self, status: int, body: object, **headers: str) -> RefreshRefused:
        error = self.assertRaises(RefreshRefused, self.answer, status, body, **headers)
        assert isinstance(error, RefreshRefused)
        return error

    def test_429(self) -> None:
        refused = self.refused(429, b"", retry_after="120")
        self.assertEqual((refused.rate_limited, refused.retry_after), (True, 120))
        self.assertIsNone(self.refused(429, b"").retry_after)

    def test_permanent_and_passing_refusals(self) -> None:
        self.assertTrue(self.refused(400, {"error": "invalid_grant"}).permanent)
        self.assertTrue(self.refused(401, {"error": {"type": "invalid_grant"}}).permanent)
        self.assertTrue(self.refused(400, {"error": {"code": "app_session_expired"}}).permanent)
        for status, body in (
            (500, b"oops"),
            (400, {"error": "invalid_request"}),
            (400, {"error": "invalid_client"}),
            (401, {"error": "invalid_client"}),
            (400, b"<html>"),
            (302, b""),
        ):
            self.assertFalse(self.refused(status, body).permanent)

    def test_nonsense_with_200(self) -> None:
        bodies: list[object] = [
            b"",
            b"<html>",
            [],
            {},
            {"access_token": 5},
            {"access_token": ""},
            {"access_token": "a b"},
        ]
        for body in bodies:
            refused = self.refused(200, body)
            self.assertFalse(refused.permanent)
        self.assertFalse(self.refused(200, b"[" * 100_000).permanent)


class UsageAndProfileTests(SynchronousTestCase):
    """Spec 3.5 and 5.2."""

    def test_usage(self) -> None:
        update = FORMAT.usage_answer(
            json.dumps(
                {
                    "five_hour": {"utilization": 12.5, "resets_at": "2026-11-18T12:26:40+00:00"},
                    "seven_day": {"utilization": 3, "resets_at": None},
                    "seven_day_opus": {"utilization": 99, "resets_at": "2026-11-18T12:26:40Z"},
                    "extra": 1,
                }
            ).encode(),
            NOW,
        )
        assert update.short is not None and update.weekly is not None
        self.assertEqual((update.short.utilization, update.short.resets_at), (12.5, 1_795_004_800))
        self.assertEqual((update.weekly.utilization, update.weekly.resets_at), (3, 0))
        self.assertEqual(update.models["opus"].utilization, 99)

    def test_windows_of_wrong_shape_are_left_out(self) -> None:
        update = FORMAT.usage_answer(
            b'{"five_hour": 7, "seven_day": {"utilization": "much", "resets_at": 5}}', NOW
        )
        self.assertIsNone(update.short)
        self.assertIsNone(update.weekly)

    def test_an_answer_that_is_no_object_is_malformed(self) -> None:
        for body in (b"", b"[]", b"<html>", b"[" * 100_000):
            self.assertRaises(AnswerMalformed, FORMAT.usage_answer, body, NOW)

    def test_an_answer_without_windows_says_nothing(self) -> None:
        """It is no failure: the headers of answers suffice (spec 3.5, issue of accounts with spend alone)."""
        for body in (b"{}", b'{"five_hour": null, "seven_day": null, "spend": {"amount_minor": 233}}'):
            self.assertFalse(FORMAT.usage_answer(body, NOW).has_data)

    def test_newer_shapes(self) -> None:
        resets = "2026-11-18T12:26:40Z"
        body = {
            "limits": [
                {"kind": "session", "percent": 33, "resets_at": resets},
                {"id": "weekly_all", "utilization": "12.0", "resets_at": resets},
                {"kind": "weekly_scoped", "percent": 7, "scope": {"model": {"display_name": "Opus"}}},
            ]
        }
        update = FORMAT.usage_answer(json.dumps(body).encode(), NOW)
        assert update.short is not None and update.weekly is not None
        self.assertEqual((update.short.utilization, update.short.resets_at), (33, 1_795_004_800))
        self.assertEqual((update.weekly.utilization, update.models["opus"].utilization), (12, 7))

    def test_profile_is_asked_for_only_when_needed(self) -> None:
        """Also for the identity, which no file names (spec 12.5)."""
        self.assertIsNone(FORMAT.profile_request(replace(token(), account_id="org"), URLS))
        self.assertIsNotNone(FORMAT.profile_request(token(), URLS))
        request = FORMAT.profile_request(token(rateLimitTier=None), URLS)
        assert request is not None
        self.assertEqual(request.url, "https://api.anthropic.com/api/oauth/profile")
        self.assertIn(("User-Agent", URLS.user_agent), request.headers)

    def test_profile_fills_in_plan_and_tier(self) -> None:
        body = json.dumps(
            {"organization": {"organization_type": "claude_team", "rate_limit_tier": "t"}}
        ).encode()
        filled = FORMAT.profile_answer(body, token(subscriptionType=None, rateLimitTier=None))
        self.assertEqual((filled.plan, filled.tier), ("team", "t"))
        for nonsense in (b"", b"[]", b"{}", b'{"organization": 3}'):
            self.assertRaises(AnswerMalformed, FORMAT.profile_answer, nonsense, token())

    def test_a_profile_says_whose_account_it_is(self) -> None:
        body = json.dumps({"organization": {"uuid": "org-1", "organization_type": "claude_max"}}).encode()
        self.assertEqual(FORMAT.profile_answer(body, token()).account_id, "org-1")
        known = replace(token(), account_id="org-0")
        self.assertEqual(FORMAT.profile_answer(b'{"organization": {}}', known).account_id, "org-0")

    def test_odd_values_in_a_profile_hide_only_themselves(self) -> None:
        asked = token(subscriptionType=None, rateLimitTier=None)
        usual = {"uuid": "org-1", "organization_type": "claude_max", "rate_limit_tier": "t"}
        for name, expected in (
            ("uuid", ("max", "t", None)),
            ("organization_type", (None, "t", "org-1")),
            ("rate_limit_tier", ("max", None, "org-1")),
        ):
            values: tuple[object, ...] = (5, [], {}, "", None, True)
            for odd in values:
                body = json.dumps({"organization": {**usual, name: odd}}).encode()
                filled = FORMAT.profile_answer(body, asked)
                self.assertEqual((filled.plan, filled.tier, filled.account_id), expected, (name, odd))

    def test_plan_weight(self) -> None:
        for plan, tier, weight in (
            ("max", "default_claude_max_20x", 10),
            ("max", "default_claude_max_5x", 5),
            ("max", None, 5),
            ("team", "default_claude_max_5x", 5),
            ("team", None, 1),
            ("pro", None, 1),
            (None, None, 1),
        ):
            self.assertEqual(FORMAT.plan_weight(token(subscriptionType=plan, rateLimitTier=tier)), weight)
        self.assertEqual(FORMAT.plan_weight(ApiKey("k")), 1)

    def test_rejected_tokens(self) -> None:
        self.assertTrue(FORMAT.token_rejected(401, b""))
        self.assertTrue(FORMAT.token_rejected(403, b'{"error":{"message":"OAuth token has been revoked."}}'))
        self.assertFalse(FORMAT.token_rejected(403, b"forbidden"))
        self.assertFalse(FORMAT.token_rejected(400, b"OAuth token has been revoked"))

    def test_where_the_file_is(self) -> None:
        self.assertEqual(FORMAT.default_path({}, "/home/a"), "/home/a/.claude/.credentials.json")
        self.assertEqual(FORMAT.default_path({"CLAUDE_CONFIG_DIR": "/c/"}, "/home/a"), "/c/.credentials.json")
