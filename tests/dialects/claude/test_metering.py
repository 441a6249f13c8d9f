"""Limits and usage of the Claude dialect: read from responses, and rewritten for clients."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.metering import ClaudeMetering, aggregate_headers
from ccmproxy.dialects.claude.usage_meters import StreamMeter
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.meters import LARGEST_JSON, JSONMeter, OpaqueMeter
from ccmproxy.dialects.usage import Tokens, UsageMeter
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import LimitsUpdate

METERING = ClaudeMetering()
NOW = 1_795_000_000.0
SHORT_RESET = int(NOW) + 3600
WEEKLY_RESET = int(NOW) + 3 * 86400
UNIFIED = b"anthropic-ratelimit-unified-"


def observed(family: dict[str, object]) -> LimitsUpdate:
    """What an answer with these fields of the family says."""
    headers = [(UNIFIED.title() + name.encode(), str(value).encode()) for name, value in family.items()]
    return METERING.limits_from_headers(headers, NOW)


class LimitsFromHeadersTests(SynchronousTestCase):
    """Spec 4.7."""

    def test_both_windows(self) -> None:
        update = observed(
            {
                "status": "allowed",
                "5h-utilization": "0.070",
                "5h-reset": int(SHORT_RESET),
                "7d-utilization": "0.2901",
                "7d-reset": int(WEEKLY_RESET),
            }
        )
        assert update.short is not None and update.weekly is not None
        # Rounded up, but 0.07 is 7 % and not 8.
        self.assertEqual((update.short.utilization, update.short.resets_at), (7, SHORT_RESET))
        self.assertEqual((update.weekly.utilization, update.weekly.resets_at), (30, WEEKLY_RESET))
        self.assertEqual(update.rejected_until, 0)
        self.assertTrue(update.has_data)

    def test_no_family_no_data(self) -> None:
        self.assertFalse(
            METERING.limits_from_headers([(b"anthropic-ratelimit-tokens-limit", b"5")], NOW).has_data
        )
        self.assertFalse(observed({"status": "allowed"}).has_data)

    def organization(self, *values: bytes, family: Headers | None = None) -> str:
        """The organization that a response with limits names in fields with these values."""
        usual = [(UNIFIED + b"5h-utilization", b"0.1")]
        headers = [(b"Anthropic-Organization-Id", value) for value in values]
        return METERING.limits_from_headers(headers + (usual if family is None else family), NOW).organization

    def test_whose_account_it_is(self) -> None:
        """F33."""
        self.assertEqual(self.organization(b"4f5a-org"), "4f5a-org")
        self.assertEqual(self.organization(b" 4f5a-org "), "4f5a-org")
        self.assertEqual(self.organization(b"first", b"second"), "first")
        for odd in (b"", b" ", b"a\tb", b"\xff\xfe", b"two words", b"x" * 5000):
            self.assertEqual(self.organization(odd), "", odd)
        self.assertEqual(self.organization(), "")

    def test_an_organization_alone_is_no_news(self) -> None:
        """Every response names the organization, also one without limits."""
        headers: Headers = [(b"anthropic-organization-id", b"org")]
        self.assertEqual(METERING.limits_from_headers(headers, NOW), LimitsUpdate())

    def test_of_two_accounts_with_the_same_figures_each_keeps_its_own(self) -> None:
        """The cache of parsed headers distinguishes responses by all fields that were read."""
        self.assertEqual([self.organization(value) for value in (b"a", b"b", b"a")], ["a", "b", "a"])

    def test_a_rejected_window_counts_like_the_overall_status(self) -> None:
        self.assertEqual(
            observed({"5h-status": "rejected", "5h-reset": int(SHORT_RESET)}).rejected_until, SHORT_RESET
        )
        self.assertEqual(
            observed({"status": "rejected", "reset": int(SHORT_RESET)}).rejected_until, SHORT_RESET
        )

    def test_a_models_window_does_not_reject_the_account(self) -> None:
        update = observed(
            {
                "status": "rejected",
                "representative-claim": "seven_day_opus",
                "7d_opus-status": "rejected",
                "7d_opus-utilization": 1,
                "7d_opus-reset": int(WEEKLY_RESET),
                "reset": int(WEEKLY_RESET),
            }
        )
        self.assertEqual(update.rejected_until, 0)
        self.assertEqual(update.model_rejections, {"opus": WEEKLY_RESET})
        self.assertEqual(update.models["opus"].utilization, 100)

    def test_malformed_values_are_ignored(self) -> None:
        for bad in ("", "x", "nan", "inf", "-1", "1e307", "1e999", "0x10"):
            self.assertIsNone(observed({"5h-utilization": bad, "5h-reset": "soon"}).short, bad)

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    "status",
                    "reset",
                    "5h-status",
                    "5h-reset",
                    "5h-utilization",
                    "7d-reset",
                    "7d-utilization",
                    "7d_opus-status",
                    "7d_opus-reset",
                    "representative-claim",
                ]
            ),
            st.text(max_size=12) | st.floats().map(str) | st.integers().map(str),
        )
    )
    def test_never_raises(self, family: dict[str, str]) -> None:
        observed({name: value.encode("utf-8", "replace").decode("latin-1") for name, value in family.items()})


def aggregate(short: float = 10, weekly: float = 20, state: str = "usable") -> Aggregate:
    """A pool in this state."""
    return Aggregate(
        short_utilization=short,
        short_reset=SHORT_RESET,
        weekly_utilization=weekly,
        weekly_reset=WEEKLY_RESET,
        plan_weight=10,
        availability=Availability(state),  # type: ignore[arg-type]
    )


def fields(headers: Headers) -> dict[str, str]:
    """The family's fields, and the plan weight."""
    return {name.removeprefix(UNIFIED).decode(): value.decode() for name, value in headers}


class PublicHeadersTests(SynchronousTestCase):
    """Spec 8.3: no client sees the state of a single account."""

    def test_the_accounts_own_are_removed(self) -> None:
        headers = [
            (b"Anthropic-RateLimit-Unified-5h-Utilization", b"0.9"),
            (b"anthropic-ratelimit-unified-overage-status", b"allowed"),
            (b"Content-Type", b"application/json"),
            (b"request-id", b"req_up"),
            (b"Connection", b"keep-alive"),
        ]
        kept = [(b"Content-Type", b"application/json"), (b"request-id", b"req_up")]
        self.assertEqual(METERING.public_headers(headers, None, NOW), kept)
        added = METERING.public_headers(headers, aggregate(), NOW)
        self.assertEqual(added[:2], kept)
        self.assertEqual(fields(added[2:])["5h-utilization"], "0.100000")

    def test_the_aggregate_as_headers(self) -> None:
        self.assertEqual(
            fields(aggregate_headers(aggregate(short=33.3333333, weekly=2), NOW)),
            {
                "status": "allowed",
                "5h-utilization": "0.333333",
                "7d-utilization": "0.020000",
                "5h-reset": str(int(SHORT_RESET)),
                "7d-reset": str(int(WEEKLY_RESET)),
                "representative-claim": "five_hour",
                "reset": str(int(SHORT_RESET)),
                "X-CCM-Plan-Weight": "10",
            },
        )

    def test_a_full_window_rejects_and_is_the_claim(self) -> None:
        found = fields(aggregate_headers(aggregate(short=99, weekly=100), NOW))
        self.assertEqual(found["status"], "rejected")
        self.assertEqual(found["representative-claim"], "seven_day")
        self.assertEqual(found["reset"], str(int(WEEKLY_RESET)))
        self.assertEqual(found["7d-surpassed-threshold"], "true")

    def test_a_warning(self) -> None:
        # 80 % of the week's window used when 4 of its 7 days have passed is no warning yet for 75 % … it is at 60 %.
        early = Aggregate(10, SHORT_RESET, 80, int(NOW) + 3 * 86400, 1, Availability("usable"))
        late = Aggregate(10, SHORT_RESET, 80, int(NOW) + 2 * 86400, 1, Availability("usable"))
        self.assertEqual(fields(aggregate_headers(early, NOW))["status"], "allowed")
        found = fields(aggregate_headers(late, NOW))
        self.assertEqual((found["status"], found["representative-claim"]), ("allowed_warning", "seven_day"))
        self.assertEqual(found["7d-surpassed-threshold"], "true")
        self.assertNotIn("5h-surpassed-threshold", found)

    def test_only_a_full_window_that_is_shown_rejects(self) -> None:
        """Spec 12.2, F50: a burst closes the pool, but no window; claim and reset would be of the wrong one."""
        found = fields(aggregate_headers(aggregate(state="rate_limited"), NOW))
        self.assertEqual(found["status"], "allowed")
        full = replace(aggregate(state="rate_limited"), short_utilization=100.0, weekly_utilization=99.0)
        found = fields(aggregate_headers(full, NOW))
        self.assertEqual((found["status"], found["representative-claim"]), ("rejected", "five_hour"))
        self.assertEqual(found["reset"], str(full.short_reset))


class OtherMeterTests(SynchronousTestCase):
    """Answers that are no event streams."""

    def meter(self, status: int = 200, billable: bool = True, **headers: str) -> UsageMeter:
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return METERING.meter(RequestFacts(billable=billable), ResponseHead(status, b"", fields), lambda: NOW)

    def test_the_meter_fits_the_answer(self) -> None:
        self.assertIsInstance(self.meter(content_type="text/event-stream; charset=utf-8"), StreamMeter)
        self.assertIsInstance(self.meter(content_type="Application/JSON"), JSONMeter)
        for other in (
            self.meter(),
            self.meter(content_type="text/html"),
            self.meter(status=529, content_type="application/json"),
            self.meter(content_type="application/json", billable=False),
            self.meter(content_type="text/event-stream", billable=False),
            self.meter(content_type="text/event-stream", content_encoding="gzip"),
        ):
            self.assertIsInstance(other, OpaqueMeter)
            other.feed(b"x")
            self.assertFalse(other.reading().complete)
            other.end()
            self.assertTrue(other.reading().complete)

    def test_a_json_message(self) -> None:
        body = json.dumps(
            {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 4}, "content": []}
        ).encode()
        meter = self.meter(content_type="application/json")
        meter.feed(body[:9])
        self.assertFalse(meter.reading().complete)
        meter.feed(body[9:])
        meter.end()
        self.assertEqual(meter.reading().tokens, Tokens(input=3, output=4))

    def test_json_that_is_none_or_too_large(self) -> None:
        for chunks in (
            [b"<html>"],
            [b"[]"],
            [b'{"usage": 5}'],
            [b" " * LARGEST_JSON, b"{}"],
            [b"[" * 100_000],
        ):
            meter = self.meter(content_type="application/json")
            for chunk in chunks:
                meter.feed(chunk)
            meter.end()
            self.assertTrue(meter.reading().complete)
            self.assertFalse(meter.reading().reported)
