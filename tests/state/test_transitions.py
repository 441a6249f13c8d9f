"""The state of one credential: what makes it unusable or usable, and with which effects."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.aggregate import aggregate, status_object
from ccmproxy.state.availability import (
    EXTERNAL_CAPS,
    Availability,
    Caps,
    CredentialState,
    availability,
    next_change,
    snapshot,
)
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import (
    AccountRefused,
    Denied,
    HeadersObserved,
    Input,
    Interrupt,
    Leased,
    Log,
    ModelDenied,
    Notify,
    PollFailed,
    PollRefused,
    PollSucceeded,
    RateLimited,
    Rejected,
    RequestGaveUp,
    RequestRefused,
    RequestSent,
    RequestServed,
    Rests,
    SocketsRest,
    TimePassed,
    TokenAvailable,
    TokenDelayed,
    TokenUnavailable,
)
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, LimitsUpdate, Window
from ccmproxy.state.transitions import (
    DEFAULT_BLOCK,
    DEFAULT_RATE_LIMIT,
    LONGEST_RATE_LIMIT,
    SHORTEST_RATE_LIMIT,
    transition,
)
from tests.states import CAPS, HOUR, NOW, Credential, said


class RateLimitTests(SynchronousTestCase):
    """Rate limits after a 429."""

    def until(self, *events: Input) -> float:
        """Seconds from now until the end of the rate limit after these events."""
        credential = Credential()
        credential.give(*events)
        return credential.state.rate_limited_until - NOW

    def test_default_never_shortens(self) -> None:
        """F46: a short default does not shorten a real limit of many hours."""
        self.assertEqual(self.until(RateLimited(NOW + 9 * HOUR, True), RateLimited(NOW + 60)), 9 * HOUR)
        self.assertEqual(self.until(RateLimited(NOW + 60), RateLimited(NOW + 300)), 300)

    def test_explicit_replaces(self) -> None:
        """F46: a time named by the upstream replaces a default, whether it is earlier or later."""
        self.assertEqual(self.until(RateLimited(NOW + 300), RateLimited(NOW + 60, True)), 60)
        self.assertEqual(self.until(RateLimited(NOW + 300), RateLimited(NOW + 9 * HOUR, True)), 9 * HOUR)

    def test_burst_is_over_when_its_default_is(self) -> None:
        """F5: a short block without quota data expires, and has no other consequences."""
        credential = Credential()
        credential.give(HeadersObserved(said(short=40)), RateLimited(NOW + 60))
        self.assertFalse(credential.at(NOW + 59).usable)
        self.assertTrue(credential.at(NOW + 60).usable)

    def test_nonsense(self) -> None:
        for until in (math.nan, math.inf, -math.inf, -1.0, NOW * 1000):
            self.assertEqual(self.until(RateLimited(until, True)), DEFAULT_RATE_LIMIT, until)
        self.assertEqual(self.until(RateLimited(NOW + 9 * HOUR, True), RateLimited(math.nan, True)), 9 * HOUR)
        self.assertEqual(self.until(RateLimited(NOW + 5e7, True)), LONGEST_RATE_LIMIT)

    def test_reset_in_the_past(self) -> None:
        """If the clocks differ, not every request may meet the same 429."""
        for until in (NOW - 5, NOW):
            self.assertEqual(self.until(RateLimited(until, True)), SHORTEST_RATE_LIMIT)
        self.assertEqual(self.until(RateLimited(NOW + HOUR), RateLimited(NOW - 5, True)), HOUR)

    def test_other_blocks_whose_end_is_nonsense(self) -> None:
        """Spec 12.2: WebSockets that an account has no more of rest by themselves; everything else goes on there."""
        credential = Credential()
        credential.give(Rejected(math.inf))
        self.assertFalse(credential.at(NOW + DEFAULT_BLOCK - 1).usable)
        self.assertTrue(credential.at(NOW + DEFAULT_BLOCK).usable)
        credential = Credential()
        credential.give(SocketsRest(math.nan))
        self.assertTrue(credential.at().usable)
        for seconds, takes in ((DEFAULT_BLOCK - 1, False), (DEFAULT_BLOCK, True)):
            self.assertIs(snapshot(credential.state, CAPS, NOW + seconds, tag="a").takes_sockets, takes)

    def test_headers_that_say_rejected(self) -> None:
        self.assertEqual(self.until(HeadersObserved(LimitsUpdate(rejected_until=NOW + HOUR))), HOUR)
        for until in (0.0, NOW, math.nan, math.inf):
            self.assertEqual(self.until(HeadersObserved(LimitsUpdate(rejected_until=until))), -NOW)

    def test_headers_do_not_lift(self) -> None:
        credential = Credential()
        credential.give(
            RateLimited(NOW + HOUR), PollFailed(), Rejected(NOW + HOUR), HeadersObserved(said(1, 1))
        )
        state = credential.state
        self.assertEqual(
            (state.rate_limited_until, state.rejected_until, state.poll_failures),
            (NOW + HOUR, NOW + HOUR, 1),
        )

    def test_poll_lifts_only_what_has_expired(self) -> None:
        credential = Credential()
        credential.give(RateLimited(NOW + HOUR, True), PollSucceeded(said(1, 1)))
        self.assertFalse(credential.at().usable)
        credential.give(PollSucceeded(said(1, 1)), at=NOW + HOUR)
        self.assertEqual(credential.state.rate_limited_until, 0)


class LearningTests(SynchronousTestCase):
    """How responses change the state."""

    def test_poll_lowers_headers_do_not(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=50)), HeadersObserved(said(short=40)))
        self.assertEqual(credential.state.limits.short.utilization, 50)
        credential.give(PollSucceeded(said(short=40)))
        self.assertEqual(credential.state.limits.short.utilization, 40)

    def test_a_remotes_values_are_taken_as_they_are(self) -> None:
        credential = Credential(EXTERNAL_CAPS)
        credential.give(HeadersObserved(said(short=50), is_aggregate=True, plan_weight=12.0))
        credential.give(HeadersObserved(said(short=40), is_aggregate=True))
        self.assertEqual(credential.state.limits.short.utilization, 40)
        self.assertEqual(credential.state.plan_weight, 12)

    def test_last_update_moves_only_with_data(self) -> None:
        """Spec 4.7: a response without data does not postpone the next poll."""
        credential = Credential()
        credential.give(HeadersObserved(LimitsUpdate()), PollFailed())
        self.assertEqual((credential.state.last_update, credential.state.ever_had_data), (0, False))
        credential.give(HeadersObserved(said(short=1)), at=NOW + 1)
        self.assertEqual((credential.state.last_update, credential.state.ever_had_data), (NOW + 1, True))
        credential.give(PollSucceeded(LimitsUpdate()), at=NOW + 2)
        self.assertEqual(credential.state.last_update, NOW + 1)
        # A remote instance tells of itself even where it names no window.
        credential.give(PollSucceeded(LimitsUpdate(), usable=True), at=NOW + 3)
        self.assertEqual(credential.state.last_update, NOW + 3)

    def test_poll_clears_failures_and_rejection(self) -> None:
        credential = Credential()
        credential.give(PollFailed(), PollFailed(), Rejected(NOW + HOUR), SocketsRest(NOW + 60))
        self.assertEqual(credential.state.poll_failures, 2)
        credential.give(PollSucceeded(said(short=1), plan_weight=5.0))
        self.assertTrue(credential.at().usable)
        self.assertEqual(credential.state.sockets_rest_until, NOW + 60)
        self.assertEqual(credential.state.plan_weight, 5)

    def test_token_that_cannot_be_refreshed_for_now(self) -> None:
        """Spec 12.4: the status says why, and when it is tried again; the account itself is as it was."""
        credential = Credential()
        credential.give(TokenDelayed("disk full", NOW + 40))
        self.assertTrue(credential.at().usable)
        credential.give(PollFailed())
        self.assertEqual(credential.at().message, "disk full; next try in 40s")
        self.assertEqual(credential.at(NOW + 41).message, "disk full")
        for event in (TokenAvailable(1.0), PollSucceeded(LimitsUpdate())):
            credential.give(TokenDelayed("disk full", NOW + 40), event, PollFailed())
            self.assertIn("asking for its usage failed", credential.at().message)

    def test_refused_poll_alone_changes_nothing(self) -> None:
        credential = Credential()
        before = credential.state
        credential.give(PollRefused(403))
        self.assertEqual(credential.state, before)

    def test_token(self) -> None:
        credential = Credential()
        credential.give(TokenUnavailable("file removed"))
        self.assertEqual(credential.at(), Availability("unavailable", "unavailable", "file removed"))
        credential.give(TokenAvailable(10.0))
        self.assertTrue(credential.at().usable)
        self.assertEqual(credential.state.plan_weight, 10)

    def test_token_that_is_back_soon(self) -> None:
        """The cause is a passing one, and tried again by itself (spec 12.4)."""
        credential = Credential()
        credential.give(TokenUnavailable("too many open files", until=NOW + 5))
        expected = Availability("unavailable", "unavailable", "too many open files", NOW + 5, is_passing=True)
        self.assertEqual(credential.at(), expected)
        self.assertEqual(credential.at(NOW + 5), replace(expected, reset_at=0.0))
        credential.give(TokenUnavailable("removed"))
        self.assertEqual(credential.at(), Availability("unavailable", "unavailable", "removed"))
        credential.give(TokenUnavailable("too many open files", until=NOW + 5), TokenAvailable(1.0))
        credential.give(TokenUnavailable("removed"))
        self.assertFalse(credential.at().is_passing)

    def test_when_a_delayed_token_is_back(self) -> None:
        credential = Credential()
        credential.give(TokenDelayed("disk full", NOW + 5), PollFailed())
        found = credential.at()
        self.assertEqual((found.reason, found.reset_at), ("poll_failed", NOW + 5))
        self.assertEqual(found.message, "disk full; next try in 5s")
        found = credential.at(NOW + 6)
        self.assertEqual((found.message, found.reset_at), ("disk full", 0.0))

    def test_nonsensical_weights(self) -> None:
        credential = Credential()
        for weight in (0.0, -1.0, math.nan, math.inf, 1e300):
            credential.give(TokenAvailable(weight), PollSucceeded(LimitsUpdate(), weight))
            self.assertEqual(credential.state.plan_weight, 1, weight)

    def test_blocks_are_not_shortened(self) -> None:
        credential = Credential()
        credential.give(Rejected(NOW + 60), Rejected(NOW + 30))
        self.assertEqual((credential.at().reason, credential.at().reset_at), ("rejected", NOW + 60))
        credential.give(Rejected(math.nan))
        self.assertEqual(credential.at().reset_at, NOW + 60)
        credential.give(SocketsRest(NOW + 60), SocketsRest(NOW + 30), SocketsRest(math.nan))
        self.assertEqual(credential.state.sockets_rest_until, NOW + 60)

    def test_snapshot(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(replace(said(short=10), model_rejections={"opus": NOW + HOUR})))
        view = snapshot(credential.state, CAPS, NOW, tag="a", is_external=True, model="claude-opus-4-5")
        self.assertEqual((view.tag, view.is_external, view.has_data, view.caps), ("a", True, True, CAPS))
        self.assertEqual(view.availability.reason, "model_window")
        self.assertIs(view.limits, credential.state.limits)
        self.assertTrue(snapshot(credential.state, CAPS, NOW, tag="a").availability.usable)


class OrganizationTests(SynchronousTestCase):
    """The organization of the windows (F33)."""

    def test_who_says_nothing_of_it_changes_nothing(self) -> None:
        credential = Credential()
        for event, known in (
            (TokenAvailable(1.0), ""),
            (TokenAvailable(1.0, "one"), "one"),
            (TokenAvailable(1.0), "one"),
            (HeadersObserved(said(short=1)), "one"),
            (HeadersObserved(LimitsUpdate(organization="two")), "two"),
            (PollSucceeded(said(short=2)), "two"),
            (TokenAvailable(1.0, "three"), "three"),
        ):
            credential.give(event)
            self.assertEqual(credential.state.organization, known, event)


class RemoteWordTests(SynchronousTestCase):
    """A remote instance reports itself whether it can serve."""

    def test_usable_and_full(self) -> None:
        """A remote without any data reports this; its figures do not describe what it would use."""
        credential = Credential(EXTERNAL_CAPS)
        full = said(short=100, weekly=100)
        credential.give(TokenAvailable(10.0), PollSucceeded(full, 0.0, True))
        self.assertTrue(credential.at().usable)
        self.assertIsNone(credential.state.limits.short.utilization)
        self.assertIsNone(credential.state.limits.weekly.utilization)
        credential.give(PollSucceeded(full, 0.0, False))
        self.assertEqual(credential.at().state, "rate_limited")
        credential.give(PollSucceeded(LimitsUpdate(), 0.0, True))
        self.assertTrue(credential.at().usable)

    def test_usable_with_room(self) -> None:
        credential = Credential(EXTERNAL_CAPS)
        credential.give(TokenAvailable(10.0), PollSucceeded(said(short=99.9, weekly=20), 5.0, True))
        limits = credential.state.limits
        self.assertEqual((limits.short.utilization, limits.weekly.utilization), (99.9, 20))

    def test_no_word(self) -> None:
        """If an instance does not report whether it can serve, its figures decide."""
        credential = Credential(EXTERNAL_CAPS)
        credential.give(TokenAvailable(10.0), PollSucceeded(said(short=100, weekly=100), 0.0, None))
        self.assertEqual(credential.at().state, "rate_limited")


class InterruptTests(SynchronousTestCase):
    """Once per transition from usable to not usable (spec 5.3)."""

    def test_once(self) -> None:
        """F39: requests on a used-up account are interrupted once, however many responses report it."""
        credential = Credential()
        self.assertEqual(credential.interrupts, [])
        credential.give(RateLimited(NOW + HOUR))
        self.assertEqual(credential.interrupts, [Interrupt(credential.at())])
        credential.give(RateLimited(NOW + 2 * HOUR), HeadersObserved(said(100, 100)))
        self.assertEqual(credential.interrupts, [])

    def test_a_login_that_is_gone_interrupts_nevertheless(self) -> None:
        """A limit leaves requests where they are; without a login they cannot succeed there any more (spec 12.3)."""
        credential = Credential()
        credential.give(RateLimited(NOW + HOUR))
        self.assertEqual([each.availability.reason for each in credential.interrupts], ["rate_limited"])
        credential.give(TokenUnavailable("x"))
        self.assertEqual([each.availability.reason for each in credential.interrupts], ["unavailable"])
        credential.give(TokenUnavailable("y"), RateLimited(NOW + 2 * HOUR))
        self.assertEqual(credential.interrupts, [])

    def test_armed_again_by_becoming_usable(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=100)))
        self.assertEqual(len(credential.interrupts), 1)
        credential.give(PollSucceeded(said(short=10)), HeadersObserved(said(short=100)))
        self.assertEqual(len(credential.interrupts), 1)

    def test_armed_again_by_time(self) -> None:
        """The credential accepted requests after the reset, although there was no input in between."""
        credential = Credential()
        credential.give(RateLimited(NOW + 60))
        credential.give(RateLimited(NOW + 180), at=NOW + 120)
        self.assertEqual(len(credential.interrupts), 1)
        credential.give(TimePassed(), at=NOW + 180)
        credential.give(RateLimited(NOW + 300), at=NOW + 190)
        self.assertEqual(len(credential.interrupts), 1)

    def test_failed_poll_interrupts_nothing(self) -> None:
        """F6: a failing usage endpoint says nothing about the requests in flight."""
        credential = Credential()
        credential.give(PollFailed(), PollFailed())
        self.assertFalse(credential.at().usable)
        self.assertEqual(credential.interrupts, [])

    def test_a_real_reason_after_a_failed_poll_interrupts(self) -> None:
        for event in (RateLimited(NOW + HOUR), TokenUnavailable("x"), HeadersObserved(said(short=100))):
            credential = Credential()
            credential.give(PollFailed())
            credential.give(event)
            self.assertEqual(len(credential.interrupts), 1, event)
            self.assertNotEqual(credential.interrupts[0].availability.reason, "poll_failed")

    def test_who_takes_nothing_new_may_serve_what_it_has(self) -> None:
        """A remote that only accepts nothing new interrupts when it is gone, or has another reason."""
        for event, reason in (
            (TokenUnavailable("lost"), "unavailable"),
            (RateLimited(NOW + HOUR), "rate_limited"),
        ):
            credential = Credential()
            credential.give(TokenUnavailable("leaving", ends_requests=False))
            self.assertEqual(credential.at().state, "unavailable")
            self.assertEqual(credential.interrupts, [])
            credential.give(event)
            self.assertEqual([each.availability.reason for each in credential.interrupts], [reason])
            credential.give(TokenUnavailable("lost"))
            later = [each.availability.reason for each in credential.interrupts]
            self.assertEqual(later, [] if reason == "unavailable" else ["unavailable"])
        credential.give(TimePassed(), TokenAvailable(1.0), at=NOW + 2 * HOUR)
        self.assertTrue(credential.at(NOW + 2 * HOUR).usable)
        self.assertFalse(credential.state.is_leaving)
        credential.give(TokenUnavailable("lost"), at=NOW + 2 * HOUR)
        self.assertEqual(len(credential.interrupts), 1)

    def test_not_armed_by_a_failing_poll(self) -> None:
        credential = Credential()
        credential.give(RateLimited(NOW + 60), PollFailed())
        credential.give(TimePassed(), at=NOW + 60)
        credential.give(RateLimited(NOW + 180), at=NOW + 120)
        self.assertEqual(credential.interrupts, [])

    def test_a_models_window_interrupts_nothing(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(LimitsUpdate(models={"opus": Window(100.0, NOW + HOUR)})))
        self.assertEqual(credential.interrupts, [])

    def test_tighter_caps(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=50)))
        credential.caps = Caps(short=40)
        credential.give(TimePassed())
        self.assertEqual(len(credential.interrupts), 1)

    def test_clock_set_back(self) -> None:
        """An expired window is full again, so requests that were accepted meanwhile are interrupted."""
        credential = Credential()
        credential.give(HeadersObserved(said(short=100)))
        credential.give(TimePassed(), at=NOW + 2 * HOUR)
        self.assertTrue(credential.at(NOW + 2 * HOUR).usable)
        credential.give(TimePassed(), at=NOW)
        self.assertEqual(len(credential.interrupts), 1)
        self.assertFalse(credential.at(NOW).usable)

    def test_a_lifted_limit_does_not_come_back_with_the_clock(self) -> None:
        credential = Credential()
        credential.give(RateLimited(NOW + 60))
        credential.give(TimePassed(), at=NOW + 60)
        credential.give(TimePassed(), at=NOW)
        self.assertTrue(credential.at(NOW).usable)


class NotifyTests(SynchronousTestCase):
    """Subscribers are notified of changes on which the aggregate depends, and of no others (spec 5.4)."""

    def test_changes(self) -> None:
        credential = Credential()
        self.assertTrue(credential.notified)
        for event in (
            HeadersObserved(said(short=10, weekly=5)),
            HeadersObserved(said(short=10.5)),
            PollSucceeded(said(short=10.5, hours=2.5)),
            TokenAvailable(5.0),
            RateLimited(NOW + 60),
            RateLimited(NOW + 120),
            TokenUnavailable("x"),
        ):
            credential.give(event)
            self.assertTrue(credential.notified, event)

    def test_not_on_every_answer(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=10, weekly=5)))
        for event in (
            HeadersObserved(said(short=10, weekly=5)),
            HeadersObserved(said(short=9)),
            HeadersObserved(said(short=10, hours=2.01)),
            HeadersObserved(LimitsUpdate()),
            PollSucceeded(LimitsUpdate(), plan_weight=1.0),
            TokenAvailable(1.0),
            TimePassed(),
        ):
            self.assertEqual(credential.give(event, at=NOW + 1), [], event)

    def test_nothing_before_anything(self) -> None:
        credential = Credential(loaded=False)
        self.assertEqual(credential.give(TimePassed()), [])

    def test_time(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=10)))
        self.assertEqual(credential.give(TimePassed(), at=NOW + 2 * HOUR - 1), [])
        credential.give(TimePassed(), at=NOW + 2 * HOUR)
        self.assertTrue(credential.notified)
        self.assertEqual(credential.give(TimePassed(), at=NOW + 3 * HOUR), [])


class LogTests(SynchronousTestCase):
    """There is a log line per whole percent, and per change of usability."""

    def test_percents(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(said(short=10.2, weekly=5)))
        self.assertEqual(credential.lines, ["short window 10 %, weekly window 5 %"])
        credential.give(HeadersObserved(said(short=10.9)))
        self.assertEqual(credential.lines, [])
        credential.give(HeadersObserved(said(short=11)))
        self.assertEqual(credential.lines, ["short window 11 %, weekly window 5 %"])
        credential.give(TimePassed(), at=NOW + 2 * HOUR)
        self.assertEqual(credential.lines, ["short window 0 %, weekly window 0 %"])

    def test_usability(self) -> None:
        credential = Credential()
        self.assertEqual(credential.lines, ["usable"])
        credential.give(TokenUnavailable("file removed"))
        self.assertEqual(credential.lines, ["not usable: file removed"])
        credential.give(TokenUnavailable("file removed"), RateLimited(NOW + HOUR))
        self.assertEqual(credential.lines, [])
        credential.give(TokenAvailable(1.0))
        self.assertEqual(credential.lines, ["not usable: rate-limited until 2027-01-15 09:00 UTC (in 1h)"])
        credential.give(TimePassed(), at=NOW + HOUR)
        self.assertEqual(credential.lines, ["usable"])

    def test_order_of_effects(self) -> None:
        credential = Credential()
        kinds = [type(effect) for effect in credential.give(RateLimited(NOW + HOUR))]
        self.assertEqual(kinds, [Log, Interrupt, Notify])


# Any inputs at any times --------------------------------------------------------------------------------------

times = st.floats(NOW - 10 * HOUR, NOW + 10 * HOUR)
odd_times = times | st.sampled_from([0.0, math.nan, math.inf, -1.0, 1e18])
window_values = st.builds(
    Window,
    st.floats(0, 120),
    st.just(0.0) | times,
    st.sampled_from([0.0, SHORT_WINDOW, WEEKLY_WINDOW]),
)
families = st.sampled_from(["opus", "sonnet", "oi", "mystery"])
updates = st.builds(
    LimitsUpdate,
    st.none() | window_values,
    st.none() | window_values,
    st.dictionaries(families, window_values, max_size=2),
    odd_times,
    st.dictionaries(families, odd_times, max_size=2),
)
weights = st.floats()
combinations = st.builds(
    Combination,
    st.sampled_from(["/v1/messages", "/v1/messages/count_tokens"]),
    st.sampled_from(["claude-opus-4-5", "claude-haiku-4-5", ""]),
)
callers = st.sampled_from(["alice", "bob"])
waits = st.none() | st.sampled_from([0.0, 3.0, 9e9, math.inf])
inputs: st.SearchStrategy[Input] = st.one_of(
    st.builds(TokenAvailable, weights),
    st.builds(TokenUnavailable, st.just("gone"), st.booleans()),
    st.builds(HeadersObserved, updates, st.booleans(), st.none() | weights),
    st.builds(PollSucceeded, updates, st.none() | weights),
    st.just(PollFailed()),
    st.builds(RateLimited, odd_times, st.booleans()),
    st.builds(Rejected, odd_times),
    st.builds(SocketsRest, odd_times),
    st.builds(Rests, combinations, callers, waits),
    st.builds(Denied, combinations, callers, st.just("no")),
    st.builds(ModelDenied, st.sampled_from(["claude-opus-4-5", ""])),
    st.builds(AccountRefused, st.sampled_from(["disabled", ""])),
    st.sampled_from((PollRefused(401), PollRefused(403))),
    st.builds(RequestRefused, combinations, callers, waits, st.just("no"), st.booleans()),
    st.builds(RequestSent, combinations),
    st.builds(Leased),
    st.builds(RequestGaveUp, combinations),
    st.builds(RequestServed, combinations, times, st.booleans()),
    st.just(TimePassed()),
)
caps_values = st.builds(Caps, st.floats(1, 100), st.floats(1, 100))
histories = st.lists(st.tuples(inputs, times), max_size=12)


class AnyHistoryTests(SynchronousTestCase):
    """Invariants that hold for any inputs, even if the clock jumps forwards and backwards."""

    @example(
        history=[
            (TokenAvailable(0.0), NOW),
            (AccountRefused("disabled"), NOW),
            (TokenUnavailable("gone"), NOW),
        ],
        caps=CAPS,
        model=None,
    )
    @given(histories, caps_values, st.sampled_from([None, "claude-opus-4-5"]))
    def test_invariants(self, history: list[tuple[Input, float]], caps: Caps, model: str | None) -> None:
        state = CredentialState()
        usable_since_interrupt = False
        told = status_object(aggregate([snapshot(state, caps, NOW, tag="a")], NOW))
        for event, now in history:
            usable_before = availability(state, caps, now).usable
            had_login = state.unavailable is None or state.is_leaving
            previous = state
            state, effects = transition(state, event, now, caps)
            after = availability(state, caps, now)

            # No reason for being unusable is overlooked.
            if after.usable:
                self.assertIsNone(state.unavailable)
                self.assertFalse(state.is_leaving)
                self.assertEqual(state.poll_failures, 0)
                for until in (state.rate_limited_until, state.rejected_until):
                    self.assertLessEqual(until, now)
                self.assertIsNone(state.refused)
            self.assertTrue(after.usable or after.message)
            self.assertTrue(after.usable or not availability(state, caps, now, model).usable)
            self.assertTrue(after.reset_at == 0 or after.reset_at > now)

            # Interrupts alternate with being usable, and are never missed.
            interrupts = [effect for effect in effects if isinstance(effect, Interrupt)]
            usable_since_interrupt |= usable_before
            self.assertLessEqual(len(interrupts), 1)
            if interrupts:
                # A login that is gone interrupts what another reason has left where it was (spec 12.3).
                is_gone = had_login and interrupts[0].availability.state == "unavailable"
                self.assertTrue(usable_since_interrupt or is_gone)
                self.assertFalse(after.usable)
                self.assertNotEqual(interrupts[0].availability.reason, "poll_failed")
                if isinstance(event, PollFailed):
                    # The clock made the window full again, not the failed poll.
                    self.assertEqual(len(transition(previous, TimePassed(), now, caps)[1]), len(effects))
                usable_since_interrupt = False
            elif usable_before and not after.usable:
                self.assertTrue(state.poll_failures or state.is_leaving)
            usable_since_interrupt |= after.usable

            # There is a notification for each change that a status shows, and for no other.
            line = status_object(aggregate([snapshot(state, caps, now, tag="a")], now))
            if line != told:
                self.assertIn(Notify(), effects)
            told = line
            self.assertEqual(Notify() in effects, previous.shown != state.shown)
            _, again = transition(state, TimePassed(), now, caps)
            self.assertEqual(again, ())

            # All numbers stay finite.
            for number in (
                state.plan_weight,
                state.rate_limited_until,
                state.rejected_until,
                state.sockets_rest_until,
            ):
                self.assertTrue(math.isfinite(number) and number >= 0)
            self.assertGreater(state.plan_weight, 0)

    @given(histories, caps_values, times, st.floats(0, 1))
    def test_nothing_changes_before_the_next_change(
        self, history: list[tuple[Input, float]], caps: Caps, now: float, part: float
    ) -> None:
        state = CredentialState()
        for event, at in history:
            state, _ = transition(state, event, at, caps)
        state, _ = transition(state, TimePassed(), now, caps)
        change = next_change(state, caps, now)
        if change is not None:
            self.assertGreater(change, now)
        between = now + part * HOUR if change is None else now + part * (change - now)
        if change is None or between < change:
            later, effects = transition(state, TimePassed(), between, caps)
            self.assertEqual((later.shown, effects), (state.shown, ()))

    @given(st.lists(st.tuples(st.floats(0, 98), st.booleans()), min_size=1, max_size=8))
    def test_utilization_grows_within_a_window(self, answers: list[tuple[float, bool]]) -> None:
        credential = Credential()
        highest = 0.0
        for utilization, polled in answers:
            update = said(short=utilization)
            credential.give(PollSucceeded(update) if polled else HeadersObserved(update))
            highest = utilization if polled else max(highest, utilization)
            self.assertEqual(credential.state.limits.short.utilization, highest)
