"""Tests for :mod:`ccmproxy.policy.model_globs`."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.model_globs import glob_expression


def matches(glob: str, name: str) -> bool:
    return re.fullmatch(glob_expression(glob), name, re.DOTALL) is not None


class GlobTests(SynchronousTestCase):
    """What stands for what."""

    def test_table(self) -> None:
        for glob, name, expected in (
            ("claude-opus", "claude-opus", True),
            ("claude-opus", "claude-opus-4", False),
            ("claude-*", "claude-", True),
            ("*", "", True),
            ("**", "anything", True),
            ("*-4-*[1m]", "claude-opus-4-5[1m]", True),
            ("*-4-*[1m]", "claude-opus-4-51", False),
            ("gpt-?", "gpt-5", True),
            ("gpt-?", "gpt-", False),
            ("gpt.5", "gpt-5", False),
            ("a*b*c", "a-c-b", False),
            ("a*b*c", "abcbc", True),
            ("a*", "a\nb", True),
        ):
            self.assertIs(matches(glob, name), expected, (glob, name))

    @given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
    def test_like_one_that_tries_everything(self, glob: str, name: str) -> None:
        self.assertIs(matches(glob, name), tried(glob, name))

    def test_many_stars_cost_little(self) -> None:
        """It would take for ever if a part that was found were sought again."""
        self.assertFalse(matches("*a" * 8 + "*b", "a" * 100_000))


def tried(glob: str, name: str) -> bool:
    """Whether the glob matches, by its definition."""
    if not glob:
        return not name
    if glob[0] == "*":
        return any(tried(glob[1:], name[start:]) for start in range(len(name) + 1))
    return bool(name) and glob[0] in ("?", name[0]) and tried(glob[1:], name[1:])
