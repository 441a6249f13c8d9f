"""What is known of a request is fit to be a key and to stand in a log."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.facts import printable_key


class PrintableKeyTests(SynchronousTestCase):
    """Short, visible ASCII."""

    def test_keys(self) -> None:
        for value, key in (
            ("gpt-5.4", "gpt-5.4"),
            ("", None),
            (None, None),
            ("a b", None),
            ("a\n", None),
            ("ä", None),
            ("a" * 200, "a" * 200),
            ("a" * 201, None),
        ):
            self.assertEqual(printable_key(value), key)
