"""Tests for :mod:`ccmproxy.policy.allowed_models`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.allowed_models import (
    LONGEST_LIST,
    NOT_ALLOWED,
    ModelsAsked,
    ModelUse,
    is_allowed,
    model_refusal,
    told_list,
)
from tests.profiles import examples

GLOBS = ("claude-sonnet-*", "claude-haiku-4-5")
ALWAYS, IF_NAMED, NONE = ModelUse.ALWAYS, ModelUse.IF_NAMED, ModelUse.NONE


def said(asked: ModelsAsked) -> str:
    """The sentence of the refusal; empty if there is none."""
    refusal = model_refusal(GLOBS, asked)
    if refusal is None:
        return ""
    assert (refusal.status, refusal.reason, refusal.retry_after) == (403, NOT_ALLOWED, None)
    return refusal.message


class GlobTests(SynchronousTestCase):
    """Which names the globs match."""

    def test_names(self) -> None:
        for name, expected in (
            ("claude-sonnet-4-5", True),
            ("claude-haiku-4-5", True),
            ("claude-haiku-4-5-20251001", False),
            ("Claude-Sonnet-4-5", False),
            ("my-claude-sonnet-4-5", False),
            ("claude-opus-4-5", False),
            ("", False),
            (None, False),
        ):
            self.assertIs(is_allowed(GLOBS, name), expected, name)

    def test_a_shells_globs(self) -> None:
        self.assertTrue(is_allowed(["gpt-?.[45]"], "gpt-5.4"))
        self.assertFalse(is_allowed(["gpt-?.[45]"], "gpt-5.1"))
        self.assertFalse(is_allowed(["gpt-[!5]*"], "gpt-5.4"))

    def test_unusual_names_match_nothing(self) -> None:
        """Not even everything: a provider may read another name in it."""
        for name in (
            " gpt-5.4",
            "gpt-5.4 ",
            "gpt-5.4\n",
            "gpt 5.4",
            "gpt-5.4\0",
            "gpt\u20115.4",
            "gpt-\u017f",
            " ",
        ):
            self.assertFalse(is_allowed(["*"], name), name)
        self.assertTrue(is_allowed(["*"], "gpt-5.4"))


class RefusalTests(SynchronousTestCase):
    """Which requests are refused, and in which words."""

    def test_allowed(self) -> None:
        for use in ModelUse:
            self.assertEqual(said(ModelsAsked(use, ["claude-sonnet-4-5"], True)), "")

    def test_not_allowed(self) -> None:
        told = "this model is not allowed: this token may use only: claude-sonnet-*, claude-haiku-4-5"
        for use in (ALWAYS, IF_NAMED):
            self.assertEqual(said(ModelsAsked(use, ["claude-opus-4-5"], True)), told)
            self.assertEqual(said(ModelsAsked(use, ["claude-sonnet-4-5", "claude-opus-4-5"], True)), told)
            self.assertEqual(said(ModelsAsked(use, ["claude-opus-4-5", "claude-sonnet-4-5"], True)), told)
            self.assertEqual(said(ModelsAsked(use, ["claude-sonnet-4-5", None], True)), told)

    def test_hidden(self) -> None:
        for use in (ALWAYS, IF_NAMED):
            sentence = said(ModelsAsked(use, ["claude-sonnet-4-5"], True, is_hidden=True))
            self.assertIn("cannot read which model", sentence)
            self.assertIn("claude-sonnet-*, claude-haiku-4-5", sentence)

    def test_no_model(self) -> None:
        """It may be any, also where a tool of the request names an allowed one."""
        self.assertIn("names no model", said(ModelsAsked(ALWAYS)))
        self.assertIn("names no model", said(ModelsAsked(ALWAYS, ["claude-sonnet-4-5"])))
        self.assertEqual(said(ModelsAsked(IF_NAMED)), "")

    def test_no_use_of_models(self) -> None:
        self.assertEqual(said(ModelsAsked(NONE, ["claude-opus-4-5", None], is_hidden=True)), "")

    @given(
        st.lists(st.sampled_from(["a*", "b?", "[cd]", "*"]), min_size=1),
        st.sampled_from([ALWAYS, IF_NAMED]),
        st.lists(st.none() | st.text("abcd ä\n", max_size=3), max_size=3),
        st.booleans(),
        st.booleans(),
    )
    @examples(300)
    def test_what_passes(
        self, globs: list[str], use: ModelUse, names: list[str | None], is_named: bool, is_hidden: bool
    ) -> None:
        """Nothing is hidden, every name is allowed, and one of them is the model's where a model answers."""
        passes = model_refusal(globs, ModelsAsked(use, names, is_named, is_hidden)) is None
        allowed = all(is_allowed(globs, name) for name in names)
        self.assertIs(passes, not is_hidden and allowed and (is_named or use is IF_NAMED))


class ListTests(SynchronousTestCase):
    """What a client is told of the globs."""

    def test_short(self) -> None:
        self.assertEqual(told_list(["a"]), "a")
        self.assertEqual(told_list(["a", "b*"]), "a, b*")

    def test_long(self) -> None:
        told = told_list([f"{number:03}" + "x" * 97 for number in range(100)])
        self.assertTrue(told.startswith("000xx"))
        self.assertTrue(told.endswith("x and 98 more"), told)

    @given(st.lists(st.text("ab*", min_size=1, max_size=100), min_size=1, max_size=100))
    @examples(100)
    def test_bounded(self, globs: list[str]) -> None:
        told = told_list(globs)
        self.assertLess(len(told), LONGEST_LIST + 20)
        self.assertTrue(told.startswith(globs[0]))
