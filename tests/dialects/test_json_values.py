"""Values from foreign JSON."""

from __future__ import annotations

from math import inf

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.json_values import (
    LARGEST_TREE,
    NO_JSON,
    any_decoder,
    json_object,
    moment,
    number,
    read_raw,
    text,
    text_decoder,
)


class ValueTests(SynchronousTestCase):
    """A value of the wrong type counts as missing."""

    def test_text_and_numbers(self) -> None:
        kinds: list[object] = ["", None, 5, [], {}, True]
        self.assertEqual([text(value) for value in kinds], [None] * 6)
        self.assertEqual([number(value) for value in kinds], [None, None, 5, None, None, None])
        for odd in (float("nan"), float("inf"), 10**400):
            self.assertIsNone(number(odd))

    def test_moments(self) -> None:
        self.assertEqual(moment("2026-11-23T15:00:00Z"), 1_795_446_000)
        self.assertEqual(moment("2026-11-23T15:00:00+00:00"), 1_795_446_000)
        for odd in ("2026-11-23T15:00:00", "soon", "", "9" * 400, 5, None, True):
            self.assertIsNone(moment(odd), odd)

    def test_numbers_that_are_much_work(self) -> None:
        """F63: msgspec's own floats take a thousand times as long as others where the exponent is large; Python's do
        not, which give infinity, in place of an error, for what no float can hold."""
        for document in (b"1.5", b"1e300", b"1.7976931348623157e308", b"-2e-5"):
            self.assertEqual(any_decoder.decode(document), float(document))
        self.assertEqual(
            json_object(b'{"a": 1e999, "b": 12345678901234567890}'), {"a": inf, "b": 12345678901234567890}
        )

    def test_objects(self) -> None:
        self.assertEqual(json_object(b'{"a": [1]}'), {"a": [1]})
        for odd in (b"", b"<html>", b"[]", b"5", b"[" * 100_000, b'{"a": "\xff"}'):
            self.assertIsNone(json_object(odd), odd[:10])

    def test_large_documents_are_not_built(self) -> None:
        """F63: what is built takes ten times the memory of what it is built of, and time."""
        document = b'{"a":[%b1]}' % (b"1," * (LARGEST_TREE // 2))
        self.assertIsNone(json_object(document))
        self.assertIsNotNone(json_object(b'{"a":"%b"}' % (b"x" * (LARGEST_TREE - 8))))

    def test_fields_that_were_kept_undecoded(self) -> None:
        self.assertEqual(read_raw(msgspec.Raw(b'"a"'), text_decoder), "a")
        for raw in (NO_JSON, msgspec.Raw(b"5"), msgspec.Raw(b'"a'), msgspec.Raw(b'"\xff"')):
            self.assertEqual(read_raw(raw, text_decoder) or "", "")

    @given(st.binary(max_size=60), st.text(max_size=30))
    def test_never_raises(self, document: bytes, stamp: str) -> None:
        json_object(document)
        read_raw(msgspec.Raw(document), text_decoder)
        moment(stamp)
