"""Which header fields are forwarded, and which are dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.headers import MOST_HOPS, hops, override, request_headers, response_headers


class ForwardingTests(SynchronousTestCase):
    """Spec 4.3, both ways."""

    def test_connection_names_and_hop_by_hop_are_dropped(self) -> None:
        headers = [
            (b"Connection", b"close, X-Once"),
            (b"x-once", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"TE", b"trailers"),
            (b"Upgrade", b"h2c"),
            (b"Host", b"proxy"),
            (b"Accept", b"a"),
            (b"accept", b"b"),
        ]
        expected = [(b"Accept", b"a"), (b"accept", b"b")]
        self.assertEqual(request_headers(headers), expected)
        self.assertEqual(response_headers(headers), expected)

    def test_traces_of_reverse_proxies_are_dropped_both_ways(self) -> None:
        headers = [
            (name, b"x")
            for name in (
                b"CF-Ray",
                b"cf-connecting-ip",
                b"X-Forwarded-For",
                b"Forwarded",
                b"X-Real-IP",
                b"CDN-Loop",
            )
        ]
        self.assertEqual(request_headers(headers), [])
        self.assertEqual(response_headers(headers), [])

    def test_keys_never_go_to_the_upstream(self) -> None:
        headers = [
            (b"X-Api-Key", b"k"),
            (b"API-Key", b"k"),
            (b"AUTHORIZATION", b"k"),
            (b"Expect", b"100-continue"),
        ]
        self.assertEqual(request_headers(headers), [])

    def test_a_connection_field_cannot_remove_what_frames_the_body(self) -> None:
        headers = [(b"Connection", b"content-length"), (b"Content-Length", b"3")]
        self.assertEqual(request_headers(headers), [(b"Content-Length", b"3")])

    def test_overrides_replace_same_named_fields_whatever_their_case(self) -> None:
        headers = [(b"User-Agent", b"a"), (b"X-Team", b"1"), (b"x-team", b"2")]
        self.assertEqual(
            override(headers, {"X-TEAM": ("3", "4"), "user-agent": ()}),
            [(b"X-TEAM", b"3"), (b"X-TEAM", b"4")],
        )

    @given(
        st.lists(st.tuples(st.from_regex(rb"[A-Za-z][A-Za-z-]{0,12}", fullmatch=True), st.binary(max_size=8)))
    )
    def test_what_passes_keeps_its_order_and_spelling(self, headers: list[tuple[bytes, bytes]]) -> None:
        passed = request_headers(headers)
        rest = iter(headers)
        self.assertTrue(all(pair in rest for pair in passed))


class HopsTests(SynchronousTestCase):
    """How many instances a request has passed."""

    def test_counts(self) -> None:
        for headers, expected in (
            ([], 0),
            ([(b"X-CCM-Hops", b"0")], 0),
            ([(b"x-ccm-hops", b"4")], 4),
            ([(b"X-Ccm-Hops", b" 12\t")], 12),
            ([(b"X-CCM-Hops", b"999")], 999),
        ):
            self.assertEqual(hops(headers), expected)

    @given(st.binary(max_size=12).filter(lambda value: not value.strip().isdigit()))
    def test_what_is_no_count_is_one_too_many(self, value: bytes) -> None:
        self.assertEqual(hops([(b"X-CCM-Hops", value)]), MOST_HOPS + 1)

    def test_too_long_a_count(self) -> None:
        """An overlong count is not converted: a client could make it as long as a head."""
        for value in (b"1000", b"0000", b"9" * 60_000):
            self.assertEqual(hops([(b"X-CCM-Hops", value)]), MOST_HOPS + 1)

    def test_the_count_is_between_instances(self) -> None:
        """The count is never forwarded unchanged."""
        self.assertEqual(request_headers([(b"X-CCM-Hops", b"2"), (b"x-ccm-hops", b"3")]), [])
