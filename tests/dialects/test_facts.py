"""Facts of a request: what is not known is None, and nothing is assumed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.facts import RequestFacts


class RequestFactsTests(SynchronousTestCase):
    """The value itself."""

    def test_nothing_is_assumed(self) -> None:
        facts = RequestFacts()
        self.assertEqual((facts.model, facts.session, facts.stream, facts.messages), (None, None, None, None))
        self.assertEqual(facts.features, ())
        self.assertFalse(facts.client_is_oauth)

    def test_frozen(self) -> None:
        with self.assertRaises(AttributeError):
            RequestFacts().model = "other"  # type: ignore[misc]
