"""Codex's windows, whatever form they come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex.windows import (
    Limit,
    json_credits,
    json_window,
    limit_id,
    limits_update,
    place,
    read_credits,
    read_headers,
)
from ccmproxy.state.limits import MOST_MODELS, Credits, LimitsUpdate, Window

NOW = 1_795_000_000.0
HOUR, DAY = 3600.0, 86400.0


class PlaceTests(SynchronousTestCase):
    """F34: by their own lengths."""

    def test_table(self) -> None:
        short, week, month = Window(1, 0, 5 * HOUR), Window(2, 0, 7 * DAY), Window(3, 0, 30 * DAY)
        for primary, secondary, expected in (
            (short, week, (short, week)),
            (week, short, (short, week)),
            (week, None, (None, week)),
            (None, short, (short, None)),
            (month, week, (week, month)),
            (Window(4, 0, DAY), None, (Window(4, 0, DAY), None)),
            (None, None, (None, None)),
        ):
            self.assertEqual(place(Limit("", primary, secondary)), expected)


class JSONTests(SynchronousTestCase):
    """Windows and credits in JSON."""

    def test_windows(self) -> None:
        for value, length, expected in (
            ({"used_percent": 5, "reset_at": NOW}, 60, Window(5, NOW, 60)),
            ({"used_percent": 5, "reset_after_seconds": 9}, None, Window(5, NOW + 9, HOUR)),
            ({"used_percent": 5, "reset_at": 0, "reset_after_seconds": 9}, 0, Window(5, NOW + 9, HOUR)),
            ({"used_percent": 0, "reset_at": 0}, 0, None),
            ({"used_percent": 0, "reset_at": 0}, 60, Window(0, 0, 60)),
            ({"reset_at": NOW}, 60, None),
            ({"used_percent": True}, 60, None),
            ({"used_percent": 5, "reset_at": 1e300}, "x", Window(5, 0, HOUR)),
            ([], 60, None),
            (None, None, None),
        ):
            self.assertEqual(json_window(value, length, HOUR, NOW), expected, value)

    def test_credits(self) -> None:
        self.assertEqual(
            json_credits({"has_credits": True, "unlimited": False, "balance": None}), Credits(True, False)
        )
        kinds: list[object] = [None, [], {}, {"has_credits": 1, "unlimited": False}]
        for odd in kinds:
            self.assertIsNone(json_credits(odd))

    def test_ids(self) -> None:
        self.assertEqual(limit_id("Codex-Bengalfox"), "codex_bengalfox")
        for odd in (None, "", 5, "a b", "x" * 300):
            self.assertIsNone(limit_id(odd))


class HeaderTests(SynchronousTestCase):
    """Limits in header fields."""

    def test_the_active_limit(self) -> None:
        used = (b"x-codex-other-primary-used-percent", b"7")
        active = (b"x-codex-active-limit", b" Codex_Other ")
        name = (b"x-codex-other-limit-name", b"gpt-fancy")
        found = read_headers([used, active, name], NOW)
        self.assertEqual((found.active, found.active_name, found.own), ("codex_other", "gpt-fancy", "codex"))
        found = read_headers([used, active], NOW)
        self.assertEqual((found.active, found.active_name, found.own), ("codex_other", "", "codex_other"))
        found = read_headers([], NOW)
        self.assertEqual((found.active, found.own, dict(found.limits)), ("codex", "codex", {}))

    def test_no_credits(self) -> None:
        self.assertIsNone(read_credits([(b"x-codex-credits-balance", b"5")]))

    def test_bounded(self) -> None:
        limits = {f"limit{number}": Limit("", Window(1)) for number in range(MOST_MODELS + 5)}
        self.assertEqual(len(limits_update(limits, "codex", None).named), MOST_MODELS)
        self.assertEqual(limits_update({}, "codex", None), LimitsUpdate())

    @given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=12)), max_size=5))
    def test_never_raises(self, fields: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"x-" + name, value) for name, value in fields]
        read_headers(headers, NOW)
        read_credits(headers)
