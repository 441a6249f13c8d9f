"""Tests of a credential's state when the system's clock is set: durations stay durations, resets stay where they are
(spec 11, F65)."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.availability import availability, next_change
from ccmproxy.state.charging import poll_wanted
from ccmproxy.state.clock_set import moved
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import (
    AccountRefused,
    ClockSet,
    Denied,
    HeadersObserved,
    Input,
    ModelDenied,
    PollFailed,
    PollRefused,
    RateLimited,
    Rejected,
    RequestRefused,
    RequestSent,
    RequestServed,
    Rests,
    SocketsRest,
    TokenAvailable,
    TokenDelayed,
    TokenUnavailable,
)
from ccmproxy.state.limits import LimitsUpdate, Window
from tests.profiles import examples
from tests.states import CAPS, HOUR, NOW, Credential, said

ASKED = Combination("/v1/messages", "opus")
#: Back by 3 h, and forward by 20 h (spec 11).
JUMPS = (-3 * HOUR, 20 * HOUR)

#: Inputs that leave durations behind. The times in them are those of the moment at which they are given.
_SECONDS = st.floats(1.0, 7000.0).map(round).map(float)
_INPUTS: st.SearchStrategy[tuple[float, Input]] = st.tuples(
    st.sampled_from((0.0, 1.0, 30.0, 400.0)),
    st.one_of(
        _SECONDS.map(lambda seconds: RateLimited(seconds)),
        _SECONDS.map(lambda seconds: Rejected(seconds)),
        _SECONDS.map(lambda seconds: SocketsRest(seconds)),
        _SECONDS.map(lambda seconds: TokenDelayed("the disk is full", seconds)),
        _SECONDS.map(lambda seconds: TokenUnavailable("cannot be read", until=seconds)),
        _SECONDS.map(lambda seconds: HeadersObserved(LimitsUpdate(model_rejections={"opus": seconds}))),
        st.sampled_from(
            (
                Rests(ASKED, "alice"),
                Rests(ASKED, "bob", 20.0),
                Denied(ASKED, "alice", "no"),
                ModelDenied("opus"),
                AccountRefused("closed"),
                RequestRefused(ASKED, "alice", is_busy=True),
                RequestRefused(ASKED, "bob", is_busy=True),
                RequestSent(ASKED),
                PollFailed(),
                PollRefused(403),
                TokenUnavailable("no file", is_gone=True),
                TokenAvailable(1.0),
            )
        ),
    ),
)


def at(event: Input, now: float) -> Input:
    """The input with times from ``now`` on."""
    match event:
        case RateLimited(until) | Rejected(until) | SocketsRest(until):
            return type(event)(now + until)
        case TokenDelayed(message, until):
            return TokenDelayed(message, now + until)
        case TokenUnavailable(until=until) if until:
            return replace(event, until=now + until)
        case HeadersObserved(update):
            rejections = {family: now + until for family, until in update.model_rejections.items()}
            return HeadersObserved(replace(update, model_rejections=rejections))
        case _:
            return event


class DurationTests(SynchronousTestCase):
    """What was counted from a moment of our own."""

    @examples(300)
    @given(st.lists(_INPUTS, max_size=8), st.sampled_from(JUMPS), st.sampled_from((0.0, 50.0, 700.0, 3000.0)))
    def test_as_if_nothing_had_happened(
        self, events: list[tuple[float, Input]], by: float, later: float
    ) -> None:
        """Whatever is remembered, it ends after the same time as on a clock that was not set."""
        credential, now = Credential(), NOW
        for seconds, event in events:
            now += seconds
            credential.give(at(event, now), at=now)
        before, now = credential.state, now + later
        after = moved(before, by)
        was, present = availability(before, CAPS, now), availability(after, CAPS, now + by)
        self.assertEqual((present.state, present.reason), (was.state, was.reason))
        self.assertEqual(present.reset_at, was.reset_at and was.reset_at + by)
        self.assertEqual(
            (present.lets_one_through, present.is_last_resort), (was.lets_one_through, was.is_last_resort)
        )
        for is_warm in (False, True):
            self.assertIs(
                after.holds.turns_away(ASKED, is_warm, now + by), before.holds.turns_away(ASKED, is_warm, now)
            )
        free = before.holds.free_at(ASKED, now)
        self.assertEqual(after.holds.free_at(ASKED, now + by), free and free + by)
        change = next_change(before, CAPS, now)
        self.assertEqual(next_change(after, CAPS, now + by), change and change + by)
        wanted = poll_wanted(before, NOW - 100, now)
        self.assertEqual(poll_wanted(after, NOW - 100 + by, now + by), wanted and wanted + by)
        self.assertEqual(after.delayed_until, before.delayed_until and before.delayed_until + by)
        self.assertEqual(moved(after, -by), before)

    def test_what_was_refused_before_a_jump_and_served_after_it(self) -> None:
        """Which of the two came first does not depend on the clock."""
        for by in JUMPS:
            with self.subTest(by=by):
                credential = Credential()
                credential.give(Rests(ASKED, "alice", 60.0))
                credential.give(ClockSet(by), at=NOW + by)
                credential.give(RequestServed(ASKED, NOW + by - 1), at=NOW + by + 2)
                self.assertTrue(credential.state.holds.turns_away(ASKED, False, NOW + by + 3))
                credential.give(RequestServed(ASKED, NOW + by + 1), at=NOW + by + 2)
                self.assertFalse(credential.state.holds.turns_away(ASKED, False, NOW + by + 3))

    def test_the_age_of_the_figures(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(10.0)))
        credential.give(ClockSet(-3 * HOUR), at=NOW - 3 * HOUR)
        self.assertEqual(credential.state.last_update, NOW - 3 * HOUR)


class UnixTimeTests(SynchronousTestCase):
    """What the upstream has told as Unix time."""

    def test_windows_stay(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(100.0, 10.0, hours=2.0)))
        limits = credential.state.limits
        credential.give(ClockSet(-3 * HOUR), at=NOW - 3 * HOUR)
        self.assertEqual(credential.state.limits, limits)
        self.assertEqual(credential.at(NOW - 3 * HOUR).reset_at, NOW + 2 * HOUR)

    def test_a_limit_until_the_reset_of_a_window_stays(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(50.0, 10.0, hours=2.0)), RateLimited(NOW + 2 * HOUR + 30, True))
        credential.give(ClockSet(-3 * HOUR), at=NOW - 3 * HOUR)
        self.assertEqual(credential.state.rate_limited_until, NOW + 2 * HOUR + 30)

    def test_a_limit_of_some_seconds_moves(self) -> None:
        """It came from a Retry-After, or from nothing at all."""
        credential = Credential()
        credential.give(HeadersObserved(said(50.0, 10.0, hours=2.0)), RateLimited(NOW + 60, True))
        credential.give(ClockSet(-3 * HOUR), at=NOW - 3 * HOUR)
        self.assertEqual(credential.at(NOW - 3 * HOUR + 59).reason, "rate_limited")
        self.assertTrue(credential.at(NOW - 3 * HOUR + 61).usable)

    def test_the_windows_of_models(self) -> None:
        week = NOW + 50 * HOUR
        update = LimitsUpdate(
            models=MappingProxyType({"opus": Window(99.5, week)}),
            model_rejections=MappingProxyType({"opus": week, "haiku": NOW + 60}),
        )
        credential = Credential()
        credential.give(HeadersObserved(update))
        credential.give(ClockSet(20 * HOUR), at=NOW + 20 * HOUR)
        blocks = credential.state.model_rejections
        ends = {family: block.until for family, block in blocks.items()}
        self.assertEqual(ends, {"opus": week, "haiku": NOW + 60 + 20 * HOUR})
        self.assertEqual({block.since for block in blocks.values()}, {NOW + 20 * HOUR})


class TransitionTests(SynchronousTestCase):
    """The input."""

    def test_a_jump_ends_no_limit_and_interrupts_nobody(self) -> None:
        """The state before the jump must not be looked at with the time after it."""
        credential = Credential()
        credential.give(RateLimited(NOW + 60))
        self.assertEqual(len(credential.interrupts), 1)
        credential.give(ClockSet(20 * HOUR), at=NOW + 20 * HOUR)
        self.assertEqual(credential.interrupts, [])
        self.assertEqual(credential.at(NOW + 20 * HOUR).reason, "rate_limited")
        self.assertTrue(credential.notified, "its end is another Unix time now")
