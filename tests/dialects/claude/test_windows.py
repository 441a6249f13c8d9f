"""Claude's windows, in headers and at the usage endpoint."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.windows import Claim, family_claims, parse_family, read_headers, read_usage
from ccmproxy.http.message import Headers
from ccmproxy.state.inputs import HeadersObserved
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, LimitsUpdate, Window
from tests.states import HOUR, NOW, Credential

RESET = int(NOW + HOUR)


def told(family: str) -> tuple[LimitsUpdate, ...]:
    """The upstream's reports of a full window of ``family``, one in each format."""
    prefix = b"anthropic-ratelimit-unified-"
    window = f"7d_{family}".encode()
    used = (prefix + window + b"-utilization", b"1.0")
    rejected = (prefix + window + b"-status", b"rejected")
    reset = (prefix + window + b"-reset", b"%d" % RESET)
    claim = [
        (prefix + b"status", b"rejected"),
        (prefix + b"representative-claim", f"seven_day_{family}".encode()),
        (prefix + b"reset", b"%d" % RESET),
    ]
    stamp = "2027-01-15T09:00:00Z"
    return (
        read_headers((used, reset)),
        read_headers((rejected, reset)),
        read_headers(tuple(claim)),
        read_usage({"five_hour": None, f"seven_day_{family}": {"utilization": 100, "resets_at": stamp}}),
    )


class ModelWindowTests(SynchronousTestCase):
    """A window of a single model family (spec 4.7)."""

    def closes(self, family: str, model: str) -> set[bool]:
        """Whether a full window of ``family`` closes ``model``, for each format of the report."""
        results = set()
        for update in told(family):
            credential = Credential()
            credential.give(HeadersObserved(update))
            self.assertTrue(credential.at().usable, "a model's window is not the account's")
            results.add(not credential.at(model=model).usable)
        return results

    def test_a_familys_window_closes_its_models(self) -> None:
        for family, model, closed in (
            ("opus", "claude-opus-4-5", True),
            ("opus_4", "claude-opus-4-5", True),
            ("claude_opus", "claude-opus-4-5", True),
            ("sonnet", "claude-opus-4-5", False),
        ):
            self.assertEqual(self.closes(family, model), {closed}, family)

    def test_a_window_with_a_word_of_all_models_closes_none(self) -> None:
        for family in ("claude", "anthropic", "model", "latest"):
            self.assertEqual(self.closes(family, f"claude-opus-4-5-{family}"), {False}, family)


class ClaimTests(SynchronousTestCase):
    """Spec 4.6."""

    def test_what_a_refusal_is_about(self) -> None:
        for family, expected in (
            ({"representative-claim": "five_hour", "5h-reset": str(RESET)}, Claim(RESET)),
            ({"representative-claim": "seven_day", "reset": str(RESET)}, Claim(RESET)),
            ({"representative-claim": "seven_day_opus", "reset": str(RESET)}, Claim(RESET, "opus")),
            ({"7d_opus-status": "rejected", "7d_opus-reset": str(RESET)}, Claim(RESET, "opus")),
            ({"7d_opus-status": "rejected", "5h-status": "rejected", "reset": str(RESET)}, Claim(RESET)),
            ({}, Claim()),
        ):
            self.assertEqual(family_claims(family), expected)

    def test_fields_of_the_family(self) -> None:
        headers: Headers = [(b"Anthropic-RateLimit-Unified-5h-Reset", b" 5 "), (b"x-other", b"6")]
        self.assertEqual(parse_family(headers), {"5h-reset": "5"})


class UsageTests(SynchronousTestCase):
    """The usage endpoint's windows."""

    def test_windows(self) -> None:
        window = {"utilization": 12.5, "resets_at": "2027-01-15T09:00:00Z"}
        update = read_usage({"five_hour": window, "seven_day": window, "seven_day_opus": window, "x": 5})
        self.assertEqual(
            update,
            LimitsUpdate(
                Window(12.5, 1_800_003_600, SHORT_WINDOW),
                Window(12.5, 1_800_003_600, WEEKLY_WINDOW),
                {"opus": Window(12.5, 1_800_003_600, WEEKLY_WINDOW)},
            ),
        )
        self.assertEqual(read_usage({"five_hour": None, "seven_day_opus": 5}), LimitsUpdate())

    @given(
        st.dictionaries(
            st.sampled_from(["five_hour", "seven_day", "seven_day_opus"]), st.text() | st.floats()
        )
    )
    def test_never_raises(self, answer: dict[str, object]) -> None:
        read_usage(answer)
        read_usage({key: {"utilization": value, "resets_at": value} for key, value in answer.items()})
