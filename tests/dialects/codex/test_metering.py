"""Limits and usage of the Codex dialect: read from responses, and rewritten for clients."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.dialects.codex.metering import (
    CHAT,
    CodexMetering,
    aggregate_event,
    aggregate_headers,
    limits_from_event,
)
from ccmproxy.dialects.codex.usage_meters import ChatMeter, ResponsesMeter
from ccmproxy.dialects.event_rewriter import EventRewriter
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.meters import JSONMeter, OpaqueMeter
from ccmproxy.dialects.usage import UsageMeter
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.interfaces.facets import IMetering
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import Credits, LimitsUpdate, NamedLimit, Window
from tests.dialects.codex.events import (
    CHAT_USAGE,
    COMPLETED,
    CREATED,
    LIMITS,
    NOW,
    SHORT_RESET,
    STREAM,
    TEXT,
    TOKENS,
    USAGE,
    WEEKLY_RESET,
    event,
    rate_limits,
)

METERING = CodexMetering()
OWN = {
    "x-codex-primary-used-percent": "13.5",
    "x-codex-primary-window-minutes": "300",
    "x-codex-primary-reset-at": str(SHORT_RESET),
    "X-Codex-Secondary-Used-Percent": "35",
    "x-codex-secondary-window-minutes": "10080",
    "x-codex-secondary-reset-at": str(WEEKLY_RESET),
}
OWN_UPDATE = LimitsUpdate(Window(13.5, SHORT_RESET, 18000), Window(35, WEEKLY_RESET, 604800))


def observed(fields: dict[str, str]) -> LimitsUpdate:
    """What an answer with these header fields says."""
    return METERING.limits_from_headers(
        [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields.items()], NOW
    )


class LimitsFromHeadersTests(SynchronousTestCase):
    """Spec 4.7."""

    def test_facet(self) -> None:
        self.assertTrue(verifyObject(IMetering, METERING))

    def test_both_windows(self) -> None:
        self.assertEqual(observed(OWN), OWN_UPDATE)

    def test_another_limit_has_windows_of_its_own(self) -> None:
        spark = {
            "x-codex-active-limit": "codex-bengalfox",
            "x-codex-bengalfox-primary-used-percent": "100",
            "x-codex-bengalfox-primary-window-minutes": "60",
            "x-codex-bengalfox-limit-name": "GPT-5.3-Codex-Spark",
        }
        named = {"codex_bengalfox": NamedLimit("GPT-5.3-Codex-Spark", Window(100, 0, 3600))}
        self.assertEqual(observed(spark), LimitsUpdate(named=named))
        update = observed({**OWN, **spark})
        self.assertEqual((update.short, update.weekly), (OWN_UPDATE.short, OWN_UPDATE.weekly))
        self.assertEqual(update.named, named)

    def test_an_active_limit_without_a_name_is_the_accounts(self) -> None:
        update = observed({"x-codex-active-limit": "premium", "x-premium-primary-used-percent": "5"})
        self.assertEqual(update, LimitsUpdate(Window(5, 0, 18000)))
        update = observed({**OWN, "x-codex-active-limit": "premium"})
        self.assertEqual(update, OWN_UPDATE)

    def test_windows_are_placed_by_their_own_lengths(self) -> None:
        """F34: a primary window of 10,080 minutes is a week's."""
        update = observed(
            {"x-codex-primary-used-percent": "5", "x-codex-primary-window-minutes": "10080"}
            | {"x-codex-secondary-used-percent": "0", "x-codex-secondary-window-minutes": "0"}
        )
        self.assertEqual(update, LimitsUpdate(weekly=Window(5, 0, 604800)))

    def test_older_resets_are_relative(self) -> None:
        update = observed({"x-codex-primary-used-percent": "5", "x-codex-primary-reset-after-seconds": "90"})
        self.assertEqual(update, LimitsUpdate(Window(5, NOW + 90, 18000)))

    def test_credits(self) -> None:
        fields = {"x-codex-credits-has-credits": "True", "x-codex-credits-unlimited": "0"}
        self.assertEqual(
            observed({**fields, "x-codex-credits-balance": "5.00"}).credits, Credits(True, False, "5.00")
        )
        self.assertEqual(observed(fields).credits, Credits(True, False))
        self.assertIsNone(observed({**fields, "x-codex-credits-unlimited": "maybe"}).credits)
        self.assertFalse(observed(fields).has_data)

    def test_malformed_values_are_ignored(self) -> None:
        for bad in ("", "x", "nan", "inf", "-1", "1e999", "0x10", "\u0661"):
            self.assertFalse(
                observed({"x-codex-primary-used-percent": bad, "x-codex-primary-reset-at": "9"}).has_data, bad
            )
        update = observed({**OWN, "x-codex-primary-reset-at": "soon", "x-codex-primary-window-minutes": "x"})
        self.assertEqual(update.short, Window(13.5, 0, 18000))

    @given(
        st.dictionaries(
            st.sampled_from([*OWN, "x-codex-active-limit", "x--primary-used-percent", "x-a-limit-name"])
            | st.from_regex(r"x-[a-z-]{0,9}-(primary|secondary)-(used-percent|reset-at)", fullmatch=True),
            st.text(max_size=12) | st.floats().map(str) | st.integers().map(str),
        )
    )
    def test_never_raises(self, fields: dict[str, str]) -> None:
        observed(fields)


def aggregate(short_reset: int = SHORT_RESET) -> Aggregate:
    """A pool in this state."""
    return Aggregate(100 / 3, short_reset, 20, WEEKLY_RESET, 11, Availability("usable"))


class EventTests(SynchronousTestCase):
    """F36 and F37: the state in an event."""

    def read(self, **changes: object) -> LimitsUpdate | None:
        return limits_from_event(json.dumps(rate_limits(**changes)).encode(), NOW)

    def test_the_accounts_limit(self) -> None:
        expected = LimitsUpdate(OWN_UPDATE.short, OWN_UPDATE.weekly, credits=Credits(True, False, "5.00"))
        self.assertEqual(self.read(), expected)
        self.assertEqual(self.read(metered_limit_name=None), expected)

    def test_another_limit(self) -> None:
        update = self.read(metered_limit_name="codex_bengalfox", limit_name="Spark")
        assert update is not None
        self.assertIsNone(update.short)
        self.assertEqual(update.named["codex_bengalfox"].name, "Spark")
        self.assertEqual(update.named["codex_bengalfox"].short, OWN_UPDATE.short)
        self.assertIn("spark", (self.read(metered_limit_name=None, limit_name="Spark") or update).named)

    def test_others(self) -> None:
        self.assertIsNone(self.read(type="response.created"))
        for data in (b"", b"[]", b"{", b'"codex.rate_limits"', b"[" * 100_000):
            self.assertIsNone(limits_from_event(data, NOW))
        kinds: list[object] = [None, [], 5, {"primary": []}, {"primary": {"used_percent": "x"}}]
        for odd in kinds:
            update = self.read(rate_limits=odd, credits=odd)
            assert update is not None
            self.assertFalse(update.has_data)

    def test_what_we_send_is_read_back(self) -> None:
        update = limits_from_event(aggregate_event(aggregate()), NOW)
        self.assertEqual(
            update,
            LimitsUpdate(
                Window(33.33, SHORT_RESET, 18000), Window(20, WEEKLY_RESET, 604800), plan_weight=11.0
            ),
        )
        self.assertEqual(json.loads(aggregate_event(aggregate()))["plan_weight"], 11)
        self.assertNotIn("reset_at", json.loads(aggregate_event(aggregate(0)))["rate_limits"]["primary"])

    @given(st.binary(max_size=60))
    def test_never_raises(self, data: bytes) -> None:
        limits_from_event(data, NOW)
        limits_from_event(b'{"type":"codex.rate_limits","rate_limits":' + data + b"}", NOW)


class PublicHeadersTests(SynchronousTestCase):
    """Spec 8.3: no client sees the state of a single account."""

    def test_the_accounts_own_are_removed(self) -> None:
        kept: Headers = [
            (b"Content-Type", b"text/event-stream"),
            (b"x-request-id", b"req_up"),
            (b"openai-model", b"gpt-5.4"),
            (b"x-models-etag", b"e"),
            (b"x-codex-turn-state", b"ts-1"),
            (b"x-reasoning-included", b"true"),
        ]
        removed: Headers = [
            *((name.encode(), value.encode()) for name, value in OWN.items()),
            (b"x-codex-bengalfox-primary-used-percent", b"1"),
            (b"x-codex-bengalfox-limit-name", b"Spark"),
            (b"X-Codex-Active-Limit", b"codex"),
            (b"x-codex-credits-balance", b"5"),
            (b"x-codex-plan-type", b"team"),
            (b"x-codex-primary-over-secondary-limit-percent", b"5"),
            (b"cf-ray", b"1"),
        ]
        self.assertEqual(METERING.public_headers(removed + kept, None, NOW), kept)
        added = METERING.public_headers(removed + kept, aggregate(), NOW)
        self.assertEqual(added[: len(kept)], kept)
        self.assertEqual(added[len(kept) :], aggregate_headers(aggregate()))

    def test_the_aggregate_as_headers(self) -> None:
        self.assertEqual(
            dict(aggregate_headers(aggregate(short_reset=0))),
            {
                b"x-codex-primary-used-percent": b"33.33",
                b"x-codex-primary-window-minutes": b"300",
                b"x-codex-secondary-used-percent": b"20.00",
                b"x-codex-secondary-window-minutes": b"10080",
                b"x-codex-secondary-reset-at": str(WEEKLY_RESET).encode(),
                b"X-OCM-Plan-Weight": b"11",
            },
        )


class RewriterTests(SynchronousTestCase):
    """F36: the client sees the pool's state in the stream, and the proxy learns the account's."""

    def make(
        self, pool: Aggregate | None, content_type: bytes = b"text/event-stream"
    ) -> EventRewriter | None:
        self.observed: list[LimitsUpdate] = []
        head = ResponseHead(200, b"", [(b"content-type", content_type)])
        return METERING.rewriter(head, self.observed.append, lambda: pool, lambda: NOW)

    def rewrite(self, chunks: list[bytes], pool: Aggregate | None) -> bytes:
        rewriter = self.make(pool)
        assert rewriter is not None
        return b"".join([*map(rewriter.feed, chunks), rewriter.end()])

    def test_replaced(self) -> None:
        ours = b"event: codex.rate_limits\ndata: " + aggregate_event(aggregate()) + b"\n\n"
        for stream in (STREAM, STREAM.replace(LIMITS, LIMITS.partition(b"\n")[2])):
            for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
                self.assertEqual(self.rewrite(chunks, aggregate()), CREATED + ours + TEXT + COMPLETED)
                self.assertEqual([update.short for update in self.observed], [OWN_UPDATE.short])

    def test_dropped_where_nothing_is_known(self) -> None:
        self.assertEqual(self.rewrite([STREAM], None), CREATED + TEXT + COMPLETED)

    def test_text_about_it_is_left_alone(self) -> None:
        text = event("response.output_text.delta", named=False, delta='"type":"codex.rate_limits"')
        self.assertEqual(self.rewrite([text], aggregate()), text)
        self.assertEqual(self.observed, [])

    def test_other_answers_pass_as_they_come(self) -> None:
        self.assertIsNone(self.make(None, b"application/json"))
        fields = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"zstd")]
        head = ResponseHead(200, b"", fields)
        self.assertIsNone(METERING.rewriter(head, self.observed.append, lambda: None, lambda: NOW))


class ChoiceTests(SynchronousTestCase):
    """The meter fits the answer."""

    def meter(self, content_type: bytes, operation: str = "responses", billable: bool = True) -> UsageMeter:
        facts = RequestFacts(operation=operation, billable=billable)
        return METERING.meter(facts, ResponseHead(200, b"", [(b"content-type", content_type)]), lambda: NOW)

    def test_by_operation_and_media_type(self) -> None:
        self.assertIsInstance(self.meter(b"text/event-stream"), ResponsesMeter)
        self.assertIsInstance(self.meter(b"text/event-stream", CHAT), ChatMeter)
        self.assertIsInstance(self.meter(b"application/json"), JSONMeter)
        self.assertIsInstance(self.meter(b"application/json", billable=False), OpaqueMeter)

    def test_json(self) -> None:
        for operation, body, error in (
            ("responses", {"model": "m", "usage": USAGE, "status": "completed", "error": None}, ""),
            ("responses", {"model": "m", "usage": USAGE, "error": {"code": "c"}}, "c"),
            ("responses", {"model": "m", "usage": USAGE, "status": "failed"}, "unknown"),
            (CHAT, {"model": "m", "usage": CHAT_USAGE, "choices": []}, ""),
        ):
            meter = self.meter(b"application/json", operation)
            meter.feed(json.dumps(body).encode())
            meter.end()
            reading = meter.reading()
            self.assertEqual((reading.tokens, reading.model, reading.error), (TOKENS, "m", error))
            self.assertTrue(reading.complete)

    def test_json_that_is_none(self) -> None:
        for operation in ("responses", CHAT):
            for body in (b"", b"<html>", b"[]", b'{"usage": 5}', b"[" * 100_000):
                meter = self.meter(b"application/json", operation)
                meter.feed(body)
                meter.end()
                self.assertEqual((meter.reading().complete, meter.reading().reported), (True, False))
