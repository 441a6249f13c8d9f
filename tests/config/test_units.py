"""Durations and sizes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config.units import MIB, parse_duration, parse_size, size_of


class UnitTests(SynchronousTestCase):
    """Text with a unit; numbers pass as they are."""

    def test_durations(self) -> None:
        for text, seconds in (
            ("30s", 30.0),
            ("10m", 600.0),
            ("1.5 h", 5400.0),
            ("250ms", 0.25),
            ("2d", 172800.0),
        ):
            self.assertAlmostEqual(parse_duration(text), seconds)
        self.assertEqual(parse_duration(5), 5)

    def test_sizes(self) -> None:
        for text, size in (("64MiB", 64 * MIB), ("1 KiB", 1024), ("7B", 7), ("2GiB", 2048 * MIB)):
            self.assertEqual(parse_size(text), size)
        self.assertEqual(parse_size(5), 5)

    def test_sizes_that_may_be_something_else(self) -> None:
        for value, size in (
            ("1KiB", 1024),
            (7, 7),
            ("many", None),
            (None, None),
            (1.5, None),
            (True, None),
            ([], None),
        ):
            self.assertEqual(size_of(value), size, value)

    def test_malformed(self) -> None:
        for text in ("", "s", "5", "-5s", "5 weeks", "1e5s", "5s5m", "9" * 20 + "s", "five"):
            self.assertRaises(ValueError, parse_duration, text)
        for text in ("", "MiB", "5", "-5MiB", "1.5MiB", "5MB", "9" * 20 + "B"):
            self.assertRaises(ValueError, parse_size, text)
