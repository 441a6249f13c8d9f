"""Tests of :mod:`ccmproxy.state.charging`: how refusals and served requests change what is known (spec 12)."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.availability import CredentialState, next_change, snapshot
from ccmproxy.state.charging import (
    FIRST_LOOK,
    MOST_REFUSALS,
    NEXT_LOOK,
    POLL_WANTED_AGAIN,
    clean_slate,
    is_believed,
    poll_wanted,
)
from ccmproxy.state.holds import NOTHING_HELD, Combination
from ccmproxy.state.inputs import (
    AccountRefused,
    Denied,
    HeadersObserved,
    Input,
    Leased,
    ModelDenied,
    Notify,
    Poll,
    PollRefused,
    PollSucceeded,
    RateLimited,
    RequestGaveUp,
    RequestRefused,
    RequestSent,
    RequestServed,
    Rests,
    SocketsRest,
    TimePassed,
    TokenAvailable,
    TokenUnavailable,
)
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, Limits, LimitsUpdate, NamedLimit, Window
from tests.states import CAPS, HOUR, NOW, Credential, said

DAY = 24 * HOUR
OPUS = Combination("/v1/messages", "claude-opus-4-5")
HAIKU = Combination("/v1/messages", "claude-haiku-4-5")
SONNET = Combination("/v1/messages", "claude-sonnet-4-5")
COUNT = Combination("/v1/messages/count_tokens", "claude-opus-4-5")


def is_cold_out(credential: Credential, asked: Combination, now: float = NOW) -> bool:
    """Whether cold work for ``asked`` is turned away."""
    return credential.state.holds.turns_away(asked, False, now)


class PatternTests(SynchronousTestCase):
    """The account as a whole rests or is refused only where different callers or models meet it (spec 12.1)."""

    def account_rests(self, *events: Input) -> bool:
        """Whether something else than what was refused rests as well."""
        credential = Credential()
        credential.give(*events)
        return is_cold_out(credential, SONNET)

    def account_refused(self, *events: Input) -> bool:
        credential = Credential()
        credential.give(*events)
        return credential.at().reason == "refused"

    def test_a_rest_is_of_its_combination(self) -> None:
        credential = Credential()
        credential.give(*[Rests(OPUS, "alice", 20.0)] * 3)
        self.assertTrue(is_cold_out(credential, OPUS))
        self.assertFalse(is_cold_out(credential, HAIKU))

    def test_of_two_callers_or_two_models_the_account_rests(self) -> None:
        self.assertFalse(self.account_rests(Rests(OPUS, "alice"), Rests(OPUS, "alice")))
        self.assertTrue(self.account_rests(Rests(OPUS, "alice"), Rests(OPUS, "bob")))
        self.assertTrue(self.account_rests(Rests(OPUS, "alice"), Rests(HAIKU, "alice")))

    def test_its_rest_is_as_long_as_was_said(self) -> None:
        credential = Credential()
        credential.give(Rests(OPUS, "alice", 50.0), Rests(OPUS, "bob", 20.0))
        self.assertEqual(credential.state.holds.free_at(SONNET, NOW), NOW + 20)

    def test_a_denial_is_of_its_combination(self) -> None:
        credential = Credential()
        credential.give(*[Denied(OPUS, "alice", "no")] * 3)
        self.assertTrue(credential.state.holds.turns_away(OPUS, True, NOW))
        self.assertFalse(is_cold_out(credential, HAIKU))
        self.assertTrue(credential.at().usable)

    def test_of_two_callers_or_two_models_the_account_is_refused(self) -> None:
        self.assertTrue(self.account_refused(Denied(OPUS, "alice", "no"), Denied(OPUS, "bob", "no")))
        self.assertTrue(self.account_refused(Denied(OPUS, "alice", "no"), Denied(HAIKU, "alice", "no")))

    def test_not_if_anything_was_served_in_between(self) -> None:
        served = RequestServed(SONNET, NOW - 1)
        self.assertFalse(self.account_refused(Denied(OPUS, "alice"), served, Denied(OPUS, "bob")))
        self.assertFalse(self.account_rests(Rests(OPUS, "alice"), served, Rests(OPUS, "bob")))

    def test_count_tokens_neither_counts_nor_clears(self) -> None:
        """Spec 12.2: what is refused for it never touches model requests."""
        self.assertFalse(self.account_rests(Rests(COUNT, "alice"), Rests(COUNT, "bob")))
        self.assertFalse(self.account_rests(Rests(COUNT, "alice"), Rests(OPUS, "bob")))
        self.assertFalse(self.account_refused(Denied(COUNT, "alice"), Denied(OPUS, "bob")))
        self.assertFalse(
            self.account_rests(
                RequestRefused(COUNT, "alice", is_busy=True), RequestRefused(COUNT, "bob", is_busy=True)
            )
        )
        counted = RequestServed(COUNT, NOW - 1, is_model_request=False)
        self.assertTrue(self.account_refused(Denied(OPUS, "alice"), counted, Denied(OPUS, "bob")))

    def test_a_429_and_a_403_are_not_alike(self) -> None:
        self.assertFalse(self.account_refused(Rests(OPUS, "alice"), Denied(OPUS, "bob")))
        self.assertFalse(self.account_rests(Denied(OPUS, "alice"), Rests(OPUS, "bob")))

    def test_known_words_need_no_pattern(self) -> None:
        self.assertTrue(self.account_refused(AccountRefused("disabled")))
        credential = Credential()
        credential.give(ModelDenied(OPUS.model))
        self.assertTrue(credential.state.holds.turns_away(OPUS, True, NOW))
        self.assertTrue(credential.at().usable)

    def test_the_sentence_is_shown(self) -> None:
        credential = Credential()
        credential.give(Denied(OPUS, "alice", "not you"), Denied(OPUS, "bob", "not you"))
        self.assertIn("not you", credential.at().message)

    def test_a_sentence_that_one_caller_has_got_is_not_shown_to_all(self) -> None:
        """It may repeat something of that caller's request."""
        for events in (
            [Denied(OPUS, "alice", "no to my secret"), Denied(OPUS, "bob", "no to my secret too")],
            [Denied(OPUS, "alice", "no to my secret"), Denied(HAIKU, "alice", "no to my secret")],
            [
                RequestRefused(OPUS, "alice", None, "no to my secret"),
                RequestRefused(OPUS, "bob", None, "no to my secret too"),
            ],
        ):
            credential = Credential()
            credential.give(*events)
            self.assertEqual(credential.at().reason, "refused")
            self.assertNotIn("secret", repr(credential.at()))

    def test_bounded(self) -> None:
        credential = Credential()
        for number in range(3 * MOST_REFUSALS):
            credential.give(Rests(OPUS._replace(model=f"m{number}"), "alice"))
        self.assertEqual(len(credential.state.refusals), MOST_REFUSALS)


class NoOpinionTests(SynchronousTestCase):
    """A refusal on which nobody else could be heard: only that different callers meet it says anything (12.1.3)."""

    def refusal(self, caller: str, asked: Combination = OPUS, *, is_busy: bool = True) -> RequestRefused:
        return RequestRefused(asked, caller, 20.0, "no", is_busy)

    def test_a_single_caller_causes_a_poll_and_nothing_else(self) -> None:
        for is_busy in (True, False):
            credential = Credential()
            for asked, polls in ((OPUS, [Poll()]), (HAIKU, []), (OPUS, [])):
                effects = credential.give(self.refusal("alice", asked, is_busy=is_busy))
                self.assertEqual(effects, polls, "one in ten minutes")
                self.assertEqual(credential.state.holds, NOTHING_HELD)
                self.assertTrue(credential.at().usable)

    def test_several_callers_and_a_429(self) -> None:
        credential = Credential()
        credential.give(self.refusal("alice"))
        self.assertEqual(credential.give(self.refusal("bob", HAIKU)), [])
        self.assertTrue(credential.at().usable, "a rest is not shown")
        self.assertEqual(credential.state.holds.free_at(SONNET, NOW), NOW + 20)

    def test_several_callers_and_a_403(self) -> None:
        credential = Credential()
        credential.give(self.refusal("alice", is_busy=False), self.refusal("bob", is_busy=False))
        self.assertEqual(credential.at().reason, "refused")

    def test_not_if_anything_was_served_in_between(self) -> None:
        credential = Credential()
        credential.give(
            self.refusal("alice", is_busy=False),
            RequestServed(HAIKU, NOW),
            self.refusal("bob", is_busy=False),
        )
        self.assertTrue(credential.at().usable)


class NoTransitionTests(SynchronousTestCase):
    """A rest is no transition, closes no relay, and is not shown (spec 12.2, 5.3)."""

    def test_nothing_follows(self) -> None:
        credential = Credential()
        for event in (
            Rests(OPUS, "alice", 20.0),
            Rests(OPUS, "bob", 20.0),
            Denied(OPUS, "alice"),
            ModelDenied("m"),
            SocketsRest(NOW + 60),
            Leased(),
            RequestSent(OPUS),
            RequestGaveUp(OPUS),
            RequestServed(OPUS, NOW + 1),
        ):
            self.assertEqual(credential.give(event), [], event)
            self.assertTrue(credential.at().usable)

    def test_new_websockets_rest_for_their_time(self) -> None:
        credential = Credential()
        credential.give(SocketsRest(NOW + 60))
        credential.give(TimePassed(), at=NOW + 60)
        self.assertEqual(credential.state.sockets_rest_until, 0)
        self.assertTrue(
            snapshot(credential.state, CAPS, NOW, tag="a").takes_sockets, "though the clock is set back"
        )


class RefusedAccountTests(SynchronousTestCase):
    """Spec 12.3."""

    def setUp(self) -> None:
        self.credential = Credential()
        self.credential.give(AccountRefused("disabled"))

    def test_shown_and_told(self) -> None:
        self.assertTrue(self.credential.notified)
        self.assertEqual(self.credential.lines, ["not usable: the provider refuses this account: disabled"])
        found = self.credential.at()
        self.assertEqual(
            (found.state, found.reason, found.reset_at), ("temporarily_blocked", "refused", NOW + 60)
        )
        self.assertFalse(found.worth_trying)

    def test_let_through_after_a_good_poll(self) -> None:
        credential = self.credential
        credential.give(PollSucceeded(said(short=1)), at=NOW + 60)
        found = credential.at(NOW + 60)
        self.assertTrue(found.lets_one_through and found.worth_trying)
        self.assertFalse(found.usable)
        credential.give(Leased(), at=NOW + 61)
        self.assertFalse(credential.at(NOW + 61).worth_trying)
        credential.give(RequestServed(OPUS, NOW + 61), at=NOW + 63)
        self.assertTrue(credential.at(NOW + 63).usable)

    def test_refused_again_soon_after_the_intervals_go_on(self) -> None:
        credential = self.credential
        credential.give(Leased(), RequestServed(OPUS, NOW + 60), at=NOW + 60)
        for pause, seconds in ((599, 300.0), (600, 60.0)):
            again = Credential()
            again.state = credential.state
            now = NOW + 60 + pause
            again.give(AccountRefused("disabled"), at=now)
            self.assertEqual(again.at(now).reset_at, now + seconds)

    def test_what_was_sent_before_says_nothing(self) -> None:
        self.credential.give(RequestServed(OPUS, NOW - 1), RequestServed(OPUS, NOW), at=NOW + 1)
        self.assertEqual(self.credential.at(NOW + 1).reason, "refused")

    def test_nor_does_what_is_no_model_request(self) -> None:
        self.credential.give(RequestServed(COUNT, NOW + 1, is_model_request=False), at=NOW + 2)
        self.assertEqual(self.credential.at(NOW + 2).reason, "refused")

    def test_the_last_resort_whatever_polls_say(self) -> None:
        credential = self.credential
        self.assertFalse(credential.at(NOW + 59).is_last_resort)
        credential.give(PollRefused(403), at=NOW + 60)
        self.assertTrue(credential.at(NOW + 61).is_last_resort)
        self.assertEqual(credential.at(NOW + 61).reset_at, NOW + 180)
        credential.give(Leased(), at=NOW + 61)
        self.assertFalse(credential.at(NOW + 61).is_last_resort)
        self.assertTrue(credential.at(NOW + 61 + 300).is_last_resort)

    def test_f26_a_usage_endpoint_that_refuses_is_no_reason_by_itself(self) -> None:
        credential = Credential()
        self.assertEqual(credential.give(PollRefused(403), PollRefused(401)), [])
        self.assertTrue(credential.at().usable)

    def test_when_it_is_polled(self) -> None:
        credential = self.credential
        self.assertEqual(poll_wanted(credential.state, NOW, NOW), NOW + 60)
        credential.give(PollRefused(403), at=NOW + 60)
        self.assertEqual(poll_wanted(credential.state, NOW + 60, NOW + 60), NOW + 180)
        credential.give(PollSucceeded(said(short=1)), at=NOW + 180)
        self.assertEqual(poll_wanted(credential.state, NOW + 180, NOW + 180), 0, "a request is to find out")


class RateLimitTests(SynchronousTestCase):
    """The provider's later word wins (spec 12.5)."""

    RESET = NOW + 2 * HOUR

    def limited(self, until: float = RESET) -> Credential:
        credential = Credential()
        credential.give(HeadersObserved(said(short=60, weekly=50)), RateLimited(until, explicit=True))
        self.assertEqual(credential.at().reason, "rate_limited")
        return credential

    def poll(
        self, credential: Credential, at: float, update: LimitsUpdate, began: float | None = None
    ) -> bool:
        """Whether the rate limit is lifted after a poll."""
        credential.give(PollSucceeded(update, began=at - 1 if began is None else began), at=at)
        return credential.state.rate_limited_until == 0

    def test_a_served_request_lifts_it(self) -> None:
        credential = self.limited()
        credential.give(RequestServed(OPUS, NOW + 10), at=NOW + 11)
        self.assertTrue(credential.at(NOW + 11).usable)

    def test_not_one_that_was_sent_before(self) -> None:
        credential = self.limited()
        credential.give(RequestServed(OPUS, NOW - 1), RequestServed(OPUS, NOW), at=NOW + 11)
        self.assertFalse(credential.at(NOW + 11).usable)

    def test_not_count_tokens(self) -> None:
        credential = self.limited()
        credential.give(RequestServed(COUNT, NOW + 10, is_model_request=False), at=NOW + 11)
        self.assertFalse(credential.at(NOW + 11).usable)

    def test_a_model_served_lifts_its_own_window(self) -> None:
        for asked, sent_at, is_model_request, lifted in (
            (OPUS, NOW + 10, True, True),
            (OPUS, NOW, True, False),
            (HAIKU, NOW + 10, True, False),
            (COUNT, NOW + 10, False, False),
        ):
            credential = Credential()
            credential.give(HeadersObserved(LimitsUpdate(model_rejections={"opus": self.RESET})))
            self.assertFalse(credential.at(model=OPUS.model).usable)
            credential.give(RequestServed(asked, sent_at, is_model_request), at=NOW + 11)
            self.assertIs(credential.at(NOW + 11, model=OPUS.model).usable, lifted, (asked, sent_at))

    def test_a_poll_lifts_the_window_of_a_model(self) -> None:
        """As it does for the account: with room and another reset at once, clearly below its cap the second time."""
        for used, reset, began, lifted in (
            (98.0, self.RESET + HOUR, NOW + 1, (True, True)),
            (99.0, self.RESET + HOUR, NOW + 1, (False, False)),
            (98.0, self.RESET, NOW + 1, (False, False)),
            (94.0, self.RESET, NOW + 1, (False, True)),
            (10.0, self.RESET + HOUR, NOW, (False, False)),
        ):
            credential = Credential()
            credential.give(HeadersObserved(LimitsUpdate(model_rejections={"opus": self.RESET})))
            update = LimitsUpdate(models={"opus": Window(used, reset, WEEKLY_WINDOW)})
            for expected in lifted:
                credential.give(PollSucceeded(update, began=began), at=NOW + 120)
                self.assertIs(not credential.state.model_rejections, expected, (used, reset, began))
        credential = Credential()
        credential.give(HeadersObserved(LimitsUpdate(model_rejections={"opus": self.RESET})))
        for used in (94.0, 96.0, 94.0):
            update = LimitsUpdate(models={"opus": Window(used, self.RESET, WEEKLY_WINDOW)})
            credential.give(PollSucceeded(update, began=NOW + 1), at=NOW + 120)
        self.assertTrue(credential.state.model_rejections)
        credential.give(PollSucceeded(LimitsUpdate(), began=NOW + 1), at=NOW + 121)
        self.assertTrue(credential.state.model_rejections, "it says nothing of the model")

    def test_headers_that_say_rejected_are_such_a_word_too(self) -> None:
        credential = Credential()
        credential.give(HeadersObserved(replace(said(short=60), rejected_until=self.RESET)))
        self.assertEqual(poll_wanted(credential.state, NOW, NOW), NOW + FIRST_LOOK)
        self.assertFalse(self.poll(credential, NOW + 1, said(short=10, hours=3), began=NOW - 5))
        credential.give(RequestServed(OPUS, NOW + 10), at=NOW + 11)
        self.assertTrue(credential.at(NOW + 11).usable)

    def test_a_poll_with_another_reset_lifts_it(self) -> None:
        self.assertTrue(self.poll(self.limited(), NOW + 120, said(short=98, hours=5)))
        self.assertFalse(self.poll(self.limited(), NOW + 120, said(short=99, hours=5)), "at its cap")

    def test_not_one_that_began_before(self) -> None:
        for began in (NOW - 5, NOW):
            self.assertFalse(self.poll(self.limited(), NOW + 120, said(short=1, hours=5), began))

    def test_the_claimed_window_twice_below_95(self) -> None:
        credential = self.limited()
        self.assertFalse(self.poll(credential, NOW + 120, said(short=94.9)))
        self.assertTrue(self.poll(credential, NOW + 1020, said(short=94.9)))
        credential = self.limited()
        for used in (94.0, 96.0, 94.0):
            self.assertFalse(self.poll(credential, NOW + 120, said(short=used)), used)
        self.assertTrue(self.poll(credential, NOW + 120, said(short=94)))

    def test_another_window_is_not_claimed(self) -> None:
        credential = self.limited()
        both = LimitsUpdate(
            Window(5.0, self.RESET, SHORT_WINDOW), Window(97.0, NOW + 50 * HOUR, WEEKLY_WINDOW)
        )
        self.assertFalse(self.poll(credential, NOW + 120, both))
        self.assertTrue(self.poll(credential, NOW + 1020, both))

    def test_a_new_429_begins_anew(self) -> None:
        credential = self.limited()
        self.poll(credential, NOW + 120, said(short=50))
        credential.give(RateLimited(self.RESET, explicit=True), at=NOW + 200)
        self.assertFalse(self.poll(credential, NOW + 1020, said(short=50)))
        self.assertTrue(self.poll(credential, NOW + 1920, said(short=50)))

    def test_a_poll_that_mentions_no_window_says_nothing(self) -> None:
        credential = self.limited()
        for _ in range(3):
            self.assertFalse(self.poll(credential, NOW + 120, LimitsUpdate()))

    def test_polled_after_2_minutes_then_every_15(self) -> None:
        state = self.limited().state
        self.assertEqual(poll_wanted(state, 0.0, NOW), NOW + 120)
        self.assertEqual(
            poll_wanted(state, NOW + 60, NOW + 60), NOW + FIRST_LOOK, "an earlier poll does not count"
        )
        self.assertEqual(poll_wanted(state, NOW + 120, NOW + 120), NOW + 120 + NEXT_LOOK)
        self.assertEqual(poll_wanted(state, NOW + 120, self.RESET), 0)
        self.assertEqual(poll_wanted(CredentialState(), 0.0, NOW), 0)

    def test_a_used_up_window_of_a_model_is_polled_every_hour(self) -> None:
        """Answers to requests for other models say nothing of it, and put the usual polls off."""
        credential = Credential()
        credential.give(HeadersObserved(LimitsUpdate(model_rejections={"opus": self.RESET})))
        self.assertEqual(poll_wanted(credential.state, 0.0, NOW), NOW + FIRST_LOOK)
        self.assertEqual(poll_wanted(credential.state, NOW + 120, NOW + 120), NOW + 120 + HOUR)

    def test_a_poll_that_says_rejected_keeps_to_it(self) -> None:
        credential = self.limited()
        update = replace(said(short=96), rejected_until=self.RESET)
        self.assertFalse(self.poll(credential, NOW + 120, update))
        self.assertEqual(poll_wanted(credential.state, NOW + 120, NOW + 121), NOW + 120 + NEXT_LOOK)


class BelievedTests(SynchronousTestCase):
    """Figures from headers that are lower, or name an earlier reset, ask for a poll, which decides (spec 12.5)."""

    def believed(self, known: Window, told: Window) -> bool:
        one = is_believed(Limits(short=known), LimitsUpdate(short=told), NOW)
        self.assertEqual(one, is_believed(Limits(weekly=known), LimitsUpdate(weekly=told), NOW))
        models = Limits(models={"opus": known}), LimitsUpdate(models={"opus": told})
        self.assertEqual(one, is_believed(*models, NOW))
        named = ({"spark": NamedLimit("spark", window, Window())} for window in (known, told))
        self.assertEqual(one, is_believed(Limits(named=next(named)), LimitsUpdate(named=next(named)), NOW))
        return one

    def test_figures(self) -> None:
        soon, later = NOW + HOUR, NOW + 2 * HOUR
        for used, resets_at, expected in (
            (50.0, later, True),
            (80.0, later, True),
            (45.1, later, True),
            (45.0, later, False),
            (45.0, 0.0, False),
            (45.0, later + 60, False),
            (1.0, later + 61, True),
            (50.0, later - 60, True),
            (50.0, later - 61, False),
            (90.0, soon, False),
            (1.0, NOW - 1, True),
        ):
            self.assertIs(
                self.believed(Window(50.0, later), Window(used, resets_at)), expected, (used, resets_at)
            )
        self.assertTrue(self.believed(Window(50.0, NOW), Window(1.0, soon)), "that window is over")
        self.assertTrue(self.believed(Window(), Window(1.0, soon)))
        self.assertTrue(self.believed(Window(50.0, later), Window()))

    def test_a_poll_at_most_every_ten_minutes(self) -> None:
        credential = Credential()
        credential.give(PollSucceeded(said(short=50)))
        low = HeadersObserved(said(short=10))
        self.assertEqual(credential.give(low, at=NOW + 1), [Poll()])
        self.assertEqual(credential.give(low, at=NOW + POLL_WANTED_AGAIN), [])
        self.assertEqual(credential.give(low, at=NOW + 1 + POLL_WANTED_AGAIN), [Poll()])
        self.assertEqual(credential.state.limits.short.utilization, 50)
        self.assertEqual(credential.state.last_update, NOW, "nothing was taken")

    def test_the_poll_decides(self) -> None:
        credential = Credential()
        credential.give(PollSucceeded(said(short=50)), HeadersObserved(said(short=10, hours=1)))
        credential.give(PollSucceeded(said(short=10, hours=1)), at=NOW + 2)
        self.assertEqual(credential.state.limits.short, Window(10.0, NOW + HOUR, SHORT_WINDOW))

    def test_no_poll_installs_a_reset_in_the_past(self) -> None:
        credential = Credential()
        credential.give(PollSucceeded(said(short=100)))
        credential.give(PollSucceeded(said(short=10, hours=1)), at=NOW + 1.5 * HOUR)
        self.assertEqual(credential.state.limits.short, Window(100.0, NOW + 2 * HOUR, SHORT_WINDOW))
        credential.give(PollSucceeded(said(short=10, hours=2)), at=NOW + 3 * HOUR)
        self.assertEqual(
            credential.state.limits.short.utilization, 10, "where nothing later is known it is taken"
        )

    def test_a_remote_is_believed(self) -> None:
        credential = Credential()
        credential.give(PollSucceeded(said(short=50)))
        self.assertNotIn(Poll(), credential.give(HeadersObserved(said(short=10), is_aggregate=True)))
        self.assertEqual(credential.state.limits.short.utilization, 10)

    def test_the_rest_of_such_an_answer_is_taken(self) -> None:
        credential = Credential()
        credential.give(PollSucceeded(said(short=50, weekly=20)))
        credential.give(HeadersObserved(replace(said(short=10, weekly=30), rejected_until=NOW + HOUR)))
        self.assertEqual(credential.state.limits.weekly.utilization, 30)
        self.assertEqual(credential.at().reason, "rate_limited")

    def test_last_update_moves_only_when_figures_were_taken(self) -> None:
        named = {"x": NamedLimit("x", Window(5.0, NOW + HOUR))}
        for update, moves in (
            (said(short=50), True),
            (said(short=51), True),
            (said(short=48), False),
            (said(short=48, weekly=1), True),
            (LimitsUpdate(models={"opus": Window(1.0, NOW + HOUR)}), True),
            (LimitsUpdate(named=named), True),
            (LimitsUpdate(short=Window(7.0, NOW - HOUR)), False),
        ):
            credential = Credential()
            credential.give(PollSucceeded(said(short=50)))
            credential.give(HeadersObserved(update), at=NOW + 9)
            self.assertEqual(credential.state.last_update, NOW + 9 if moves else NOW, update)


class IdentityTests(SynchronousTestCase):
    """Knowledge belongs to the identity of the login (spec 12.5)."""

    def known(self) -> Credential:
        credential = Credential()
        credential.give(
            TokenAvailable(5.0, "one"),
            PollSucceeded(said(short=50, weekly=60)),
            RateLimited(NOW + HOUR, explicit=True),
            HeadersObserved(LimitsUpdate(model_rejections={"opus": NOW + HOUR})),
            SocketsRest(NOW + HOUR),
            Rests(OPUS, "alice", 20.0),
            ModelDenied("m"),
            AccountRefused("disabled"),
        )
        return credential

    def assert_clean(self, credential: Credential) -> None:
        state = credential.state
        self.assertEqual((state.holds, state.refused, state.refusals), (NOTHING_HELD, None, ()))
        self.assertEqual((state.rate_limited_until, state.sockets_rest_until), (0, 0))
        self.assertEqual(dict(state.model_rejections), {})
        self.assertTrue(credential.at(model="claude-opus-4-5").usable)

    def test_a_clean_slate(self) -> None:
        state = clean_slate(self.known().state, NOW)
        self.assertEqual(state.limits, Limits())
        self.assertEqual((state.slate, state.slate_at), (1, NOW))
        self.assertEqual((state.last_update, state.poll_wanted_at), (0, 0))

    def test_another_login_in_the_file(self) -> None:
        credential = self.known()
        effects = credential.give(TokenAvailable(1.0, "two"))
        self.assert_clean(credential)
        self.assertEqual(credential.state.limits, Limits())
        self.assertEqual(credential.state.organization, "two")
        self.assertIn(Notify(), effects)
        self.assertIn(Poll(), effects, "it is asked at once")

    def test_the_same_login_written_again(self) -> None:
        for organization in ("one", ""):
            credential = self.known()
            before = credential.state
            self.assertEqual(credential.give(TokenAvailable(5.0, organization)), [])
            self.assertEqual(credential.state, before)

    def test_a_login_that_says_later_whose_it_is(self) -> None:
        credential = self.known()
        answer = replace(said(short=3), organization="two")
        self.assertIn(Poll(), credential.give(HeadersObserved(answer)))
        self.assert_clean(credential)
        self.assertEqual(credential.state.limits.short.utilization, 3)
        self.assertIsNone(credential.state.limits.weekly.utilization)
        credential = self.known()
        self.assertNotIn(Poll(), credential.give(PollSucceeded(answer)))
        self.assert_clean(credential)

    def test_a_poll_that_began_before(self) -> None:
        """It asked about the last one, so the usage is asked for anew."""
        credential = self.known()
        credential.give(TokenAvailable(1.0, "two"), at=NOW + 10)
        before = credential.state
        late = PollSucceeded(said(short=50, weekly=60), began=NOW + 9)
        self.assertEqual(credential.give(late, at=NOW + 11), [Poll()])
        self.assertEqual(credential.state, before)
        credential.give(replace(late, began=NOW + 10), at=NOW + 12)
        self.assertEqual(credential.state.limits.short.utilization, 50)
        credential = self.known()
        credential.give(TokenAvailable(1.0, "two"), at=NOW + 10)
        credential.give(late, at=NOW - HOUR)
        self.assertEqual(credential.state.limits.short.utilization, 50, "the clock was set back")

    def test_a_login_that_is_gone_for_a_day(self) -> None:
        """What is known of its identity is dropped then, and not before."""
        credential = self.known()
        credential.give(RateLimited(NOW + 5 * DAY, explicit=True))
        limits, limited = credential.state.limits, NOW + 5 * DAY
        gone = TokenUnavailable("no file", is_gone=True)
        credential.give(gone)
        credential.give(gone, at=NOW + HOUR)
        self.assertEqual(next_change(credential.state, CAPS, NOW + 10 * HOUR), NOW + DAY)
        credential.give(TimePassed(), at=NOW + DAY - 1)
        self.assertEqual((credential.state.limits, credential.state.rate_limited_until), (limits, limited))
        credential.give(TimePassed(), at=NOW + DAY)
        self.assertEqual((credential.state.limits, credential.state.rate_limited_until), (Limits(), 0))
        self.assertEqual((credential.state.organization, credential.state.slate), ("", 1))
        credential.give(TimePassed(), at=NOW + 3 * DAY)
        self.assertEqual(credential.state.slate, 1)

    def test_a_login_that_comes_back_or_is_dead(self) -> None:
        for event in (TokenAvailable(5.0, "one"), TokenUnavailable("its refresh token is dead")):
            credential = self.known()
            credential.give(RateLimited(NOW + 5 * DAY, explicit=True))
            credential.give(TokenUnavailable("no file", is_gone=True))
            credential.give(event, at=NOW + HOUR)
            credential.give(TimePassed(), at=NOW + 2 * DAY)
            self.assertEqual(credential.state.rate_limited_until, NOW + 5 * DAY)

    def test_behind_a_remote_many_answer(self) -> None:
        credential = self.known()
        answer = replace(said(short=55), organization="two")
        credential.give(HeadersObserved(answer, is_aggregate=True))
        self.assertEqual(credential.state.refused, self.known().state.refused)
        self.assertEqual(credential.state.limits.weekly.utilization, 60)
        credential.give(PollSucceeded(replace(answer, organization="three"), usable=False))
        self.assertEqual(credential.state.limits.weekly.utilization, 60)

    def test_the_first_name_is_no_change(self) -> None:
        credential = Credential()
        credential.give(PollSucceeded(said(short=50)), AccountRefused("disabled"))
        credential.give(TokenAvailable(1.0, "one"))
        self.assertEqual(credential.at().reason, "refused")
        self.assertEqual(credential.state.limits.short.utilization, 50)


asked_for = st.sampled_from([OPUS, HAIKU, SONNET, COUNT])
events = st.one_of(
    st.builds(Rests, asked_for, st.just("alice"), st.none() | st.floats(0, 1e6)),
    st.builds(Denied, asked_for, st.just("alice")),
    st.builds(RequestRefused, asked_for, st.just("alice"), is_busy=st.booleans()),
    st.builds(RequestSent, asked_for),
    st.builds(RequestGaveUp, asked_for),
)


class OneCallerTests(SynchronousTestCase):
    @given(st.lists(events, max_size=10))
    def test_of_one_model_it_never_harms_others(self, history: list[Input]) -> None:
        """A single caller with a single model changes nothing but what he asked for, and count_tokens never does."""
        credential = Credential()
        credential.give(*(event for event in history if event.asked in (OPUS, COUNT)))  # type: ignore[union-attr]
        self.assertTrue(credential.at().usable)
        for asked in (HAIKU, SONNET):
            self.assertFalse(is_cold_out(credential, asked))
        others = Credential()
        others.give(*(event for event in history if event.asked == COUNT))  # type: ignore[union-attr]
        self.assertFalse(is_cold_out(others, OPUS))
