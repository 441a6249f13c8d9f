"""A quick run is always the same, a deep one can be repeated, and a failure says which example it was."""

from __future__ import annotations

from hypothesis import given, settings  # noqa: TID251 - what a test gets without asking
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests import profiles
from tests.profiles import PROFILE, SCALES, SEED, examples


class ProfileTests(SynchronousTestCase):
    """Each profile, and how it is chosen."""

    def setUp(self) -> None:
        self.addCleanup(profiles.choose)

    def drawn(self, environ: dict[str, str]) -> list[int]:
        """What a property that wants 20 examples is given."""
        profiles.choose(environ)
        found: list[int] = []

        @given(st.integers())
        @examples(20)
        def anything(number: int) -> None:
            found.append(number)

        anything()
        return found

    def failure(self, environ: dict[str, str]) -> str:
        """What a property that does not hold says."""
        profiles.choose(environ)

        @given(st.integers())
        def small(number: int) -> None:
            self.assertLess(number, 1000)

        return str(self.assertRaises(self.failureException, small))

    def test_quick_is_always_the_same(self) -> None:
        drawn = self.drawn({})
        self.assertGreater(len(set(drawn)), 10)
        self.assertLessEqual(len(drawn), 20)
        self.assertEqual(drawn, self.drawn({}))
        self.assertEqual(drawn, self.drawn({PROFILE: "quick", SEED: "5"}))

    def test_deep_repeats_with_its_seed(self) -> None:
        five = {PROFILE: "deep", SEED: "5"}
        drawn = self.drawn(five)
        self.assertGreater(len(drawn), 20)
        self.assertEqual(drawn, self.drawn(five))
        self.assertNotEqual(drawn, self.drawn({PROFILE: "deep", SEED: "6"}))
        self.assertNotEqual(self.drawn({PROFILE: "deep"}), self.drawn({PROFILE: "deep"}))

    def test_a_property_that_does_not_say_how_many(self) -> None:
        for name, factor in SCALES.items():
            profiles.choose({PROFILE: name})
            self.assertEqual(settings().max_examples, 100 * factor)
            self.assertEqual(examples(30).max_examples, 30 * factor)

    def test_a_failure_says_which_example(self) -> None:
        self.assertIn("number=1000", self.failure({}))
        told = self.failure({PROFILE: "deep", SEED: "7"})
        self.assertIn("number=1000", told)
        self.assertEqual(told.count(f"{SEED}=7"), 1)
        self.assertIn("@reproduce_failure", told)

    def test_none_of_that_name(self) -> None:
        self.assertRaises(ValueError, profiles.choose, {PROFILE: "thorough"})
        self.assertRaises(ValueError, profiles.choose, {PROFILE: "deep", SEED: "five"})
