"""What all credential files and token endpoints have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.logins import (
    dump_document,
    error_code,
    is_header_safe,
    load_document,
    load_for_merge,
    number,
    refresh_post,
    refuse_if_rate_limited,
    text,
    token_rejected,
)
from ccmproxy.dialects.oauth import CredentialFileError, RefreshRefused
from ccmproxy.dialects.registry import DIALECTS


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
        """It belongs to somebody else, and must not cost a login that is to be saved beside it."""
        loaded = load_document(b'{"mine": "a", "theirs": "\\ud83d\xc3\xa4"}')
        written = dump_document(loaded)
        self.assertEqual(load_document(written), loaded)
        written.decode("utf-8")

    def test_values(self) -> None:
        kinds: list[object] = ["", None, 5, [], {}, True]
        self.assertEqual([text(value) for value in kinds], [None] * 6)
        self.assertEqual([number(value) for value in kinds], [None, None, 5, None, None, None])
        for odd in (float("nan"), float("inf"), 10**400):
            self.assertIsNone(number(odd))

    def test_what_may_stand_in_a_header(self) -> None:
        self.assertTrue(is_header_safe("eyJ.a-b_c"))
        for secret in ("a b", "a\r\nX: b", "ä", "a\tb"):
            self.assertFalse(is_header_safe(secret))


class EndpointTests(SynchronousTestCase):
    """Requests to the token endpoint, and its refusals."""

    def test_a_refresh_hides_its_body(self) -> None:
        request = refresh_post({"refresh_token": "SECRET"}, DIALECTS["ccm"].urls)
        self.assertEqual(request.body, b'{"refresh_token": "SECRET"}')
        self.assertNotIn("SECRET", repr(request))

    def test_429(self) -> None:
        refuse_if_rate_limited(400, {"retry-after": "5"}, 0)
        error = self.assertRaises(RefreshRefused, refuse_if_rate_limited, 429, {"retry-after": "5"}, 0)
        assert isinstance(error, RefreshRefused)
        self.assertEqual((error.rate_limited, error.retry_after, error.permanent), (True, 5, False))

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
