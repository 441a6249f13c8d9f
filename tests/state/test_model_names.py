"""Which models belong to a family."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.model_names import is_of_family, name_words


class FamilyTests(SynchronousTestCase):
    """The words of the family occur consecutively, as whole words."""

    def test_words(self) -> None:
        self.assertEqual(name_words("claude-Opus4@20250514"), ["claude", "opus", "4", "20250514"])
        self.assertEqual(name_words("_ -"), [])

    def test_table(self) -> None:
        for family, model, expected in (
            ("opus", "claude-opus-4-5", True),
            ("gpt_5_codex", "gpt-5-codex", True),
            ("gpt_codex", "gpt-5-codex", False),
            ("oi", "claude-void-1", False),
            ("4", "claude-opus-4-5", False),
            ("", "claude-opus-4-5", False),
            ("claude-opus-4-5-6", "claude-opus-4-5", False),
        ):
            self.assertEqual(is_of_family(name_words(model), family), expected, (family, model))
