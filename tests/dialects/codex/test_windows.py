"""Codex's windows, in every format."""

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
    read_event,
    read_headers,
    read_usage,
)
from ccmproxy.state.inputs import HeadersObserved
from ccmproxy.state.limits import MOST_MODELS, Credits, LimitsUpdate, Window
from tests.states import HOUR, NOW, Credential

DAY = 86400.0


class PlaceTests(SynchronousTestCase):
    """F34: windows are placed by their lengths."""

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


class ModelTests(SynchronousTestCase):
    """A limit besides the account's own closes the models that its name refers to."""

    def closes(self, name: str, model: str) -> set[bool]:
        """Whether a full limit called ``name`` closes ``model``: in headers, in an event, in the usage."""
        window = {"used_percent": 100, "reset_at": NOW + HOUR}
        headers = [
            (b"x-odd-primary-used-percent", b"100"),
            (b"x-odd-primary-reset-at", b"%d" % (NOW + HOUR)),
            (b"x-odd-limit-name", name.encode()),
        ]
        event = {"metered_limit_name": "odd", "limit_name": name, "rate_limits": {"primary": window}}
        additional = [
            {"limit_name": name, "metered_feature": "odd", "rate_limit": {"primary_window": window}}
        ]
        results = set()
        for update in (
            limits_update(read_headers(headers, NOW).limits, "codex", None),
            read_event(event, NOW),
            read_usage({"rate_limit": None, "additional_rate_limits": additional}, NOW),
        ):
            self.assertEqual(update.named["odd"].name, name)
            credential = Credential()
            credential.give(HeadersObserved(update))
            self.assertTrue(credential.at().usable)
            results.add(not credential.at(model=model).usable)
        return results

    def test_the_models_that_it_names(self) -> None:
        self.assertEqual(self.closes("GPT-5.3-Codex-Spark", "gpt-5.3-codex-spark"), {True})
        self.assertEqual(self.closes("Spark", "gpt-5.3-codex-spark"), {True})
        self.assertEqual(self.closes("Spark", "gpt-5.3-codex"), {False})

    def test_a_name_that_is_a_word_of_all_models_closes_none(self) -> None:
        for name in ("GPT", "codex", "OpenAI", "model", "latest"):
            self.assertEqual(self.closes(name, f"gpt-5-codex-{name.lower()}"), {False}, name)
