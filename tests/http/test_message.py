"""Heads and bodies as values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import Body, Headers, RequestHead, first_value, list_items, values, without

HEADERS: Headers = [
    (b"Accept", b"application/json"),
    (b"anthropic-beta", b"one, two"),
    (b"X-Other", b""),
    (b"Anthropic-Beta", b" ,three,"),
]


class RequestHeadTests(SynchronousTestCase):
    """The parts of a target, undecoded."""

    def test_path_and_query(self) -> None:
        for target, path, query in (
            (b"/v1/messages", b"/v1/messages", b""),
            (b"/v1/messages?beta=true", b"/v1/messages", b"beta=true"),
            (b"/a%3Fb?c?d", b"/a%3Fb", b"c?d"),
            (b"?", b"", b""),
        ):
            head = RequestHead(b"GET", target)
            self.assertEqual((head.path, head.query), (path, query))


class BodyTests(SynchronousTestCase):
    """Chunks, joined at most once."""

    @given(st.lists(st.binary(max_size=8), max_size=6))
    def test_joined(self, chunks: list[bytes]) -> None:
        body = Body(list(chunks))
        whole = b"".join(chunks)
        self.assertEqual(body.size, len(whole))
        self.assertEqual(body.joined(), whole)
        self.assertEqual(body.chunks, [whole])
        self.assertIs(body.joined(), body.joined())

    def test_a_single_chunk_is_not_copied(self) -> None:
        chunk = b"x" * 1000
        self.assertIs(Body([chunk]).joined(), chunk)


class HeaderTests(SynchronousTestCase):
    """Look-ups by lower-case name, in wire order."""

    def test_first_value(self) -> None:
        self.assertEqual(first_value(HEADERS, b"anthropic-beta"), b"one, two")
        self.assertEqual(first_value(HEADERS, b"x-other"), b"")
        self.assertIsNone(first_value(HEADERS, b"missing"))

    def test_values(self) -> None:
        self.assertEqual(values(HEADERS, b"anthropic-beta"), [b"one, two", b" ,three,"])
        self.assertEqual(values(HEADERS, b"missing"), [])

    def test_list_items(self) -> None:
        self.assertEqual(list_items(HEADERS, b"anthropic-beta"), [b"one", b"two", b"three"])
        self.assertEqual(list_items(HEADERS, b"x-other"), [])

    def test_without(self) -> None:
        before = list(HEADERS)
        self.assertEqual(without(HEADERS, [b"anthropic-beta", b"accept"]), [(b"X-Other", b"")])
        self.assertEqual(HEADERS, before)
