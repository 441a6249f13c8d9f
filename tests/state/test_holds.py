"""Tests of :mod:`ccmproxy.state.holds`: what a credential does not take for a while (spec 12.1, 12.2)."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.holds import (
    DENIED_TIME,
    LONGEST_PROBE,
    LONGEST_REST,
    MODEL_DENIED_TIME,
    MOST_HOLDS,
    NOTHING_HELD,
    PROBE_WAIT,
    REST_FORGOTTEN,
    Combination,
    Holds,
    denied,
    gave_up,
    model_denied,
    rested,
    sent,
    served,
)
from tests.states import NOW

OPUS = Combination("/v1/messages", "opus")
HAIKU = Combination("/v1/messages", "haiku")
COUNT = Combination("/v1/messages/count_tokens", "opus")


class HoldsTestCase(SynchronousTestCase):
    def assert_takes(
        self, holds: Holds, now: float, cold: bool, warm: bool = True, asked: Combination = OPUS
    ) -> None:
        """Assert whether cold and warm work for ``asked`` goes there."""
        found = tuple(not holds.turns_away(asked, is_warm, now) for is_warm in (False, True))
        self.assertEqual(found, (cold, warm))


class RestTests(HoldsTestCase):
    """A rest turns away cold work only, for the time that the answer names."""

    def steps(self, *waits: float | None, pause: float = 0.0) -> list[float]:
        """Seconds of the rests that follow each other, ``pause`` after the end of the one before."""
        holds, now, steps = NOTHING_HELD, NOW, []
        for wait in waits:
            holds = rested(holds, OPUS, wait, now)
            end = holds.free_at(OPUS, now)
            steps.append(end - now)
            now = end + pause
        return steps

    def test_cold_work_of_this_combination_only(self) -> None:
        holds = rested(NOTHING_HELD, OPUS, 20.0, NOW)
        self.assertFalse(holds.is_empty)
        self.assert_takes(holds, NOW, cold=False)
        self.assert_takes(holds, NOW + 19.9, cold=False)
        self.assert_takes(holds, NOW + 20, cold=True)
        for other in (HAIKU, COUNT, OPUS._replace(betas="context-1m")):
            self.assert_takes(holds, NOW, cold=True, asked=other)
            self.assertEqual(holds.free_at(other, NOW), 0)
        self.assertEqual(holds.free_at(OPUS, NOW), NOW + 20)
        self.assertEqual(holds.free_at(OPUS, NOW + 20), 0)

    def test_the_account_as_a_whole(self) -> None:
        holds = rested(NOTHING_HELD, None, 20.0, NOW)
        for asked in (OPUS, HAIKU):
            self.assert_takes(holds, NOW, cold=False, asked=asked)
            self.assertEqual(holds.free_at(asked, NOW), NOW + 20)
        longer = rested(holds, OPUS, 40.0, NOW)
        self.assertEqual((longer.free_at(OPUS, NOW), longer.free_at(HAIKU, NOW)), (NOW + 40, NOW + 20))

    def test_named_times_are_clamped(self) -> None:
        self.assertEqual(self.steps(0.0), [1])
        self.assertEqual(self.steps(-5.0), [1])
        self.assertEqual(self.steps(33.0), [33])
        self.assertEqual(self.steps(3600.0), [60])
        self.assertEqual(self.steps(math.inf), [60])

    def test_without_a_time_it_doubles(self) -> None:
        self.assertEqual(self.steps(*[None] * 6), [5, 10, 20, 40, 60, 60])
        self.assertEqual(
            self.steps(None, None, None, pause=100.0), [5, 10, 20], "105 to 110 s are not two minutes"
        )
        self.assertEqual(self.steps(None, None, None, pause=REST_FORGOTTEN), [5, 5, 5])
        self.assertEqual(self.steps(8.0, None, None), [8, 16, 32])
        self.assertEqual(self.steps(None, 30.0, None), [5, 30, 60])

    def test_a_denial_is_no_rest_to_double(self) -> None:
        holds = rested(denied(NOTHING_HELD, OPUS, NOW), OPUS, None, NOW)
        self.assertEqual(holds.free_at(OPUS, NOW), NOW + 5)


class FirstRequestTests(HoldsTestCase):
    """At the end of a rest one request goes first, others follow once it is served."""

    def rests(self, asked: Combination | None = OPUS) -> Holds:
        return rested(NOTHING_HELD, asked, 10.0, NOW)

    def test_others_wait_for_it(self) -> None:
        for rests in (self.rests(), self.rests(None)):
            holds = sent(rests, OPUS, NOW + 10)
            self.assert_takes(holds, NOW + 10, cold=False)
            self.assertEqual(holds.free_at(OPUS, NOW + 10), NOW + 10 + PROBE_WAIT)
            holds = served(holds, OPUS, NOW + 10, NOW + 12)
            self.assert_takes(holds, NOW + 12, cold=True)
            self.assertEqual(holds.free_at(OPUS, NOW + 12), 0)

    def test_a_rest_that_was_lifted_needs_no_first(self) -> None:
        holds = served(self.rests(), OPUS, NOW + 1, NOW + 2)
        self.assertIs(sent(holds, OPUS, NOW + 20), holds)
        self.assert_takes(holds, NOW + 20, cold=True)

    def test_what_is_sent_while_it_rests_is_no_first(self) -> None:
        """A warm session's request."""
        holds = self.rests()
        self.assertIs(sent(holds, OPUS, NOW + 5), holds)
        self.assertIs(sent(holds, HAIKU, NOW + 10), holds)
        first = sent(holds, OPUS, NOW + 10)
        self.assertIs(sent(first, OPUS, NOW + 11), first)

    def test_it_came_to_nothing(self) -> None:
        for asked in (OPUS, None):
            holds = gave_up(sent(self.rests(asked), OPUS, NOW + 10), OPUS)
            self.assert_takes(holds, NOW + 10, cold=True)
            self.assertIs(gave_up(holds, OPUS), holds)
        holds = sent(self.rests(), OPUS, NOW + 10)
        self.assertIs(gave_up(holds, HAIKU), holds)

    def test_it_is_refused_again(self) -> None:
        holds = rested(sent(self.rests(), OPUS, NOW + 10), OPUS, None, NOW + 11)
        self.assert_takes(holds, NOW + 30.9, cold=False)
        self.assert_takes(holds, NOW + 31, cold=True)

    def test_it_is_not_waited_for_for_ever(self) -> None:
        """An answer that tells nothing, as an overloaded provider's, or one that never comes."""
        for asked in (OPUS, None):
            holds = sent(self.rests(asked), OPUS, NOW + 10)
            self.assert_takes(holds, NOW + 10 + LONGEST_PROBE - 1, cold=False)
            now = NOW + 10 + LONGEST_PROBE
            self.assert_takes(holds, now, cold=True)
            self.assert_takes(sent(holds, OPUS, now), now, cold=False)
            self.assert_takes(holds, NOW + 9, cold=False)


class DenialTests(HoldsTestCase):
    """What others serve and this one refuses is not sent there, warm or not."""

    def test_the_combination(self) -> None:
        holds = denied(NOTHING_HELD, OPUS, NOW)
        self.assert_takes(holds, NOW, cold=False, warm=False)
        self.assert_takes(holds, NOW + DENIED_TIME - 1, cold=False, warm=False)
        self.assert_takes(holds, NOW + DENIED_TIME, cold=True)
        self.assert_takes(holds, NOW, cold=True, asked=HAIKU)
        self.assertEqual(holds.free_at(OPUS, NOW), 0, "it does not rest")

    def test_the_model(self) -> None:
        holds = model_denied(NOTHING_HELD, "opus", NOW)
        for asked in (OPUS, COUNT):
            self.assert_takes(holds, NOW, cold=False, warm=False, asked=asked)
        self.assert_takes(holds, NOW, cold=True, asked=HAIKU)
        self.assert_takes(holds, NOW + MODEL_DENIED_TIME, cold=True)

    def test_no_first_is_waited_for(self) -> None:
        holds = denied(NOTHING_HELD, OPUS, NOW)
        self.assertIs(sent(holds, OPUS, NOW + DENIED_TIME), holds)


class ServedTests(HoldsTestCase):
    """What is served is not held any more."""

    def all_held(self) -> Holds:
        holds = denied(NOTHING_HELD, OPUS, NOW)
        holds = rested(rested(holds, HAIKU, 50.0, NOW), None, 50.0, NOW)
        return model_denied(model_denied(holds, "opus", NOW), "haiku", NOW)

    def test_of_this_combination_and_the_account(self) -> None:
        holds = served(self.all_held(), OPUS, NOW + 1, NOW + 2)
        self.assert_takes(holds, NOW + 2, cold=True)
        self.assert_takes(holds, NOW + 2, cold=False, warm=False, asked=HAIKU)
        self.assertNotIn("opus", holds.models)
        self.assertIn("haiku", holds.models)

    def test_count_tokens_says_nothing_of_models(self) -> None:
        holds = served(self.all_held(), COUNT, NOW + 1, NOW + 2, is_model_request=False)
        self.assertEqual(holds, self.all_held())

    def test_what_was_sent_before_the_refusal_says_nothing(self) -> None:
        """Of requests in parallel, a refusal may overtake an answer."""
        held = self.all_held()
        for sent_at in (NOW - 1, NOW):
            self.assertIs(served(held, OPUS, sent_at, NOW + 2), held)

    def test_the_next_rest_is_longer_if_it_comes_soon(self) -> None:
        holds = rested(rested(NOTHING_HELD, OPUS, None, NOW), None, None, NOW)
        holds = served(holds, OPUS, NOW + 1, NOW + 2)
        again = rested(rested(holds, OPUS, None, NOW + 9), None, None, NOW + 9)
        self.assertEqual(again.free_at(OPUS, NOW + 9), NOW + 19)
        self.assertEqual(again.free_at(HAIKU, NOW + 9), NOW + 19)

    def test_in_the_end_nothing_is_kept(self) -> None:
        """So that requests cost nothing where nothing is held (the next rest begins anew)."""
        later = NOW + MODEL_DENIED_TIME
        holds = served(self.all_held(), COUNT, later, later, is_model_request=False)
        self.assertTrue(holds.is_empty)
        self.assertIs(served(NOTHING_HELD, OPUS, NOW, NOW), NOTHING_HELD)
        soon = served(rested(NOTHING_HELD, OPUS, None, NOW), OPUS, NOW + 1, NOW + 2)
        self.assertFalse(soon.is_empty)
        self.assertIs(served(soon, OPUS, NOW + 3, NOW + 3), soon)
        self.assertTrue(served(soon, OPUS, NOW + 121, NOW + 121).is_empty)


class BoundTests(HoldsTestCase):
    """At most 32 entries of an account; ended or oldest go first (spec 12.5)."""

    def test_the_oldest_go(self) -> None:
        holds = NOTHING_HELD
        for number in range(MOST_HOLDS + 5):
            holds = denied(holds, Combination("/", f"m{number}"), NOW + number)
            holds = model_denied(holds, f"m{number}", NOW + number)
        self.assertEqual((len(holds.combinations), len(holds.models)), (MOST_HOLDS, MOST_HOLDS))
        self.assertNotIn(Combination("/", "m4"), holds.combinations)
        self.assertIn(Combination("/", "m5"), holds.combinations)

    def test_those_that_hold_nothing_any_more_go_before_them(self) -> None:
        holds = denied(NOTHING_HELD, OPUS, NOW)
        for number in range(MOST_HOLDS - 1):
            holds = rested(holds, Combination("/", f"m{number}"), 1.0, NOW + 1)
        holds = denied(holds, HAIKU, NOW + 10)
        self.assertEqual(len(holds.combinations), MOST_HOLDS)
        self.assertIn(OPUS, holds.combinations)
        holds = denied(holds, COUNT, NOW + 1 + REST_FORGOTTEN)
        self.assertEqual(set(holds.combinations), {OPUS, HAIKU, COUNT})


class EndpointTests(SynchronousTestCase):
    def test_model_requests(self) -> None:
        for endpoint, is_one in (
            ("/v1/messages", True),
            ("/backend-api/codex/responses", True),
            ("/v1/messages/count_tokens", False),
            ("/v1/messages/count_tokens/", False),
            ("/v1/models", False),
            ("/v1/models/*", False),
            ("/v1/messages/", True),
            ("/v1/responses/compact", True),
            ("/v1/chat/completions", True),
            ("/v1/messages/batches", False),
            ("/v1/files", False),
            ("/v1/mcp_servers", False),
        ):
            self.assertIs(Combination(endpoint).is_model_request, is_one, endpoint)


asked = st.sampled_from([OPUS, HAIKU, COUNT])
moments = st.floats(NOW, NOW + 4000)
steps = st.one_of(
    st.tuples(st.just("rested"), asked | st.none(), st.none() | st.floats(0, 1e6)),
    st.tuples(st.sampled_from(["denied", "sent", "gave_up", "served"]), asked, st.none()),
)


class AnyHistoryTests(SynchronousTestCase):
    @given(st.lists(st.tuples(steps, moments), max_size=12))
    def test_everything_ends_by_itself(
        self, history: list[tuple[tuple[str, Combination, float], float]]
    ) -> None:
        holds = NOTHING_HELD
        now = NOW
        for (name, each, wait), now in sorted(history, key=lambda step: step[1]):
            match name:
                case "rested":
                    holds = rested(holds, each, wait, now)
                case "denied":
                    holds = denied(holds, each, now)
                case "sent":
                    holds = sent(holds, each, now)
                case "gave_up":
                    holds = gave_up(holds, each)
                case "served":
                    holds = served(holds, each, now, now)
            for one in (OPUS, HAIKU, COUNT):
                # Who is turned away although warm is so for a denial, and who rests is told when it ends.
                free_at = holds.free_at(one, now)
                self.assertTrue(free_at == 0 or now < free_at <= now + LONGEST_REST)
                self.assertEqual(
                    holds.turns_away(one, True, now) or free_at > 0, holds.turns_away(one, False, now)
                )
        for one in (OPUS, HAIKU, COUNT):
            self.assertFalse(holds.turns_away(one, False, now + MODEL_DENIED_TIME))
