"""What all credential files and token endpoints have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.dialects.logins import (
    INVALID_SCOPE,
    access_token_of,
    client_path,
    control_get,
    dump_document,
    error_code,
    is_header_safe,
    load_document,
    load_for_merge,
    login_of,
    put_login,
    refresh_post,
    refuse_unless_granted,
    token_rejected,
    usage_object,
)
from ccmproxy.dialects.oauth import AnswerMalformed, CredentialFileError, OAuthToken, RefreshRefused


class DocumentTests(SynchronousTestCase):
    """Reading and writing the file."""

    def test_defects_are_named_and_not_quoted(self) -> None:
        for document, sentence in (
            (b" \n", "credential file is empty"),
            (b'{"a": "SECRET"', "credential file is not valid JSON"),
            (b"[" * 100_000, "credential file is not valid JSON"),
            (b'["SECRET"]', "credential file is not a JSON object"),
        ):
            error = self.assertRaises(CredentialFileError, load_document, document)
            self.assertEqual(str(error), sentence)
            self.assertEqual(load_for_merge(document), {})

    def test_written_as_read(self) -> None:
        self.assertEqual(load_document(dump_document({"a": "ä", "b": [1]})), {"a": "ä", "b": [1]})

    def test_half_a_surrogate_pair_is_written_as_read(self) -> None:
        """The value belongs to another program, and must not prevent saving the login beside it."""
        loaded = load_document(b'{"mine": "a", "theirs": "\\ud83d\xc3\xa4"}')
        written = dump_document(loaded)
        self.assertEqual(load_document(written), loaded)
        written.decode("utf-8")

    def test_the_login_in_it(self) -> None:
        """The error for a missing or malformed member names the member, and quotes nothing."""
        for loaded, sentence in (
            ({}, "login field not found"),
            ({"login": None}, "login field not found"),
            ({"login": ["SECRET"]}, "login is not a JSON object"),
        ):
            error = self.assertRaises(CredentialFileError, login_of, loaded, "login")
            self.assertEqual(str(error), sentence)
        self.assertEqual(login_of({"login": {"a": 1}}, "login"), {"a": 1})

    def test_the_access_token(self) -> None:
        for login, sentence in (
            ({}, "login holds no token"),
            ({"token": 5}, "login holds no token"),
            ({"token": "a\r\nX: b"}, "login.token holds characters that no token has"),
        ):
            error = self.assertRaises(CredentialFileError, access_token_of, login, "login", "token")
            self.assertEqual(str(error), sentence)
        self.assertEqual(access_token_of({"token": "t"}, "login", "token"), "t")

    def test_a_login_is_put_in_beside_what_is_there(self) -> None:
        loaded = {"login": {"token": "old", "mine": 1}, "others": 2}
        put_login(loaded, "login", {"token": "new"})
        self.assertEqual(loaded, {"login": {"token": "new", "mine": 1}, "others": 2})
        put_login(loaded, "odd", {"token": "new"})
        self.assertEqual(loaded["odd"], {"token": "new"})
        loaded["login"] = 5
        put_login(loaded, "login", {"token": "new"})
        self.assertEqual(loaded["login"], {"token": "new"})

    def test_where_the_file_is(self) -> None:
        for directory in (None, ""):
            self.assertEqual(client_path(directory, "/home/a/.cli", "auth.json"), "/home/a/.cli/auth.json")
        self.assertEqual(client_path("/etc/cli/", "/home/a/.cli", "auth.json"), "/etc/cli/auth.json")

    def test_what_may_stand_in_a_header(self) -> None:
        self.assertTrue(is_header_safe("eyJ.a-b_c"))
        for secret in ("a b", "a\r\nX: b", "ä", "a\tb"):
            self.assertFalse(is_header_safe(secret))


def permanent(status: int, code: str) -> bool:
    """Stands for a dialect's judgement."""
    return (status, code) == (400, "final")


class EndpointTests(SynchronousTestCase):
    """Requests to the token endpoint, and its refusals."""

    def test_a_refresh_hides_its_body(self) -> None:
        request = refresh_post({"refresh_token": "SECRET"}, DIALECTS["ccm"].urls)
        self.assertEqual(request.body, b'{"refresh_token": "SECRET"}')
        self.assertNotIn("SECRET", repr(request))

    def test_a_question_names_the_account_and_us(self) -> None:
        urls = DIALECTS["ccm"].urls
        request = control_get(urls.usage_url, OAuthToken("SECRET"), urls, ("X-Extra", "1"))
        self.assertEqual((request.method, request.url, request.body), ("GET", urls.usage_url, None))
        self.assertEqual(
            dict(request.headers),
            {
                "Authorization": "Bearer SECRET",
                "Accept": "application/json",
                "User-Agent": urls.user_agent,
                "X-Extra": "1",
            },
        )
        self.assertNotIn("SECRET", repr(request))

    def refusal(self, status: int, body: bytes = b"") -> RefreshRefused:
        """The exception for a response without a new token."""
        headers = {"retry-after": "5"}
        error = self.assertRaises(RefreshRefused, refuse_unless_granted, status, headers, body, 0, permanent)
        assert isinstance(error, RefreshRefused)
        return error

    def test_429(self) -> None:
        error = self.refusal(429, b'{"error": "final"}')
        self.assertEqual((error.rate_limited, error.retry_after, error.permanent), (True, 5, False))

    def test_delay_and_code_of_every_refusal(self) -> None:
        """Spec 12.4: what the endpoint names counts at every status, within its clamp."""
        error = self.refusal(503, b'{"error": {"code": "busy"}}')
        self.assertEqual((error.rate_limited, error.retry_after, error.code), (False, 5, "busy"))
        self.assertEqual(self.refusal(400, b'{"error": "invalid_scope"}').code, INVALID_SCOPE)

    def test_other_refusals(self) -> None:
        """The dialect decides, by status and error code, whether a refusal is final."""
        refuse_unless_granted(200, {}, b'{"error": "final"}', 0, permanent)
        for status, body, is_final in (
            (400, b'{"error": "final"}', True),
            (400, b'{"error": "passing"}', False),
            (500, b'{"error": "final"}', False),
            (201, b"", False),
        ):
            error = self.refusal(status, body)
            self.assertEqual(str(error), f"token endpoint answered {status}")
            self.assertEqual((error.permanent, error.rate_limited), (is_final, False))

    def test_usage_that_is_none(self) -> None:
        for body, sentence in (
            (b"<html>", "usage endpoint answered something that is not JSON"),
            (b"[" * 100_000, "usage endpoint answered something that is not JSON"),
            (b"[]", "usage endpoint answered no JSON object"),
        ):
            self.assertEqual(str(self.assertRaises(AnswerMalformed, usage_object, body)), sentence)
        self.assertEqual(usage_object(b'{"a": 1}'), {"a": 1})

    def test_error_codes(self) -> None:
        for body, code in (
            (b'{"error": "invalid_grant"}', "invalid_grant"),
            (b'{"error": {"code": "a", "type": "b"}}', "a"),
            (b'{"error": {"code": null, "type": "b"}}', "b"),
            (b'{"error": 5}', ""),
            (b"[]", ""),
            (b"<html>", ""),
            (b"[" * 100_000, ""),
        ):
            self.assertEqual(error_code(body), code)

    def test_rejected_tokens(self) -> None:
        self.assertTrue(token_rejected(401, b""))
        self.assertTrue(token_rejected(403, b"OAuth token has been revoked."))
        self.assertFalse(token_rejected(403, b"forbidden"))

    @given(st.binary(max_size=60))
    def test_error_code_never_raises(self, body: bytes) -> None:
        error_code(body)
