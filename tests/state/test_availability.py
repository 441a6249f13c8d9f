"""The state of one credential: is it usable, and if not, why?"""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.availability import (
    EXTERNAL_CAPS,
    Availability,
    Caps,
    CredentialState,
    availability,
    next_change,
)
from ccmproxy.state.inputs import AccountRefused, HeadersObserved, RateLimited, SocketsRest, TimePassed
from ccmproxy.state.limits import (
    MOST_MODELS,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    Limits,
    LimitsUpdate,
    NamedLimit,
    Window,
)
from ccmproxy.state.refused import Refused
from tests.states import CAPS, HOUR, NOW, Credential, said


class AvailabilityTests(SynchronousTestCase):
    """Reasons, in the order of spec 5.1."""

    def test_each_reason_hides_the_later_ones(self) -> None:
        state = CredentialState(
            unavailable="no credential file",
            refused=Refused("account closed", NOW, NOW + 60, NOW + 60),
            rate_limited_until=NOW + HOUR,
            rejected_until=NOW + HOUR,
            cannot_serve=True,
            poll_failures=2,
            limits=Limits(Window(99.0, NOW + HOUR), Window(100.0, NOW + 2 * HOUR), {"opus": Window(100.0)}),
        )
        usable_again = (
            ("unavailable", "unavailable", {"unavailable": None}),
            ("rate_limited", "rate_limited", {"rate_limited_until": 0.0}),
            ("temporarily_blocked", "rejected", {"rejected_until": 0.0}),
            ("temporarily_blocked", "rejected", {"cannot_serve": False}),
            ("temporarily_blocked", "refused", {"refused": None}),
            ("rate_limited", "weekly_window", {"limits": replace(state.limits, weekly=Window(98.9))}),
            ("rate_limited", "short_window", {"limits": Limits(models=state.limits.models)}),
            ("rate_limited", "model_window", {"limits": Limits()}),
            ("temporarily_blocked", "poll_failed", {"poll_failures": 0}),
        )
        for word, reason, cure in usable_again:
            found = availability(state, CAPS, NOW, "claude-opus-4-5")
            self.assertEqual((found.state, found.reason), (word, reason))
            self.assertTrue(found.message)
            state = replace(state, **cure)
        self.assertEqual(availability(state, CAPS, NOW, "claude-opus-4-5"), Availability("usable"))

    def test_starts_unavailable(self) -> None:
        self.assertEqual(Credential(loaded=False).at().state, "unavailable")
        self.assertTrue(Credential().at().usable)

    def test_messages(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=99, hours=133 / 60)))
        self.assertEqual(credential.at().message, "5-hour window at 99 % (cap 99 %), resets in 2h13m")
        credential.give(RateLimited(NOW + 5 * HOUR, explicit=True))
        self.assertEqual(credential.at().message, "rate-limited until 2027-01-15 13:00 UTC (in 5h)")
        credential = Credential()
        credential.give(AccountRefused("This organization has been disabled."))
        self.assertEqual(
            credential.at().message,
            "the provider refuses this account: This organization has been disabled.",
        )
        credential = Credential()
        credential.give(AccountRefused(""))
        self.assertEqual(credential.at().message, "the provider refuses this account: it gave no reason")

    def test_windows_are_named_by_their_length(self) -> None:
        """F34: the first window of an account may have any length."""
        for length, name in (
            (WEEKLY_WINDOW, "weekly"),
            (30 * 86400, "monthly"),
            (3 * 86400, "3-day"),
            (0, "5-hour"),
        ):
            state = CredentialState(unavailable=None, limits=Limits(short=Window(99.0, 0.0, length)))
            self.assertEqual(availability(state, CAPS, NOW).message, f"{name} window at 99 % (cap 99 %)")

    def test_caps(self) -> None:
        credential = Credential(Caps(short=80, weekly=50))
        credential.give(HeadersObserved(said(short=79.9, weekly=49.9)))
        self.assertTrue(credential.at().usable)
        credential.give(HeadersObserved(said(short=80)))
        self.assertEqual(credential.at().reason, "short_window")
        credential.give(HeadersObserved(said(weekly=50, hours=30)))
        self.assertEqual(credential.at().reason, "weekly_window")
        external = Credential(EXTERNAL_CAPS)
        external.give(HeadersObserved(said(short=99.9, weekly=99.9)))
        self.assertTrue(external.at().usable)

    def test_expired_window_counts_as_empty(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=100)))
        self.assertEqual(credential.at(NOW + 2 * HOUR - 1).reset_at, NOW + 2 * HOUR)
        self.assertTrue(credential.at(NOW + 2 * HOUR).usable)

    def test_reset_is_when_all_windows_are_free(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=100)), HeadersObserved(said(weekly=100, hours=50)))
        self.assertEqual(credential.at().reset_at, NOW + 50 * HOUR)
        credential.give(RateLimited(NOW + HOUR, explicit=True))
        self.assertEqual(credential.at().reset_at, NOW + 50 * HOUR)

    def test_external_and_api_key_without_windows(self) -> None:
        self.assertTrue(Credential(EXTERNAL_CAPS).at(NOW, "any").usable)


class ModelWindowTests(SynchronousTestCase):
    """A model's window makes that model unusable, on that account only (spec 4.7)."""

    def closes(self, family: str, model: str) -> bool:
        """Whether a full window of the family makes the model unusable; the same must hold for a refusal."""
        results = set()
        for update in (
            LimitsUpdate(models={family: Window(100.0, NOW + HOUR)}),
            LimitsUpdate(model_rejections={family: NOW + HOUR}),
        ):
            credential = Credential()
            credential.give(HeadersObserved(update))
            self.assertTrue(credential.at().usable)
            results.add(credential.at(NOW, model).usable)
            self.assertTrue(credential.at(NOW + HOUR, model).usable)
        self.assertEqual(len(results), 1)
        return not results.pop()

    def test_family(self) -> None:
        for family, model in (
            ("opus", "claude-opus-4-5-20251101"),
            ("Opus", "claude-opus-4-5"),
            ("oi", "claude-oi-1"),
            ("sonnet", "us.anthropic.claude-sonnet-4@20250514"),
            ("gpt_5_codex", "gpt-5-codex"),
        ):
            self.assertTrue(self.closes(family, model), (family, model))

    def test_others(self) -> None:
        for family, model in (
            ("opus", "claude-sonnet-4-5"),
            ("oi", "claude-void-1"),
            ("mystery", "claude-opus-4-5"),
            ("4", "claude-opus-4-5"),
            ("_", "claude-opus-4-5"),
            ("", "claude-opus-4-5"),
        ):
            self.assertFalse(self.closes(family, model), (family, model))

    def test_unknown_families_are_kept(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(LimitsUpdate(models={"mystery": Window(70.0, NOW + HOUR)})))
        self.assertEqual(credential.state.limits.models["mystery"].utilization, 70)

    def test_refusals_are_bounded(self) -> None:
        """F23: the number of names is bounded, because the upstream chooses them."""
        credential = Credential()
        for number in range(3 * MOST_MODELS):
            update = LimitsUpdate(model_rejections={f"m{number}": NOW + HOUR + number})
            credential.give(HeadersObserved(update))
        self.assertEqual(len(credential.state.model_rejections), MOST_MODELS)
        credential.give(TimePassed(), at=NOW + 2 * HOUR)
        self.assertEqual(len(credential.state.model_rejections), 0)


class NamedLimitTests(SynchronousTestCase):
    """An additional limit makes only the models unusable after which it is named."""

    def test_either_of_its_windows_closes_the_model(self) -> None:
        full, free = Window(100.0, NOW + HOUR, SHORT_WINDOW), Window(5.0, NOW + HOUR, WEEKLY_WINDOW)
        monthly = Window(99.5, NOW + 9 * HOUR, 30 * 86400.0)
        for limit, reset in (
            (NamedLimit("GPT-5.3-Codex-Spark", full, free), NOW + HOUR),
            (NamedLimit("gpt-5.3-codex-spark", Window(), monthly), NOW + 9 * HOUR),
        ):
            credential = Credential()
            credential.give(HeadersObserved(LimitsUpdate(named={"codex_bengalfox": limit})))
            self.assertTrue(credential.at().usable)
            self.assertTrue(credential.at(model="gpt-5.3-codex").usable)
            closed = credential.at(model="gpt-5.3-codex-spark")
            self.assertEqual((closed.reason, closed.reset_at), ("model_window", reset))
        self.assertIn("monthly window at 99.5 %", closed.message)

    def test_one_without_a_name_closes_nothing(self) -> None:
        credential = Credential()
        limit = NamedLimit("", Window(100.0, NOW + HOUR, SHORT_WINDOW))
        credential.give(HeadersObserved(LimitsUpdate(named={"gpt": limit})))
        self.assertTrue(credential.at(model="gpt-5").usable)

    def test_one_whose_name_tells_no_models_closes_nothing(self) -> None:
        credential = Credential()
        full = Window(100.0, NOW + HOUR, SHORT_WINDOW)
        for names_models in (True, False):
            limit = NamedLimit("GPT", full, names_models=names_models)
            credential.give(HeadersObserved(LimitsUpdate(named={"gpt": limit})))
            self.assertEqual(credential.at(model="gpt-5").usable, not names_models)
        unnamed = LimitsUpdate(named={"gpt": NamedLimit("", full)})
        credential.give(HeadersObserved(unnamed))
        self.assertTrue(
            credential.at(model="gpt-5").usable, "the name that is kept is the one without models"
        )


class NextChangeTests(SynchronousTestCase):
    """When the state may next change without an input."""

    def test_moments(self) -> None:
        credential = Credential()
        self.assertIsNone(next_change(credential.state, CAPS, NOW))
        credential.give(HeadersObserved(said(short=10)), RateLimited(NOW + 300), SocketsRest(NOW + 60))
        now = NOW
        for expected in (NOW + 60, NOW + 300, NOW + 2 * HOUR, None):
            found = next_change(credential.state, CAPS, now)
            self.assertEqual(found, expected)
            now = found or now
