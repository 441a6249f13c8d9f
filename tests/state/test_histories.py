"""What holds after any history of one credential: it ends by itself, and belongs to one identity (spec 12.4, 12.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.delays import LONGEST_FOREIGN_DELAY, clamped_delay
from ccmproxy.state.availability import CredentialState, availability
from ccmproxy.state.charging import poll_wanted
from ccmproxy.state.holds import (
    LONGEST_REST,
    MODEL_DENIED_TIME,
    NOTHING_HELD,
    SHORTEST_REST,
    Combination,
    rested,
)
from ccmproxy.state.inputs import (
    AccountRefused,
    HeadersObserved,
    Input,
    Interrupt,
    Poll,
    PollFailed,
    PollRefused,
    PollSucceeded,
    RateLimited,
    RequestGaveUp,
    RequestSent,
    RequestServed,
    Rests,
    TimePassed,
    TokenAvailable,
    TokenDelayed,
    TokenUnavailable,
)
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.state.transitions import LONGEST_RATE_LIMIT, transition
from tests.state.test_transitions import combinations, histories, odd_times, times
from tests.states import CAPS, HOUR, NOW, Credential

OPUS = Combination("/v1/messages", "claude-opus-4-5")
HAIKU = Combination("/v1/messages", "claude-haiku-4-5")
#: A poll besides those that the state asks for is made after an hour; one that the endpoint postpones within 15 min.
HOURLY = 3600.0
#: An account is usable so long after its provider is well again (seconds): a refused one is polled every 30 min, and a
#: poll may be postponed by 15 min. One whose windows are full, or a remote that rejects us, waits for the poll of every
#: hour.
BOUND = 46 * 60.0
POLLS = (PollSucceeded, PollFailed, PollRefused)


def after(history: list[tuple[Input, float]]) -> CredentialState:
    """The state after a history whose times are put in order: a clock that is set back belongs elsewhere."""
    state = CredentialState()
    for event, now in sorted(history, key=lambda step: step[1]):
        state, _ = transition(state, event, now, CAPS)
    return state


class EndsByItselfTests(SynchronousTestCase):
    """No state is left only by a restart or a touched file, except a dead login (spec 12.4)."""

    @example(history=[(AccountRefused("disabled"), NOW)], polls_every=HOURLY, delayed=None, is_alone=False)
    @example(history=[(AccountRefused("disabled"), NOW)], polls_every=HOURLY, delayed=None, is_alone=True)
    @example(
        history=[(AccountRefused("disabled"), NOW), (TokenAvailable(1.0), NOW + 60.0)],
        polls_every=HOURLY,
        delayed=None,
        is_alone=False,
    )
    @example(
        history=[(RateLimited(NOW + 900 * HOUR, True), NOW)], polls_every=HOURLY, delayed=None, is_alone=False
    )
    @example(
        history=[(RateLimited(math.inf, False), NOW), (PollFailed(), NOW)],
        polls_every=60.0,
        delayed=1e18,
        is_alone=False,
    )
    @example(
        history=[(Rests(OPUS, "alice", 3.0), NOW), (RequestSent(OPUS), NOW + 10.0)],
        polls_every=HOURLY,
        delayed=None,
        is_alone=False,
    )
    @example(
        history=[
            (RateLimited(NOW, False), NOW),
            (HeadersObserved(LimitsUpdate(weekly=Window(99.0, 0.0, 0.0), rejected_until=NOW)), NOW),
        ],
        polls_every=HOURLY,
        delayed=None,
        is_alone=False,
    )
    @given(
        histories,
        st.sampled_from([60.0, 900.0, HOURLY, HOURLY]),
        st.none() | odd_times,
        st.booleans(),
    )
    def test_good_polls_and_served_requests_are_enough(
        self, history: list[tuple[Input, float]], polls_every: float, delayed: float | None, is_alone: bool
    ) -> None:
        """From any state, while the provider is well, every request is served within the bound.

        ``polls_every``: the seconds after which the usage endpoint is asked, whatever the state wants. ``delayed``:
        until when a refresh is put off, if it is. ``is_alone``: nobody else can serve, so that requests come here that
        would go elsewhere.
        """
        state = after(history)
        now = max((at for _, at in history), default=NOW)
        if delayed is not None:
            state, _ = transition(state, TokenDelayed("the disk is full", delayed), now, CAPS)
        if state.unavailable is not None:
            # The one exception: a dead login needs another one.
            state, _ = transition(state, TokenAvailable(1.0), now, CAPS)
        # Behind a rest that is over soon there may be a window that is full, and of which no reset is known.
        beneath = replace(state, refused=None, rate_limited_until=0.0)
        waits_for_poll = availability(beneath, CAPS, now).reason in (
            "short_window",
            "weekly_window",
            "rejected",
        )
        end = now + BOUND + (HOURLY if waits_for_poll else 0.0)
        healthy = LimitsUpdate(
            Window(1.0, now + 30 * HOUR, 5 * HOUR), Window(1.0, now + 90 * HOUR, 168 * HOUR)
        )
        # The next poll of the rhythm is as far away as can be. What the state has wanted since the last one is due.
        last_poll = now
        began = max((at for event, at in history if isinstance(event, POLLS)), default=0.0)
        while not self.is_free(state, now):
            self.assertLess(now, end, state)
            wanted = poll_wanted(state, began, now)
            if state.poll_failures or (wanted and wanted <= now) or now - last_poll >= polls_every:
                last_poll = began = now
                state, _ = transition(state, PollSucceeded(healthy, began=now), now, CAPS)
            for asked in (OPUS, HAIKU):
                state = self.ask(state, asked, now, is_alone)
            now += 30.0

    def ask(self, state: CredentialState, asked: Combination, now: float, is_alone: bool) -> CredentialState:
        """Send a request if the credential takes it, and have it served a second later."""
        present = availability(state, CAPS, now, asked.model)
        if not (present.worth_trying if is_alone else present.usable or present.lets_one_through):
            return state
        if state.holds.turns_away(asked, False, now):
            return state
        state, _ = transition(state, RequestSent(asked), now, CAPS)
        return transition(state, RequestServed(asked, now, True), now + 1.0, CAPS)[0]

    def is_free(self, state: CredentialState, now: float) -> bool:
        """Whether it takes every request now, but for models that its provider has ruled out for a known time."""
        return availability(state, CAPS, now).usable and all(
            not state.holds.turns_away(asked, False, now)
            or now
            < (held := state.holds.models.get(asked.model, None) or _FREE).until
            <= held.since + MODEL_DENIED_TIME
            for asked in (OPUS, HAIKU)
        )


@dataclass(frozen=True)
class _NoHold:
    until: float = -1.0
    since: float = 0.0


_FREE = _NoHold()


class ForeignDelayTests(SynchronousTestCase):
    """A foreign delay outside its clamp changes nothing (spec 12.4)."""

    @given(st.floats(allow_nan=False), combinations | st.none())
    def test_a_rest(self, wait: float, asked: Combination | None) -> None:
        """Outside 1 to 60 s it is as long as at the nearer of the two."""
        nearest = min(max(wait, SHORTEST_REST), LONGEST_REST)
        self.assertEqual(rested(NOTHING_HELD, asked, wait, NOW), rested(NOTHING_HELD, asked, nearest, NOW))

    @given(st.floats(min_value=0), st.floats(1, 900), st.floats(1, 900))
    def test_an_endpoint_that_names_it(self, named: float, own: float, first: float) -> None:
        """Below our own first step it is our own, above 15 min it is 15 min."""
        kept = clamped_delay(named, own, first)
        if named < first:
            self.assertEqual(kept, own)
        elif named > LONGEST_FOREIGN_DELAY:
            self.assertEqual(kept, LONGEST_FOREIGN_DELAY)
        else:
            self.assertEqual(kept, named)

    @given(histories, odd_times, st.booleans())
    def test_a_rate_limit(self, history: list[tuple[Input, float]], until: float, explicit: bool) -> None:
        """No window is believed to last more than 32 days, whoever says so."""
        state = after(history)
        now = max((at for _, at in history), default=NOW)
        state, _ = transition(state, RateLimited(until, explicit), now, CAPS)
        self.assertLessEqual(state.rate_limited_until, now + LONGEST_RATE_LIMIT)
        self.assertGreater(state.rate_limited_until, now)


class OthersRefusalTests(SynchronousTestCase):
    """Refusals of other requests cancel nothing, and rests are not seen by who is warm (spec 12.2, 12.3)."""

    @given(histories)
    def test_a_rest_is_no_transition(self, history: list[tuple[Input, float]]) -> None:
        """It neither interrupts nor shows, and turns away cold work only."""
        state = after(history)
        now = max((at for _, at in history), default=NOW)
        before = {asked: state.holds.turns_away(asked, True, now) for asked in (OPUS, HAIKU)}
        state, _ = transition(state, TimePassed(), now, CAPS)
        shown = state.shown
        for asked in (OPUS, None):
            state = replace(state, holds=rested(state.holds, asked, 30.0, now))
            state, effects = transition(state, TimePassed(), now, CAPS)
            self.assertEqual((effects, state.shown), ((), shown))
            for each, is_away in before.items():
                # A denial of the combination gives way to the later word.
                self.assertLessEqual(state.holds.turns_away(each, True, now), is_away)


class TruthTests(SynchronousTestCase):
    """The order of a poll and a header never leaves the lower truth hidden for more than an hour (spec 12.5)."""

    @given(
        st.floats(0, 98),
        st.lists(
            st.tuples(st.sampled_from(["answer", "poll", "late answer"]), st.floats(1, 1500)), max_size=8
        ),
        st.floats(0, 98),
        st.sampled_from([-2 * HOUR, 0.0, 3 * HOUR]),
        st.floats(10, 600),
    )
    def test_the_lower_truth_comes_to_light(
        self,
        first: float,
        story: list[tuple[str, float]],
        later: float,
        moved: float,
        apart: float,
    ) -> None:
        """At some moment the provider sets figure and reset to others, while answers that were sent before are still
        under way. From then on answers come every ``apart`` seconds."""
        credential = Credential()
        reset = NOW + 8 * HOUR
        old = LimitsUpdate(short=Window(first, reset, 5 * HOUR))
        new = LimitsUpdate(short=Window(later, reset + moved, 5 * HOUR))
        credential.give(PollSucceeded(old, began=NOW))
        self.last_poll = NOW
        now = NOW
        for what, seconds in story:
            now += seconds / 8
            if what == "poll":
                self.poll(credential, new, now)
            else:
                self.answer(credential, old if what == "late answer" else new, new, now)
        end = now + HOURLY
        while now < end:
            now += apart
            self.answer(credential, new, new, now)
            if now - max(credential.state.last_update, self.last_poll) >= HOURLY:
                self.poll(credential, new, now)
        known = credential.state.limits.short
        # An answer may be up to five points lower before anybody asks.
        self.assertTrue(later - 0.01 <= (known.utilization or 0.0) < later + 5.01, (known, new))

    def answer(self, credential: Credential, said: LimitsUpdate, truth: LimitsUpdate, now: float) -> None:
        """The headers of an answer, and the poll for which they ask."""
        if Poll() in credential.give(HeadersObserved(said), at=now):
            self.poll(credential, truth, now)

    def poll(self, credential: Credential, truth: LimitsUpdate, now: float) -> None:
        """A poll, which tells the truth."""
        self.last_poll = now
        credential.give(PollSucceeded(truth, began=now), at=now)


class IdentityTests(SynchronousTestCase):
    """Knowledge of one login identity never touches the next (spec 12.5)."""

    @given(histories, times)
    def test_another_identity_begins_as_if_nothing_were_known(
        self, history: list[tuple[Input, float]], at: float
    ) -> None:
        """But for what is about the service and the file: failed polls, and whether there ever was data."""
        state = after([(TokenAvailable(5.0, "one"), NOW - 11 * HOUR), *history])
        now = max([at, *(when for _, when in history)])
        state, effects = transition(replace(state, organization="one"), TokenAvailable(2.0, "two"), now, CAPS)
        fresh, _ = transition(CredentialState(), TokenAvailable(2.0, "two"), now, CAPS)
        self.assertIn(Poll(), effects)
        self.assertFalse([effect for effect in effects if isinstance(effect, Interrupt)])
        blank = {
            "armed": False,
            "shown": fresh.shown,
            "ever_had_data": False,
            "poll_failures": 0,
            "rejected_until": 0.0,
            "slate": 0,
            "slate_at": 0.0,
        }
        self.assertEqual(replace(state, **blank), replace(fresh, **blank))  # type: ignore[arg-type]

    @given(histories, st.lists(st.sampled_from([TokenUnavailable("gone"), RequestGaveUp(OPUS)]), max_size=2))
    def test_the_same_identity_keeps_what_is_known(
        self, history: list[tuple[Input, float]], more: list[Input]
    ) -> None:
        """A file that is written again is no change of login, whatever happened to it in between."""
        state = replace(after(history), organization="one", unavailable=None, is_leaving=False)
        now = max((when for _, when in history), default=NOW)
        for organization in ("one", ""):
            again = state
            for event in (*more, TokenAvailable(state.plan_weight, organization)):
                again, _ = transition(again, event, now, CAPS)
            for name in ("limits", "refused", "refusals", "rate_limited_until", "organization"):
                expected = getattr(transition(state, TimePassed(), now, CAPS)[0], name)
                self.assertEqual(getattr(again, name), expected, name)
