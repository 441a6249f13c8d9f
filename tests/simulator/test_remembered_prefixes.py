"""What is in a prompt cache, and for how long."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.remembered_prefixes import RememberedPrefixes


class PrefixTests(SynchronousTestCase):
    """A memory with an age and a bound."""

    def test_each_conversation_by_itself_until_it_expires(self) -> None:
        prefixes = RememberedPrefixes(9)
        self.assertEqual(prefixes.renew(("a",), 100, 0.0, 60.0), 0)
        self.assertEqual(prefixes.renew(("b",), 7, 0.0, 60.0), 0)
        self.assertEqual(prefixes.renew(("a",), 150, 59.0, 60.0), 100)
        self.assertEqual(prefixes.renew(("a",), 200, 118.0, 60.0), 150, "each use prolongs it")
        self.assertEqual(prefixes.renew(("a",), 1, 178.0, 60.0), 0)

    def test_what_was_not_used_for_longest_is_forgotten(self) -> None:
        prefixes = RememberedPrefixes(2)
        for key in ("a", "b", "a", "c"):
            prefixes.renew((key,), 5, 0.0, 60.0)
        self.assertEqual(len(prefixes), 2)
        self.assertEqual(prefixes.renew(("a",), 5, 0.0, 60.0), 5)
        self.assertEqual(prefixes.renew(("b",), 5, 0.0, 60.0), 0)
